"""The one reader of the database for all pages and scrapes: it refreshes at most once a second, while somebody looks.

Invariants. All who ask at the same time wait for the same reading. A reading is never older than a second when it is
handed out. When the database fails, the reading says why and has no status: an old status is never shown as the current
one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import psycopg
import structlog

from eventstore.errors import describe
from eventstore.postgres.outage import LogReport, Outage
from projections.http.read_session import ReadSession
from projections.inspecting.live_status import DatabaseLoad, LiveStatus
from projections.inspecting.read_database_load import read_database_load
from projections.inspecting.read_live_status import read_live_status
from projections.registry import Registry

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 1.0
"""How old a reading may be."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the last look at the database brought.

    Attributes:
        number: 1 for the first one, and so on.
        status: the status; None if the database failed.
        error: why there is no status, as a sentence; None if there is one.
        seconds: how long the reading took.
        unavailable_for: for how many seconds the database has failed; None while it answers.

    """

    number: int
    status: LiveStatus | None
    error: str | None
    seconds: float
    unavailable_for: float | None = None


class StatusSource:
    """Reads the status for everybody.

    Args:
        session: the session for it.
        registry: the projections of this code.
        refresh: how old a reading may be, in seconds.

    """

    def __init__(self, session: ReadSession, registry: Registry, refresh: float = REFRESH_SECONDS) -> None:
        self._session = session
        self._registry = registry
        self._refresh_after = refresh
        self._outage = Outage(LogReport(log, part="http"), cap=refresh)
        self._reading: Reading | None = None
        self._read_at = 0.0
        self._failing_since: float | None = None
        self._refreshing: asyncio.Task[Reading] | None = None
        self._stopping = asyncio.Event()

    async def current(self) -> Reading:
        """Return a reading that is at most a second old; this never raises an error of the database."""
        if self._reading is not None and monotonic() - self._read_at < self._refresh_after:
            return self._reading
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        # Shielded: one who goes away must not cancel the reading for the others.
        return await asyncio.shield(self._refreshing)

    async def read_load(self) -> DatabaseLoad | None:
        """Read the sessions of the database, which only scrapes need; None if the database failed."""
        try:
            async with self._session.session() as conn:
                return await read_database_load(conn)
        except (psycopg.Error, OSError) as failure:  # the next reading logs it
            log.debug("the sessions of the database can't be read", error=describe(failure))
            return None

    async def changes(self) -> AsyncIterator[Reading]:
        """Yield the current reading, and then a new one every second, until the server stops."""
        while not self._stopping.is_set():
            yield await self.current()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_after):
                    await self._stopping.wait()

    def stop(self) -> None:
        """End :meth:`changes` for everybody, so that the server can stop."""
        self._stopping.set()

    async def close(self) -> None:
        """End the reading that runs, and close the session."""
        self.stop()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        await self._session.close()

    async def _refresh(self) -> Reading:
        began = monotonic()
        status: LiveStatus | None = None
        error: str | None = None
        try:
            async with self._session.session() as conn:
                status = await read_live_status(conn, self._registry)
        except (psycopg.Error, OSError) as failure:  # a TimeoutError is an OSError
            error = "the database does not answer" if isinstance(failure, TimeoutError) else describe(failure)
            self._outage.failed(error)
        else:
            self._outage.ended()
        self._read_at = now = monotonic()
        self._failing_since = None if error is None else self._failing_since or began
        unavailable_for = None if self._failing_since is None else now - self._failing_since
        number = self._reading.number + 1 if self._reading is not None else 1
        self._reading = Reading(number, status, error, now - began, unavailable_for)
        return self._reading
