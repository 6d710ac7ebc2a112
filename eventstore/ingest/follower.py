"""Follows one app: holds its lease, runs a reader and a writer under it, and decides when to retry and when to give up.

Invariants.

- When the lease is lost, reading and writing stop at once, and what is not committed is dropped: the upstream sends it
  again after the cursor in Postgres. The same happens when the database lost events that this follower had committed:
  the stream is read again after the cursor that is stored now.
- A refused app releases its lease and is retried every few minutes, since the platform or the configuration may have
  been corrected.
- A follower ends only by :meth:`Follower.stop`, or on a refusal if refused apps are not retried.
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
from eventstore.contracts import Contract
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
from eventstore.ingest import cursor_row
from eventstore.ingest.app_lease import Lease, hold_lease
from eventstore.ingest.buffer import Buffer
from eventstore.ingest.context import IngestContext
from eventstore.ingest.event_writer import EventWriter
from eventstore.ingest.lost_events import KnownHeads
from eventstore.ingest.stream_counts import StreamCounts
from eventstore.ingest.stream_reader import StreamReader
from eventstore.ingest.upstream import Upstream
from eventstore.postgres.outage import LogReport, Outage

log = structlog.get_logger(__name__)

FINAL = (UpstreamRefused, TokenRefused, NoSuchService, CredentialsRefused, ForeignEventId, UsageError)
"""Errors that would occur again at once: the app counts as refused."""
TRANSIENT = (psycopg.Error, OSError, DatabaseError)
"""Errors of the database, unless they are final. Any other error is a bug in this program, and a refusal too."""


class FollowerState(StrEnum):
    """The states of a follower."""

    STANDING_BY = "standing by"  # another process follows the app
    DATABASE_UNAVAILABLE = "database unavailable"
    FOLLOWING = "following"
    REFUSED = "refused"


class Follower:
    """Follows one app.

    Args:
        context: the database, the timeouts, and how much the quarantine keeps.
        upstream: what is followed.
        reload: returns the upstream as it is configured now; called before a refused app is retried.

    Attributes:
        state: its state.
        stored: how many new events it stored.
        duplicates: how many events it received that were stored already.
        quarantined: how many messages it quarantined.
        retry_at: when a refused app is retried; None for never.
        counts: what happened on its streams.

    """

    def __init__(
        self, context: IngestContext, upstream: Upstream, *, reload: Callable[[], Upstream] | None = None
    ) -> None:
        self.app = upstream.app
        self.state = FollowerState.STANDING_BY
        self.stored = self.duplicates = self.quarantined = 0
        self.retry_at: datetime | None = None
        self.counts = StreamCounts()
        self._refusal: str | None = None
        self._reload = reload
        self._context = context
        self._upstream = upstream
        self._buffer = Buffer()
        self._reader: StreamReader | None = None
        self._writer: EventWriter | None = None
        self._stopping = asyncio.Event()
        self._heads = KnownHeads()
        self._outage = Outage(LogReport(log, app=self.app), cap=context.waits.database_backoff_cap)

    @property
    def refusal(self) -> str | None:
        """Why the app is refused; None once a stream works."""
        return None if self._reader is not None and self._reader.has_succeeded else self._refusal

    @property
    def state_text(self) -> str:
        """The state for people: a follower that has the lease and no stream is connecting."""
        if self.state is FollowerState.REFUSED and self.retry_at is not None:
            return f"refused, next attempt at {self.retry_at:%H:%M:%S}Z"
        return "connecting" if self.state is FollowerState.FOLLOWING and not self.is_connected else self.state.value

    @property
    def is_connected(self) -> bool:
        """Whether a stream is open, or the last one ended normally and the next one is about to open."""
        return self._reader is not None and self._reader.is_connected

    @property
    def contract(self) -> Contract | None:
        """The contract of the open stream, or the configured one; None if that isn't known."""
        return (self._reader.contract if self._reader is not None else None) or self._upstream.contract

    @property
    def is_quiet(self) -> bool:
        """Whether the stream is open (or ended normally), and all received messages are committed."""
        if self._reader is None or self._writer is None:
            return False
        return self._reader.is_connected and not len(self._buffer) and not self._writer.is_failing

    @property
    def waits_for(self) -> str | None:
        """What it waits for, for people; None while its stream is open and events can be stored."""
        if self.state is FollowerState.STANDING_BY:
            return "the process that follows it"
        if not self.can_commit:
            return "the database"
        if self._reader is None or not self._reader.is_connected:
            error = self._reader.last_error if self._reader is not None else None
            return f"its upstream ({error})" if error else "its upstream"
        return None

    @property
    def can_commit(self) -> bool:
        """Whether the database accepts events, as far as is known."""
        return self.state is not FollowerState.DATABASE_UNAVAILABLE and not (
            self._writer is not None and self._writer.is_failing
        )

    @property
    def has_uncommitted(self) -> bool:
        """Whether received messages are not committed yet."""
        return len(self._buffer) > 0

    @property
    def has_room(self) -> bool:
        """Whether more messages can be received before some of them are committed."""
        return self._buffer.has_room

    @property
    def uncommitted_since(self) -> float | None:
        """Since when received messages wait and none was committed (``time.monotonic``); None while none waits."""
        return self._buffer.waiting_since

    def stop(self) -> None:
        """Stop reading; :meth:`run` returns once all received messages are committed."""
        self._stopping.set()

    async def run(self, *, retry_refused: bool = True) -> None:
        """Follow until stopped.

        Args:
            retry_refused: retry after a refusal; without it, or if ``refused_retry`` is 0, a refusal ends the run.

        """
        retry_after = self._context.waits.refused_retry if retry_refused else 0.0
        while not self._stopping.is_set():
            try:
                async with hold_lease(self._context, self.app, self._note_standby, self._find_lost_events) as lease:
                    self._outage.ended()
                    self.state = FollowerState.FOLLOWING
                    await self._follow_under(lease, retry_after)
            except LeadershipLost as error:
                self._buffer = Buffer()  # the next follower receives all of it again
                log.warning("lost the lease of the app", app=self.app, error=str(error))
                # Either another process has it or the database is unavailable: the next attempt shows which.
                self.state = FollowerState.DATABASE_UNAVAILABLE
            except Exception as error:  # noqa: BLE001 - a bug that hits one app must not end the others
                if _is_refusal(error):
                    self._refuse(error, retry_after)
                    if not retry_after:
                        return
                    await self._pause(retry_after)
                    continue
                self.state = FollowerState.DATABASE_UNAVAILABLE
                await self._pause(self._outage.failed(error))

    async def _find_lost_events(self, conn: psycopg.AsyncConnection) -> None:
        await self._heads.find_lost(conn, self.app)

    def _note_standby(self) -> None:
        # The database works, also if this follower waits for hours until the lease is free.
        self._outage.ended()
        self.state = FollowerState.STANDING_BY

    async def _follow_under(self, lease: Lease, retry_after: float) -> None:
        """Follow the app under a lease until stopped; raise what ended it otherwise."""
        try:
            if self._refusal is not None and self._reload is not None:
                self._upstream = self._reload()
            await self._read_and_write(lease)
        except Exception as error:
            if _is_refusal(error):
                # Only now, when nothing else of this app runs: a success that the reader saves late would overwrite it.
                retry_in = self._context.waits.as_timedelta(retry_after) if retry_after else None
                with suppress(psycopg.Error, OSError):
                    await cursor_row.save_refusal(lease.conn, self.app, lease.epoch, describe(error), retry_in)
            raise

    async def _read_and_write(self, lease: Lease) -> None:
        self._buffer = Buffer()
        writer = EventWriter(self._context, lease, self._heads, self._buffer, self._count)
        reader = StreamReader(
            self._upstream,
            lease,
            self._buffer,
            lambda: self.stored,
            writer.expect_duplicates,
            self._context.waits,
            self.counts,
        )
        keeping = asyncio.create_task(lease.keep())
        writing = asyncio.create_task(writer.run())
        reading = asyncio.create_task(reader.run())
        stopping = asyncio.create_task(self._stopping.wait())
        self._writer, self._reader = writer, reader
        try:
            await _first(stopping, writing, reading, keeping)
            await _end(reading)
            drained = asyncio.create_task(self._buffer.drained())
            try:
                await _first(drained, writing, keeping)
            finally:
                await _end(drained)
            await reader.save_success_after_stop()
        finally:
            if reader.has_succeeded:
                self._refusal = None
            self._reader = None
            await _end(stopping, reading, writing, keeping)

    def _count(self, result: Appended) -> None:
        self.stored += result.stored
        self.duplicates += result.duplicates
        self.quarantined += result.quarantined

    def _refuse(self, error: Exception, retry_after: float) -> None:
        sentence, previous = describe(error), self._refusal
        self._refusal, self.state = sentence, FollowerState.REFUSED
        self.retry_at = datetime.now(UTC) + self._context.waits.as_timedelta(retry_after) if retry_after else None
        if sentence == previous:
            write = log.debug
        else:
            write = log.error
            if not isinstance(error, FINAL):
                log.error("bug in this program: please report it", app=self.app, error=sentence, where=_where(error))
        write("refused", app=self.app, error=sentence, retry_in=retry_after or "never")

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _is_refusal(error: Exception) -> bool:
    """Return whether a retry would bring the same error: it is final, or a bug in this program."""
    return isinstance(error, FINAL) or not isinstance(error, TRANSIENT)


def _where(error: BaseException) -> list[str]:
    """Return where an error was raised, without any values."""
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
