"""Takes received messages from the buffer, decodes them and appends them; retries while the database is unavailable.

Invariants. A batch is retried, on a new connection, until it is known to be committed. Every attempt starts from the
state that the last batch left in this very log: buffered events are never appended to a log that lost the events before
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import psycopg
import structlog

from eventstore.appending.append import Appended, Appender
from eventstore.appending.cursor_move import CursorMove, new_token
from eventstore.appending.quarantine import Rejected
from eventstore.contracts import Event, decode
from eventstore.contracts.framing import NOT_A_FRAME
from eventstore.errors import AlreadyAppended, Undecodable
from eventstore.ingest.app_lease import Lease
from eventstore.ingest.buffer import Buffer, Received
from eventstore.ingest.context import IngestContext
from eventstore.ingest.lost_events import KnownHeads
from eventstore.ingest.quarantine_log import QuarantineLog
from eventstore.postgres.connection import connect
from eventstore.postgres.outage import LogReport, Outage

log = structlog.get_logger(__name__)


def decode_batch(batch: list[Received], app: str) -> tuple[list[Event], list[Rejected], str | None]:
    """Decode messages in their order.

    Returns:
        The events, the messages that are not events, and the last ULID in any of them (None without one).

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


class EventWriter:
    """The one writer of an app.

    Args:
        context: the database, the timeouts, and how much the quarantine keeps.
        lease: the lease of the app; the cursor moves only under its epoch, and from the state that it left.
        heads: where the ends of committed batches are remembered.
        buffer: where messages come from.
        on_append: called after each commit, with the result of the append.

    """

    def __init__(
        self,
        context: IngestContext,
        lease: Lease,
        heads: KnownHeads,
        buffer: Buffer,
        on_append: Callable[[Appended], None],
    ) -> None:
        self._context = context
        self._app = lease.app
        self._epoch = lease.epoch
        self._fence = lease.fence
        self._heads = heads
        self._buffer = buffer
        self._on_append = on_append
        self._quarantine_log = QuarantineLog(lease.app)
        self._appender: Appender | None = None
        self._conn: psycopg.AsyncConnection | None = None
        self._outage = Outage(LogReport(log, app=lease.app), cap=context.waits.database_backoff_cap)

    @property
    def is_failing(self) -> bool:
        """Whether the last batch could not be committed yet and is retried."""
        return self._outage.is_ongoing

    def expect_duplicates(self) -> None:
        """Look up the next batches first: the stream was resumed before its end."""
        if self._appender is not None:
            self._appender.probing = True

    async def run(self) -> None:
        """Write until cancelled.

        Raises:
            ForeignEventId: another app follows the same stream and has stored its events.
            LeadershipLost: another process follows the app now.
            CommitsLost: the database lost events that this writer had committed.

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
                self._on_append(result)
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
                appender = await self._connect()
                try:
                    result = await appender.append(events, rejected=rejected, cursor=cursor)
                except AlreadyAppended:
                    if attempted is None:
                        raise
                    result = attempted
            except (psycopg.Error, OSError) as error:
                # It may have been committed: the next attempt finds out by the cursor's fencing token.
                if self._appender is not None:
                    attempted = self._appender.attempted or attempted
                await self._close()
                await asyncio.sleep(self._outage.failed(error))
            else:
                self._outage.ended()
                self._fence = cursor.token
                return result

    async def _connect(self) -> Appender:
        if self._appender is None:
            url, waits, limits = self._context.url, self._context.waits, self._context.limits
            name = f"projections append {self._app}"
            self._conn = await connect(url, name=name, waits=waits, lock_timeout=waits.lock)
            self._appender = Appender(self._conn, waits, limits, self._context.key)
        return self._appender

    async def _close(self) -> None:
        conn, self._conn, self._appender = self._conn, None, None
        if conn is not None:
            with suppress(psycopg.Error):
                await conn.close()

    def _report(self, result: Appended, rejected: list[Rejected]) -> None:
        log.debug("appended", app=self._app, **result._asdict())
        self._quarantine_log.report(result, rejected)
