"""Decides when ``projections run --until-idle`` is done with folding.

Invariants. A projection counts as done when it is at the head, or when it is stopped (paused, waiting, failed, or not
migrated). One that failed in an earlier run counts as stopped only after this run has tried it. The time in which this
process was frozen counts neither as idle nor as waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection, sql

from eventstore.event_reader import HEAD
from eventstore.postgres.connection import connect
from eventstore.postgres.outage import Outage, Report
from eventstore.postgres.queries import fetch_all
from projections.running.checkpoint import ProjectionState
from projections.running.run_context import RunContext
from projections.running.state_changes import describe_ahead_of_log, describe_older_rows
from projections.running.worker import Worker

POLL_SECONDS = 0.1
LONGEST_POLL_SECONDS = 15.0
"""The longest time that counts for one poll, including a new connection: the rest is time in which we were frozen."""

_CHECKPOINTS = sql.SQL(
    "SELECT name, version, state, last_error, position, {head} FROM projections.checkpoints WHERE name = ANY(%s)"
).format(head=HEAD)


class IdleOutcome(NamedTuple):
    """How folding ended: why some projections are stopped, and why it gave up on others (None if it didn't)."""

    stopped: dict[str, str]
    gave_up: str | None = None


class _Progress(NamedTuple):
    """A projection's checkpoint, and the head of the log."""

    name: str
    version: int
    state: str
    last_error: str | None
    position: int
    head: int


class _GiveUpTimer:
    """Counts the seconds in which nothing was folded.

    Args:
        seconds: after how many to give up; None for never.

    """

    def __init__(self, seconds: float | None) -> None:
        self._limit = seconds
        self._waited = 0.0
        self._polled_at = monotonic()
        self._last_seen: object = None

    def expired(self, seen: object, what: str) -> str | None:
        """Return why to give up, if the time is up; None before.

        Args:
            seen: what this poll found; something new restarts the count, None never does.
            what: what is being waited for.

        """
        now = monotonic()
        self._waited += min(now - self._polled_at, LONGEST_POLL_SECONDS)
        self._polled_at = now
        if seen is not None and seen != self._last_seen:
            self._last_seen, self._waited = seen, 0.0
        if self._limit is None or self._waited < self._limit:
            return None
        return f"gave up after {self._limit:g} s: {what}"


class IdleWatch:
    """Waits until all projections were at the head, or stopped, for some seconds.

    Args:
        context: the database and the settings.
        workers: the workers of this process.
        seconds: for how long they must have been at the same head.
        give_up_after: seconds without progress after which to give up; None for never.

    """

    def __init__(
        self, context: RunContext, workers: Sequence[Worker], *, seconds: float, give_up_after: float | None
    ) -> None:
        self._context = context
        self._workers = workers
        self._seconds = seconds
        self._give_up_after = give_up_after
        self._idle_since: float | None = None
        self._idle_head = -1

    async def run(self) -> IdleOutcome:
        """Poll the checkpoints until folding is done; wait while the database is unavailable."""
        timer = _GiveUpTimer(self._give_up_after)
        context = self._context
        outage = Outage(Report(), cap=context.waits.database_backoff_cap / 5)  # the workers report it
        while True:
            try:
                async with await connect(context.url, name="projections run", waits=context.waits) as conn:
                    while True:
                        outcome = await self._poll(conn, timer)
                        outage.ended()
                        if outcome is not None:
                            return outcome
                        await asyncio.sleep(min(POLL_SECONDS, self._seconds / 4 or POLL_SECONDS))
            except (psycopg.OperationalError, OSError) as error:
                self._idle_since = None
                if (why := timer.expired(None, "the database is unavailable")) is not None:
                    return IdleOutcome({}, why)
                await asyncio.sleep(outage.failed(error))

    async def _poll(self, conn: AsyncConnection[Any], timer: _GiveUpTimer) -> IdleOutcome | None:
        not_migrated = _find_not_migrated(self._workers)
        begun = [worker for worker in self._workers if worker.projection.name not in not_migrated]
        versions = {worker.projection.name: worker.projection.version for worker in begun}
        rows = [_Progress(*row) for row in await fetch_all(conn, _CHECKPOINTS, [list(versions)])]
        stopped = _find_stopped(rows, versions)
        behind = [row for row in rows if row.position < row.head and row.name not in stopped]
        all_tried = all(worker.last is not None for worker in begun)
        is_idle = all_tried and len(rows) == len(versions) and not behind
        head = rows[0].head if rows else 0
        if not is_idle:
            self._idle_since = None
        elif self._idle_since is None or head != self._idle_head:
            self._idle_since, self._idle_head = monotonic(), head
        if self._idle_since is not None and monotonic() - self._idle_since >= self._seconds:
            return IdleOutcome(stopped | not_migrated)
        seen = object() if is_idle else tuple(row.position for row in rows)
        why = timer.expired(seen, _describe_waiting_for(behind))
        return None if why is None else IdleOutcome(stopped | not_migrated, why)


def _find_not_migrated(workers: Sequence[Worker]) -> dict[str, str]:
    """Return which projections can't begin, and why."""
    return {worker.projection.name: f"left out: {why}" for worker in workers if (why := worker.not_migrated)}


def _find_stopped(rows: Sequence[_Progress], versions: Mapping[str, int]) -> dict[str, str]:
    """Return which projections are stopped, and why."""
    return {row.name: why for row in rows if (why := _why_stopped(row, versions[row.name]))}


def _why_stopped(row: _Progress, code_version: int) -> str | None:
    if row.version > code_version:
        return f"its rows have version {row.version}, this code has version {code_version}: upgrade this process"
    if row.version < code_version:
        return f"waiting: {describe_older_rows(row.name, code_version)}"
    if row.position > row.head:
        return f"waiting: {describe_ahead_of_log(row.name, row.position, row.head)}"
    # Rows of this version may be marked as waiting by newer code; this process folds them.
    if row.state in (ProjectionState.RUNNING, ProjectionState.WAITING):
        return None
    return f"{row.state}: {row.last_error}" if row.last_error else row.state


def _describe_waiting_for(behind: Sequence[_Progress]) -> str:
    if not behind:
        return "a projection has not started"
    return "; ".join(f"{row.name} is stuck at position {row.position:,} of {row.head:,}" for row in behind)
