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
from tests.folding import append, told
from tests.transferring import content_of, everything, exported, filled, imported, is_empty, looking, lose, put


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events"


# Other logs


async def test_a_position_with_a_different_event_is_refused(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await filled(database_url, conn)
    await exported(conn, file)
    async with looking(elsewhere) as there:
        await append(there, told())
        before = await everything(there)
        with pytest.raises(OtherLog, match="position 1 has a different event in the file: the file is of another log"):
            await imported(elsewhere, file)
        assert await everything(there) == before


async def test_an_event_that_is_stored_at_another_position_is_refused(
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
        with pytest.raises(OtherLog, match="position 2 has a different event"):
            await imported(elsewhere, file)
        await lose(there, 2)
        await folding.insert_at(there, 4, third)
        before = await everything(there)
        with pytest.raises(
            OtherLog, match="an event of the file is stored here at another position: the file is of another log"
        ):
            await imported(elsewhere, file)
        assert await everything(there) == before


async def test_the_same_events_received_at_other_times_are_refused(
    conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    records = [told(), told(), told()]
    await append(conn, *records)
    await exported(conn, file)
    async with looking(elsewhere) as there:
        await append(there, *records[:2])
        with pytest.raises(OtherLog, match="position 1 has a different event"):
            await imported(elsewhere, file)
        assert len(await store.positions(there)) == 2


@pytest.mark.parametrize(("contract", "payload"), [("chat.internal", None), ("chat.external", b"\xff")])
async def test_an_event_that_cannot_be_decoded_is_refused(
    conn: AsyncConnection, file: Path, database_url: str, contract: str, payload: bytes | None
) -> None:
    with ArchiveWriter(file) as out:
        out.write(Record(header=archive.Header(version=1, head=1)))
        content = stories.payload(told()) if payload is None else payload
        one = archive.StoredEvent(position=1, app="app", contract=contract, received_at=1, payload=content)
        out.write(Record(event=one))
    with pytest.raises(
        ArchiveError, match=r"record 2 of .* is invalid: the event at position 1: .*(unknown|can't be decoded)"
    ):
        await imported(database_url, file)
    await is_empty(conn)


# Damaged files


async def test_nothing_is_stored_of_a_damaged_file(
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
    with pytest.raises(ArchiveError, match="was changed during the import; import it again"):
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
