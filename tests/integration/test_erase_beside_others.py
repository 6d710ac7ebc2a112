"""Persons are erased while replays, folds and appends go on, and projections that don't declare how need a rebuild."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import pytest
from psycopg import AsyncConnection

from eventstore.contracts import Event
from eventstore.erasure.erased_payload import erase_event
from eventstore.errors import LockHeld, Undecodable
from eventstore.locks import ERASE_LOCK, rebuild_lock
from eventstore.postgres.session_lock import hold_lock
from eventstore.waits import Waits
from projections import EventType
from projections.blocks import BlockProjection, event, key, latest, rows
from projections.erasing.erase_batch import BatchResult, ErasePlan, erase_batch
from projections.erasing.erase_request import AsOfInTheWay
from projections.erasing.other_places import drop_all_shadows
from projections.errors import ProjectionsError, RebuildLost
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.request_status import RequestStatus
from projections.rebuilding.as_of import build_as_of
from projections.rebuilding.rebuild import Rebuilt
from projections.rebuilding.redecode_and_mark import redecode_and_mark
from projections.rebuilding.verify import Verified
from tests import folding, oracle, rebuilding, store
from tests.erasing import BUILT_IN, erase
from tests.folding import QUICK, Watched, append, new_record
from tests.queries import fetch_all
from tests.rebuilding import During, Interrupted, Interrupting, rebuild, verify

DELIVERED = EventType.RECIPIENT_DELIVERED
NUMBER = "12300000000"
"""A person of the sample."""


pytestmark = pytest.mark.folded


async def assert_erased_everywhere(conn: AsyncConnection) -> None:
    await folding.assert_rows_match_oracle(conn)
    assert NUMBER not in str(await folding.read_model_rows(conn))
    assert await shadow_tables(conn) == []


async def shadow_tables(conn: AsyncConnection) -> list[str]:
    query = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('projections_shadow') AND relkind = 'r'"
    return [name for (name,) in await fetch_all(conn, f"{query} AND relname <> 'shadow_positions'")]


@pytest.mark.parametrize(
    ("phase", "slice_size"),
    [("folding", 1000), ("comparing", 1000), ("applying the difference", 1000), ("spreading", 50), ("folding", 50)],
)
async def test_a_rebuild_starts_over(database_url: str, conn: AsyncConnection, phase: str, slice_size: int) -> None:
    progress = During(**{phase.replace(" ", "_"): lambda: erase(database_url, NUMBER)})
    done = await rebuild(database_url, RequestStatus(), progress=progress, slice=slice_size, jobs=2)
    assert rebuilding.total_differences(done) == 0
    assert progress.is_done
    assert "request_status: a person was erased meanwhile; starting over" in progress.notes
    await assert_erased_everywhere(conn)


@pytest.mark.parametrize("replay", [rebuild, verify])
async def test_a_replay_whose_shadow_an_erase_drops_at_its_end_starts_over(
    database_url: str, conn: AsyncConnection, replay: Callable[..., Coroutine[Any, Any, Rebuilt | Verified]]
) -> None:
    async def drop() -> None:
        async with store.connection(database_url) as erasing:
            await drop_all_shadows(erasing)

    progress = During(comparing=drop)
    with pytest.raises(RebuildLost):
        await replay(database_url, ConsentRegistry(), progress=progress)
    progress = During(comparing=drop)
    async with hold_lock(database_url, ERASE_LOCK, name="projections erase here:1", what="it", waits=QUICK):
        done = await replay(database_url, ConsentRegistry(), progress=progress)
    assert (progress.is_done, rebuilding.total_differences(done)) == (True, 0)
    assert progress.notes == ["consent_registry: a person was erased meanwhile; starting over"]
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.parametrize("phase", ["folding", "comparing"])
async def test_a_verification_starts_over(database_url: str, conn: AsyncConnection, phase: str) -> None:
    progress = During(**{phase: lambda: erase(database_url, NUMBER)})
    assert (await verify(database_url, ConsentRegistry(), progress=progress)).equal
    assert progress.is_done
    assert "consent_registry: a person was erased meanwhile; starting over" in progress.notes
    await assert_erased_everywhere(conn)


async def test_an_as_of_starts_over(database_url: str, conn: AsyncConnection) -> None:
    progress = During(moving_the_tables_into_earlier=lambda: erase(database_url, NUMBER))
    context = rebuilding.replay_context(database_url, progress)
    event_id = await store.value(conn, "SELECT event_id FROM eventstore.events ORDER BY position DESC LIMIT 1")
    await build_as_of(context, [ConsentRegistry()], str(event_id), "earlier", force=False)
    assert progress.is_done
    assert await store.value(conn, "SELECT count(*) FROM earlier.consent_registry WHERE ppnum = %s", NUMBER) == 0
    columns = "SELECT * FROM earlier.consent_registry ORDER BY app, ppnum"
    assert await fetch_all(conn, columns) == await fetch_all(conn, columns.replace("earlier.", "public."))


async def test_an_interrupted_rebuild_isnt_resumed(database_url: str, conn: AsyncConnection) -> None:
    with suppress(Interrupted):
        await rebuild(database_url, RequestStatus(), progress=Interrupting(30), window=10)
    assert await shadow_tables(conn) != []
    await erase(database_url, NUMBER)
    assert await shadow_tables(conn) == []
    progress = rebuilding.RecordedProgress()
    done = await rebuild(database_url, RequestStatus(), progress=progress, resume=True)
    assert rebuilding.total_differences(done) == 0
    assert any("starting over" in note for note in progress.notes)


@pytest.mark.oldest
async def test_as_of_schemas_with_the_person_are_refused_or_dropped(database_url: str, conn: AsyncConnection) -> None:
    event_id = await store.value(conn, "SELECT event_id FROM eventstore.events ORDER BY position DESC LIMIT 1")
    context = rebuilding.replay_context(database_url)
    await build_as_of(context, list(BUILT_IN.values()), str(event_id), "earlier", force=False)
    before = await folding.stored_records(conn)
    with pytest.raises(AsOfInTheWay, match="as-of schemas have rows of these persons: earlier; give --drop-as-of"):
        await erase(database_url, NUMBER)
    assert await folding.stored_records(conn) == before
    assert (await erase(database_url, "99900000000")).dropped_as_of == []
    await conn.execute("ALTER TABLE earlier.people ADD more jsonb, ADD others varchar(40)[]")
    for change in (
        b'UPDATE earlier.people SET more = \'{"of": ["99900000000"]}\'',
        b"UPDATE earlier.people SET more = NULL, others = '{x,+99900000001}'",
    ):
        await conn.execute(change)
        would = await erase(database_url, "99900000000", "99900000001", dry_run=True)
        assert would.dropped_as_of == ["earlier"]
    assert (await erase(database_url, "99900000000", dry_run=True)).dropped_as_of == []
    assert (await erase(database_url, NUMBER, drop_as_of=True, dry_run=True)).dropped_as_of == ["earlier"]
    assert (await erase(database_url, NUMBER, drop_as_of=True)).dropped_as_of == ["earlier"]
    assert await store.value(conn, "SELECT to_regnamespace('earlier')") is None
    await assert_erased_everywhere(conn)


async def test_a_projection_that_doesnt_declare_its_columns_needs_a_rebuild(
    database_url: str, conn: AsyncConnection
) -> None:
    await folding.create_watched_table(conn)
    await append(conn, new_record(oracle.DELIVERED, NUMBER))
    await folding.fold_all(database_url, [Watched])
    await folding.fold_all(database_url)
    known = {**BUILT_IN, "watched": Watched()}
    assert (await erase(database_url, NUMBER, projections=known, dry_run=True)).need_rebuild == {"watched"}
    assert (await erase(database_url, NUMBER, projections=known)).need_rebuild == {"watched"}
    marked = "SELECT name FROM projections.checkpoints WHERE redecoded_at IS NOT NULL"
    assert await fetch_all(conn, marked) == [("watched",)]
    await rebuild(database_url, Watched())
    assert await fetch_all(conn, marked) == []
    assert await store.value(conn, "SELECT count(*) FROM watched WHERE ppnum = %s", NUMBER) == 0


class Contacts(BlockProjection):
    """Has the number twice in a row, once in the columns by which rows are found."""

    name, version = "contacts", 1
    blocks = (
        rows("contacts", key("app"), key("ppnum"), latest("event_id"), latest("again", event.ppnum), of=DELIVERED),
    )


@pytest.mark.oldest
async def test_every_copy_of_the_number_in_a_row_is_replaced(database_url: str, conn: AsyncConnection) -> None:
    await folding.create_tables_of(conn, Contacts)
    await folding.fold_all(database_url, [Contacts])
    done = await erase(database_url, NUMBER, projections={**BUILT_IN, "contacts": Contacts()})
    assert done.tables["public.contacts"] > 0
    token = done.persons[0].token
    assert await fetch_all(conn, "SELECT ppnum, again FROM contacts WHERE ppnum ~ 'erased'") == [(token, token)]
    assert (await verify(database_url, Contacts())).equal


@pytest.mark.oldest
async def test_events_that_are_appended_meanwhile_are_erased_too(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a batch, one of its persons gets an event; after it, that person again, and one who had none at all."""
    unknown = "99900000000"
    batches: list[Sequence[int]] = []

    async def beside(session: AsyncConnection, plan: ErasePlan, persons: Sequence[int], waits: Waits) -> BatchResult:
        batches.append(persons)
        if len(batches) == 1:
            await append(conn, new_record(oracle.DELIVERED, NUMBER))
        done = await erase_batch(session, plan, persons, waits)
        if len(batches) == 1:
            await append(conn, new_record(oracle.DELIVERED, unknown), new_record(oracle.DELIVERED, NUMBER))
            await folding.fold_all(database_url)
        return done

    monkeypatch.setattr("projections.erasing.erase.erase_batch", beside)
    done = await erase(database_url, NUMBER, unknown)
    assert len(batches) == 2
    assert (done.asked, done.erased, len(done.rows)) == (2, 2, 3)
    assert (
        await store.value(conn, "SELECT count(*) FROM eventstore.events WHERE ppnum = ANY(%s)", [NUMBER, unknown]) == 0
    )
    tokens = await fetch_all(conn, "SELECT token FROM eventstore.erasures ORDER BY id")
    assert tokens == [(done.persons[index].token,) for index in (0, 1, 2)]
    await folding.fold_all(database_url)
    await assert_erased_everywhere(conn)
    for projection in BUILT_IN.values():
        assert (await verify(database_url, projection)).equal


async def test_an_as_of_that_ends_meanwhile_is_refused(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had begun, with its id, before the erasure looked for the schemas of those that are done."""
    event_id = await store.value(conn, "SELECT event_id FROM eventstore.events ORDER BY position DESC LIMIT 1")
    context = rebuilding.replay_context(database_url)
    await build_as_of(context, [ConsentRegistry()], str(event_id), "earlier", force=False)
    await conn.execute("UPDATE projections.rebuilds SET state = 'running'")

    async def beside(session: AsyncConnection, plan: ErasePlan, persons: Sequence[int], waits: Waits) -> BatchResult:
        await conn.execute("UPDATE projections.rebuilds SET state = 'done'")
        return await erase_batch(session, plan, persons, waits)

    monkeypatch.setattr("projections.erasing.erase.erase_batch", beside)
    with pytest.raises(ProjectionsError, match="an as-of created schema earlier meanwhile"):
        await erase(database_url, NUMBER)
    assert await store.value(conn, "SELECT count(*) FROM eventstore.erasures") == 0


async def test_rows_of_another_version_are_left_alone_and_marked(database_url: str, conn: AsyncConnection) -> None:
    await conn.execute("UPDATE projections.checkpoints SET version = version + 1 WHERE name = 'people'")
    assert (await erase(database_url, NUMBER, dry_run=True)).need_rebuild == {"people"}
    assert (await erase(database_url, NUMBER)).need_rebuild == {"people"}
    assert await store.value(conn, "SELECT redecoded_at IS NOT NULL FROM projections.checkpoints WHERE name = 'people'")


async def test_statistics_have_no_number(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in a table that is logged, backed up and replicated; only the numbers of the log may be there."""
    unknown = [f"9990000{number:04}" for number in range(50)]
    found: list[object] = []

    async def beside(session: AsyncConnection, plan: ErasePlan, persons: Sequence[int], waits: Waits) -> BatchResult:
        found.append(await store.value(session, "SELECT string_agg(s::text, '') FROM pg_stats AS s"))
        return await erase_batch(session, plan, persons, waits)

    monkeypatch.setattr("projections.erasing.erase.erase_batch", beside)
    await erase(database_url, NUMBER, *unknown)
    assert await store.value(conn, "SELECT count(*) FROM eventstore.erasures") == 1
    assert "erasing_persons" in str(found)
    assert "9990000" not in str(found)


async def test_a_person_who_cant_be_erased_doesnt_stop_the_others(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(event: Event, token: str) -> Event:
        if event.ppnum == NUMBER:
            raise Undecodable("its payload can't be encoded anew", event.event_id)
        return erase_event(event, token)

    monkeypatch.setattr("eventstore.erasure.person_events.erase_event", encode)
    done = await erase(database_url, NUMBER, "12300000001")
    assert list(done.not_erased) == [0]
    assert "can't be erased: its payload can't be encoded anew" in done.not_erased[0]
    assert (list(done.rows), done.numbers) == ([1], ["12300000001"])
    await folding.assert_rows_match_oracle(conn)


async def test_one_erase_or_redecode_at_a_time(database_url: str, conn: AsyncConnection) -> None:
    before = await folding.stored_records(conn)
    async with hold_lock(database_url, ERASE_LOCK, name="other", what="events", waits=QUICK):
        with pytest.raises(LockHeld, match="the stored events: held by other"):
            await erase(database_url, NUMBER)
        context = rebuilding.replay_context(database_url)
        with pytest.raises(LockHeld, match="the stored events: held by other"):
            await redecode_and_mark(context, list(BUILT_IN.values()), after=0, on_progress=lambda *_: None)
    assert await folding.stored_records(conn) == before
    async with hold_lock(database_url, rebuild_lock("people"), name="other", what="people", waits=QUICK):
        await erase(database_url, NUMBER)
    await assert_erased_everywhere(conn)


async def test_a_dry_run_counts_rows_and_changes_nothing(database_url: str, conn: AsyncConnection) -> None:
    before, rows = await folding.stored_records(conn), await folding.read_model_rows(conn)
    would = await erase(database_url, NUMBER, "12300000001", "99900000000", dry_run=True)
    assert await folding.stored_records(conn) == before
    assert await folding.read_model_rows(conn) == rows
    assert await store.value(conn, "SELECT count(*) FROM eventstore.erasures") == 0
    done = await erase(database_url, NUMBER, "12300000001", "99900000000")
    assert would.tables == done.tables
    assert done.tables["eventstore.events"] == sum(one.ppnum in (NUMBER, "12300000001") for one in before)
    assert set(done.rows) == {0, 1}
    recorded = await fetch_all(conn, "SELECT token, rows, why, app, mac FROM eventstore.erasures ORDER BY id")
    assert recorded == [(done.persons[index].token, dict(done.rows[index]), "asked", None, None) for index in (0, 1)]
