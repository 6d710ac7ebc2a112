"""Nothing is stored of a file that is from another log or damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore.contracts._generated.eventstore import archive_pb2 as archive
from eventstore.errors import ArchiveError, OtherLog
from eventstore.transfer import importing
from eventstore.transfer.archive import ArchiveWriter, Record, read_archive
from tests import folding, store, stories
from tests.folding import append, new_record
from tests.transferring import (
    assert_empty,
    delete_positions,
    export,
    fill_store,
    import_file,
    open_connection,
    read_content,
    store_content,
    write_content,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events"


# Other logs


async def test_a_position_with_a_different_event_is_refused(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    async with open_connection(elsewhere) as there:
        await append(there, new_record())
        before = await store_content(there)
        sentence = "position 1 has a different event in the file: the file was exported from a different log"
        with pytest.raises(OtherLog, match=sentence):
            await import_file(elsewhere, file)
        assert await store_content(there) == before


async def test_an_event_that_is_stored_at_another_position_is_refused(
    conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    first, second, third = new_record(), new_record(), new_record()
    await append(conn, first, second, third)
    await export(conn, file)
    async with open_connection(elsewhere) as there:
        await append(there, first, second, third)
        await delete_positions(there, 1, 2, 3)
        await folding.insert_at(there, 2, third)
        before = await store_content(there)
        with pytest.raises(OtherLog, match="position 2 has a different event"):
            await import_file(elsewhere, file)
        await delete_positions(there, 2)
        await folding.insert_at(there, 4, third)
        before = await store_content(there)
        sentence = "an event of the file is stored here at another position: the file was exported from a different log"
        with pytest.raises(OtherLog, match=sentence):
            await import_file(elsewhere, file)
        assert await store_content(there) == before


async def test_the_same_events_received_at_other_times_are_refused(
    conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    records = [new_record(), new_record(), new_record()]
    await append(conn, *records)
    await export(conn, file)
    async with open_connection(elsewhere) as there:
        await append(there, *records[:2])
        with pytest.raises(OtherLog, match="position 1 has a different event"):
            await import_file(elsewhere, file)
        assert len(await store.positions(there)) == 2


@pytest.mark.parametrize(("contract", "payload"), [("chat.internal", None), ("chat.external", b"\xff")])
async def test_an_event_that_cannot_be_decoded_is_refused(
    conn: AsyncConnection, file: Path, database_url: str, contract: str, payload: bytes | None
) -> None:
    with ArchiveWriter(file) as out:
        out.write(Record(header=archive.Header(version=1, head=1)))
        content = stories.payload(new_record()) if payload is None else payload
        one = archive.StoredEvent(position=1, app="app", contract=contract, received_at=1, payload=content)
        out.write(Record(event=one))
    with pytest.raises(
        ArchiveError, match=r"record 2 of .* is invalid: the event at position 1: .*(unknown|can't be decoded)"
    ):
        await import_file(database_url, file)
    await assert_empty(conn)


# Damaged files


async def test_nothing_is_stored_of_a_damaged_file(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    whole = read_content(file)
    changed = bytearray(whole)
    changed[whole.index(b"yes")] ^= 1
    async with open_connection(elsewhere) as there:
        for content in (whole[:-1], whole[: len(whole) // 2], b"", bytes(changed), whole + b"\0"):
            write_content(file, content)
            with pytest.raises(ArchiveError):
                await import_file(elsewhere, file)
            await assert_empty(there)
        write_content(file, whole)
        assert (await import_file(elsewhere, file)).stored == 9


async def test_a_file_that_is_changed_after_it_was_checked_moves_no_cursor(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)

    def without_the_last(path: Path) -> Iterator[archive.Record]:
        yield from (record for record in read_archive(path) if record.event.position < 8)

    monkeypatch.setattr(importing, "read_archive", without_the_last)
    with pytest.raises(ArchiveError, match="was changed during the import; import it again"):
        await import_file(elsewhere, file)
    async with open_connection(elsewhere) as there:
        found = await store_content(there)
        assert (len(found["events"]), found["cursors"]) == (7, [])


async def test_a_long_file_keeps_no_transaction_idle(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres would end an idle transaction, and the import with it."""
    await fill_store(database_url, conn)
    await export(conn, file)
    monkeypatch.setattr(importing, "BATCH", 2)
    states: set[str] = set()

    def watched(path: Path) -> Iterator[archive.Record]:
        with psycopg.connect(elsewhere, autocommit=True) as other:
            for record in read_archive(path):
                query = "SELECT state FROM pg_stat_activity WHERE application_name LIKE 'projections import %'"
                states.update(row[0] for row in other.execute(query))
                yield record

    monkeypatch.setattr(importing, "read_archive", watched)
    assert (await import_file(elsewhere, file)).stored == 9
    assert states == {"idle"}
