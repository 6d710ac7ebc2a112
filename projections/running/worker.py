"""Folds one projection, window by window, for as long as it is told.

Invariants. A fold and its checkpoint are one transaction, and the checkpoint's row is the lock: any number of processes
may run a projection, one of them folds a window, and one that is killed leaves nothing behind. A window that lacks a
position is not folded. A failure stops this projection at its checkpoint, with the error in the table; the others go
on. NOTIFY is a hint only: without it, the next poll finds what there is.

When a window fails, the next one is half as long, and so on: what precedes the event that can't be folded is folded,
and the error names the event. A window that takes too long is one that fails (see
:mod:`projections.folding.fold_budget`); what others do to it, by a lock or by cancelling it, is not: the projection
stops there, and tries again.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from time import monotonic
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from eventstore.backoff import Backoff
from eventstore.postgres.connection import connect
from eventstore.postgres.outage import LogReport, Outage
from eventstore.postgres.session_settings import FOLDING
from eventstore.waits import Waits
from projections.folding import fold_budget
from projections.folding.python_projection import PythonProjection
from projections.folding.window_fold import build_fold
from projections.folding.window_size import Cause, WindowSize
from projections.migrating.user_tables import not_migrated
from projections.projection import Projection
from projections.running import checkpoint
from projections.running.checkpoint import Checkpoint, State
from projections.running.fold_function import FoldFunction
from projections.running.folding_sessions import announce_folding, folding_session_name
from projections.running.wakeup import AppendListener
from projections.settings import WorkerSettings

log = structlog.get_logger(__name__)

PROGRESS_SECONDS = 10.0

NOT_NOW = "25"
"""The class of errors about the session's state, its read-only transactions among them: no event's."""


class Step(Enum):
    """What one attempt to fold a window came to."""

    FOLDED = auto()  # there is more
    AT_HEAD = auto()  # folded or not, nothing is left
    BUSY = auto()  # another process holds the checkpoint
    STOPPED = auto()  # paused, waiting or failed


@dataclass
class _Failed(Exception):
    """A window that could not be folded."""

    at: Checkpoint
    hi: int
    error: Exception
    seconds: float


class Worker:
    """Folds one projection.

    Attributes:
        projection: which.
        windows: windows folded by this worker.
        last: what the last attempt came to.
        position: up to where this worker folded, 0 before its first window.
        not_migrated: why it can't begin: a table is missing; None once all are there.

    """

    def __init__(self, url: str, projection: Projection, *, waits: Waits, settings: WorkerSettings) -> None:
        self.projection = projection
        self.windows = 0
        self.position = 0
        self.last: Step | None = None
        self.not_migrated: str | None = None
        self._url = url
        self._fold = build_fold(projection, handle_timeout=settings.fold_timeout)
        self._fold_function = None if isinstance(projection, PythonProjection) else FoldFunction(projection)
        self._is_usual = False
        self._waits = waits
        self._settings = settings
        self._window_size = WindowSize(settings.batch_size, settings.fold_timeout, "PROJECTIONS_FOLD_TIMEOUT")
        self._told: str | None = None
        self._looked = False
        self._busy_since: float | None = None
        self._said_at = monotonic()
        self._said_behind = False

    async def run(self, listener: AppendListener) -> None:
        """Fold until cancelled, woken by the listener; wait while the database is unavailable."""
        appended = listener.subscribe()
        outage = Outage(LogReport(log, projection=self.projection.name), cap=self._waits.database_backoff_cap)
        while True:
            try:
                await self._run(outage, appended)
            # Among internal errors: a database that takes no writes, as a standby that is not yet promoted.
            except (psycopg.OperationalError, psycopg.InternalError, OSError) as error:
                self.last = None
                await asyncio.sleep(outage.failed(error))

    async def _run(self, outage: Outage, appended: asyncio.Event) -> None:
        conn = await self._open()
        try:
            await self._until_migrated(conn)
            await self._ensure_checkpoint(conn)
            while True:
                # Before it looks: what comes meanwhile rings anew.
                appended.clear()
                self.last = await self.step(conn)
                outage.ended()
                if self.last is Step.FOLDED:
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.poll):
                        await appended.wait()
        finally:
            with suppress(psycopg.Error):
                await conn.close()

    async def connect(self) -> AsyncConnection[Any]:
        """Open a connection for :meth:`step`, and make the checkpoint if there is none.

        Raises:
            psycopg.Error: the database is away.

        """
        conn = await self._open()
        try:
            await self._ensure_checkpoint(conn)
        except BaseException:
            await conn.close()
            raise
        return conn

    async def _open(self) -> AsyncConnection[Any]:
        name = folding_session_name(self.projection.name)
        limits = fold_budget.timeout_settings(self._settings.fold_timeout)
        return await connect(self._url, name=name, waits=self._waits, settings={**FOLDING, **limits})

    async def _until_migrated(self, conn: AsyncConnection[Any]) -> None:
        """Wait until all tables are there; the other projections go on meanwhile."""
        while (why := await not_migrated(conn, self.projection)) is not None:
            if self.not_migrated is None:
                log.warning("left out", projection=self.projection.name, why=why)
            self.not_migrated = why
            await asyncio.sleep(self._settings.poll)
        self.not_migrated = None

    async def _ensure_checkpoint(self, conn: AsyncConnection[Any]) -> None:
        await announce_folding(conn, self.projection.name)
        await checkpoint.ensure(conn, self.projection.name, self.projection.version)

    async def step(self, conn: AsyncConnection[Any]) -> Step:
        """Try to fold one window, in a transaction of its own on a connection in autocommit.

        Raises:
            psycopg.OperationalError: the database failed, or the connection; nothing was folded, or all of it.

        """
        usual, self._is_usual = self._is_usual, False
        try:
            step = (
                await self._step_in_one_round_trip(conn, self._fold_function) if usual and self._fold_function else None
            )
            step = step or await self._step(conn)
        except _Failed as failed:
            await conn.rollback()
            return await self._note_failure(conn, failed)
        except BaseException:
            with suppress(psycopg.Error):
                await conn.rollback()
            raise
        self._is_usual = step in (Step.FOLDED, Step.AT_HEAD)
        return step

    async def _step_in_one_round_trip(self, conn: AsyncConnection[Any], fold_function: FoldFunction) -> Step | None:
        """Do what a step mostly comes to; None, and nothing done, when it is to be looked at."""
        began = monotonic()
        try:
            taken = await fold_function.fold(conn, self._window_size.positions)
        except psycopg.Error as error:
            if conn.broken or conn.closed:
                raise
            await conn.rollback()
            if fold_budget.is_too_slow(error, monotonic() - began, self._settings.fold_timeout):
                self._window_size.shrink(self._window_size.positions, too_slow=True)
            return None
        if taken is None or taken.hi < taken.lo:
            return None
        return self._folded(taken.hi, taken.head, monotonic() - began) if taken.hi > taken.lo else Step.AT_HEAD

    async def _step(self, conn: AsyncConnection[Any]) -> Step:
        at = await checkpoint.take(conn, self.projection.name)
        if at is None:
            await conn.rollback()
            await self._end_frozen_holder(conn)
            return Step.BUSY
        self._busy_since = None
        first, self._looked = not self._looked, True
        if not await self._may_fold(conn, at, first=first):
            return Step.STOPPED
        if first:
            self._say_progress("folding", at.position, at.head)
        hi = min(at.position + self._window_size.positions, at.head)
        if hi <= at.position:
            await conn.rollback()
            return Step.AT_HEAD
        began = monotonic()
        await self._fold_window(conn, at, hi)
        return self._folded(hi, at.head, monotonic() - began)

    def _folded(self, hi: int, head: int, seconds: float) -> Step:
        self.position = hi
        self.windows += 1
        self._window_size.succeeded(seconds)
        self._told = None
        # At the head nothing is said about each window: that is the normal state.
        if hi < head and monotonic() - self._said_at >= PROGRESS_SECONDS:
            self._say_progress("folding", hi, head)
        elif hi == head and self._said_behind:
            self._say_progress("caught up", hi, head)
        # An append after the head was read has notified, or will: there is no need to look again at once.
        return Step.AT_HEAD if hi == head else Step.FOLDED

    def _say_progress(self, what: str, position: int, head: int) -> None:
        self._said_at, self._said_behind = monotonic(), head > position
        log.info(what, projection=self.projection.name, position=position, behind=head - position)

    async def _end_frozen_holder(self, conn: AsyncConnection[Any]) -> None:
        """Let nobody hold the checkpoint who neither folds nor goes."""
        now = monotonic()
        self._busy_since = self._busy_since or now
        longest = self._waits.idle_in_transaction
        if now - self._busy_since < longest:
            return
        self._busy_since = now
        if await checkpoint.end_frozen(conn, self.projection.name, timedelta(seconds=longest)):
            log.warning("ended a frozen session that held the checkpoint", projection=self.projection.name)

    async def _may_fold(self, conn: AsyncConnection[Any], at: Checkpoint, *, first: bool) -> bool:
        name, version = self.projection.name, self.projection.version
        if at.is_ahead:
            error = await checkpoint.wait_because_ahead(conn, name, at)
            await conn.commit()
            self._tell(error)
            return False
        if at.version != version:
            remedy = "this process leaves them alone: update it"
            if at.version < version:
                await checkpoint.wait_for_rebuild(conn, name, version)
                remedy = f"run projections rebuild {name}"
            await conn.commit()
            self._tell(f"its rows are of version {at.version}, this code is {version}: {remedy}")
            return False
        # This process may have what mends it, so its first look tries at once.
        if at.state == State.PAUSED or (at.state == State.FAILED and not at.due and not first):
            await conn.rollback()
            return False
        if at.state == State.WAITING and first:
            await checkpoint.waits_no_more(conn, name, version)
            await conn.commit()
            again = await checkpoint.take(conn, name)
            if again is None or again.position != at.position:
                await conn.rollback()
                return False
        return True

    async def _fold_window(self, conn: AsyncConnection[Any], at: Checkpoint, hi: int) -> None:
        lo = at.position
        move = {"name": self.projection.name, "lo": lo, "hi": hi}
        began = monotonic()
        try:
            async with conn.pipeline() if self._fold.in_pipeline else nullcontext():
                await self._fold.run(conn, lo, hi, at.skipped)
                await conn.execute(checkpoint.MOVE, move)
                await conn.commit()
        except Exception as error:  # a fold written in Python may raise anything; it stops this projection only
            if isinstance(error, psycopg.OperationalError | psycopg.InternalError) and (
                conn.broken or conn.closed or (error.sqlstate or "").startswith(NOT_NOW)
            ):
                raise
            raise _Failed(at, hi, error, monotonic() - began) from error

    async def _note_failure(self, conn: AsyncConnection[Any], failed: _Failed) -> Step:
        failure = await self._window_size.failed(conn, failed.at.position, failed.hi, failed.error, failed.seconds)
        if failure.cause is Cause.WINDOW_TOO_LONG:
            return Step.FOLDED
        if failure.cause is Cause.SLOW_ONCE:
            return await self._stop(conn, failed.at, f"{failure.message}; retrying once")
        at_least = (
            self._settings.fold_timeout * fold_budget.RETRY_SLOW
            if failure.cause is Cause.EVENT and failure.too_slow
            else 0.0
        )
        return await self._stop(conn, failed.at, failure.message, at_least)

    async def _stop(self, conn: AsyncConnection[Any], at: Checkpoint, error: str, at_least: float = 0.0) -> Step:
        backoff = Backoff(self._settings.retry_first, self._settings.retry_cap)
        backoff.attempts = at.failures
        wait = timedelta(seconds=max(backoff.next(), at_least))
        try:
            await checkpoint.fail(conn, self.projection.name, self.projection.version, at.position, error, wait)
        except psycopg.errors.LockNotAvailable:  # somebody else has the checkpoint, and folds or rebuilds
            return Step.BUSY
        self._tell(error)
        return Step.STOPPED

    def _tell(self, error: str) -> None:
        if error != self._told:
            log.error("stopped", projection=self.projection.name, error=error)
            self._told = error
