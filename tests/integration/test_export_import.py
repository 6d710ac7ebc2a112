"""Export and import: byte-equal in another database, and missing positions are filled."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg import AsyncConnection

from eventstore.errors import OtherLog
from eventstore.event_reader import read
from eventstore.transfer import importing
from eventstore.transfer.export import Exported
from eventstore.transfer.importing import Imported
from projections.migrating.metadata import READ_MODELS
from projections.running.window_step import Step
from tests import folding, store
from tests.folding import append, new_record
from tests.transferring import (
    SHOP,
    assert_empty,
    delete_positions,
    export,
    fill_store,
    import_file,
    open_connection,
    store_content,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events"


# Into another database


async def test_an_imported_store_is_byte_equal(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    before = await store_content(conn)
    done = await export(conn, file)
    assert done == Exported(events=9, quarantined=3, head=9, missing=())
    assert await store_content(conn) == before
    assert await import_file(elsewhere, file) == Imported(events=9, stored=9)
    async with open_connection(elsewhere) as there:
        assert await store_content(there) == before
        sha256 = await store.value(there, "SELECT bool_and(sha256 = sha256(payload)) FROM eventstore.quarantine")
        assert sha256 is True
        await folding.fold_all(elsewhere)
        await folding.assert_rows_match_oracle(there)
        # The other database continues as this one would have.
        await append(there, new_record())
        assert list((await store.positions(there)).values())[-1] == 10
        times = [one.received_at async for one in read(there)]
        assert times == sorted(times)


async def test_an_empty_store_is_exported_and_imported(conn: AsyncConnection, elsewhere: str, file: Path) -> None:
    assert await export(conn, file) == Exported(0, 0, 0, ())
    assert await import_file(elsewhere, file) == Imported(0, 0)
    async with open_connection(elsewhere) as there:
        await assert_empty(there)


async def test_a_second_import_stores_nothing(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    await import_file(elsewhere, file)
    async with open_connection(elsewhere) as there:
        before = await store_content(there)
        assert await import_file(elsewhere, file) == Imported(events=9, stored=0)
        assert await store_content(there) == before
    before = await store_content(conn)
    assert await import_file(database_url, file) == Imported(events=9, stored=0)
    assert await store_content(conn) == before


async def test_new_events_are_stored_after_the_head(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    await import_file(elsewhere, file)
    await append(conn, *(new_record(app=SHOP) for _ in range(5)))
    await conn.execute(
        "UPDATE eventstore.cursors SET last_event_id = %s, last_received_at = clock_timestamp()", [store.next_ulid()]
    )
    async with store.appender(database_url) as appender:
        await appender.append([], rejected=[store.garbage(3)])
    await export(conn, file)
    assert await import_file(elsewhere, file) == Imported(events=14, stored=5)
    async with open_connection(elsewhere) as there:
        assert await store_content(there) == await store_content(conn)


async def test_a_cursor_that_is_newer_here_is_not_moved_back(
    database_url: str, conn: AsyncConnection, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    await conn.execute(
        "UPDATE eventstore.cursors SET last_event_id = repeat('7', 26), last_received_at = clock_timestamp(),"
        " holes = '[]'"
    )
    before = await store_content(conn)
    await import_file(database_url, file)
    assert await store_content(conn) == before


async def test_a_lost_cursor_is_restored(database_url: str, conn: AsyncConnection, file: Path) -> None:
    await fill_store(database_url, conn)
    before = await store_content(conn)
    await export(conn, file)
    await conn.execute("DELETE FROM eventstore.cursors WHERE app = 'new'")
    await conn.execute("UPDATE eventstore.cursors SET last_event_id = NULL, last_received_at = NULL, holes = '[]'")
    await conn.execute("DELETE FROM eventstore.quarantine")
    await import_file(database_url, file)
    assert await store_content(conn) == before


# Missing positions


@pytest.mark.parametrize("lost", [(1,), (4, 5), (9,), (2, 4, 8, 9), tuple(range(1, 10))])
async def test_missing_positions_are_filled(
    database_url: str, conn: AsyncConnection, file: Path, lost: tuple[int, ...]
) -> None:
    await fill_store(database_url, conn)
    before = await store_content(conn)
    await export(conn, file)
    await delete_positions(conn, *lost)
    assert await import_file(database_url, file) == Imported(events=9, stored=len(lost))
    assert await store_content(conn) == before


async def test_a_projection_that_failed_for_a_missing_position_continues(
    database_url: str, conn: AsyncConnection, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    await delete_positions(conn, 4, 5)
    one = folding.worker(database_url, READ_MODELS[0]())
    async with folding.worker_connection(one) as own:
        assert await folding.fold(one, own) is Step.STOPPED
        failed = await folding.checkpoint_row(conn, one.projection.name)
        assert (failed.state, failed.position) == ("failed", 0)
        assert failed.last_error == "positions 4..5 missing"
        await import_file(database_url, file)

        async def at_head() -> bool:
            return await folding.fold(one, own) is Step.AT_HEAD

        await store.wait_until(at_head, "the projection at the head")
    now = await folding.checkpoint_row(conn, one.projection.name)
    assert (now.state, now.position, now.last_error) == ("running", 9, None)
    await folding.fold_all(database_url, READ_MODELS[1:])
    await folding.assert_rows_match_oracle(conn)


async def test_an_export_reports_missing_positions_and_has_the_others(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    await delete_positions(conn, 1, 2, 5, 7, 8)
    done = await export(conn, file)
    assert (done.events, done.head, done.missing) == (4, 9, ((1, 2), (5, 5), (7, 8)))
    with pytest.raises(OtherLog, match=r"positions 1\.\.2 are neither in this database nor in the file"):
        await import_file(elsewhere, file)
    async with open_connection(elsewhere) as there:
        await assert_empty(there)


async def test_nothing_is_stored_of_a_file_that_leaves_positions_missing(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill_store(database_url, conn)
    await delete_positions(conn, 6)
    await export(conn, file)
    monkeypatch.setattr(importing, "BATCH", 4)
    with pytest.raises(OtherLog, match=r"positions 6\.\.6 are neither in this database nor in the file"):
        await import_file(elsewhere, file)
    async with open_connection(elsewhere) as there:
        await assert_empty(there)
