"""Notices that the database lost committed events.

That happens when a standby is promoted that had not received everything, when a server that acknowledges commits early
crashes, and when a backup is restored. The lost positions are then assigned to other events.

Invariants. A follower remembers (position, event_id) pairs: a sample of those stored when it connected, and the last
one of each batch that it committed. On every new connection it checks, before it follows again, that they are still
stored: in the log or, once they are archived, in files. If some are missing, it records the loss in
``eventstore.cursors.went_back``, so that downstream readers can rewind: whoever read beyond position ``to`` must read
again from there.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import structlog
from psycopg import AsyncConnection, sql

from eventstore.archived_rows import read_archived_up_to
from eventstore.event_reader import HEAD, read_last_event
from eventstore.postgres.queries import fetch_all, fetch_value

log = structlog.get_logger(__name__)

REMEMBERED = 10_000
"""How many commits are remembered. If the database lost all of them, position 0 is recorded as the last one kept."""

_STILL_THERE = (
    "SELECT coalesce(max(e.position), 0) FROM unnest(%s::bigint[], %s::text[]) AS known (position, event_id)"
    " JOIN eventstore.events AS e ON e.position = known.position AND e.event_id = known.event_id"
)
_ARCHIVED = "SELECT position, event_id FROM eventstore.event_positions WHERE event_id = ANY(%s)"
# A sample of a log that this process has not written, denser towards the head: the last position known to be kept lies
# below the true one by at most the number of lost events.
_SAMPLE = sql.SQL(
    "SELECT e.position, e.event_id FROM (SELECT {head} AS position) AS head"
    " CROSS JOIN generate_series(0, 62) AS step (n)"
    " JOIN eventstore.events AS e ON e.position = head.position - (2::numeric ^ step.n)::bigint + 1 ORDER BY 1"
).format(head=HEAD)
_RECORD = (
    "INSERT INTO eventstore.cursors AS c (app, went_back)"
    " VALUES (%(app)s, jsonb_build_array(jsonb_build_object("
    "'noticed_at', clock_timestamp(), 'from', %(from)s::bigint, 'to', %(to)s::bigint)))"
    " ON CONFLICT (app) DO UPDATE SET went_back = c.went_back || excluded.went_back"
)


class LostEvents(NamedTuple):
    """Which events were lost: those at the positions ``last_kept`` < p ≤ ``last_lost`` may be other events now."""

    last_lost: int
    last_kept: int


class KnownHeads:
    """Positions that were the head of the log at some time, in rising order, and the event at each."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._ends: deque[tuple[int, str]] = deque(maxlen=remembered)

    @property
    def last(self) -> int:
        """The last position known to be committed; 0 if none is."""
        return self._ends[-1][0] if self._ends else 0

    def add(self, position: int, event_id: str) -> None:
        """Remember the last event of the log or of a committed batch."""
        if position > self.last:
            self._ends.append((position, event_id))

    async def find_lost(self, conn: AsyncConnection, app: str) -> LostEvents | None:
        """Look for the remembered events, record which were lost, then remember the head of the log.

        Args:
            conn: an autocommit connection.
            app: the app that these batches belong to.

        Returns:
            What was lost, None if nothing was.

        Raises:
            psycopg.Error: the database or the connection failed.

        """
        lost = await self._compare(conn)
        if lost is not None:
            await conn.execute(_RECORD, {"app": app, "from": lost.last_lost, "to": lost.last_kept})
            while self._ends and self._ends[-1][0] > lost.last_kept:
                self._ends.pop()
            log.error(
                "the database lost committed events",
                app=app,
                positions=f"{lost.last_kept + 1}..{lost.last_lost}",
                why="a failover or a restore",
                action=f"lost events are received again; anyone who read beyond position {lost.last_kept} must read"
                " again from there",
            )
        if self._ends:
            last = await read_last_event(conn)
            if last.position is not None and last.event_id is not None:
                self.add(last.position, last.event_id)
        else:
            for position, event_id in await fetch_all(conn, _SAMPLE):
                self.add(position, event_id)
        return lost

    async def _compare(self, conn: AsyncConnection) -> LostEvents | None:
        if not self._ends:
            return None
        positions, event_ids = zip(*self._ends, strict=True)
        last_kept = await fetch_value(conn, _STILL_THERE, [list(positions), list(event_ids)])
        if last_kept < self.last:
            # Read after the events: those that are archived meanwhile count too.
            archived = await read_archived_up_to(conn)
            ids = [event_id for position, event_id in self._ends if last_kept < position <= archived]
            kept = {*await fetch_all(conn, _ARCHIVED, [ids])} & {*self._ends} if ids else set()
            last_kept = max([last_kept, *(position for position, _ in kept)])
        return None if last_kept == self.last else LostEvents(self.last, last_kept)
