"""Hands out the batches of one consumer, moves its checkpoint, and survives the loss of its connection.

Invariants. An event is handed out at least once: the checkpoint moves past it only after the program asked for the next
batch, or acknowledged this one. After a lost connection the program's answer still counts, but only if no other process
had the consumer meanwhile (its epoch shows that) and the log still has the event. Otherwise the events after the stored
checkpoint are handed out again.

Where the filters let nothing through, the checkpoint follows about once a second.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import NamedTuple

import psycopg

from eventstore.consuming import consumer_row
from eventstore.consuming.batch import Batch
from eventstore.consuming.consumer_log import log
from eventstore.consuming.consumer_row import CheckpointMove
from eventstore.consuming.consumer_session import ConsumerSession, open_session
from eventstore.consuming.log_head import wait_for_notification
from eventstore.consuming.page_reader import Page, PageReader
from eventstore.errors import MissingPositions, NotAcknowledged, UsageError
from eventstore.postgres.outage import LogReport, Outage
from eventstore.waits import Waits

UNAVAILABLE = (psycopg.OperationalError, psycopg.InternalError, OSError)
"""Errors of a database that is unavailable or takes no writes, as a standby before it is promoted."""
SAVE_SECONDS = 1.0
"""How often a checkpoint moves where the filters let nothing through."""


class ConsumerOptions(NamedTuple):
    """What a consumer is, besides its filters.

    ``start`` is the position after which a new one begins, None for the head; ``follow`` is whether it waits at the
    head; ``stop`` ends it; ``poll`` is the interval between two looks at the log.
    """

    name: str
    url: str
    start: int | None
    follow: bool
    stop: asyncio.Event
    poll: float


class _Place(NamedTuple):
    position: int
    event_id: str | None


class _Rewind(Exception):
    """The checkpoint could not move; what was handed out counts as not acknowledged."""


class ConsumerRun:
    """One iteration over a consumer's events.

    Args:
        options: what the consumer is.
        reader: reads pages with its filters.
        waits: the timeouts of sessions and back-offs.

    """

    def __init__(self, options: ConsumerOptions, reader: PageReader, waits: Waits) -> None:
        self._options = options
        self._reader = reader
        self._waits = waits
        self._outage = Outage(LogReport(log, consumer=options.name), cap=waits.database_backoff_cap)
        self._session: ConsumerSession | None = None
        self._epoch = 0
        self._stored = self._done = _Place(0, None)  # the checkpoint; and up to where everything is done
        self._batch: Batch | None = None
        self._was_open = self._was_connected = False
        self._saved_at = 0.0
        self._holder: str | None = None

    async def next_batch(self) -> Batch | None:
        """Acknowledge the last batch and return the next one; None at the end, which only a stop or no follow has."""
        if self._batch is not None and self._done.position < self._batch.position:
            self._done = _Place(self._batch.position, self._batch.event_id_at(self._batch.position))
        while True:
            try:
                session = await self._open()
                return None if session is None else await self._advance(session)
            except _Rewind:
                continue
            except UNAVAILABLE as error:
                if await self._wait_out(error):
                    if self._done.position > self._stored.position:
                        raise
                    return None

    async def acknowledge(self, batch: Batch, position: int) -> None:
        """Move the checkpoint to a position of the last batch; wait while the database is unavailable."""
        if batch is not self._batch:
            raise UsageError("another batch was handed out since, so this one can't be acknowledged")
        if position > self._done.position:
            self._done = _Place(position, batch.event_id_at(position))
        while True:
            try:
                session = await self._open()
                if session is None or self._batch is not batch:
                    raise NotAcknowledged(self._options.name)
                async with asyncio.timeout(self._waits.leader_timeout):
                    await self._save(session)
            except _Rewind:
                raise NotAcknowledged(self._options.name) from None
            except UNAVAILABLE as error:
                if await self._wait_out(error):
                    raise
            else:
                self._outage.ended()
                return

    async def close(self) -> None:
        """End the session; what wasn't acknowledged is handed out again."""
        self._batch = None
        await self._close_session()

    async def _advance(self, session: ConsumerSession) -> Batch | None:
        """Hand out the next batch; wait at the head until there is one."""
        while not self._options.stop.is_set():
            async with asyncio.timeout(self._waits.leader_timeout):
                try:
                    page = await self._reader.read_page(session.conn, self._done.position)
                except MissingPositions:
                    await self._save(session)
                    raise
                self._outage.ended()
                if page.position > self._done.position and page.before != self._done.event_id:
                    await self._rewind(session)
                if page.events:
                    return await self._hand_out(session, page)
                await self._pass_over(session, page)
            if page.is_last:
                if not self._options.follow:
                    break
                await self._wait_for_append(session)
        await self._save(session)
        return None

    async def _hand_out(self, session: ConsumerSession, page: Page) -> Batch:
        if self._done.position > self._stored.position:
            await self._save(session, hands_out_next=True)
            attempt: int | None = 1
        else:
            name, at = self._options.name, self._stored.position
            attempt = await consumer_row.record_attempt(session.conn, name, self._epoch, at)
            if attempt is None:
                await self._rewind(session)
        self._batch = Batch(page.events, page.position, page.event_id or "", attempt or 1, self.acknowledge)
        return self._batch

    async def _pass_over(self, session: ConsumerSession, page: Page) -> None:
        """Take note of a page without events for this consumer."""
        if page.head < self._done.position:
            await self._rewind(session)
        is_acknowledged = self._batch is None or self._stored.position >= self._batch.position
        if page.position > self._done.position:
            self._done = _Place(page.position, page.event_id)
        if not is_acknowledged or not self._options.follow or monotonic() - self._saved_at >= SAVE_SECONDS:
            await self._save(session)

    async def _wait_for_append(self, session: ConsumerSession) -> None:
        seconds = min(self._options.poll, self._waits.leader_heartbeat)
        if self._done.position > self._stored.position:
            seconds = min(seconds, SAVE_SECONDS)
        if not session.listens:
            await self._pause(seconds)
            return
        waiting = asyncio.create_task(wait_for_notification(session.conn, seconds))
        stopping = asyncio.create_task(self._options.stop.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            waiting.cancel()
            stopping.cancel()
            await asyncio.gather(waiting, stopping, return_exceptions=True)

    async def _save(self, session: ConsumerSession, *, hands_out_next: bool = False) -> None:
        """Move the stored checkpoint to where everything is done.

        Raises:
            _Rewind: it can't move.

        """
        if self._done.position <= self._stored.position:
            return
        events = 0
        if self._batch is not None:
            events = self._batch.count_to(self._done.position) - self._batch.count_to(self._stored.position)
        move = CheckpointMove(self._stored.position, *self._done, events, hands_out_next)
        if not await consumer_row.move_checkpoint(session.conn, self._options.name, self._epoch, move):
            await self._rewind(session)
        self._stored = self._done
        self._saved_at = monotonic()

    async def _rewind(self, session: ConsumerSession) -> None:
        """Go back to the stored checkpoint, or to standing by if another process has the consumer.

        Raises:
            CheckpointNotInLog: the log lost the checkpoint's event too.
            _Rewind: always, otherwise.

        """
        name, at = self._options.name, self._stored
        if await consumer_row.is_ours(session.conn, name, self._epoch, at.position):
            await consumer_row.check_in_log(session.conn, name, at.position, at.event_id)
            log.warning("the database lost events that were handed out", consumer=name, position=at.position)
        else:
            log.warning("another process took the consumer over", consumer=name)
            await self._close_session()
        self._done, self._batch = at, None
        raise _Rewind

    async def _open(self) -> ConsumerSession | None:
        """Return the session, a new one if it was lost; None if a stop came first."""
        if self._session is not None and not self._session.is_lost:
            return self._session
        await self._close_session()
        options = self._options
        session = await open_session(
            options.url,
            options.name,
            self._waits,
            start=options.start,
            is_first=not self._was_open,
            on_standby=self._stand_by,
        )
        if session is None:
            return None
        self._session, self._holder = session, None
        at, before = _Place(session.taken.position, session.taken.event_id), self._stored
        # The last move may have been committed, although its answer was lost.
        if not self._was_open or session.taken.epoch != self._epoch + 1 or at not in (before, self._done):
            if self._was_open and at.position < before.position:
                log.warning("the database lost the checkpoint's last moves", consumer=options.name, at=at.position)
            self._done, self._batch = at, None
        self._epoch, self._stored = session.taken.epoch, at
        self._was_open = self._was_connected = True
        return session

    async def _stand_by(self, holder: str) -> bool:
        self._was_connected = True
        if holder != self._holder:
            self._holder = holder
            log.warning("standing by: another process has it", consumer=self._options.name, holder=holder)
        return not await self._pause(min(self._waits.standby, self._waits.leader_timeout / 3))

    async def _pause(self, seconds: float) -> bool:
        """Wait for so long, or for a stop; return whether a stop came."""
        try:
            async with asyncio.timeout(seconds):
                return await self._options.stop.wait()
        except TimeoutError:
            return False

    async def _wait_out(self, error: BaseException) -> bool:
        """Wait before the next attempt to connect; return whether a stop came.

        Raises:
            BaseException: the error itself, if this was the first attempt.

        """
        await self._close_session()
        if not self._was_connected:
            raise error
        return await self._pause(self._outage.failed(error))

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
