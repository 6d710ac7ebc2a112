"""Exports and imports while other processes follow and append, interrupted ones, and ones larger than memory."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore.appending.cursor_move import CursorMove
from eventstore.appending.quarantine import Rejected
from eventstore.appending.restore import restore_events
from eventstore.errors import LeadershipLost, LockHeld
from eventstore.event_reader import StoredEvent
from eventstore.ingest.app_lease import hold_lease
from eventstore.ingest.context import IngestContext
from eventstore.locks import app_lock
from eventstore.postgres.byte_pages import PAGE_BYTES
from eventstore.postgres.session_lock import hold_lock
from eventstore.transfer import importing
from eventstore.transfer.archive import check_archive
from eventstore.transfer.export import export_events, read_quarantine
from eventstore.transfer.importing import Imported, import_events
from eventstore.waits import Waits
from tests import store
from tests.store import QUICK
from tests.transferring import (
    SHOP,
    assert_empty,
    delete_positions,
    export,
    files_in,
    fill_store,
    ignore_progress,
    import_file,
    large_events,
    open_connection,
    read_content,
    store_content,
    stored_digests,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events"


# While other processes follow and append


async def test_nothing_is_stored_while_an_app_of_the_file_is_followed(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    async with open_connection(elsewhere) as there:
        for app in sorted((await check_archive(file)).apps):
            name = "projections ingest x at host:1"
            async with hold_lock(elsewhere, app_lock(app), name=name, what="it", waits=QUICK):
                with pytest.raises(LockHeld, match=f"app '{app}': held by {name}; try again later"):
                    await import_file(elsewhere, file)
            await assert_empty(there)
        async with hold_lock(elsewhere, app_lock("another"), name="other", what="it", waits=QUICK):
            assert (await import_file(elsewhere, file)).stored == 9


async def test_nothing_is_stored_after_the_head_while_any_app_is_followed(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    message = r"the head of the log, after which the file continues: held by projections ingest (another|one more) .*"
    async with open_connection(elsewhere) as there:
        async with (
            hold_lease(IngestContext(elsewhere, QUICK), "another"),
            hold_lease(IngestContext(elsewhere, QUICK), "one more"),
        ):
            with pytest.raises(LockHeld, match=message):
                await import_file(elsewhere, file)
        assert await store.positions(there) == {}
    # Nobody else writes positions below the head.
    await delete_positions(conn, 3, 4)
    async with hold_lease(IngestContext(database_url, QUICK), "another"):
        assert (await import_file(database_url, file)).stored == 2


async def test_a_follower_stands_by_while_a_file_continues_the_log(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    stood_by: list[bool] = []
    following: list[asyncio.Task[int]] = []

    async def follow() -> int:
        async with hold_lease(IngestContext(elsewhere, QUICK), "another", lambda: stood_by.append(True)):
            async with store.appender(elsewhere) as appender:
                await appender.append(store.new_events(app="another"))
            return len(stood_by)

    def on_progress(done: int, _of: int) -> None:
        if done and not following:
            following.append(asyncio.create_task(follow()))

    async def slowly(conn: AsyncConnection, stored: Sequence[StoredEvent], waits: Waits, key: None) -> int:
        count = await restore_events(conn, stored, waits, key)
        if following:
            await store.wait_until(lambda: as_awaitable(bool(stood_by)), "standing by")
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "BATCH", 3)
        patch.setattr(importing, "restore_events", slowly)
        done = await import_events(IngestContext(elsewhere, QUICK), file, on_progress=on_progress)
    assert (done.events, done.stored) == (9, 9)
    assert await following[0] >= 1
    async with open_connection(elsewhere) as there:
        assert len(await store.positions(there)) == 10


async def as_awaitable(value: bool) -> bool:
    return value


async def test_a_follower_that_was_frozen_during_an_import_cannot_continue(
    database_url: str, conn: AsyncConnection, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    async with store.appender(database_url) as frozen:
        (event,) = store.new_events(app=SHOP)
        await import_file(database_url, file)
        with pytest.raises(LeadershipLost):
            await frozen.append([event], cursor=CursorMove(SHOP, 7, event.event_id))
    assert await store.value(conn, "SELECT epoch FROM eventstore.cursors WHERE app = %s", SHOP) == 8
    assert len(await store.positions(conn)) == 9


async def test_a_follower_that_froze_in_the_middle_of_an_append_is_terminated(
    database_url: str, conn: AsyncConnection, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    async with store.connection(database_url, "frozen") as frozen:
        await frozen.execute("BEGIN")
        await frozen.execute("UPDATE eventstore.cursors SET last_event_id = repeat('0', 26) WHERE app = %s", [SHOP])
        await import_file(database_url, file)
        await store.wait_until_session_ended(conn, "frozen")
        with pytest.raises(psycopg.OperationalError):
            await frozen.execute("COMMIT")
    assert await store.cursor_of(conn, SHOP) != "0" * 26


async def test_appends_continue_while_missing_positions_are_filled(
    database_url: str, conn: AsyncConnection, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    await delete_positions(conn, 3, 4)
    patient = QUICK.model_copy(update={"append_lock": 30})  # so that neither takes the other for frozen
    async with store.appender(database_url, waits=patient) as appender:
        importing = import_events(IngestContext(database_url, patient), file, on_progress=ignore_progress)
        await asyncio.gather(importing, appender.append(store.new_events(20, app="another")))
    assert len(await store.positions(conn)) == 29


async def test_an_import_notifies_listeners(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    async with open_connection(elsewhere) as there:
        await there.execute("LISTEN eventstore")
        await import_file(elsewhere, file)
        heard = [notify.channel async for notify in there.notifies(timeout=store.GIVE_UP, stop_after=1)]
        assert heard == ["eventstore"]


async def test_an_interrupted_import_can_be_run_again(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill_store(database_url, conn)
    before = await store_content(conn)
    await export(conn, file)
    monkeypatch.setattr(importing, "BATCH", 2)

    def dies(done: int, of: int) -> None:
        assert of == 9
        if done >= 4:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await import_events(IngestContext(elsewhere, QUICK), file, on_progress=dies)
    async with open_connection(elsewhere) as there:
        found = await store_content(there)
        assert found == {"events": before["events"][:4], "cursors": [], "quarantine": []}
        assert await import_file(elsewhere, file) == Imported(events=9, stored=5)
        assert await store_content(there) == before


async def test_a_lost_connection_leaves_no_file(
    database_url: str, conn: AsyncConnection, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill_store(database_url, conn)
    monkeypatch.setattr("eventstore.transfer.export.PROGRESS_EVERY", 4)
    async with store.connection(database_url, "exporting") as own:
        pid = own.info.backend_pid

        def cut(_position: int, _last: int) -> None:
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [pid])

        with pytest.raises(psycopg.OperationalError):
            await export_events(own, file, cut)
    assert not files_in(file.parent)


async def test_events_appended_during_an_export_are_not_in_it_and_the_cursor_matches(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill_store(database_url, conn)
    before = await store_content(conn)
    monkeypatch.setattr("eventstore.transfer.export.PROGRESS_EVERY", 4)

    def continues(_position: int, _last: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as other:
            other.execute("UPDATE eventstore.cursors SET last_event_id = repeat('7', 26)")

    async with store.connection(database_url, "exporting") as own:
        assert (await export_events(own, file, continues)).events == 9
    await import_file(elsewhere, file)
    async with open_connection(elsewhere) as there:
        assert await store_content(there) == before


# Memory


@pytest.mark.parametrize("is_quarantine", [False, True])
async def test_neither_export_nor_import_holds_the_store_in_memory(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, is_quarantine: bool
) -> None:
    """Four pages of payloads are transferred, but only about one page is in memory at any moment."""
    size, pages = 2**20, 4
    async with store.appender(database_url) as appender:
        for _ in range(pages):
            events = large_events(size, PAGE_BYTES // size)
            rejected = [Rejected("app", "chat.external", one.payload, "why") for one in events]
            await (appender.append([], rejected=rejected) if is_quarantine else appender.append(events))
    peak = {}
    for name, work in (("export", export(conn, file)), ("import", import_file(elsewhere, file))):
        tracemalloc.start()
        try:
            await work
            peak[name] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert len(read_content(file)) > pages * PAGE_BYTES
    assert max(peak.values()) < (pages - 1) * PAGE_BYTES, peak
    async with open_connection(elsewhere) as there:
        assert await stored_digests(there) == await stored_digests(conn)
        assert await store_content(there) == await store_content(conn)


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
    pages = store.PageSizes(monkeypatch)
    assert [kept.payload async for kept in read_quarantine(conn, **page)] == payloads
    assert pages.sizes == sizes
