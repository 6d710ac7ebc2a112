"""Checks, before anything is stored, whether the events of a file fit this log.

Invariants. The caller holds the locks that keep the file's positions free, so events that fit now still fit when they
are stored. Only a temporary table in the database grows with the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from psycopg import AsyncConnection

from eventstore.appending.duplicates import EXPORTED_ELSEWHERE, find_missing
from eventstore.errors import ArchiveError, OtherLog
from eventstore.event_reader import StoredEvent, read_head
from eventstore.postgres.queries import fetch_row, fetch_value

_MAKE = 'CREATE TEMPORARY TABLE imported_ids (event_id text COLLATE pg_catalog."C")'
_COPY = "COPY pg_temp.imported_ids FROM STDIN"
_TWICE = "SELECT event_id FROM pg_temp.imported_ids GROUP BY event_id HAVING count(*) > 1 LIMIT 1"
_ELSEWHERE = "SELECT position FROM eventstore.event_positions WHERE event_id = ANY(%s) LIMIT 1"
_BEFORE = "SELECT received_at FROM eventstore.events WHERE position < %s ORDER BY position DESC LIMIT 1"
_AFTER = "SELECT received_at FROM eventstore.events WHERE position > %s ORDER BY position LIMIT 1"


async def check_fit(conn: AsyncConnection, path: Path, batches: Iterable[Sequence[StoredEvent]]) -> None:
    """Compare events with the log, in order of position.

    Args:
        conn: an autocommit connection.
        path: the file, for messages.
        batches: its events, each of them valid by itself; no batch is empty.

    Raises:
        ArchiveError: an event is in the file twice.
        OtherLog: the file was exported from a different log, or positions between this log and the file are missing.
        psycopg.Error: the database failed, or the connection.

    """
    await conn.execute(_MAKE)
    last = await read_head(conn)
    for events in batches:
        missing = await find_missing(conn, events)
        last = _follow(last, missing)
        await _check_times(conn, missing)
        ids = [one.event.event_id for one in missing]
        if await fetch_row(conn, _ELSEWHERE, [ids]):
            raise OtherLog(f"an event of the file is stored here at another position: {EXPORTED_ELSEWHERE}")
        async with conn.cursor() as cursor, cursor.copy(_COPY) as copy:
            for event_id in ids:
                await copy.write_row([event_id])
    event_id = await fetch_value(conn, _TWICE)
    await conn.execute("DROP TABLE pg_temp.imported_ids")
    if event_id is not None:
        raise ArchiveError(f"event {event_id} is in {path} at two positions")


def _follow(last: int, missing: Sequence[StoredEvent]) -> int:
    """Return the last position once these events are stored; they must follow ``last`` without a missing position."""
    for one in missing:
        if one.position > last:
            if one.position != last + 1:
                raise OtherLog(f"positions {last + 1}..{one.position - 1} are neither in this database nor in the file")
            last = one.position
    return last


async def _check_times(conn: AsyncConnection, missing: Sequence[StoredEvent]) -> None:
    """Refuse events that don't fit between their neighbours in the log, which events in a row have in common."""
    for _, numbered in groupby(enumerate(missing), lambda pair: pair[1].position - pair[0]):
        row = [one for _, one in numbered]
        before = await fetch_value(conn, _BEFORE, [row[0].position])
        after = await fetch_value(conn, _AFTER, [row[-1].position])
        for one in row:
            if (before is not None and one.received_at < before) or (after is not None and one.received_at > after):
                raise OtherLog(
                    f"the received_at of position {one.position:,} of the file doesn't fit between its neighbours in"
                    f" this database: {EXPORTED_ELSEWHERE}"
                )
