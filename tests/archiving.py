"""Shared by tests of archives: archives the beginning of a log that has no partitions, as the command would."""

from __future__ import annotations

from pathlib import Path

from psycopg import AsyncConnection

from eventstore.archived_rows import record_archived, record_dropped
from eventstore.archiving.archive_folder import describe_written_file
from eventstore.archiving.parquet_file import write_parquet
from eventstore.archiving.partition_file import compare_with_log, write_range
from eventstore.erasure.erasure_rows import read_last_erasure
from tests.transferring import delete_positions


def ignore_position(_position: int) -> None:
    """Ignore the progress."""


async def archive_by_hand(
    conn: AsyncConnection, folder: Path, first: int, last: int, *, parquet: bool = False, name: str | None = None
) -> Path:
    """Put some positions into a file, record it, and delete the events; return the file."""
    path = folder / (name or f"events-{first}-{last}.events")
    await write_range(conn, path, first, last, ignore_position)
    bounds = await compare_with_log(conn, path, first, last, ignore_position)
    parquet_path = path.with_suffix(".parquet")
    if parquet:
        await write_parquet(path, parquet_path)
    await record_archived(
        conn,
        first,
        last,
        bounds,
        describe_written_file(path),
        describe_written_file(parquet_path) if parquet else None,
        erasure=await read_last_erasure(conn),
        system_user="tester",
    )
    await delete_positions(conn, *range(first, last + 1))
    assert await record_dropped(conn, first, last)
    return path
