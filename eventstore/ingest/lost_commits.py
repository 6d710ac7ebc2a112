"""Notices when the log went back: events that this process committed are no longer in the database.

That happens when an asynchronous standby is promoted before it had received everything, after a crash of a server that
acknowledges commits early, and when a backup is restored. Positions that were given out once are then given out again.

Invariants. A follower remembers positions with the event that each held: a sample of those that it found when it
connected, and the end of each batch that it committed. On every new connection, before it follows again, it looks for
them. What is missing is recorded in ``eventstore.cursors.went_back`` for everybody who had read further: who has read
past ``to`` must read again from there.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import structlog
from psycopg import AsyncConnection, sql

from eventstore.event_reader import HEAD
from eventstore.postgres.queries import fetch_all, fetch_value

log = structlog.get_logger(__name__)

REMEMBERED = 10_000
"""Commits that are remembered. A log that lost more than these is recorded as gone back to position 0."""

_STILL_THERE = (
    "SELECT coalesce(max(e.position), 0) FROM unnest(%s::bigint[], %s::text[]) AS known (position, event_id)"
    " JOIN eventstore.events AS e ON e.position = known.position AND e.event_id = known.event_id"
)
_HEAD = "SELECT position, event_id FROM eventstore.events ORDER BY position DESC LIMIT 1"
# Of a log that this process has not written: ever fewer positions the further they are from its head, so that what
# surely stayed is known to half of what was lost.
_SAMPLE = sql.SQL(
    "SELECT e.position, e.event_id FROM (SELECT {head} AS position) AS head"
    " CROSS JOIN generate_series(0, 62) AS step (n)"
    " JOIN eventstore.events AS e ON e.position = head.position - (2::numeric ^ step.n)::bigint + 1 ORDER BY 1"
).format(head=sql.SQL(HEAD))
_RECORD = (
    "INSERT INTO eventstore.cursors AS c (app, went_back)"
    " VALUES (%(app)s, jsonb_build_array(jsonb_build_object("
    "'noticed_at', clock_timestamp(), 'from', %(from)s::bigint, 'to', %(to)s::bigint)))"
    " ON CONFLICT (app) DO UPDATE SET went_back = c.went_back || excluded.went_back"
)


class Setback(NamedTuple):
    """The log went back: of the positions ``to`` < p <= ``lost``, none holds for sure the event that it held."""

    lost: int
    to: int


class KnownHeads:
    """Positions that were the head of the log once, in rising order, and the event that each held."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._ends: deque[tuple[int, str]] = deque(maxlen=remembered)

    @property
    def last(self) -> int:
        """The last position that is known to be committed; 0 when none is."""
        return self._ends[-1][0] if self._ends else 0

    def add(self, position: int, event_id: str) -> None:
        """Remember the last event of the log, or of a committed batch."""
        if position > self.last:
            self._ends.append((position, event_id))

    async def check(self, conn: AsyncConnection, app: str) -> Setback | None:
        """Look for what was committed, and record it when the log went back; then remember the head.

        Args:
            conn: an autocommit connection.
            app: whose batches these are.

        Returns:
            What was lost, None when everything is there.

        Raises:
            psycopg.Error: the database failed, or the connection.

        """
        setback = await self._missing(conn)
        if setback is not None:
            await conn.execute(_RECORD, {"app": app, "from": setback.lost, "to": setback.to})
            while self._ends and self._ends[-1][0] > setback.to:
                self._ends.pop()
            log.error(
                "the log went back: the database lost events that were committed",
                app=app,
                positions=f"{setback.to + 1}..{setback.lost}",
                why="a failover or a restore",
                action="lost events are received again; whoever has read these positions must read them again",
            )
        known = await fetch_all(conn, _HEAD if self._ends else _SAMPLE)
        for position, event_id in known:
            self.add(position, event_id)
        return setback

    async def _missing(self, conn: AsyncConnection) -> Setback | None:
        if not self._ends:
            return None
        positions, event_ids = zip(*self._ends, strict=True)
        to: int = await fetch_value(conn, _STILL_THERE, [list(positions), list(event_ids)])
        return None if to == self.last else Setback(self.last, to)
