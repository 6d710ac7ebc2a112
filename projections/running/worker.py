"""Runs one projection: folds window after window, sleeps at the head, and waits while the database is unavailable.

Invariants. NOTIFY is only a hint: without it, the next poll finds new events. A projection whose tables are missing
waits for ``projections migrate``, and one that fails waits for its retry; other projections go on meanwhile.

One attempt to fold a window is in :mod:`projections.running.window_step`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Never

import psycopg
import structlog
from psycopg import AsyncConnection

from eventstore.postgres.connection import connect
from eventstore.postgres.outage import LogReport, Outage, retry_while_unavailable
from eventstore.postgres.session_settings import FOLDING
from projections.folding import fold_budget
from projections.migrating.missing_tables import not_migrated
from projections.projection import Projection
from projections.running import checkpoint
from projections.running.fold_counts import FoldCounts
from projections.running.folding_sessions import announce_folding, folding_session_name
from projections.running.run_context import RunContext
from projections.running.wakeup import AppendListener
from projections.running.window_step import Step, WindowStep

log = structlog.get_logger(__name__)

UNAVAILABLE = (psycopg.OperationalError, psycopg.InternalError, OSError)
"""Errors of an unavailable database. InternalError: it takes no writes, such as a standby that is not yet promoted."""


class Worker:
    """Folds one projection.

    Args:
        context: the database and the settings.
        projection: what to fold.

    Attributes:
        projection: the projection.
        last: the result of the last attempt; None before the first one and while the database is unavailable.
        not_migrated: why it can't begin: a table is missing; None once all tables exist.

    """

    def __init__(self, context: RunContext, projection: Projection) -> None:
        self.projection = projection
        self.last: Step | None = None
        self.not_migrated: str | None = None
        self._context = context
        self._window_step = WindowStep(context, projection)

    @property
    def windows(self) -> int:
        """How many windows this worker folded."""
        return self._window_step.windows

    @property
    def position(self) -> int:
        """The position up to which this worker folded; 0 before its first window."""
        return self._window_step.position

    @property
    def counts(self) -> FoldCounts:
        """What this worker folded, for metrics."""
        return self._window_step.counts

    async def run(self, listener: AppendListener) -> None:
        """Fold until cancelled, woken by the listener; wait while the database is unavailable."""
        appended = listener.subscribe()
        outage = Outage(LogReport(log, projection=self.projection.name), cap=self._context.waits.database_backoff_cap)
        await retry_while_unavailable(outage, lambda: self._run(outage, appended), UNAVAILABLE)

    async def _run(self, outage: Outage, appended: asyncio.Event) -> Never:
        conn = await self._open()
        try:
            await self._wait_until_migrated(conn, outage)
            await self._prepare(conn)
            while True:
                # Cleared before the log is read: an append during the attempt sets it again.
                appended.clear()
                self.last = await self.step(conn)
                outage.ended()
                if self.last is Step.FOLDED:
                    continue
                if self._window_step.pause:
                    await asyncio.sleep(self._window_step.pause)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._context.settings.poll):
                        await appended.wait()
        finally:
            self.last = None
            with suppress(psycopg.Error):
                await conn.close()

    async def step(self, conn: AsyncConnection[Any]) -> Step:
        """Try to fold one window; see :meth:`WindowStep.run`."""
        return await self._window_step.run(conn)

    async def connect(self) -> AsyncConnection[Any]:
        """Open a connection for :meth:`step`, and create the checkpoint if there is none.

        Raises:
            psycopg.Error: the database is unavailable.

        """
        conn = await self._open()
        try:
            await self._prepare(conn)
        except BaseException:
            await conn.close()
            raise
        return conn

    async def _open(self) -> AsyncConnection[Any]:
        name = folding_session_name(self.projection.name)
        context, limits = self._context, fold_budget.timeout_settings(self._context.settings.fold_timeout)
        return await connect(context.url, name=name, waits=context.waits, settings={**FOLDING, **limits})

    async def _wait_until_migrated(self, conn: AsyncConnection[Any], outage: Outage) -> None:
        while (why := await not_migrated(conn, self.projection)) is not None:
            outage.ended()  # the database works, however long the migration takes to come
            if self.not_migrated is None:
                log.warning("left out", projection=self.projection.name, why=why)
            self.not_migrated = why
            await asyncio.sleep(self._context.settings.poll)
        self.not_migrated = None

    async def _prepare(self, conn: AsyncConnection[Any]) -> None:
        await announce_folding(conn, self.projection.name)
        await checkpoint.create_if_missing(conn, self.projection.name, self.projection.version)
