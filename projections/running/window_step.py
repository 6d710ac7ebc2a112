"""Folds one window of one projection, in one transaction with its checkpoint.

Invariants. The fold and the checkpoint's move are one transaction, and the checkpoint's row is its lock: any number of
processes may run a projection, one of them folds a window, and a killed one leaves nothing behind. A window with
missing positions is not folded. A failure stops only this projection, at its checkpoint, with the error in the table.

After a failure the next window is shorter, until the error names one event: see
:mod:`projections.folding.window_size`. If another session caused the failure, by a lock or by cancelling the statement,
the window keeps its length: the projection stops and tries again.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from time import monotonic
from typing import Any

import psycopg
from psycopg import AsyncConnection

from eventstore.backoff import Backoff
from eventstore.distributed_log import begin_distributed_fold, require_window, wait_for_commits
from projections.folding import fold_budget
from projections.folding.python_projection import PythonProjection
from projections.folding.window_fold import build_fold
from projections.folding.window_size import Cause, WindowSize
from projections.projection import Projection
from projections.running import checkpoint, state_changes
from projections.running.checkpoint import Checkpoint, ProjectionState
from projections.running.fold_counts import FoldCounts
from projections.running.fold_function import FoldFunction
from projections.running.fold_log import FoldLog
from projections.running.run_context import RunContext

SESSION_STATE_CLASS = "25"
"""The class of SQLSTATEs about the session's state, such as a read-only transaction: no event can cause one."""


PAUSE_FOR_WINDOW = 4.0
"""How long to pause at the head of a distributed log, as a multiple of the last window's time."""
LONGEST_PAUSE = 0.5


class Step(Enum):
    """The result of one attempt to fold a window."""

    FOLDED = auto()  # there is more to fold
    AT_HEAD = auto()  # nothing is left to fold
    BUSY = auto()  # another process holds the checkpoint
    STOPPED = auto()  # paused, waiting or failed


@dataclass
class _WindowFailed(Exception):
    """A window that could not be folded, after so many seconds."""

    at: Checkpoint
    hi: int
    error: Exception
    seconds: float


class WindowStep:
    """Folds the windows of one projection, one by one.

    Attributes:
        windows: how many windows were folded.
        position: the position up to which events were folded; 0 before the first window.
        counts: what metrics show of that.
        pause: seconds to wait at the head before the next window: 0 unless the log is distributed, where a window takes
            long however short it is, and several events together take no longer.

    """

    def __init__(self, context: RunContext, projection: Projection) -> None:
        self.pause = 0.0
        self.windows = 0
        self.position = 0
        self.counts = FoldCounts()
        self._projection = projection
        self._idle_in_transaction = context.waits.idle_in_transaction
        self._settings = settings = context.settings
        self._fold = build_fold(projection, handle_timeout=settings.fold_timeout)
        self._fold_function = None if isinstance(projection, PythonProjection) else FoldFunction(projection)
        # Of a window of a fold in Python all events are in this process's memory.
        is_python = isinstance(projection, PythonProjection)
        self._window_size = WindowSize(
            settings.batch_size if is_python else settings.largest_window,
            settings.fold_timeout,
            "PROJECTIONS_FOLD_TIMEOUT",
            usual=settings.batch_size,
        )
        self._log = FoldLog(projection.name)
        self._is_usual = False
        self._is_distributed = False
        self._is_first = True
        self._busy_since: float | None = None

    async def run(self, conn: AsyncConnection[Any]) -> Step:
        """Try to fold one window, in a transaction of its own on a connection in autocommit.

        Raises:
            psycopg.OperationalError: the database failed, or the connection; nothing was folded, or all of it.

        """
        is_usual, self._is_usual = self._is_usual, False
        try:
            step = await self._fold_in_one_round_trip(conn) if is_usual else None
            step = step or await self._fold_step_by_step(conn)
        except _WindowFailed as failed:
            await conn.rollback()
            return await self._handle_failure(conn, failed)
        except BaseException:
            with suppress(psycopg.Error):
                await conn.rollback()
            raise
        self._is_usual = step in (Step.FOLDED, Step.AT_HEAD) and not self._is_distributed
        return step

    async def _fold_in_one_round_trip(self, conn: AsyncConnection[Any]) -> Step | None:
        """Fold the usual window; None if it isn't usual, and then nothing was done."""
        if self._fold_function is None:
            return None
        began = monotonic()
        try:
            window = await self._fold_function.fold(conn, self._window_size.positions)
        except psycopg.Error as error:
            if conn.broken or conn.closed:
                raise
            await conn.rollback()
            if fold_budget.is_too_slow(error, monotonic() - began, self._settings.fold_timeout):
                self._window_size.shrink(self._window_size.positions, too_slow=True)
            return None
        if window is None or window.hi < window.lo:
            return None
        if window.hi == window.lo:
            self._log.folded(window.hi, window.head)
            return Step.AT_HEAD
        return self._record_success(window.lo, window.hi, window.head, monotonic() - began)

    async def _fold_step_by_step(self, conn: AsyncConnection[Any]) -> Step:
        at = await checkpoint.begin_and_try_lock(conn, self._projection.name)
        if at is None:
            await conn.rollback()
            await self._terminate_frozen_holder(conn)
            return Step.BUSY
        self._busy_since = None
        self._is_distributed = at.is_distributed
        is_first, self._is_first = self._is_first, False
        if not await self._may_fold(conn, at, is_first=is_first):
            return Step.STOPPED
        if is_first:
            self._log.began(at.position, at.head)
        hi = min(at.position + self._window_size.positions, at.head)
        if hi <= at.position:
            await conn.rollback()
            self._log.folded(at.position, at.head)
            return Step.AT_HEAD
        began = monotonic()
        await self._fold_window(conn, at, hi)
        return self._record_success(at.position, hi, at.head, monotonic() - began)

    async def _may_fold(self, conn: AsyncConnection[Any], at: Checkpoint, *, is_first: bool) -> bool:
        """Return whether the locked checkpoint can be folded; if not, record why and release the lock."""
        name, version = self._projection.name, self._projection.version
        if at.is_ahead:
            error = await state_changes.wait_because_ahead(conn, name, at)
            await conn.commit()
            self._log.stopped(error)
            return False
        if at.version != version:
            if at.version < version:
                await state_changes.wait_because_older(conn, name, version)
                remedy = f"run projections rebuild {name}"
            else:
                remedy = "stopped folding here; upgrade this process"
            await conn.commit()
            self._log.stopped(f"its rows have version {at.version}, this code has version {version}: {remedy}")
            return False
        # The first attempt of a process doesn't wait for retry_at: this process may have the fix.
        if at.state == ProjectionState.PAUSED:
            self._log.paused()
        if at.state == ProjectionState.PAUSED or (at.state == ProjectionState.FAILED and not at.due and not is_first):
            await conn.rollback()
            return False
        if at.state == ProjectionState.WAITING and is_first:
            await state_changes.end_wait(conn, name, version)
            await conn.commit()
            again = await checkpoint.begin_and_try_lock(conn, name)
            if again is None or again.position != at.position:
                await conn.rollback()
                return False
        return True

    async def _fold_window(self, conn: AsyncConnection[Any], at: Checkpoint, hi: int) -> None:
        move = {"name": self._projection.name, "lo": at.position, "hi": hi}
        began = monotonic()
        try:
            if at.is_distributed:
                if at.events_changed:
                    await wait_for_commits(conn)
                await require_window(conn, at.position, hi)
                await begin_distributed_fold(conn)
            async with conn.pipeline() if self._fold.in_pipeline else nullcontext():
                await self._fold.run(conn, at.position, hi, at.skipped)
                await conn.execute(checkpoint.MOVE_AFTER_COUNT if at.is_distributed else checkpoint.MOVE, move)
                await conn.commit()
        except Exception as error:  # a fold written in Python may raise anything; it stops this projection only
            if isinstance(error, psycopg.OperationalError | psycopg.InternalError) and (
                conn.broken or conn.closed or (error.sqlstate or "").startswith(SESSION_STATE_CLASS)
            ):
                raise
            raise _WindowFailed(at, hi, error, monotonic() - began) from error

    def _record_success(self, lo: int, hi: int, head: int, seconds: float) -> Step:
        self.position = hi
        self.windows += 1
        self.counts.add_window(hi - lo, seconds)
        self.pause = min(seconds * PAUSE_FOR_WINDOW, LONGEST_PAUSE) if self._is_distributed else 0.0
        self._window_size.succeeded(seconds, is_at_head=hi == head)
        self._log.folded(hi, head)
        # An append after the head was read has sent NOTIFY, or will: there is no need to look again at once.
        return Step.AT_HEAD if hi == head else Step.FOLDED

    async def _handle_failure(self, conn: AsyncConnection[Any], failed: _WindowFailed) -> Step:
        at = failed.at
        failure = await self._window_size.failed(conn, at.position, failed.hi, failed.error, failed.seconds)
        if failure.cause is Cause.WINDOW_TOO_LONG:
            return Step.FOLDED
        if failure.cause is Cause.SLOW_ONCE:
            return await self._stop(conn, at, f"{failure.message}; retrying once")
        is_slow_event = failure.cause is Cause.EVENT and failure.too_slow
        at_least = self._settings.fold_timeout * fold_budget.RETRY_SLOW if is_slow_event else 0.0
        return await self._stop(conn, at, failure.message, at_least)

    async def _stop(self, conn: AsyncConnection[Any], at: Checkpoint, error: str, at_least: float = 0.0) -> Step:
        """Record an error, and when to retry: after the back-off, and after so many seconds at least."""
        backoff = Backoff(self._settings.retry_first, self._settings.retry_cap)
        backoff.attempts = at.failures
        wait = timedelta(seconds=max(backoff.next(), at_least))
        name, version = self._projection.name, self._projection.version
        try:
            await state_changes.record_failure(conn, name, version, at.position, error, wait)
        except psycopg.errors.LockNotAvailable:  # another session has the checkpoint, and folds or rebuilds
            return Step.BUSY
        self.counts.failures += 1
        self._log.stopped(error)
        return Step.STOPPED

    async def _terminate_frozen_holder(self, conn: AsyncConnection[Any]) -> None:
        """Terminate a session that has held the checkpoint for too long without doing anything."""
        now = monotonic()
        self._busy_since = self._busy_since or now
        longest = self._idle_in_transaction
        if now - self._busy_since < longest:
            return
        self._busy_since = now
        if await checkpoint.terminate_frozen_holder(conn, self._projection.name, timedelta(seconds=longest)):
            self._log.terminated_frozen_holder()
