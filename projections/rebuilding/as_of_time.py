"""What people should know about a time that they build read models as of: whether the log's times can answer it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from eventstore.appending.server_clock import AheadOfClock, find_events_ahead_of_clock
from eventstore.postgres.queries import fetch_row

_ENDS = (
    "SELECT clock_timestamp(), (SELECT position FROM eventstore.events ORDER BY position LIMIT 1),"
    " (SELECT received_at FROM eventstore.events ORDER BY position LIMIT 1),"
    " (SELECT position FROM eventstore.events ORDER BY position DESC LIMIT 1),"
    " (SELECT received_at FROM eventstore.events ORDER BY position DESC LIMIT 1)"
)


async def remarks_on(conn: AsyncConnection[Any], asked: datetime | None, position: int) -> tuple[str, ...]:
    """Return what to tell about an answer, each a sentence.

    Args:
        conn: a connection.
        asked: the time that was asked for; None when an event was named, which has one position.
        position: the last position received by then.

    """
    if asked is None:
        return ()
    row = await fetch_row(conn, _ENDS)
    if row is None or row[1] is None:
        return ("no event is stored yet",)
    now, first, first_received, last, last_received = row
    remarks = []
    if asked > now:
        remarks.append(
            f"that time is still to come (the database server's clock says {_shown(now)}); more events may be"
            " received by then"
        )
    if position < first:
        remarks.append(f"that is before the first event: position {first:,} was received at {_shown(first_received)}")
    elif position == last:
        remarks.append(f"that is not before the last event: position {last:,} was received at {_shown(last_received)}")
    if (ahead := await find_events_ahead_of_clock(conn)) is not None:
        remarks.append(_on_ahead(ahead, position))
    return tuple(remarks)


def _on_ahead(ahead: AheadOfClock, position: int) -> str:
    said = (
        f"positions {ahead.first:,} to {ahead.last:,} have times ahead of the database server's clock (up to"
        f" {_shown(ahead.received_at)}), which was ahead when they were stored"
    )
    if position < ahead.last:
        return f"{said}; positions from {position + 1:,} on are left out: name an event_id to build up to it"
    return f"{said}: when they were received is not known"


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"
