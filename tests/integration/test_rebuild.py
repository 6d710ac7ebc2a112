"""A rebuild makes the tables equal to the log, whatever they contained."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

import pytest
from psycopg import AsyncConnection, sql
from sqlalchemy import Column, Executable, MetaData, Table, Text, UniqueConstraint, select
from sqlalchemy.dialects import postgresql as pg

from projections.errors import CannotFold, ProjectionsError, RebuildRefused
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import upgrade
from projections.projection import Projection, Window
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.people import People
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.rebuilding.rebuild import Limits, Rebuilt
from projections.running import control
from projections.running.control import skip
from projections.running.window_step import Step
from tests import folding, oracle, rebuilding, store
from tests.databases import Server
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
    SAMPLES,
    During,
    Lenient,
    NewerLenient,
    OptOuts,
    all_rows,
    append_and_fold,
    damage,
    damage_all,
    rebuild,
    recorded_runs,
    sample_records,
    total_differences,
    verify,
)


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_watched_table(conn)
        yield conn


def counts(done: Rebuilt, table: str) -> tuple[int, int, int]:
    (one,) = (one for one in done.changes if one.table == table)
    return one.added, one.removed, one.changed


# Repairs


_SIZES = [
    *((7, one) for one in READ_MODELS),
    *((size, PollTallies) for size in (1, 1000)),
    *stood_for(
        "a window's size is no matter of the projection: 7 with this one, and 1 and 1000 with PollTallies",
        *((size, one) for size in (1, 1000) for one in READ_MODELS if one is not PollTallies),
    ),
]


@pytest.mark.parametrize(("window", "projection"), _SIZES)
@pytest.mark.folded
async def test_equal_tables_are_not_changed(
    database_url: str, conn: AsyncConnection, projection: type[Projection], window: int
) -> None:
    # A row that is written again gets another ctid.
    query = "SELECT array_agg((ctid, xmin::text) ORDER BY ctid) FROM public."
    before = [await store.value(conn, query + table.name) for table in projection.tables]
    done = await rebuild(database_url, projection(), window=window, limits=Limits(max_changed=0))
    assert (done.name, done.version, done.position, total_differences(done)) == (
        projection.name,
        projection.version,
        SAMPLES,
        0,
    )
    assert [one.before for one in done.changes] == [
        await folding.count_rows(conn, table.name) for table in projection.tables
    ]
    assert [await store.value(conn, query + table.name) for table in projection.tables] == before
    assert (await checkpoint_row(conn, projection.name))[:3] == (projection.version, SAMPLES, "running")
    assert await rebuilding.shadow_tables(conn) == []


_DAMAGED = [
    (RequestStatus, CHANGED),
    (ConsentRegistry, MISSING),
    (People, EXTRA),
    *((PollTallies, kind) for kind in DAMAGES),
]
_DAMAGED_TOO = stood_for(
    "tables are compared by their columns and keys, whatever the projection: PollTallies has each kind of damage, this"
    " one has another kind",
    *((one, kind) for one in READ_MODELS for kind in DAMAGES if (one, kind) not in _DAMAGED),
)


@pytest.mark.parametrize(("projection", "kind"), [*_DAMAGED, *_DAMAGED_TOO])
@pytest.mark.folded
async def test_each_kind_of_damage_is_repaired(
    database_url: str, conn: AsyncConnection, projection: type[Projection], kind: str
) -> None:
    place = {MISSING: 0, EXTRA: 1, CHANGED: 2}[kind]
    damaged = {table.name: await damage(conn, table, kind) for table in projection.tables}
    done = await rebuild(database_url, projection(), limits=ANY_REMOVAL)
    for name, count in damaged.items():
        expected = [0, 0, 0]
        expected[place] = count
        assert counts(done, name) == tuple(expected), name
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.parametrize("projection", READ_MODELS)
@pytest.mark.folded
async def test_emptied_tables_are_filled_again(
    database_url: str, conn: AsyncConnection, projection: type[Projection]
) -> None:
    for table in projection.tables:
        await conn.execute(sql.SQL("TRUNCATE public.{}").format(sql.Identifier(table.name)))
    done = await rebuild(database_url, projection())
    assert all(one.added > 0 == one.before for one in done.changes)
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.folded
async def test_other_projections_are_not_changed(database_url: str, conn: AsyncConnection) -> None:
    await damage_all(conn, PollTallies)
    before = await all_rows(conn, PollTallies)
    await rebuild(database_url, RequestStatus())
    assert await all_rows(conn, PollTallies) == before


@pytest.mark.folded
async def test_a_dry_run_returns_counts_and_samples_and_changes_nothing(
    database_url: str, conn: AsyncConnection
) -> None:
    damaged = await damage_all(conn, ConsentRegistry, 0.05)
    before, stood = await all_rows(conn, ConsentRegistry), await checkpoint_row(conn, "consent_registry")
    shown = await rebuild(database_url, ConsentRegistry(), dry_run=True)
    assert (shown.dry_run, shown.position, total_differences(shown)) == (True, SAMPLES, damaged)
    assert counts(shown, "consent_registry") == (damaged // 3,) * 3
    assert {one.kind for one in shown.samples} == set(DAMAGES)
    assert len(shown.samples) == damaged < 10
    changed = next(one for one in shown.samples if one.kind == CHANGED)
    assert (changed.table, dict(changed.old or {})) == ("consent_registry", {"delivery_request_id": "damaged"})
    assert dict(changed.new or {}) == {"delivery_request_id": "request 0"}
    assert list(changed.key) == ["app", "ppnum"]
    assert await all_rows(conn, ConsentRegistry) == before
    assert await checkpoint_row(conn, "consent_registry") == stood
    assert [(run.state, run.dry_run) for run in await recorded_runs(conn, "consent_registry")] == [("done", True)]
    assert await rebuilding.shadow_tables(conn) == []
    done = await rebuild(database_url, ConsentRegistry(), limits=ANY_REMOVAL)
    assert done.changes == shown.changes


@pytest.mark.folded
async def test_each_table_gets_its_share_of_the_samples(database_url: str, conn: AsyncConnection) -> None:
    await conn.execute("UPDATE request_recipients SET status = 'damaged'")
    await conn.execute("UPDATE request_status SET delivered = -1 WHERE send_request_id IN ('request 0', 'request 1')")
    shown = await rebuild(database_url, RequestStatus(), dry_run=True)
    assert [one.table for one in shown.samples] == ["request_recipients"] * 8 + ["request_status"] * 2


async def test_a_dry_run_of_a_projection_that_never_ran_leaves_no_checkpoint(
    database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, *sample_records())
    with pytest.raises(ProjectionsError, match="consent_registry has not run yet"):
        await rebuild(database_url, ConsentRegistry(), dry_run=True)
    assert await store.value(conn, "SELECT count(*) FROM projections.checkpoints") == 0


async def test_a_python_projection_is_rebuilt_with_its_tombstones(database_url: str, conn: AsyncConnection) -> None:
    upgrade(database_url, projections=[OptOuts()])
    head = await append_and_fold(database_url, conn, OptOuts)
    expected = await all_rows(conn, OptOuts)
    assert {row[-1] for row in expected["opt_outs"]} == {True, False}
    damaged = await damage_all(conn, OptOuts)
    done = await rebuild(database_url, OptOuts(), limits=ANY_REMOVAL, window=5)
    assert (done.position, total_differences(done)) == (head, damaged)
    assert await all_rows(conn, OptOuts) == expected


places = Table(
    "places",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True),
    Column("ppnum", Text, primary_key=True),
    Column("place", Text, nullable=False),
    UniqueConstraint("app", "place"),
)


class Places(Projection):
    """Gives each person a unique place."""

    name: ClassVar[str] = "places"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.DELIVERED})
    tables: ClassVar[tuple[Table, ...]] = (places,)
    partition_by: ClassVar[tuple[str, ...]] = ("app",)

    def fold(self, window: Window) -> Sequence[Executable]:
        e = window.events
        rows = select(e.c.app, e.c.ppnum, e.c.ppnum).distinct()
        return [pg.insert(places).from_select(["app", "ppnum", "place"], rows).on_conflict_do_nothing()]


@pytest.mark.oldest
async def test_rows_that_swapped_unique_values_are_repaired(database_url: str, conn: AsyncConnection) -> None:
    upgrade(database_url, projections=[Places()])
    await append(conn, *(new_record(ppnum=str(number)) for number in range(6)))
    await folding.fold_all(database_url, [Places])
    expected = await all_rows(conn, Places)
    # 0 and 1 swap places, 2 to 4 rotate theirs; 5 is deleted, and another person gets its place.
    await conn.execute("UPDATE places SET place = 'new ' || (ppnum::int + CASE ppnum WHEN '1' THEN -1 ELSE 1 END)")
    await conn.execute("UPDATE places SET ppnum = '6', place = '5' WHERE ppnum = '5'")
    await conn.execute("UPDATE places SET place = replace(replace(place, 'new 5', '2'), 'new ', '')")
    assert sorted(row[2] for row in (await all_rows(conn, Places))["places"]) == ["0", "1", "2", "3", "4", "5"]
    done = await rebuild(database_url, Places(), limits=ANY_REMOVAL)
    assert counts(done, "places") == (1, 1, 5)
    assert await all_rows(conn, Places) == expected


@pytest.mark.folded
async def test_a_users_table_is_left_alone_whatever_its_name(database_url: str, conn: AsyncConnection) -> None:
    """The keys that differ are in temporary tables, which statements name with their schema."""
    await conn.execute("CREATE TABLE public.differing_0 AS SELECT 'mine' AS whose")
    await rebuild(database_url, RequestStatus())
    assert await store.value(conn, "SELECT whose FROM public.differing_0") == "mine"


# Limits


@pytest.mark.folded
async def test_more_than_max_changed_is_refused_and_nothing_is_applied(
    database_url: str, conn: AsyncConnection
) -> None:
    (table,) = ConsentRegistry.tables
    count = await damage(conn, table, CHANGED, 0.25)
    before = await all_rows(conn, ConsentRegistry)
    share = count / await folding.count_rows(conn, table.name)
    with pytest.raises(RebuildRefused, match=rf"{count} of \d+ rows of consent_registry would change, more than --max"):
        await rebuild(database_url, ConsentRegistry(), limits=Limits(max_changed=share - 0.001))
    assert await all_rows(conn, ConsentRegistry) == before
    (run,) = await recorded_runs(conn, "consent_registry")
    assert (run.state, run.is_over) == ("refused", True)
    assert run.error is not None
    assert "--max-changed" in run.error
    done = await rebuild(database_url, ConsentRegistry(), limits=Limits(max_changed=share))
    assert total_differences(done) == count
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.folded
async def test_removing_more_than_a_tenth_needs_permission(database_url: str, conn: AsyncConnection) -> None:
    (table,) = ConsentRegistry.tables
    await damage(conn, table, EXTRA, 0.1)
    await rebuild(database_url, ConsentRegistry())
    await damage(conn, table, EXTRA, 0.5)
    before = await all_rows(conn, ConsentRegistry)
    with pytest.raises(RebuildRefused, match="of consent_registry would be removed; look at the changes with --dry"):
        await rebuild(database_url, ConsentRegistry())
    assert await all_rows(conn, ConsentRegistry) == before
    await rebuild(database_url, ConsentRegistry(), limits=ANY_REMOVAL)
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.folded
async def test_under_a_new_version_any_number_of_rows_may_be_removed(database_url: str, conn: AsyncConnection) -> None:
    class Later(ConsentRegistry):
        version: ClassVar[int] = 2

    await damage(conn, Later.tables[0], EXTRA, 0.5)
    done = await rebuild(database_url, Later())
    assert counts(done, "consent_registry")[1] > 0
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.folded
async def test_events_folded_meanwhile_do_not_count_as_changes(database_url: str, conn: AsyncConnection) -> None:
    """New live rows that the shadow doesn't have yet would count as removed, if positions differed."""

    async def more() -> None:
        async with store.connection(database_url) as own:
            await append(own, *sample_records(30))
        await folding.fold_all(database_url, [ConsentRegistry])

    for phase in ("comparing", "applying_the_difference"):
        progress = During(**{phase: more})
        limits = Limits(max_changed=0)
        done = await rebuild(database_url, ConsentRegistry(), progress=progress, limits=limits, rest=10_000)
        assert (progress.is_done, total_differences(done)) == (True, 0), phase
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)


# States and positions


@pytest.mark.oldest
async def test_a_projection_that_never_ran_is_rebuilt_to_the_head(database_url: str, conn: AsyncConnection) -> None:
    records = sample_records()
    await append(conn, *records)
    for projection in READ_MODELS:
        done = await rebuild(database_url, projection())
        assert done.position == len(records)
        assert (await checkpoint_row(conn, projection.name))[:3] == (projection.version, len(records), "running")
    await folding.assert_rows_match_oracle(conn)


async def test_a_rebuild_from_an_empty_log(database_url: str, conn: AsyncConnection) -> None:
    done = await rebuild(database_url, PollTallies())
    assert (done.position, total_differences(done)) == (0, 0)
    assert (await checkpoint_row(conn, "poll_tallies"))[:3] == (1, 0, "running")


async def test_a_failed_projection_is_rebuilt_to_the_head_and_runs(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record(), new_record(ppnum=DIVIDES_BY_ZERO), new_record(), new_record())
    failing = worker(database_url, Watched(), retry_first=HALF_HOUR)
    async with worker_connection(failing) as own:
        assert await fold(failing, own) is Step.STOPPED
    assert (await checkpoint_row(conn, "watched"))[1:3] == (1, "failed")
    done = await rebuild(database_url, Lenient())
    assert (done.position, counts(done, "watched")) == (4, (3, 0, 0))
    now = await checkpoint_row(conn, "watched")
    assert (now.position, now.state, now.last_error, now.failures) == (4, "running", None, 0)
    await append(conn, new_record())
    await folding.fold_all(database_url, [Lenient])
    assert await folding.count_rows(conn, "watched") == 5


@pytest.mark.parametrize("projection", [Watched, NewerWatched])
async def test_a_paused_projection_stays_paused(
    database_url: str, conn: AsyncConnection, projection: type[Projection]
) -> None:
    await append(conn, new_record(), new_record())
    await folding.fold_all(database_url, [Watched])
    await control.pause(conn, "watched")
    await append(conn, new_record())
    await rebuild(database_url, projection())
    # Up to the checkpoint, or to the head if the rows' position doesn't tell how far to fold.
    expected = (1, 2, "paused") if projection is Watched else (2, 3, "paused")
    assert (await checkpoint_row(conn, "watched"))[:3] == expected
    assert await folding.count_rows(conn, "watched") == expected[1]


@pytest.mark.oldest
async def test_a_waiting_projection_runs_afterwards_under_the_new_version(
    database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, new_record(), new_record())
    await folding.fold_all(database_url, [Watched])
    newer = worker(database_url, NewerWatched())
    async with worker_connection(newer) as own:
        assert await fold(newer, own) is Step.STOPPED
        assert (await checkpoint_row(conn, "watched"))[:3] == (1, 2, "waiting")
        await append(conn, new_record())
        await rebuild(database_url, NewerWatched())
        assert (await checkpoint_row(conn, "watched"))[:4] == (2, 3, "running", None)
        await append(conn, new_record())
        assert await fold(newer, own) is Step.AT_HEAD
    assert await folding.count_rows(conn, "watched") == 4


async def test_rows_of_a_newer_version_are_not_changed(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record())
    await folding.fold_all(database_url, [NewerWatched])
    with pytest.raises(ProjectionsError, match="are of version 2, this code is version 1; upgrade this installation"):
        await rebuild(database_url, Watched())
    assert (await checkpoint_row(conn, "watched"))[:3] == (2, 1, "running")


# Events that can't be folded


async def test_a_missing_position_is_named(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record(), new_record())
    await folding.insert_at(conn, 5, new_record())
    for window in (1, 2, 100):
        with pytest.raises(CannotFold, match=r"^watched: positions 3\.\.[34] missing$"):
            await rebuild(database_url, Watched(), window=window)
    assert await folding.count_rows(conn, "watched") == 0
    assert {run.state for run in await recorded_runs(conn, "watched")} == {"failed"}
    assert (await recorded_runs(conn, "watched"))[-1].error == "watched: positions 3..4 missing"


async def test_an_event_that_cant_be_folded_is_named_and_can_be_skipped(
    database_url: str, conn: AsyncConnection
) -> None:
    records = [new_record(), new_record(), new_record(ppnum=DIVIDES_BY_ZERO), new_record(), new_record()]
    await append(conn, *records)
    poison = records[2].event_id
    expected = rf"^watched: event {poison} at position 3: division by zero \(SQLSTATE 22012\); fix .* projections skip"
    for window in (1, 4, 100):
        with pytest.raises(CannotFold, match=expected):
            await rebuild(database_url, Watched(), window=window)
    assert await folding.count_rows(conn, "watched") == 0
    await skip(conn, "watched", poison, "it is hopeless", 1)
    done = await rebuild(database_url, Watched())
    assert (done.position, await folding.count_rows(conn, "watched")) == (5, 4)
    assert (await verify(database_url, Watched())).equal
    # A new version may be able to fold the event, as this one is.
    await rebuild(database_url, NewerLenient())
    assert await folding.count_rows(conn, "watched") == 5
    assert await store.value(conn, "SELECT count(*) FROM projections.skips") == 0


@pytest.mark.parametrize("phase", ["comparing", "applying_the_difference"])
async def test_a_late_event_that_cant_be_folded_is_named(database_url: str, conn: AsyncConnection, phase: str) -> None:
    """Old code folds an event that new code can't, after new code has folded everything before it."""
    await append(conn, new_record())
    await folding.fold_all(database_url, [Lenient])
    poison = new_record(ppnum=DIVIDES_BY_ZERO)

    async def more() -> None:
        async with store.connection(database_url) as own:
            await append(own, new_record(), poison, new_record())
        await folding.fold_all(database_url, [Lenient])

    with pytest.raises(CannotFold, match=f"event {poison.event_id} at position 3: division by zero"):
        await rebuild(database_url, NewerWatched(), progress=During(**{phase: more}), rest=1000)
    assert (await checkpoint_row(conn, "watched"))[:3] == (1, 4, "running")
    assert await folding.count_rows(conn, "watched") == 4


# Roles


@pytest.mark.folded
async def test_a_role_that_may_not_create_schemas_uses_one_created_for_it(
    postgres: Server, database_url: str, conn: AsyncConnection
) -> None:
    await damage_all(conn, PollTallies)
    async with rebuilding.role(postgres, database_url) as role:
        await role.grant(
            "USAGE ON SCHEMA eventstore, projections",
            "SELECT ON ALL TABLES IN SCHEMA eventstore",
            "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA projections, public",
            "USAGE ON ALL SEQUENCES IN SCHEMA projections",
        )
        with pytest.raises(ProjectionsError, match="may not create the schema projections_shadow; ask the"):
            await rebuild(role.url, PollTallies(), limits=ANY_REMOVAL)
        name = sql.Identifier(role.name)
        await role.superuser.execute(sql.SQL("CREATE SCHEMA projections_shadow AUTHORIZATION {}").format(name))
        assert total_differences(await rebuild(role.url, PollTallies(), limits=ANY_REMOVAL)) > 0
        assert (await verify(role.url, PollTallies())).equal
    await folding.assert_rows_match_oracle(conn)
