"""An archive that is killed before any of its messages leaves each partition in the log or in its file, and goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from eventstore.archived_rows import WrittenFile, read_archived_partitions, read_archived_up_to
from eventstore.archiving.archive_folder import check_file
from eventstore.errors import DatabaseError
from projections.archiving.archive_partitions import archive_partitions
from projections.archiving.archive_request import ArchiveRequest
from projections.errors import ProjectionsError
from projections.migrating.partition_log import partition_log
from tests import folding, oracle, store
from tests.erasing import BUILT_IN
from tests.fault.cut_connection import ended_before_cut
from tests.folding import append, new_record
from tests.queries import fetch_all
from tests.rebuilding import replay_context, verify
from tests.transferring import files_in

SIZE, PARTITIONS = 5, 30
STEP = 4
"""Every fourth message; each partition is archived by a run that is killed later. A run takes about 90 messages, and
one more whenever its lock's connection is queried meanwhile."""


async def archive_killed(url: str, folder: Path, last: int, message: int) -> bool:
    """Archive a partition through a connection that is cut before a message; return whether it ended before that."""
    request = ArchiveRequest(str(last + 1), folder, None, parquet=False, archive=folder, system_user="tester")

    async def archive(cut: str) -> None:
        await archive_partitions(replay_context(cut), BUILT_IN, request)

    return await ended_before_cut(url, message, archive, DatabaseError, ProjectionsError)


async def assert_nothing_lost(conn: AsyncConnection, folder: Path, head: int) -> None:
    """Assert that every position is in the log or in a whole file that the database knows."""
    archived_up_to = await read_archived_up_to(conn)
    rows = await fetch_all(conn, "SELECT position FROM eventstore.events ORDER BY position")
    assert [position for (position,) in rows] == list(range(archived_up_to + 1, head + 1))
    for one in await read_archived_partitions(conn):
        if one.dropped_at is not None:
            await check_file(folder, WrittenFile(one.file, one.file_bytes, one.sha256))


async def test_a_killed_archive_loses_nothing_and_goes_on(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    await asyncio.to_thread(partition_log, database_url, SIZE)
    head = SIZE * PARTITIONS
    async with store.connection(database_url, "observer") as conn:
        kinds = (oracle.PENDING_CONSENT, oracle.DELIVERED, oracle.POLL_RESPONSE, oracle.DENIED)
        for start in range(0, head, SIZE):  # one batch for each partition, which the batches before make
            numbers = range(start, start + SIZE)
            await append(conn, *(new_record(kinds[n % 4], f"1230000{n % 9:04}", options=("yes",)) for n in numbers))
        await folding.fold_all(database_url)
        before = await folding.read_model_rows(conn)
        ended = False
        recorded_by_killed = 0
        for number in range(PARTITIONS - 1):
            last = (number + 1) * SIZE
            ended = await archive_killed(database_url, tmp_path, last, number * STEP + 1)
            await assert_nothing_lost(conn, tmp_path, head)
            recorded_by_killed += any(one.dropped_at is None for one in await read_archived_partitions(conn))
            if ended:
                break
            await archive_killed(database_url, tmp_path, last, 10**9)
            assert await read_archived_up_to(conn) == last
            await assert_nothing_lost(conn, tmp_path, head)
        assert ended, "the last message of an archive was not reached"
        assert recorded_by_killed, "no run was killed between the record of a file and the drop"
        assert [path.name for path in files_in(tmp_path) if path.suffix != ".events"] == []
        for projection in BUILT_IN.values():
            assert (await verify(database_url, projection)).equal
        after = await folding.read_model_rows(conn)
        assert {**after, "consent_history": []} == {**before, "consent_history": []}  # a view of the log alone
