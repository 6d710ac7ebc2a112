"""Compares the database server's clock with the times of stored events, and warns when these are ahead.

``received_at`` never falls as positions rise. So if the clock was ahead for a moment, every later event gets the time
from then until the clock has caught up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic

import structlog
from psycopg import AsyncConnection

from eventstore.archived_rows import read_archived_up_to
from eventstore.event_reader import read_last_event
from eventstore.postgres.queries import fetch_row

log = structlog.get_logger(__name__)

AHEAD = timedelta(seconds=10)
"""How far ahead a stored time is reported as wrong; less can happen when a clock is adjusted."""
WARN_AGAIN = 3600.0
"""Seconds between two warnings of a process."""

_AT_OR_BEFORE = (
    "SELECT position, received_at FROM eventstore.events WHERE position <= %s ORDER BY position DESC LIMIT 1"
)


class ClockWatch:
    """Warns when the last event's time is ahead of the clock, at most once an hour.

    Args:
        clock: seconds that only rise.

    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._warn_at = float("-inf")

    def check(self, now: datetime, previous: datetime) -> None:
        """Compare the server's clock with the time of the last event that is stored."""
        ahead = previous - now
        if ahead <= AHEAD or self._clock() < self._warn_at:
            return
        self._warn_at = self._clock() + WARN_AGAIN
        log.warning(
            "the last event's received_at is ahead of the database server's clock; new events get the same time until"
            " the clock has caught up",
            received_at=previous.isoformat(),
            clock=now.isoformat(),
            seconds_ahead=round(ahead.total_seconds(), 1),
        )


WATCH = ClockWatch()
"""The only one of this process."""


@dataclass(frozen=True)
class AheadOfClock:
    """Events whose ``received_at`` is ahead of the database server's clock, so it can't be the time they were received.

    Attributes:
        first: the position of the first of them.
        last: the position of the last.
        received_at: the time of the last.
        seconds: how far that is ahead of the clock.

    """

    first: int
    last: int
    received_at: datetime
    seconds: float


async def find_events_ahead_of_clock(conn: AsyncConnection) -> AheadOfClock | None:
    """Return the events whose time is more than :data:`AHEAD` ahead of the server's clock; None without any.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    now, last, received_at, _ = await read_last_event(conn)
    if last is None or received_at is None or received_at - now <= AHEAD:
        return None
    first = await find_last_received_by(conn, now, last, after=await read_archived_up_to(conn)) + 1
    return AheadOfClock(first, last, received_at, (received_at - now).total_seconds())


def _ignore_missing(_: int) -> None:
    pass


async def find_last_received_by(
    conn: AsyncConnection,
    time: datetime,
    up_to: int,
    on_missing: Callable[[int], None] = _ignore_missing,
    *,
    after: int = 0,
) -> int:
    """Return the last position up to ``up_to`` whose event was received by a time; ``after`` when none was.

    Times never fall as positions rise, so a binary search finds it without an index on the times.

    Args:
        conn: a connection.
        time: the time.
        up_to: the last position that counts.
        on_missing: is called with a position that the search meets and that is missing, and may raise an error; by
            default missing positions don't matter.
        after: the last position that doesn't count: the log has no events up to it.

    """
    low, high = after, up_to
    while low < high:
        middle = (low + high + 1) // 2
        row = await fetch_row(conn, _AT_OR_BEFORE, [middle])
        if row is None or row[0] != middle:
            on_missing(middle)
        if row is None or row[1] <= time:
            low = middle
        else:
            high = row[0] - 1
    return low
