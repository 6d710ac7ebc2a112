"""Archiving: whole partitions go into files that equal the log, and everything that reads the log goes on working."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from eventstore.archived_rows import read_archived_partitions, read_archived_up_to
from eventstore.archiving import archived_events, archived_positions
from eventstore.consuming import consumer_row
from eventstore.consuming.consumer_row import create_consumer
from eventstore.consuming.consumers import find_reset_position, reset_consumer
from eventstore.errors import ArchiveError, EventsArchived, LockHeld, UsageError
from eventstore.event_reader import StoredEvent, read
from eventstore.ingest import cursor_row
from eventstore.ingest.lost_events import KnownHeads, LostEvents
from eventstore.ingest.resume import StreamHistory, read_saved
from eventstore.locks import TRY_SESSION_LOCK, rebuild_lock
from eventstore.partitions import list_partitions
from eventstore.transfer.archive import Record, check_archive, read_archive
from projections.archiving.archive_partitions import archive_partitions
from projections.archiving.archive_request import ArchiveRequest, ArchiveResult, CannotArchive
from projections.read_models.people import People
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.rebuilding.as_of import build_as_of
from tests import store
from tests.databases import Server
from tests.doctoring import findings, only
from tests.erasing import BUILT_IN, erase
from tests.folding import QUICK, append, decode_record, fold_all, new_record
from tests.meanwhile import let_happen
from tests.queries import fetch_all
from tests.rebuilding import rebuild, replay_context, role, sample_records, verify
from tests.store import lose_events
from tests.transferring import export, files_in, import_file

# The log has 248 events.
pytestmark = [pytest.mark.folded, pytest.mark.partitioned(60)]


@pytest.fixture(autouse=True)
def _archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive is the test's folder."""
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))


async def archive(
    url: str, folder: Path, before: str | None, *, parquet: bool = False, dry_run: bool = False
) -> ArchiveResult:
    request = ArchiveRequest(before, folder, None, parquet, folder, "tester")
    return await archive_partitions(replay_context(url), BUILT_IN, request, dry_run=dry_run)


def ranges(result: ArchiveResult) -> list[tuple[int, int]]:
    return [(one.first, one.last) for one in result.archived]


async def stored_range(conn: AsyncConnection) -> tuple[int, int]:
    [row] = await fetch_all(conn, "SELECT min(position), max(position) FROM eventstore.events")
    return row[0], row[1]


@pytest.mark.oldest
async def test_partitions_go_into_files_and_nothing_changes(
    database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    [(event_id, received_at)] = await fetch_all(
        conn, "SELECT event_id, received_at FROM eventstore.events WHERE position = 70"
    )
    await export(conn, tmp_path / "whole")
    planned = await archive(database_url, tmp_path, "130", dry_run=True)
    assert (ranges(planned), await stored_range(conn)) == ([(1, 60), (61, 120)], (1, 248))
    done = await archive(database_url, tmp_path, "130", parquet=True)
    assert (ranges(done), done.held_back, await stored_range(conn)) == ([(1, 60), (61, 120)], [], (121, 248))
    assert (await list_partitions(conn))[0].first_position == 121
    for one in done.archived:
        contents = await check_archive(one.file)
        assert (contents.events, contents.last) == (one.events, one.last)
        assert one.parquet_file is not None
        assert one.size == one.file.stat().st_size + one.parquet_file.stat().st_size
        assert one.file.stat().st_mode & 0o777 == 0o600
    first, _ = await read_archived_partitions(conn)
    assert (first.first, first.last, first.events, first.archived_by.endswith("(tester)")) == (1, 60, 60, True)
    assert ranges(await archive(database_url, tmp_path, "130")) == []
    for projection in BUILT_IN.values():
        assert (await verify(database_url, projection)).equal
    await export(conn, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()
    for number, moment in enumerate((event_id, received_at.isoformat())):
        built = await build_as_of(replay_context(database_url), [RequestStatus()], moment, f"then{number}", force=False)
        assert built.position >= 70
    # Files that were written before are known here, and duplicates of archived events are.
    assert (await import_file(database_url, tmp_path / "whole")).stored == 0
    assert (await import_file(database_url, done.archived[0].file)).stored == 0
    await append(conn, *sample_records(requests=1, app="other"))
    await fold_all(database_url)
    assert (await verify(database_url, RequestStatus())).equal


async def test_events_that_come_again_are_duplicates_and_an_app_resumes_where_it_was(
    database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    records = [new_record(app="quiet") for _ in range(3)]
    last = decode_record(records[-1])
    await append(conn, *records)
    await append(conn, *sample_records(requests=4))
    await fold_all(database_url)
    await store.set_epoch(conn, "quiet")
    await conn.execute(
        "UPDATE eventstore.cursors SET last_event_id = %s, last_received_at = clock_timestamp() WHERE app = 'quiet'",
        [last.event_id],
    )
    assert ranges(await archive(database_url, tmp_path, "301"))[-1] == (241, 300)
    for probing in (True, False):
        appender = Appender(conn, QUICK)
        done = await appender.append([decode_record(one) for one in records])
        assert (done.stored, done.duplicates, done.quarantined) == (0, 3, 0), probing
    other = store.conflicting_event(last)
    assert (await Appender(conn, QUICK).append([other])).stored == 0
    cursor = await cursor_row.load(conn, "quiet", 1)
    assert (await read_saved(conn, cursor, StreamHistory())).recent == [last.event_id]


async def test_what_somebody_needs_stays(database_url: str, conn: AsyncConnection, tmp_path: Path) -> None:
    await create_consumer(conn, "slow", 61)
    done = await archive(database_url, tmp_path, "200")
    assert (ranges(done), done.held_back) == ([(1, 60)], ["consumer slow is at position 61"])
    await conn.execute("DELETE FROM eventstore.consumers")
    await conn.execute("UPDATE projections.checkpoints SET position = 120, state = 'paused' WHERE name = 'people'")
    await conn.execute("DELETE FROM projections.checkpoints WHERE name = 'poll_tallies'")
    done = await archive(database_url, tmp_path, "200")
    assert done.held_back == ["projection people is at position 120", "projection poll_tallies has not run yet"]
    await conn.execute("UPDATE projections.checkpoints SET state = 'running', position = 248")
    await rebuild(database_url, PollTallies())
    done = await archive(database_url, tmp_path, "100000")
    assert done.held_back[-1] == "the log ends at position 248, and its last event stays in it"
    assert await stored_range(conn) == (241, 248)
    assert (await append(conn, new_record())).stored == 1
    assert await stored_range(conn) == (241, 249)


async def test_a_reader_delays_the_drop_and_appends_go_on(
    database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    async with store.connection(database_url, "reader") as reader, reader.transaction():
        await reader.execute("SELECT count(*) FROM eventstore.events")
        archiving = asyncio.create_task(archive(database_url, tmp_path, "61"))

        async def is_written() -> bool:
            return bool(await store.value(conn, "SELECT count(*) FROM eventstore.archived_partitions"))

        await store.wait_until(is_written, "the record of the file")
        for _ in range(3):
            assert (await append(conn, new_record())).stored == 1
        assert not archiving.done()
        assert await read_archived_up_to(conn) == 0
    assert ranges(await archiving) == [(1, 60)]


@pytest.mark.parametrize("before", ["61", "121"])
async def test_an_export_has_what_is_archived_meanwhile(
    database_url: str, conn: AsyncConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    whole, again = (tmp_path.parent / f"{tmp_path.name} {name}" for name in ("whole", "again"))
    await export(conn, whole)
    at = {"61": 1, "121": 70}[before]  # in the first partition, and in the second
    waiting = [before]

    async def read_slowly(*arguments: Any, **options: Any) -> AsyncIterator[StoredEvent]:  # noqa: ANN401 - as read
        async for one in read(*arguments, **options):
            yield one
            if waiting and one.position == at:
                await archive(database_url, tmp_path, waiting.pop())

    monkeypatch.setattr(archived_events, "read", partial(read_slowly, page_events=10))
    done = await export(conn, again)
    assert (waiting, done.missing, done.events) == ([], (), 248)
    assert again.read_bytes() == whole.read_bytes()


async def test_archived_events_are_not_lost_for_a_follower_that_remembers_them(
    database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    heads = KnownHeads()
    assert await heads.find_lost(conn, "quiet") is None
    await append(conn, *(new_record(app="busy") for _ in range(100)))
    await fold_all(database_url)
    assert ranges(await archive(database_url, tmp_path, "301"))[-1][1] > heads.last == 248
    assert await heads.find_lost(conn, "quiet") is None
    assert heads.last == 348
    await lose_events(conn, 320)
    assert await heads.find_lost(conn, "quiet") == LostEvents(last_lost=348, last_kept=248)


async def test_an_as_of_at_an_archived_event_keeps_its_locks_and_names_all_missing_files(
    database_url: str, conn: AsyncConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = await store.value(conn, "SELECT event_id FROM eventstore.events WHERE position = 70")
    await archive(database_url, tmp_path, "121")
    blocks: list[bool] = []

    def read_file(path: Path) -> Iterator[Record]:
        blocks.append(threading.current_thread() is threading.main_thread())
        yield from read_archive(path)

    monkeypatch.setattr(archived_positions, "read_archive", read_file)
    built = await build_as_of(replay_context(database_url), [People()], str(event_id), "earlier", force=False)
    assert (built.position, built.received_at is None, blocks) == (70, False, [False])
    for file in files_in(tmp_path):
        file.unlink()
    with pytest.raises(EventsArchived, match="positions 1 to 120 are archived"):
        await build_as_of(replay_context(database_url), [People()], str(event_id), "earlier", force=True)


async def test_a_consumer_cannot_begin_at_an_event_that_is_archived_meanwhile(
    database_url: str, conn: AsyncConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = partial(archive, database_url, tmp_path, "61")
    let_happen(monkeypatch, action, consumer_row, "read_archived_up_to", after=True)
    with pytest.raises(UsageError, match="can't start after position 30: positions up to 60 are archived"):
        await consumer_row.create_consumer(conn, "late", 30)
    await consumer_row.create_consumer(conn, "late", 248)
    assert await find_reset_position(conn, "70") == 70
    await archive(database_url, tmp_path, "121")
    with pytest.raises(UsageError, match=r"70 is among the archived events, .* they end at position 120"):
        await reset_consumer(database_url, QUICK, "late", 70)


async def test_a_replay_delays_the_drop_and_the_file_is_used_later(
    database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    async with store.connection(database_url, "other") as other:
        await other.execute(TRY_SESSION_LOCK, [rebuild_lock("people")])
        with pytest.raises(LockHeld, match="projection people: held by other"):
            await archive(database_url, tmp_path, "61")
    (file,) = files_in(tmp_path)
    found = only(await findings(database_url, archive=tmp_path), "archive_unfinished")
    assert found.sentence == f"positions 1 to 60 are in {file.name}, and still in the log"
    before = file.stat()
    assert await stored_range(conn) == (1, 248)
    assert ranges(await archive(database_url, tmp_path, "61")) == [(1, 60)]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_a_file_that_was_erased_meanwhile_is_written_anew(
    database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    assert await stored_range(conn) == (1, 248)
    async with store.connection(database_url, "other") as other:
        await other.execute(TRY_SESSION_LOCK, [rebuild_lock("people")])
        with pytest.raises(LockHeld):
            await archive(database_url, tmp_path, "61")
    await erase(database_url, "12300000000")
    assert ranges(await archive(database_url, tmp_path, "61")) == [(1, 60)]
    assert [one.name for one in files_in(tmp_path) if b"12300000000" in one.read_bytes()] == []
    for projection in BUILT_IN.values():
        assert (await verify(database_url, projection)).equal


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Let no file of this process become longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_files_that_cannot_be_written_or_are_something_else_lose_nothing(
    database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    name = "events-000000000001-000000000060.events"
    with small_disk(2_000), pytest.raises(ArchiveError, match=f"{name} can't be written: File too large"):
        await archive(database_url, tmp_path, "61")
    assert files_in(tmp_path) == []
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ArchiveError, match=f"{name} already exists, and isn't a file of this partition"):
        await archive(database_url, tmp_path, "61")
    await export(conn, tmp_path / "whole")
    (tmp_path / "whole").replace(tmp_path / name)
    with pytest.raises(ArchiveError, match=rf"{name} has 248 events, but positions 1 to 60 have 60\)$"):
        await archive(database_url, tmp_path, "61")
    assert (await stored_range(conn), await read_archived_partitions(conn)) == ((1, 248), [])


async def test_only_the_owner_may_archive(
    database_url: str, conn: AsyncConnection, postgres: Server, tmp_path: Path
) -> None:
    async with role(postgres, database_url) as other:
        await other.grant(
            "USAGE ON SCHEMA eventstore, projections",
            "SELECT ON ALL TABLES IN SCHEMA eventstore",
            "SELECT ON ALL TABLES IN SCHEMA projections",
        )
        with pytest.raises(CannotArchive, match=r"^this role may not archive; only the owner of the tables may, see"):
            await archive(other.url, tmp_path, "61")
    assert (await stored_range(conn), files_in(tmp_path)) == ((1, 248), [])


async def test_a_log_of_one_table_is_refused(elsewhere: str, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="no partitions, and only whole partitions are archived; run projections migrate"
    ):
        await archive(elsewhere, tmp_path, "61")
