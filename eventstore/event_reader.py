"""Reads the event table in commit order, page by page, so that neither memory nor a snapshot grows with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import AsyncConnection

from eventstore.contracts import Event
from eventstore.postgres.byte_pages import PAGE_BYTES, PAGE_ROWS, read_pages
from eventstore.postgres.queries import fetch_value
from eventstore.schema import events

HEAD: LiteralString = "(SELECT coalesce(max(position), 0) FROM eventstore.events)"
"""The SQL expression for the head of the log: the last position; 0 while there is no event."""

LAST_EVENT: LiteralString = (
    "SELECT clock_timestamp(), position, received_at"
    " FROM (SELECT) AS here LEFT JOIN"
    " (SELECT position, received_at FROM eventstore.events ORDER BY position DESC LIMIT 1) AS head ON true"
)
"""The statement for the server's time, and the last event's position and ``received_at`` (NULL without an event)."""


class StoredEvent(NamedTuple):
    """An event as it is stored: its position, when it was appended (UTC), and the event."""

    position: int
    received_at: datetime
    event: Event


async def read_head(conn: AsyncConnection[Any]) -> int:
    """Return the head of the log: the last position; 0 while there is no event."""
    return int(await fetch_value(conn, f"SELECT {HEAD}"))


async def read(
    conn: AsyncConnection,
    after: int = 0,
    *,
    up_to: int | None = None,
    page_events: int = PAGE_ROWS,
    page_bytes: int = PAGE_BYTES,
) -> AsyncIterator[StoredEvent]:
    """Yield the events after a position in commit order, up to the head (as it is when each page is read).

    A page holds at most ``page_events`` events and ends with the one that brings its payloads to ``page_bytes``
    bytes. On an autocommit connection no snapshot outlives a page.

    Raises:
        psycopg.Error: the database failed, or the connection; to resume, pass the last position yielded as ``after``.

    """
    columns = ("received_at", *Event._fields)
    pages = read_pages(
        conn, events, "position", columns, after=after, up_to=up_to, page_rows=page_events, page_bytes=page_bytes
    )
    async for page in pages:
        for position, received_at, *values in page:
            yield StoredEvent(position, received_at, Event(*values))
