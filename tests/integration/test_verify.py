"""A verification finds whether a read model equals the log, and what differs; it changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection

from projections.errors import CannotFold, ProjectionsError
from projections.inspecting.row_events import list_events_behind
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import upgrade
from projections.projection import Projection
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.people import People
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.rebuilding.verify import Verified
from projections.running import checkpoint, control
from projections.running.window_step import Step
from tests import folding, oracle, rebuilding, store
from tests.fix_full_matrix import stood_for
from tests.folding import (
    DIVIDES_BY_ZERO,
    HALF_HOUR,
    NewerWatched,
    Watched,
    append,
    checkpoint_row,
    fold,
    new_record,
    worker,
    worker_connection,
)
from tests.rebuilding import (
    ANY_REMOVAL,
    CHANGED,
    DAMAGES,
    EXTRA,
    MISSING,
    NOBODY,
    SAMPLES,
    During,
    OptOuts,
    all_rows,
    damage,
    damage_all,
    rebuild,
    sample_records,
    total_differences,
    verify,
)


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_watched_table(conn)
        yield conn


async def install_opt_outs(url: str) -> None:
    """Create the table of ``OptOuts`` in the database of a test marked ``folded``, and fold the events into it."""
    upgrade(url, projections=[OptOuts()])
    await folding.fold_all(url, [OptOuts])


@pytest.mark.folded
@pytest.mark.parametrize("projection", [*READ_MODELS, OptOuts])
async def test_equal_tables_are_reported_as_equal(
    database_url: str, conn: AsyncConnection, projection: type[Projection]
) -> None:
    if projection is OptOuts:
        await install_opt_outs(database_url)
    for window in (1, 7, 1000):
        found = await verify(database_url, projection(), window=window)
        assert (found.name, found.position, found.equal, found.samples) == (projection.name, SAMPLES, True, ())
    assert [one.before for one in found.changes] == [
        await folding.count_rows(conn, one.name) for one in projection.tables
    ]


@pytest.mark.folded
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize(
    "projection",
    [
        RequestStatus,
        ConsentRegistry,
        PollTallies,
        OptOuts,
        *stood_for(
            "RequestStatus also has a table of rows and one that counts them;"
            " test_damage_is_found_in_every_range finds each kind of damage to both tables of People",
            People,
        ),
    ],
)
async def test_each_kind_of_damage_is_found_and_nothing_is_changed(
    database_url: str, conn: AsyncConnection, projection: type[Projection], kind: str
) -> None:
    if projection is OptOuts:
        await install_opt_outs(database_url)
    for table in projection.tables:
        count = await damage(conn, table, kind, 0.05)
        before, stood = await all_rows(conn, projection), await checkpoint_row(conn, projection.name)
        found = await verify(database_url, projection())
        assert not found.equal
        assert total_differences(found) == len(found.samples) == count
        assert {(one.table, one.kind) for one in found.samples} == {(table.name, kind)}
        assert await all_rows(conn, projection) == before
        assert await checkpoint_row(conn, projection.name) == stood
        assert await rebuilding.shadow_tables(conn) == []
        await rebuild(database_url, projection(), limits=ANY_REMOVAL)
        assert (await verify(database_url, projection())).equal
    assert len(await rebuilding.recorded_runs(conn, projection.name)) == len(projection.tables), (
        "a verification is not recorded as a rebuild"
    )


async def events_behind(url: str, projection: Projection, found: Verified) -> list[list[str]]:
    behind = await list_events_behind(rebuilding.replay_context(url), projection, found.samples, found.position)
    return [one.lines for one in behind]


@pytest.mark.oldest
async def test_samples_show_what_differs_and_the_events_behind_it(database_url: str, conn: AsyncConnection) -> None:
    first, second = new_record(oracle.PENDING_CONSENT, "12300000001"), new_record(oracle.FAILED, "12300000001")
    other = new_record(oracle.DELIVERED, "12300000002")
    await append(conn, first, other, second)
    await folding.fold_all(database_url)
    await conn.execute("UPDATE request_recipients SET status = 'delivered' WHERE ppnum = '12300000001'")
    await conn.execute("DELETE FROM request_recipients WHERE ppnum = '12300000002'")
    await conn.execute(
        "INSERT INTO request_recipients SELECT %s, send_request_id, '12300000003', status, error_code, message_id,"
        " last_event_id, last_event_at FROM request_recipients",
        [NOBODY],
    )
    found = await verify(database_url, RequestStatus())
    changed, missing, extra = found.samples
    key = {"app": "app", "send_request_id": "request 1"}
    assert (changed.kind, changed.key) == (CHANGED, {**key, "ppnum": "12300000001"})
    assert (changed.old, changed.new) == ({"status": "delivered"}, {"status": "failed"})
    assert (missing.kind, missing.key, missing.old) == (MISSING, {**key, "ppnum": "12300000002"}, None)
    assert missing.new is not None
    assert missing.new["last_event_id"] == other.event_id
    assert (extra.kind, extra.new) == (EXTRA, None)
    assert extra.key == {**key, "app": NOBODY, "ppnum": "12300000003"}
    assert await events_behind(database_url, RequestStatus(), found) == [
        [
            f"event {first.event_id} RECIPIENT_PENDING_CONSENT at position 1",
            f"event {second.event_id} RECIPIENT_FAILED at position 3",
        ],
        [f"event {other.event_id} RECIPIENT_DELIVERED at position 2"],
        ["no event is behind this row"],
    ]


@pytest.mark.folded
async def test_only_the_first_rows_are_samples(database_url: str, conn: AsyncConnection) -> None:
    damaged = await damage_all(conn, PollTallies, 0.3)
    found = await verify(database_url, PollTallies())
    assert total_differences(found) == damaged > len(found.samples) == 10


@pytest.mark.folded
async def test_events_folded_during_a_verification_are_no_difference(database_url: str) -> None:
    """Events that are folded during the verification are verified too."""
    head = SAMPLES

    async def more() -> None:
        async with store.connection(database_url) as own:
            await append(own, *sample_records(14)[::-1])
        await folding.fold_all(database_url, [PollTallies], batch_size=50)

    for rest in (0, 1000):
        progress = During(folding=more, comparing=more)
        found = await verify(database_url, PollTallies(), progress=progress, rest=rest)
        assert progress.is_done
        assert found.equal
        assert found.position > head
        head = found.position


@pytest.mark.newest  # the other tests here send its statements to the oldest
@pytest.mark.folded
@pytest.mark.parametrize(
    "projection",
    [
        PollTallies,
        ConsentRegistry,
        *stood_for(
            "PollTallies also has a table that counts the rows of another, and its rows come and go under load;"
            " test_events_folded_between_any_two_steps_end_up_in_the_rows folds events of this one during a rebuild",
            *(RequestStatus, People),
        ),
    ],
)
async def test_verification_and_repair_under_load(
    database_url: str, conn: AsyncConnection, projection: type[Projection]
) -> None:
    async with rebuilding.live_load(database_url, projection()) as load:
        for _ in range(3):
            assert (await verify(database_url, projection(), rest=50)).equal
            await load.wait_for_batches()
        for kind in DAMAGES:
            for table in projection.tables:
                # Not rows that the load changes, because a fold may have repaired them by then.
                count = await damage(conn, table, kind, 0.001)
                found = await verify(database_url, projection(), rest=50)
                assert {(one.table, one.kind) for one in found.samples} == {(table.name, kind)}
                assert total_differences(found) == count
                await rebuild(database_url, projection(), limits=ANY_REMOVAL, rest=50)
                assert (await verify(database_url, projection(), rest=50)).equal
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)


async def test_a_projection_that_never_ran_cannot_be_verified(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record())
    message = r"^watched has not run yet: start projections run, or run projections rebuild watched$"
    with pytest.raises(ProjectionsError, match=message):
        await verify(database_url, Watched())
    assert await store.value(conn, "SELECT count(*) FROM projections.checkpoints") == 0


@pytest.mark.parametrize("noticed", [True, False])
async def test_a_projection_that_needs_a_rebuild_cannot_be_verified(
    database_url: str, conn: AsyncConnection, noticed: bool
) -> None:
    await append(conn, new_record())
    await folding.fold_all(database_url, [Watched])
    if noticed:
        newer = worker(database_url, NewerWatched())
        async with worker_connection(newer) as own:
            assert await fold(newer, own) is Step.STOPPED
        assert (await checkpoint_row(conn, "watched")).state == "waiting"
    expected = "watched needs a rebuild: .* of version 1, this code is version 2; run projections rebuild watched"
    with pytest.raises(ProjectionsError, match=expected):
        await verify(database_url, NewerWatched())


async def test_rows_of_a_newer_version_cannot_be_verified(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record())
    await folding.fold_all(database_url, [NewerWatched])
    with pytest.raises(ProjectionsError, match="are of version 2, this code is version 1; upgrade this installation"):
        await verify(database_url, Watched())


@pytest.mark.oldest
async def test_a_stopped_projection_is_verified_up_to_its_checkpoint(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record(), new_record(ppnum=DIVIDES_BY_ZERO), new_record())
    one = worker(database_url, Watched(), retry_first=HALF_HOUR)
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.STOPPED
    found = await verify(database_url, Watched())
    assert (found.equal, found.position) == (True, 1)
    await control.pause(conn, "watched")
    assert (await verify(database_url, Watched())).position == 1
    assert (await checkpoint_row(conn, "watched")).state == "paused"


async def test_an_event_that_can_no_longer_be_folded_is_named(database_url: str, conn: AsyncConnection) -> None:
    record = new_record(ppnum=DIVIDES_BY_ZERO)
    await append(conn, new_record(), record)
    await checkpoint.create_if_missing(conn, "watched", 1)
    await conn.execute("UPDATE projections.checkpoints SET position = 2")
    with pytest.raises(CannotFold, match=f"event {record.event_id} at position 2: division by zero"):
        await verify(database_url, Watched())


@pytest.mark.parametrize("value", ["infinity", "-infinity", "20000-01-01Z", "0044-03-15Z BC"])
async def test_values_without_a_python_equivalent_are_shown_as_postgres_writes_them(
    database_url: str, conn: AsyncConnection, value: str
) -> None:
    await append(conn, new_record())
    await folding.fold_all(database_url)
    await conn.execute("UPDATE request_recipients SET last_event_at = %s::timestamptz", [value])
    written = await store.value(conn, "SELECT last_event_at::text FROM request_recipients")
    (sample,) = (await verify(database_url, RequestStatus())).samples
    assert sample.old == {"last_event_at": written}
    shown = await rebuild(database_url, RequestStatus(), dry_run=True)
    assert shown.samples[0].old == {"last_event_at": written}
    await rebuild(database_url, RequestStatus())
    assert (await verify(database_url, RequestStatus())).equal
