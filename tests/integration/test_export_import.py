"""A store put into a file and back: byte-equal elsewhere, healed where it lacks something, and of no other log."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore import importing
from eventstore.append import CursorMove
from eventstore.archive import ArchiveWriter, Record, check_archive, read_archive
from eventstore.contracts import Contract, Event, decode
from eventstore.contracts._generated.eventstore import archive_pb2 as archive
from eventstore.errors import ArchiveError, LeadershipLost, LockHeld, OtherLog
from eventstore.export import Exported, export_events, read_quarantine
from eventstore.importing import Imported, import_events
from eventstore.locks import app_lock
from eventstore.quarantine import Rejected
from eventstore.read import PAGE_BYTES
from eventstore.session_lock import held
from projections.metadata import READ_MODELS
from projections.worker import Step
from tests import folding, oracle, store, stories, wire
from tests.fix_postgres import Server
from tests.folding import append, told
from tests.oracle import Record as Told
from tests.store import QUICK

SHOP = "shop"
SUMMARY = oracle.Summary(3, 2, 1, 0, 1)


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "looking") as conn:
        yield conn


@pytest.fixture
def elsewhere(postgres: Server) -> Iterator[str]:
    """Another store, empty."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events"


def nothing(_done: int, _of: int) -> None:
    """Hear of progress."""


async def exported(conn: AsyncConnection, file: Path) -> Exported:
    return await export_events(conn, file, nothing)


async def imported(url: str, file: Path) -> Imported:
    return await import_events(url, file, waits=QUICK, told=nothing)


def a_log() -> list[Told]:
    """Of two apps, both contracts and every type."""
    chat = [
        told(oracle.PENDING_CONSENT),
        told(oracle.DELIVERED),
        told(oracle.FAILED, "12300000002"),
        told(oracle.POLL_RESPONSE, options=("yes", 'NULL, "{é}\\')),
        told(oracle.POLL_RESPONSE, "12300000002", options=()),
        told(oracle.COMPLETED, None, summary=SUMMARY),
        told(2**31 - 1, None, request=None),
    ]
    return [*chat, *(told(kind, app=SHOP) for kind in (oracle.GRANTED, oracle.DENIED)), chat.pop(1)]


async def filled(url: str, conn: AsyncConnection) -> None:
    """Put everything into a store that one can have: events, cursors with holes, quarantine."""
    records = a_log()
    await append(conn, *records[:4])
    await append(conn, *records[4:])
    await conn.execute(
        "INSERT INTO eventstore.cursors (app, contract, last_event_id, last_received_at, holes, epoch, last_error)"
        " VALUES (%s, 'chat.external', %s, clock_timestamp(), %s::text::jsonb, 7, 'away')",
        [SHOP, records[-1].event_id, '[{"lower": null, "upper": "x", "detail": "é"}]'],
    )
    await store.follow(conn, "new")
    async with store.appender(url) as appender:
        rejected = [store.garbage(1), store.garbage(2), store.garbage(1), store.garbage(1, "clinic")]
        await appender.append([], rejected=rejected)


EVERYTHING = {
    "events": "SELECT * FROM eventstore.events ORDER BY position",
    "cursors": "SELECT app, contract, last_event_id, last_received_at, holes FROM eventstore.cursors ORDER BY app",
    "quarantine": (
        "SELECT app, contract, sha256, event_id, reason, payload, first_seen, last_seen, count"
        " FROM eventstore.quarantine ORDER BY id"
    ),
}


async def everything(conn: AsyncConnection) -> dict[str, list[tuple[Any, ...]]]:
    return {name: await (await conn.execute(query.encode())).fetchall() for name, query in EVERYTHING.items()}


@asynccontextmanager
async def looking(url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(url, "looking") as conn:
        yield conn


async def lose(conn: AsyncConnection, *positions: int) -> None:
    """Delete events, as the table's owner can who drops the triggers."""
    async with conn.transaction():
        await conn.execute("ALTER TABLE eventstore.events DISABLE TRIGGER USER")
        await conn.execute("DELETE FROM eventstore.events WHERE position = ANY(%s)", [list(positions)])
        await conn.execute("ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER refuse_change_statement")
        await conn.execute("ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER refuse_change_row")


async def is_empty(conn: AsyncConnection) -> None:
    assert await everything(conn) == {"events": [], "cursors": [], "quarantine": []}


# Elsewhere


async def test_the_store_elsewhere_is_byte_equal(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await filled(database_url, conn)
    before = await everything(conn)
    done = await exported(conn, file)
    assert done == Exported(events=9, quarantined=3, head=9, missing=())
    assert await everything(conn) == before
    assert await imported(elsewhere, file) == Imported(events=9, stored=9)
    async with looking(elsewhere) as there:
        assert await everything(there) == before
        sha256 = await store.value(there, "SELECT bool_and(sha256 = sha256(payload)) FROM eventstore.quarantine")
        assert sha256 is True
        await folding.fold_all(elsewhere)
        await folding.are_true(there)
        # And it goes on there as it would have gone on here.
        await append(there, told())
        assert list((await store.positions(there)).values())[-1] == 10
        times = [row[-2] for row in (await everything(there))["events"]]
        assert times == sorted(times)


async def test_an_empty_store(conn: AsyncConnection, elsewhere: str, file: Path) -> None:
    assert await exported(conn, file) == Exported(0, 0, 0, ())
    assert await imported(elsewhere, file) == Imported(0, 0)
    async with looking(elsewhere) as there:
        await is_empty(there)


async def test_an_import_again_stores_nothing(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    await imported(elsewhere, file)
    async with looking(elsewhere) as there:
        before = await everything(there)
        assert await imported(elsewhere, file) == Imported(events=9, stored=0)
        assert await everything(there) == before
    before = await everything(conn)
    assert await imported(database_url, file) == Imported(events=9, stored=0)
    assert await everything(conn) == before


async def test_what_is_new_goes_behind_what_is_there(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    await imported(elsewhere, file)
    await append(conn, *(told(app=SHOP) for _ in range(5)))
    await conn.execute("UPDATE eventstore.cursors SET last_event_id = 'later', last_received_at = clock_timestamp()")
    async with store.appender(database_url) as appender:
        await appender.append([], rejected=[store.garbage(3)])
    await exported(conn, file)
    assert await imported(elsewhere, file) == Imported(events=14, stored=5)
    async with looking(elsewhere) as there:
        assert await everything(there) == await everything(conn)


async def test_a_cursor_that_is_newer_here_is_not_moved_back(
    database_url: str, conn: AsyncConnection, file: Path
) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    await conn.execute(
        "UPDATE eventstore.cursors SET last_event_id = 'later', last_received_at = clock_timestamp(), holes = '[]'"
    )
    before = await everything(conn)
    await imported(database_url, file)
    assert await everything(conn) == before


async def test_a_cursor_that_is_lost_here_comes_back(database_url: str, conn: AsyncConnection, file: Path) -> None:
    await filled(database_url, conn)
    before = await everything(conn)
    await exported(conn, file)
    await conn.execute("DELETE FROM eventstore.cursors WHERE app = 'new'")
    await conn.execute("UPDATE eventstore.cursors SET last_event_id = NULL, last_received_at = NULL, holes = '[]'")
    await conn.execute("DELETE FROM eventstore.quarantine")
    await imported(database_url, file)
    assert await everything(conn) == before


# Missing positions


@pytest.mark.parametrize("lost", [(1,), (4, 5), (9,), (2, 4, 8, 9), tuple(range(1, 10))])
async def test_missing_positions_are_healed(
    database_url: str, conn: AsyncConnection, file: Path, lost: tuple[int, ...]
) -> None:
    await filled(database_url, conn)
    before = await everything(conn)
    await exported(conn, file)
    await lose(conn, *lost)
    assert await imported(database_url, file) == Imported(events=9, stored=len(lost))
    assert await everything(conn) == before


async def test_a_projection_that_failed_for_a_missing_position_goes_on(
    database_url: str, conn: AsyncConnection, file: Path
) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    await lose(conn, 4, 5)
    one = folding.worker(database_url, READ_MODELS[0]())
    async with folding.connected(one) as own:
        assert await folding.fold(one, own) is Step.STOPPED
        failed = await folding.stand(conn, one.projection.name)
        assert (failed.state, failed.position) == ("failed", 0)
        assert failed.last_error == "positions 4..5 missing"
        await imported(database_url, file)

        async def at_head() -> bool:
            return await folding.fold(one, own) is Step.AT_HEAD

        await store.until(at_head, "the projection at the head")
    now = await folding.stand(conn, one.projection.name)
    assert (now.state, now.position, now.last_error) == ("running", 9, None)
    await folding.fold_all(database_url, READ_MODELS[1:])
    await folding.are_true(conn)


async def test_a_log_that_lacks_positions_says_so_and_gives_the_rest(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await filled(database_url, conn)
    await lose(conn, 1, 2, 5, 7, 8)
    done = await exported(conn, file)
    assert (done.events, done.head, done.missing) == (4, 9, ((1, 2), (5, 5), (7, 8)))
    with pytest.raises(OtherLog, match=r"positions 1\.\.2 are neither here nor in the file"):
        await imported(elsewhere, file)
    async with looking(elsewhere) as there:
        await is_empty(there)


async def test_nothing_of_a_batch_with_a_gap_before_it_is_stored(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(database_url, conn)
    before = await everything(conn)
    await lose(conn, 6)
    await exported(conn, file)
    monkeypatch.setattr(importing, "BATCH", 4)
    with pytest.raises(OtherLog, match=r"positions 6\.\.6 are neither here nor in the file"):
        await imported(elsewhere, file)
    async with looking(elsewhere) as there:
        found = await everything(there)
        assert (found["events"], found["cursors"]) == (before["events"][:4], [])


# Other logs


async def test_a_position_that_another_event_has_is_refused(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    async with looking(elsewhere) as there:
        await append(there, told())
        before = await everything(there)
        with pytest.raises(OtherLog, match="position 1 holds another event than in the file: that is another log"):
            await imported(elsewhere, file)
        assert await everything(there) == before


async def test_an_event_that_lies_at_another_position_is_refused(
    conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    first, second, third = told(), told(), told()
    await append(conn, first, second, third)
    await exported(conn, file)
    async with looking(elsewhere) as there:
        await append(there, first, second, third)
        await lose(there, 1, 2, 3)
        await folding.insert_at(there, 2, third)
        before = await everything(there)
        with pytest.raises(OtherLog, match="position 2 holds another event"):
            await imported(elsewhere, file)
        await lose(there, 2)
        await folding.insert_at(there, 4, third)
        before = await everything(there)
        with pytest.raises(OtherLog, match="an event of the file is stored here at another position: another log"):
            await imported(elsewhere, file)
        assert await everything(there) == before


async def test_the_same_events_received_at_other_times_are_another_log(
    conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    records = [told(), told(), told()]
    await append(conn, *records)
    await exported(conn, file)
    async with looking(elsewhere) as there:
        await append(there, *records[:2])
        with pytest.raises(OtherLog, match="position 1 holds another event"):
            await imported(elsewhere, file)
        assert len(await store.positions(there)) == 2


@pytest.mark.parametrize(("contract", "payload"), [("chat.internal", None), ("chat.external", b"\xff")])
async def test_an_event_that_cant_be_read_is_refused(
    conn: AsyncConnection, file: Path, database_url: str, contract: str, payload: bytes | None
) -> None:
    with ArchiveWriter(file) as out:
        out.write(Record(header=archive.Header(version=1, head=1)))
        content = stories.payload(told()) if payload is None else payload
        one = archive.StoredEvent(position=1, app="app", contract=contract, received_at=1, payload=content)
        out.write(Record(event=one))
    with pytest.raises(OtherLog, match="the event at position 1 of the file can't be read"):
        await imported(database_url, file)
    await is_empty(conn)


# Damaged files


def content_of(file: Path) -> bytes:
    return file.read_bytes()


def put(file: Path, content: bytes) -> None:
    file.write_bytes(content)


async def test_of_a_damaged_file_nothing_is_stored(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    whole = content_of(file)
    changed = bytearray(whole)
    changed[whole.index(b"yes")] ^= 1
    async with looking(elsewhere) as there:
        for content in (whole[:-1], whole[: len(whole) // 2], b"", bytes(changed), whole + b"\0"):
            put(file, content)
            with pytest.raises(ArchiveError):
                await imported(elsewhere, file)
            await is_empty(there)
        put(file, whole)
        assert (await imported(elsewhere, file)).stored == 9


async def test_a_file_that_is_changed_after_it_was_checked_moves_no_cursor(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(database_url, conn)
    await exported(conn, file)

    def without_the_last(path: Path) -> Iterator[archive.Record]:
        yield from (record for record in read_archive(path) if record.event.position < 8)

    monkeypatch.setattr(importing, "read_archive", without_the_last)
    with pytest.raises(ArchiveError, match="was changed while it was read"):
        await imported(elsewhere, file)
    async with looking(elsewhere) as there:
        found = await everything(there)
        assert (len(found["events"]), found["cursors"]) == (7, [])


async def test_a_long_file_keeps_no_transaction_idle(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres would end it, and with it the import."""
    await filled(database_url, conn)
    await exported(conn, file)
    monkeypatch.setattr(importing, "BATCH", 2)
    states: set[str] = set()

    def watched(path: Path) -> Iterator[archive.Record]:
        with psycopg.connect(elsewhere, autocommit=True) as other:
            for record in read_archive(path):
                query = "SELECT state FROM pg_stat_activity WHERE application_name LIKE 'projections import %'"
                states.update(row[0] for row in other.execute(query))
                yield record

    monkeypatch.setattr(importing, "read_archive", watched)
    assert (await imported(elsewhere, file)).stored == 9
    assert states == {"idle"}


# Beside others


async def test_while_an_app_of_the_file_is_followed_nothing_is_stored(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    async with looking(elsewhere) as there:
        for app in sorted((await check_archive(file)).apps):
            name = "projections ingest x at host:1"
            async with held(elsewhere, app_lock(app), name=name, what="it", waits=QUICK):
                with pytest.raises(LockHeld, match=f"app '{app}': {name} is at work on it"):
                    await imported(elsewhere, file)
            await is_empty(there)
        async with held(elsewhere, app_lock("another"), name="other", what="it", waits=QUICK):
            assert (await imported(elsewhere, file)).stored == 9


async def test_a_follower_that_froze_can_not_go_on_afterwards(
    database_url: str, conn: AsyncConnection, file: Path
) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    async with store.appender(database_url) as frozen:
        (event,) = store.made(app=SHOP)
        await imported(database_url, file)
        with pytest.raises(LeadershipLost):
            await frozen.append([event], cursor=CursorMove(SHOP, 7, event.event_id))
    assert await store.value(conn, "SELECT epoch FROM eventstore.cursors WHERE app = %s", SHOP) == 8
    assert len(await store.positions(conn)) == 9


async def test_a_follower_that_froze_in_the_middle_of_an_append_is_ended(
    database_url: str, conn: AsyncConnection, file: Path
) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    async with store.connection(database_url, "frozen") as frozen:
        await frozen.execute("BEGIN")
        await frozen.execute("UPDATE eventstore.cursors SET last_event_id = 'lost' WHERE app = %s", [SHOP])
        await imported(database_url, file)
        await store.backend_gone(conn, "frozen")
        with pytest.raises(psycopg.OperationalError):
            await frozen.execute("COMMIT")
    assert await store.cursor_of(conn, SHOP) != "lost"


async def test_others_append_while_positions_are_healed(database_url: str, conn: AsyncConnection, file: Path) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    await lose(conn, 3, 4)
    patient = QUICK.model_copy(update={"append_lock": 30})  # so that neither takes the other for a frozen one
    async with store.appender(database_url, waits=patient) as appender:
        importing = import_events(database_url, file, waits=patient, told=nothing)
        await asyncio.gather(importing, appender.append(store.made(20, app="another")))
    assert len(await store.positions(conn)) == 29


async def test_who_listens_hears_of_it(database_url: str, conn: AsyncConnection, elsewhere: str, file: Path) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    async with looking(elsewhere) as there:
        await there.execute("LISTEN eventstore")
        await imported(elsewhere, file)
        heard = [notify.channel async for notify in there.notifies(timeout=store.GIVE_UP, stop_after=1)]
        assert heard == ["eventstore"]


async def test_an_import_that_was_interrupted_goes_on(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(database_url, conn)
    before = await everything(conn)
    await exported(conn, file)
    monkeypatch.setattr(importing, "BATCH", 2)

    def dies(done: int, of: int) -> None:
        assert of == 9
        if done >= 4:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await import_events(elsewhere, file, waits=QUICK, told=dies)
    async with looking(elsewhere) as there:
        found = await everything(there)
        assert found == {"events": before["events"][:4], "cursors": [], "quarantine": []}
        assert await imported(elsewhere, file) == Imported(events=9, stored=5)
        assert await everything(there) == before


async def test_a_lost_connection_leaves_no_file(
    database_url: str, conn: AsyncConnection, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(database_url, conn)
    monkeypatch.setattr("eventstore.export.TOLD_EVERY", 4)
    async with store.connection(database_url, "exporting") as own:
        pid = own.info.backend_pid

        def cut(_position: int, _last: int) -> None:
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [pid])

        with pytest.raises(psycopg.OperationalError):
            await export_events(own, file, cut)
    assert not left_in(file.parent)


async def test_what_comes_while_it_exports_is_not_in_it_and_the_cursor_is_not_behind(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(database_url, conn)
    before = await everything(conn)
    monkeypatch.setattr("eventstore.export.TOLD_EVERY", 4)

    def goes_on(_position: int, _last: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as other:
            other.execute("UPDATE eventstore.cursors SET last_event_id = 'later'")

    async with store.connection(database_url, "exporting") as own:
        assert (await export_events(own, file, goes_on)).events == 9
    await imported(elsewhere, file)
    async with looking(elsewhere) as there:
        assert await everything(there) == before


# How much it takes


@pytest.mark.parametrize("is_quarantine", [False, True])
async def test_neither_way_is_the_store_in_memory(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, is_quarantine: bool
) -> None:
    """Four pages of payloads pass; what is held of them at any moment is a page or so."""
    size, pages = 2**20, 4
    async with store.appender(database_url) as appender:
        for _ in range(pages):
            events = large_ones(size, PAGE_BYTES // size)
            rejected = [Rejected("app", "chat.external", one.payload, "why") for one in events]
            await (appender.append([], rejected=rejected) if is_quarantine else appender.append(events))
    peak = {}
    for name, work in (("export", exported(conn, file)), ("import", imported(elsewhere, file))):
        tracemalloc.start()
        try:
            await work
            peak[name] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert len(content_of(file)) > pages * PAGE_BYTES
    assert max(peak.values()) < (pages - 1) * PAGE_BYTES, peak
    async with looking(elsewhere) as there:
        assert await digests(there) == await digests(conn)
        assert await everything(there) == await everything(conn)


@pytest.mark.parametrize(
    ("page", "sizes"),
    [
        ({"page_bytes": 30}, [3, 3, 2, 2, 0]),
        ({"page_bytes": 31}, [4, 4, 2, 0]),
        ({"page_bytes": 1}, [*[1] * 10, 0]),
        ({"page_rows": 4}, [4, 4, 2, 0]),
        ({}, [10, 0]),
    ],
)
async def test_a_page_of_the_quarantine_ends_with_the_row_that_fills_it(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch, page: dict[str, int], sizes: list[int]
) -> None:
    payloads = [b"\xff%09d" % number for number in range(10)]
    payloads[7] = bytes(100)
    async with store.appender(database_url) as appender:
        for payload in payloads:
            await appender.append([], rejected=[Rejected("app", "chat.external", payload, "why")])
    pages = store.Pages(monkeypatch)
    assert [kept.payload async for kept in read_quarantine(conn, **page)] == payloads
    assert pages.sizes == sizes


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def large_ones(size: int, count: int) -> list[Event]:
    return [
        decode(wire.event(store.next_ulid(), more=wire.bytes_field(99, bytes(size))), "app", Contract.CHAT_EXTERNAL)
        for _ in range(count)
    ]


async def digests(conn: AsyncConnection) -> list[Any]:
    query = "SELECT position, event_id, received_at, sha256(payload) FROM eventstore.events ORDER BY position"
    return await (await conn.execute(query)).fetchall()
