"""Reads the event table in commit order, page by page, so that neither memory nor a snapshot grows with it.

This is the one place where stored events are read in order: exports and Python callers use it, and a gRPC server of
stored events (``eventstore/serve/``, which doesn't exist yet) would.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import AsyncConnection, sql

from eventstore.archived_rows import read_archived_up_to
from eventstore.contracts import Event
from eventstore.distributed_log import event_of_row, is_distributed, wait_for_commits
from eventstore.errors import DatabaseError, EventsArchived
from eventstore.postgres.byte_pages import PAGE_BYTES, PAGE_ROWS, read_pages
from eventstore.postgres.queries import fetch_row, fetch_value
from eventstore.schema import events

HEAD = sql.SQL("(SELECT coalesce(max(position), 0) FROM eventstore.head)")
"""The SQL expression for the head of the log: the last position; 0 while there is no event.

The view reads one row: the last event by index; of a distributed log, the row that each append moves.
"""

LAG = sql.SQL("""greatest(head.position - c.position, 0) AS events_behind,
       CASE WHEN head.position <= c.position THEN 0
            ELSE coalesce(greatest(extract(
                epoch FROM clock_timestamp() - coalesce(next.received_at, head.received_at)
            ), 0), 0)
       END::double precision AS seconds_behind""")
"""The SQL columns that say how far a checkpoint ``c`` is behind the log's ``head``: events, and how long the first of
them, ``next``, has waited. If that one is missing, the last event's time counts."""

_FROM_CHECKPOINTS = sql.SQL("""{table} AS c
CROSS JOIN (SELECT coalesce(max(position), 0) AS position, max(received_at) AS received_at FROM eventstore.head) AS head
LEFT JOIN (
    SELECT e.position, e.received_at FROM eventstore.events AS e
    WHERE e.position = ANY(ARRAY(SELECT position + 1 FROM {table}))
) AS next ON next.position = c.position + 1""")

LAST_EVENT: LiteralString = (
    "SELECT clock_timestamp(), position, received_at, event_id"
    " FROM (SELECT) AS here LEFT JOIN eventstore.head AS head ON true"
)
"""The statement that returns a :class:`LastEvent`, for those who run it in a pipeline."""

_READ_HEAD = sql.SQL("SELECT {}").format(HEAD).as_bytes()


def from_checkpoints(table: sql.Composable) -> sql.Composed:
    """Return the FROM clause for :data:`LAG`: the checkpoints in a table, the head, and the event after each.

    The events are found by index. They are joined, not looked up for each row, so that it also works where events are
    on other servers than checkpoints.
    """
    return _FROM_CHECKPOINTS.format(table=table)


class StoredEvent(NamedTuple):
    """An event as it is stored: its position, when it was appended (UTC), and the event."""

    position: int
    received_at: datetime
    event: Event


class LastEvent(NamedTuple):
    """The last event of the log, and the server's time; all but the time are None while there is no event."""

    now: datetime
    position: int | None
    received_at: datetime | None
    event_id: str | None


async def read_last_event(conn: AsyncConnection[Any]) -> LastEvent:
    """Read the last event of the log.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    row = await fetch_row(conn, LAST_EVENT)
    if row is None:
        raise DatabaseError("the head of eventstore.events can't be read")
    return LastEvent(*row)


async def read_head(conn: AsyncConnection[Any]) -> int:
    """Return the head of the log: the last position; 0 while there is no event."""
    return int(await fetch_value(conn, _READ_HEAD))


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
    bytes. On an autocommit connection no snapshot outlives a page. Of a distributed log, events are read up to the head
    as it is at the beginning.

    Raises:
        EventsArchived: the next events are archived, in files only; those before them were yielded. In a transaction
            whose snapshot is older than the archive, that isn't seen: use an autocommit connection.
        UnfinishedCommit: the log is distributed, and not all of its events are visible in time.
        psycopg.Error: the database failed, or the connection; to resume, pass the last position yielded as ``after``.

    """
    if await is_distributed(conn):
        head = await read_head(conn)
        up_to = head if up_to is None else min(up_to, head)
        await wait_for_commits(conn)
    columns = ("received_at", *Event._fields)
    pages = read_pages(
        conn, events, "position", columns, after=after, up_to=up_to, page_rows=page_events, page_bytes=page_bytes
    )
    last = max(after, 0)
    async for page in pages:
        for position, received_at, *values in page:
            if position != last + 1:
                await _refuse_archived(conn, last, up_to)
            last = position
            yield StoredEvent(position, received_at, event_of_row(values))
    if up_to is not None and last < up_to:
        await _refuse_archived(conn, last, up_to)


async def _refuse_archived(conn: AsyncConnection, after: int, up_to: int | None = None) -> None:
    """Raise if the position after this one is archived: whoever goes on would lose its event and not know it."""
    archived = await read_archived_up_to(conn)
    if after < archived:
        remedy = f"read them from the files of projections archive, and go on here after position {archived:,}"
        raise EventsArchived(after + 1, archived if up_to is None else min(up_to, archived), remedy)
