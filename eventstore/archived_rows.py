"""Reads and writes ``eventstore.archived_partitions``: which positions of the log are in files.

Invariants. What was taken out of the database is the beginning of the log: the positions from 1 to some N, without a
gap, each in exactly one file. A row is written when its file is complete and equals the stored events. The transaction
that drops the partition sets ``dropped_at``: without it the events are still in the log, and the file is only a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.rows import class_row

from eventstore.errors import EventsArchived
from eventstore.postgres.queries import fetch_all, fetch_value

ARCHIVED_UP_TO = sql.SQL(
    "(SELECT coalesce(max(last), 0) FROM eventstore.archived_partitions WHERE dropped_at IS NOT NULL)"
)
"""The SQL expression for the last archived position; 0 if nothing is archived. The table has a row for each file."""

_EVENT_ID_AT = sql.SQL(
    "coalesce((SELECT event_id FROM eventstore.events WHERE position = {0}), (SELECT last_event_id"
    " FROM eventstore.archived_partitions WHERE last = {0} AND dropped_at IS NOT NULL))"
)
_READ_UP_TO = sql.SQL("SELECT {}").format(ARCHIVED_UP_TO).as_bytes()
_COLUMNS = (
    "first, last, first_event_id, last_event_id, first_received_at, last_received_at, file, file_bytes, sha256,"
    " parquet_file, parquet_bytes, parquet_sha256, erasure, archived_at, archived_by, dropped_at, to_delete"
)
_READ = sql.SQL("SELECT {} FROM eventstore.archived_partitions ORDER BY first").format(sql.SQL(_COLUMNS))
_INSERT = """
INSERT INTO eventstore.archived_partitions
    (first, last, events, first_event_id, last_event_id, first_received_at, last_received_at, file, file_bytes, sha256,
     parquet_file, parquet_bytes, parquet_sha256, erasure, archived_at, archived_by)
VALUES (%(first)s, %(last)s, %(last)s - %(first)s + 1, %(first_event_id)s, %(last_event_id)s, %(first_received_at)s,
        %(last_received_at)s, %(file)s, %(file_bytes)s, %(sha256)b, %(parquet_file)s, %(parquet_bytes)s,
        %(parquet_sha256)b, %(erasure)s, clock_timestamp(), session_user || ' (' || %(system_user)s || ')')
ON CONFLICT (first) DO UPDATE SET last = excluded.last, events = excluded.events,
    first_event_id = excluded.first_event_id, last_event_id = excluded.last_event_id,
    first_received_at = excluded.first_received_at, last_received_at = excluded.last_received_at,
    file = excluded.file, file_bytes = excluded.file_bytes, sha256 = excluded.sha256,
    parquet_file = excluded.parquet_file, parquet_bytes = excluded.parquet_bytes,
    parquet_sha256 = excluded.parquet_sha256, erasure = excluded.erasure, archived_at = excluded.archived_at,
    archived_by = excluded.archived_by
WHERE eventstore.archived_partitions.dropped_at IS NULL
"""
_DROPPED = (
    "UPDATE eventstore.archived_partitions SET dropped_at = clock_timestamp()"
    " WHERE first = %s AND last = %s AND dropped_at IS NULL"
)
_REPLACE = """
UPDATE eventstore.archived_partitions SET to_delete = to_delete || %(old)s::text[], file = %(file)s,
    file_bytes = %(file_bytes)s, sha256 = %(sha256)b, parquet_file = %(parquet_file)s,
    parquet_bytes = %(parquet_bytes)s, parquet_sha256 = %(parquet_sha256)b, erasure = %(erasure)s
WHERE first = %(first)s AND file = ANY(%(old)s::text[])
"""
_REACHED = "UPDATE eventstore.archived_partitions SET erasure = %s WHERE first = %s AND erasure < %s"
_DELETED = (
    "UPDATE eventstore.archived_partitions SET to_delete = array_remove(to_delete, %(name)s)"
    " WHERE %(name)s = ANY(to_delete)"
)


def event_id_at(position: sql.Composable) -> sql.Composed:
    """Return the SQL expression for the event_id at a position, where a checkpoint can be: also the last archived one.

    It is NULL where the log has no event, and before the last archived position.
    """
    return _EVENT_ID_AT.format(position)


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is complete: its name without the folder, its size, and its SHA-256."""

    name: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class EventBounds:
    """The first and the last event of a file: their event_ids, and when they were received."""

    first_event_id: str
    last_event_id: str
    first_received_at: datetime
    last_received_at: datetime


@dataclass(frozen=True, slots=True)
class ArchivedPartition:
    """A row; the fields are its columns."""

    first: int
    last: int
    first_event_id: str
    last_event_id: str
    first_received_at: datetime
    last_received_at: datetime
    file: str
    file_bytes: int
    sha256: bytes
    parquet_file: str | None
    parquet_bytes: int | None
    parquet_sha256: bytes | None
    erasure: int
    archived_at: datetime
    archived_by: str
    dropped_at: datetime | None
    to_delete: Sequence[str]

    @property
    def events(self) -> int:
        """How many events the file has."""
        return self.last - self.first + 1

    @property
    def files(self) -> list[WrittenFile]:
        """The files: the one of the export format, and the Parquet file if there is one."""
        found = [WrittenFile(self.file, self.file_bytes, self.sha256)]
        if self.parquet_file is not None:
            found.append(WrittenFile(self.parquet_file, self.parquet_bytes or 0, self.parquet_sha256 or b""))
        return found


async def read_archived_partitions(conn: AsyncConnection[Any]) -> list[ArchivedPartition]:
    """Read all rows in order of position, also those whose events are still in the log."""
    # The cursors of an archive's connection have no binary results.
    async with AsyncCursor(conn, row_factory=class_row(ArchivedPartition)) as cursor:
        return await fetch_all(cursor, _READ, binary=True)


async def read_archived_up_to(conn: AsyncConnection[Any]) -> int:
    """Return the last archived position: the events up to it are in files only; 0 if nothing is archived."""
    return int(await fetch_value(conn, _READ_UP_TO))


async def find_archived_error(conn: AsyncConnection[Any], first: int, remedy: str) -> EventsArchived | None:
    """Return the error that positions from ``first`` on are archived, and what to do; None if that one isn't."""
    up_to = await read_archived_up_to(conn)
    return EventsArchived(first, up_to, remedy) if first <= up_to else None


async def record_archived(
    conn: AsyncConnection[Any],
    first: int,
    last: int,
    bounds: EventBounds,
    file: WrittenFile,
    parquet: WrittenFile | None,
    *,
    erasure: int,
    system_user: str,
) -> None:
    """Record that a partition's files are complete and equal the stored events."""
    values = {
        "first": first,
        "last": last,
        "first_event_id": bounds.first_event_id,
        "last_event_id": bounds.last_event_id,
        "first_received_at": bounds.first_received_at,
        "last_received_at": bounds.last_received_at,
        "erasure": erasure,
        "system_user": system_user,
    }
    await conn.execute(_INSERT, values | _of_files(file, parquet))


async def record_dropped(conn: AsyncConnection[Any], first: int, last: int) -> bool:
    """Record that a partition is dropped, in the transaction that drops it; returns whether its files are recorded."""
    return (await conn.execute(_DROPPED, [first, last])).rowcount == 1


async def record_replaced(
    conn: AsyncConnection[Any],
    before: ArchivedPartition,
    file: WrittenFile,
    parquet: WrittenFile | None,
    *,
    erasure: int,
) -> bool:
    """Record new files of a partition, and that the earlier ones must be deleted; returns whether it was as before."""
    values = {"first": before.first, "old": [one.name for one in before.files], "erasure": erasure}
    return (await conn.execute(_REPLACE, values | _of_files(file, parquet))).rowcount == 1


async def record_reached(conn: AsyncConnection[Any], first: int, erasure: int) -> None:
    """Record that a partition's files have no event that erasures up to this one should have changed."""
    await conn.execute(_REACHED, [erasure, first, erasure])


async def record_deleted(conn: AsyncConnection[Any], name: str) -> None:
    """Record that an earlier file is deleted."""
    await conn.execute(_DELETED, {"name": name})


def _of_files(file: WrittenFile, parquet: WrittenFile | None) -> dict[str, object]:
    return {
        "file": file.name,
        "file_bytes": file.size,
        "sha256": file.sha256,
        "parquet_file": parquet and parquet.name,
        "parquet_bytes": parquet and parquet.size,
        "parquet_sha256": parquet and parquet.sha256,
    }
