"""Writes events into the event table by COPY, and finds those that Postgres refuses for their values.

Invariants. The caller holds the append lock and gives the head. Events get the positions after it in their order, so
positions stay gapless whatever is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from psycopg import AsyncConnection, DataError, Error, IntegrityError, OperationalError, sql
from psycopg.errors import UniqueViolation

from eventstore.appending.append_lock import Head
from eventstore.appending.duplicates import compare_repeats, split_repeats
from eventstore.appending.partition_room import is_about_partitions
from eventstore.appending.quarantine import Rejected
from eventstore.contracts import Event
from eventstore.distributed_log import events_for_rows, move_distributed_head

COLUMNS = (*Event._fields, "position", "received_at")
"""The columns of a row, as :func:`copy_rows` takes them."""
_TYPES = (
    *("text", "text", "text", "int4", "text", "text", "text", "text", "text", "text[]"),
    *("int4", "int4", "int4", "int4", "int4", "int4", "timestamptz", "bytea", "timestamptz"),
    *("timestamptz", "timestamptz", "int8", "int8"),
)
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_COPY = sql.SQL("COPY eventstore.events ({}) FROM STDIN (FORMAT binary)").format(
    sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
)
"""Into the log."""


class Copied(NamedTuple):
    """What became of events: how many were stored, how many repeat one of them, and those that were rejected."""

    stored: int
    repeats: int
    rejected: list[Rejected]


async def copy_events(conn: AsyncConnection, events: Sequence[Event], head: Head) -> None:
    """Copy events, at least one, to the positions after the head.

    Raises:
        psycopg.DataError, psycopg.IntegrityError: Postgres refuses one of them.
        psycopg.Error: the database failed, or the connection.

    """
    received = as_timestamptz(head.received_at)
    rows = events_for_rows(events) if head.is_distributed else events
    await copy_rows(conn, (event + (position, received) for position, event in enumerate(rows, head.position + 1)))  # noqa: RUF005 - the other form takes twice as long
    if head.is_distributed:
        await move_distributed_head(conn, head.position + len(events), head.received_at, events[-1].event_id)


def as_timestamptz(moment: datetime) -> int:
    """Return a time as a binary COPY has it: the microseconds since 2000, in eight bytes like an int8.

    All events of a batch have one time of receipt; this way it is converted once, not for each event.
    """
    return (moment - _POSTGRES_EPOCH) // timedelta(microseconds=1)


async def copy_rows(conn: AsyncConnection, rows: Iterable[tuple[object, ...]], statement: sql.Composed = _COPY) -> None:
    """Copy rows: an event's fields, its position, and when it was received, by :func:`as_timestamptz`.

    Args:
        conn: where to.
        rows: the rows.
        statement: the COPY of another table with :data:`COLUMNS`.

    """
    try:
        async with conn.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(_TYPES)
            # As copy.write_row does it, but a coroutine is awaited for each full buffer only, not for each row.
            add_row = copy.formatter.write_row
            for row in rows:
                if buffer := add_row(row):
                    await copy.write(buffer)
    except UnicodeEncodeError as error:
        if error.encoding != "utf-8":  # then the session's encoding is at fault, not the text
            raise OperationalError(f"the session's encoding is {error.encoding}, not UTF-8") from error
        raise DataError("a text can't be written in UTF-8") from error
    except ValueError as error:
        # psycopg expects one result of a COPY; libpq gives two when the connection is lost in the middle of it.
        if conn.broken:
            raise OperationalError("the connection was lost in the middle of a COPY") from error
        raise


async def copy_new_events(conn: AsyncConnection, events: Sequence[Event], head: Head) -> Copied:
    """Copy events of which none is stored, except those that Postgres refuses."""
    stored = repeats = 0
    rejected: list[Rejected] = []
    while events:
        first, repeated = split_repeats(events)
        copied, refused = await _copy_or_halve(conn, first, _after(head, stored))
        stored += copied
        # An event that repeats the id of a refused one is not a duplicate: it is tried by itself in the next round.
        refused_ids = {each.event_id for each in refused}
        same, conflicting = compare_repeats(first, [event for event in repeated if event.event_id not in refused_ids])
        repeats += same
        rejected += [*refused, *conflicting]
        events = [event for event in repeated if event.event_id in refused_ids]
    return Copied(stored, repeats, rejected)


def _after(head: Head, stored: int) -> Head:
    return head._replace(position=head.position + stored)


async def _copy_or_halve(conn: AsyncConnection, events: Sequence[Event], head: Head) -> tuple[int, list[Rejected]]:
    """Copy events; if Postgres refuses the values of one, copy each half by itself until that event is alone."""
    if not events:
        return 0, []
    try:
        async with conn.transaction():
            await copy_events(conn, events, head)
    except UniqueViolation:
        raise  # not the event's fault: somebody wrote without the append lock
    except (DataError, IntegrityError) as error:
        if is_about_partitions(error):
            raise
        if len(events) == 1:
            event = events[0]
            reason = f"Postgres can't store it ({_without_values(error)})"
            return 0, [Rejected(event.app, event.contract, event.payload, reason, event.event_id)]
        middle = len(events) // 2
        stored, refused = await _copy_or_halve(conn, events[:middle], head)
        more, others = await _copy_or_halve(conn, events[middle:], _after(head, stored))
        return stored + more, [*refused, *others]
    return len(events), []


def _without_values(error: Error) -> str:
    """Return what an error says without values: psycopg's own errors have no SQLSTATE, and quote none."""
    return f"SQLSTATE {error.sqlstate}" if error.sqlstate else str(error)
