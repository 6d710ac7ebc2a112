"""Finds the position that an event_id or a time stands for, and what a user should know about such a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection

from eventstore import ulid
from eventstore.appending.server_clock import AheadOfClock, find_events_ahead_of_clock, find_last_received_by
from eventstore.archived_rows import read_archived_partitions, read_archived_up_to
from eventstore.archiving.archived_positions import find_archived_received_by, read_archived_time
from eventstore.event_reader import read_head, read_last_event
from eventstore.postgres.queries import fetch_row
from projections.errors import ProjectionsError, UsageError

_POSITION = "SELECT position FROM eventstore.event_positions WHERE event_id = %s"
_RECEIVED = "SELECT received_at FROM eventstore.events WHERE position = %s"
_FIRST = "SELECT position, received_at FROM eventstore.events ORDER BY position LIMIT 1"


async def find_position(conn: AsyncConnection[Any], moment: str) -> int:
    """Return the position of an event_id, or the last position received by a time; 0 for none.

    Raises:
        UsageError: there is no such event, or the text is neither.
        ProjectionsError: the search for a time met a missing position.

    """
    moment = moment.strip()
    if ulid.is_ulid(moment):
        row = await fetch_row(conn, _POSITION, [moment])
        if row is None:
            raise UsageError(f"there is no event {moment}")
        return int(row[0])
    time, head = parse_time(moment), await read_head(conn)
    if (archived := await find_archived_received_by(conn, time)) is not None:
        return archived
    return await find_last_received_by(conn, time, head, _refuse_missing, after=await read_archived_up_to(conn))


def _refuse_missing(position: int) -> None:
    raise ProjectionsError(f"position {position} is missing; import it, then try again")


async def received_at(conn: AsyncConnection[Any], position: int) -> datetime | None:
    """Return when the event at a position was received; None for position 0."""
    row = await fetch_row(conn, _RECEIVED, [position])
    return row[0] if row else await read_archived_time(conn, position)


def parse_time(text: str) -> datetime:
    """Return a time in UTC.

    Raises:
        UsageError: it is no time with a time zone.

    """
    text = text.strip()
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    hint = "write an event_id in upper case" if ulid.is_ulid(text.upper()) else "give one or the other"
    raise UsageError(f"{text!r} is neither an event_id nor a time with a time zone (2026-11-01T00:00:00Z); {hint}")


async def remarks_on_time(conn: AsyncConnection[Any], moment: str, position: int) -> tuple[str, ...]:
    """Return what a user should know about the time that was asked for, each as a sentence.

    Args:
        conn: a connection.
        moment: what was asked for; an event_id has one position, so there is nothing to say.
        position: the last position received by then.

    """
    if ulid.is_ulid(moment.strip()):
        return ()
    asked = parse_time(moment)
    now, last, last_received, _ = await read_last_event(conn)
    row = await fetch_row(conn, _FIRST)
    if row is None or last is None or last_received is None:
        return ("no event is stored yet",)
    first, first_received = await _find_first(conn) or row
    remarks = []
    if asked > now:
        remarks.append(
            f"that time is in the future (the database server's clock shows {_utc(now)}); more events may be"
            " received by then"
        )
    if position < first:
        remarks.append(
            f"that time is before the first event (position {first:,} was received at {_utc(first_received)}), so the"
            " result is empty"
        )
    elif position == last:
        remarks.append(
            f"that time is at or after the last event (position {last:,} was received at {_utc(last_received)}), so all"
            " events are included"
        )
    if (ahead := await find_events_ahead_of_clock(conn)) is not None:
        remarks.append(_remark_on_ahead(ahead, position))
    return tuple(remarks)


async def _find_first(conn: AsyncConnection[Any]) -> tuple[int, datetime] | None:
    """Return the first archived position and its time; None if nothing is archived."""
    for one in await read_archived_partitions(conn):
        return one.first, one.first_received_at
    return None


def _remark_on_ahead(ahead: AheadOfClock, position: int) -> str:
    remark = (
        f"positions {ahead.first:,} to {ahead.last:,} have times ahead of the database server's clock (up to"
        f" {_utc(ahead.received_at)}), because the clock was ahead when they were stored"
    )
    if position < ahead.last:
        return f"{remark}; positions from {position + 1:,} on are left out: to include them, give an event_id"
    return f"{remark}; their real receive times are unknown"


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"
