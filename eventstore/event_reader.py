"""Reads the event table in commit order, page by page, so that neither memory nor a snapshot grows with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import NamedTuple

from psycopg import AsyncConnection, sql

from eventstore.contracts import Event
from eventstore.postgres.queries import fetch_all, fetch_value

PAGE_EVENTS = 1_000
PAGE_BYTES = 8 * 2**20

_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, ("position", "received_at", *Event._fields)))
# The page ends with the event that fills it, so that one event larger than a page still comes.
_PAGE = sql.SQL(
    "SELECT {columns} FROM ("
    " SELECT *, sum(octet_length(payload)) OVER (ORDER BY position) - octet_length(payload) AS bytes_before"
    " FROM (SELECT * FROM eventstore.events WHERE position > %b AND position <= %b ORDER BY position LIMIT %b) AS page"
    ") AS page WHERE bytes_before < %b ORDER BY position"
).format(columns=_COLUMNS)


class StoredEvent(NamedTuple):
    """An event as it lies in the table: its position, when it was appended (UTC), and the event."""

    position: int
    received_at: datetime
    event: Event


async def head(conn: AsyncConnection) -> int:
    """Return the last position; 0 while there is no event."""
    return await fetch_value(conn, "SELECT max(position) FROM eventstore.events") or 0


async def read(
    conn: AsyncConnection,
    after: int = 0,
    *,
    up_to: int | None = None,
    page_events: int = PAGE_EVENTS,
    page_bytes: int = PAGE_BYTES,
) -> AsyncIterator[StoredEvent]:
    """Yield the events behind a position, in commit order, to the head (as it is when each page is read).

    A page holds at most ``page_events`` events and ends with the one that brings its payloads to ``page_bytes``
    bytes. On an autocommit connection no snapshot outlives a page.

    Raises:
        psycopg.Error: the database failed, or the connection; go on with the last position yielded.

    """
    last = 2**63 - 1 if up_to is None else up_to
    while True:
        rows = await fetch_all(conn, _PAGE, [after, last, page_events, page_bytes], binary=True)
        if not rows:
            return
        for position, received_at, *columns in rows:
            yield StoredEvent(position, received_at, Event(*columns))
        after = rows[-1][0]
