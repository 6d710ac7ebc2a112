"""Finds positions among archived events: by the time at which events were received, and by position.

Only bounds are in the database, so within a file its events are read up to the one that is looked for.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from eventstore.archived_rows import ArchivedPartition, read_archived_partitions
from eventstore.archiving.archive_folder import read_file_with
from eventstore.transfer.archive import microseconds, moment, read_archive


async def find_archived_received_by(conn: AsyncConnection[Any], time: datetime) -> int | None:
    """Return the last archived position whose event was received by a time; None if all archived events were.

    Raises:
        EventsArchived, ArchiveError, UsageError: the file that has it can't be read.
        psycopg.Error: the database failed, or the connection.

    """
    partitions = await _read_dropped(conn)
    if not partitions or time >= partitions[-1].last_received_at:
        return None
    earlier = [one.last for one in partitions if one.last_received_at <= time]
    last = max(earlier, default=0)
    if not any(one.first_received_at <= time < one.last_received_at for one in partitions):
        return last
    latest = microseconds(time)

    def read_up_to_time(path: Path) -> int:
        found = last
        for record in read_archive(path):
            if record.HasField("event"):
                if record.event.received_at > latest:
                    break
                found = record.event.position
        return found

    return await read_file_with(conn, last + 1, read_up_to_time)


async def read_archived_time(conn: AsyncConnection[Any], position: int) -> datetime | None:
    """Return when the event at an archived position was received; None if the position isn't archived.

    Raises:
        EventsArchived, ArchiveError, UsageError: its file can't be read.
        psycopg.Error: the database failed, or the connection.

    """
    for one in await _read_dropped(conn):
        if position == one.first:
            return one.first_received_at
        if position == one.last:
            return one.last_received_at
        if one.first < position < one.last:
            break
    else:
        return None

    def read_time(path: Path) -> datetime | None:
        for record in read_archive(path):
            if record.HasField("event") and record.event.position == position:
                return moment(record.event.received_at)
        return None

    return await read_file_with(conn, position, read_time)


async def _read_dropped(conn: AsyncConnection[Any]) -> list[ArchivedPartition]:
    return [one for one in await read_archived_partitions(conn) if one.dropped_at is not None]
