"""Follows one app: takes its lease, runs a session and a writer under it, and knows when to give up.

The lease decides: when it is lost, reading and writing stop at once, and what wasn't committed is dropped, since the
upstream replays it from the cursor in Postgres. So does a database that lost what this follower had committed: the
stream is read again from the cursor that is there. An app that was refused for good lets go of its lease and is tried
again now and then, since the platform, or what is configured, may have been mended. Nothing but being stopped ends a
follower, unless its refusals are not to be tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from traceback import extract_tb

import psycopg
import structlog

from eventstore.appending.append import Appended
from eventstore.appending.quarantine_limits import DEFAULT_LIMITS, QuarantineLimits
from eventstore.errors import (
    CredentialsRefused,
    DatabaseError,
    ForeignEventId,
    LeadershipLost,
    NoSuchService,
    TokenRefused,
    UpstreamRefused,
    UsageError,
    describe,
)
from eventstore.ingest import cursor as cursors
from eventstore.ingest.buffer import Buffer
from eventstore.ingest.leader import Lease, lease
from eventstore.ingest.lost_commits import KnownHeads
from eventstore.ingest.session import Session
from eventstore.ingest.upstream import Upstream
from eventstore.ingest.writer import Writer
from eventstore.postgres.outage import LogReport, Outage
from eventstore.waits import Waits

log = structlog.get_logger(__name__)

FINAL = (UpstreamRefused, TokenRefused, NoSuchService, CredentialsRefused, ForeignEventId, UsageError)
"""Errors that would come again at once: the app counts as refused."""
TRANSIENT = (psycopg.Error, OSError, DatabaseError)
"""Errors of the database, unless they are final. Everything else is an error of ours, and counts as a refusal too."""


class State(StrEnum):
    """What a follower is."""

    STANDING_BY = "standing by"  # another process follows the app
    DATABASE_AWAY = "database away"
    FOLLOWING = "following"
    REFUSED = "refused"


class Follower:
    """Follows one app.

    Args:
        url: the database.
        upstream: what is followed.
        waits: every wait; ``refused_retry`` counts for refusals.
        reload: returns the upstream as it is configured now; called before a refused app is tried again.
        limits: how much of what can't be an event is kept.

    Attributes:
        state: what it is now.
        stored: events it stored.
        duplicates: events that came again.
        quarantined: messages that can't be events.
        retry_at: when it is tried again, while it is refused; None for never.

    """

    def __init__(
        self,
        url: str,
        upstream: Upstream,
        waits: Waits,
        *,
        reload: Callable[[], Upstream] | None = None,
        limits: QuarantineLimits = DEFAULT_LIMITS,
    ) -> None:
        self.app = upstream.app
        self.state = State.STANDING_BY
        self.stored = self.duplicates = self.quarantined = 0
        self.retry_at: datetime | None = None
        self._refusal: str | None = None
        self._reload = reload
        self._limits = limits
        self._url = url
        self._upstream = upstream
        self._waits = waits
        self._buffer = Buffer()
        self._session: Session | None = None
        self._writer: Writer | None = None
        self._stopping = asyncio.Event()
        self._heads = KnownHeads()

    @property
    def refusal(self) -> str | None:
        """Why it was refused, until a stream works; None while it is well."""
        return None if self._session is not None and self._session.has_succeeded else self._refusal

    @property
    def doing(self) -> str:
        """What it is now, for people: one that leads and has no stream is connecting, however often it must."""
        if self.state is State.REFUSED and self.retry_at is not None:
            return f"refused, next attempt at {self.retry_at:%H:%M:%S}Z"
        has_stream = self._session is not None and self._session.is_connected
        return "connecting" if self.state is State.FOLLOWING and not has_stream else self.state.value

    @property
    def is_quiet(self) -> bool:
        """Whether the stream is open (or ended normally), and all that came is committed."""
        if self._session is None or self._writer is None:
            return False
        return self._session.is_connected and not len(self._buffer) and not self._writer.failing

    @property
    def waits_for(self) -> str | None:
        """What it needs before it can go on, for people; None while its stream is open and can be stored."""
        if self.state is State.STANDING_BY:
            return "the process that follows it"
        if not self.can_commit:
            return "the database"
        if self._session is None or not self._session.is_connected:
            error = self._session.last_error if self._session is not None else None
            return f"its upstream ({error})" if error else "its upstream"
        return None

    @property
    def can_commit(self) -> bool:
        """Whether the database takes what was received, as far as is known."""
        return self.state is not State.DATABASE_AWAY and not (self._writer is not None and self._writer.failing)

    @property
    def has_uncommitted(self) -> bool:
        """Whether something was received and isn't committed."""
        return len(self._buffer) > 0

    def stop(self) -> None:
        """Read no more; :meth:`run` returns once all that was received is committed."""
        self._stopping.set()

    async def run(self, *, retry_refused: bool = True) -> None:
        """Follow until stopped.

        Args:
            retry_refused: try again after a refusal; without it, or when the wait for that is 0, a refusal is the end.

        """
        retry_after = self._waits.refused_retry if retry_refused else 0.0
        outage = Outage(LogReport(log, app=self.app), cap=self._waits.database_backoff_cap)
        while not self._stopping.is_set():
            try:
                async with lease(self._url, self.app, self._waits, self._stand_by, self._check_log) as held:
                    outage.ended()
                    self.state = State.FOLLOWING
                    await self._lead(held, retry_after)
            except LeadershipLost as error:
                self._buffer = Buffer()  # whoever follows now gets it all again
                log.warning("lost the app", app=self.app, error=str(error))
                # To another process, or with the database: which of them, the next look at the lock tells.
                self.state = State.DATABASE_AWAY
            except Exception as error:  # noqa: BLE001 - an error of ours in one app must not end the others
                if _is_refusal(error):
                    self._refuse(error, retry_after)
                    if not retry_after:
                        return
                    await self._pause(retry_after)
                    continue
                self.state = State.DATABASE_AWAY
                await self._pause(outage.failed(error))

    async def _check_log(self, conn: psycopg.AsyncConnection) -> None:
        await self._heads.check(conn, self.app)

    def _stand_by(self) -> None:
        self.state = State.STANDING_BY

    async def _lead(self, held: Lease, retry_after: float) -> None:
        """Do the app's work under a lease, until stopped; raises what ended it otherwise."""
        try:
            if self._refusal is not None and self._reload is not None:
                self._upstream = self._reload()
            await self._work(held)
        except Exception as error:
            if _is_refusal(error):
                # Only now that nothing of the app's runs any more: a stream's success that is noted late would wipe it
                # out.
                again = self._waits.as_timedelta(retry_after) if retry_after else None
                with suppress(psycopg.Error, OSError):
                    await cursors.save_refusal(held.conn, self.app, held.epoch, describe(error), again)
            raise

    async def _work(self, held: Lease) -> None:
        self._buffer = Buffer()
        writer = Writer(self._url, held, self._heads, self._buffer, self._waits, self._count, self._limits)
        session = Session(
            self._upstream, held, self._buffer, lambda: self.stored, writer.expect_duplicates, self._waits
        )
        keeping = asyncio.create_task(held.keep())
        writing = asyncio.create_task(writer.run())
        reading = asyncio.create_task(session.run())
        stopping = asyncio.create_task(self._stopping.wait())
        self._writer, self._session = writer, session
        try:
            await _first(stopping, writing, reading, keeping)
            await _end(reading)
            drained = asyncio.create_task(self._buffer.drained())
            try:
                await _first(drained, writing, keeping)
            finally:
                await _end(drained)
        finally:
            if session.has_succeeded:
                self._refusal = None
            self._session = None
            await _end(stopping, reading, writing, keeping)

    def _count(self, result: Appended) -> None:
        self.stored += result.stored
        self.duplicates += result.duplicates
        self.quarantined += result.quarantined

    def _refuse(self, error: Exception, retry_after: float) -> None:
        said, before = describe(error), self._refusal
        self._refusal, self.state = said, State.REFUSED
        self.retry_at = datetime.now(UTC) + self._waits.as_timedelta(retry_after) if retry_after else None
        if not isinstance(error, FINAL):
            log.error("an error of ours", app=self.app, error=said, where=_where(error))
        say = log.info if said == before else log.error
        say("refused", app=self.app, error=said, again_in=retry_after or "never")

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _is_refusal(error: Exception) -> bool:
    """Whether to try again would only bring the same error: a final one, or one of ours."""
    return isinstance(error, FINAL) or not isinstance(error, TRANSIENT)


def _where(error: BaseException) -> list[str]:
    """Say where an error came from, without any of its values."""
    return [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)[-5:]
    ]


async def _first(*tasks: asyncio.Task[object]) -> None:
    """Wait until one of the tasks is done, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task in done:
            task.result()


async def _end(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
