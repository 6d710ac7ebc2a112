"""Takes what was received out of the buffer, decodes it and appends it; waits while the database is unavailable.

Invariants. A batch is tried again, on a new connection, until it is known to be committed. Every attempt starts from
the state that the batch before left in this very log: what is buffered is never appended to a log that lost what came
before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import psycopg
import structlog

from eventstore.appending.append import Appended, Appender, CursorMove, new_token
from eventstore.appending.quarantine import Rejected
from eventstore.appending.quarantine_limits import DEFAULT_LIMITS, QuarantineLimits
from eventstore.contracts import Event, decode
from eventstore.errors import AlreadyAppended, Undecodable
from eventstore.ingest.buffer import Buffer, Received
from eventstore.ingest.leader import Lease
from eventstore.ingest.lost_commits import KnownHeads
from eventstore.ingest.quarantine_log import QuarantineLog
from eventstore.postgres.connection import connect
from eventstore.postgres.outage import LogReport, Outage
from eventstore.waits import Waits

log = structlog.get_logger(__name__)

NOT_A_FRAME = "the bytes are not a SendRequestEventFrame"


def decode_batch(batch: list[Received], app: str) -> tuple[list[Event], list[Rejected], str | None]:
    """Decode messages in their order.

    Returns the events, the messages that can't be one, and the last ULID among all of them (None without any).
    """
    events: list[Event] = []
    rejected: list[Rejected] = []
    last: str | None = None
    for contract, data, garbage in batch:
        if garbage:
            rejected.append(Rejected(app, contract.value, data, NOT_A_FRAME))
            continue
        try:
            event = decode(data, app, contract)
        except Undecodable as error:
            rejected.append(Rejected(app, contract.value, data, error.reason, error.event_id))
            last = error.event_id or last
        else:
            events.append(event)
            last = event.event_id
    return events, rejected, last


class Writer:
    """The one writer of an app.

    Args:
        url: the database.
        held: the lease of the app; the cursor moves only under its epoch, and from the state that it left.
        heads: where the ends of committed batches are remembered.
        buffer: where messages come from.
        waits: the timeouts and back-offs.
        appended: called after each commit, with what became of the batch.
        limits: how much of what can't be an event is kept.

    """

    def __init__(
        self,
        url: str,
        held: Lease,
        heads: KnownHeads,
        buffer: Buffer,
        waits: Waits,
        appended: Callable[[Appended], None],
        limits: QuarantineLimits = DEFAULT_LIMITS,
    ) -> None:
        self._url = url
        self._app = held.app
        self._epoch = held.epoch
        self._fence = held.fence
        self._heads = heads
        self._buffer = buffer
        self._waits = waits
        self._appended = appended
        self._limits = limits
        self._quarantine_log = QuarantineLog(held.app)
        self._appender: Appender | None = None
        self._conn: psycopg.AsyncConnection | None = None
        self._outage = Outage(LogReport(log, app=held.app), cap=waits.database_backoff_cap)

    @property
    def failing(self) -> bool:
        """Whether the database did not take the last batch, which is tried again."""
        return self._outage.is_ongoing

    def expect_duplicates(self) -> None:
        """Probe the next batches: the stream was taken up again before where it ended."""
        if self._appender is not None:
            self._appender.probing = True

    async def run(self) -> None:
        """Write until cancelled.

        Raises:
            ForeignEventId: two apps follow one stream; this one can't go on.
            LeadershipLost: another process follows the app now.
            LogWentBack: the database lost what this writer had committed.

        """
        try:
            while True:
                batch = await self._buffer.take()
                events, rejected, last = decode_batch(batch, self._app)
                result = await self._append(events, rejected, self._move_to(last))
                if result.stored and result.stored == len(events):
                    self._heads.add(result.head, events[-1].event_id)
                self._buffer.committed()
                self._report(result, rejected)
                self._appended(result)
        finally:
            self._quarantine_log.flush()
            await self._close()

    def _move_to(self, event_id: str | None) -> CursorMove:
        token = new_token()
        return CursorMove(self._app, self._epoch, event_id, token, after=self._fence, head=self._heads.last)

    async def _append(self, events: list[Event], rejected: list[Rejected], cursor: CursorMove) -> Appended:
        attempted: Appended | None = None
        while True:
            try:
                appender = await self._connected()
                try:
                    result = await appender.append(events, rejected=rejected, cursor=cursor)
                except AlreadyAppended:
                    if attempted is None:
                        raise
                    result = attempted
            except (psycopg.Error, OSError) as error:
                # Whether it was committed is not known: the next attempt finds out by the cursor's token.
                if self._appender is not None:
                    attempted = self._appender.attempted or attempted
                await self._close()
                await asyncio.sleep(self._outage.failed(error))
            else:
                self._outage.ended()
                self._fence = cursor.token
                return result

    async def _connected(self) -> Appender:
        if self._appender is None:
            name, waits = f"projections append {self._app}", self._waits
            self._conn = await connect(self._url, name=name, waits=waits, lock_timeout=waits.lock)
            self._appender = Appender(self._conn, self._waits, self._limits)
        return self._appender

    async def _close(self) -> None:
        conn, self._conn, self._appender = self._conn, None, None
        if conn is not None:
            with suppress(psycopg.Error):
                await conn.close()

    def _report(self, result: Appended, rejected: list[Rejected]) -> None:
        log.debug("appended", app=self._app, **result._asdict())
        self._quarantine_log.report(result, rejected)
