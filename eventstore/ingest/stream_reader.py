"""Reads an app's streams under one lease: connects again and again, and puts received messages into the buffer.

Invariants.

- Before each call the buffer is drained, so that the event_id that is sent accounts for everything received before.
- Only event frames move the cursor.
- An upstream that is unavailable is retried with back-off indefinitely. A permanent refusal ends the reader. Once a
  stream has worked, only the platform's own gRPC status or the issuer's OAuth2 error counts as a refusal: a bare HTTP
  status may come from a proxy, and is retried.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic

import structlog

from eventstore import ulid
from eventstore.backoff import Backoff
from eventstore.contracts import Contract, FrameKind, read_frame
from eventstore.errors import (
    CredentialsError,
    CredentialsRefused,
    EventStoreError,
    NoSuchService,
    TokenRefused,
    UpstreamError,
    UpstreamRefused,
    describe,
)
from eventstore.ingest import cursor_row
from eventstore.ingest.app_lease import Lease
from eventstore.ingest.buffer import Buffer, Received
from eventstore.ingest.first_contact import second_first_contact
from eventstore.ingest.grpc_stream import GrpcStream, open_stream
from eventstore.ingest.recent_events import is_clock_behind
from eventstore.ingest.resume import (
    ResumePoint,
    ResumeSettings,
    StreamHistory,
    choose_resume_point,
    read_saved,
)
from eventstore.ingest.stream_counts import StreamCounts
from eventstore.ingest.stream_log import StreamLog
from eventstore.ingest.upstream import Upstream
from eventstore.postgres.lock_retry import retry_on_lock
from eventstore.redaction.redact import quoted
from eventstore.waits import Waits

log = structlog.get_logger(__name__)


class StreamReader:
    """Reads the streams of an app under one lease.

    Args:
        upstream: what is followed.
        lease: the lease of the app.
        buffer: where received messages go.
        count_stored: returns how many new events the app's writer has stored so far.
        expect_duplicates: called before each call of the upstream: it may send events that are stored already.
        waits: the timeouts and intervals.
        counts: what happens on the streams is counted there.

    Attributes:
        ended_normally: whether the last stream ended normally, and none failed since.
        has_succeeded: whether a stream was accepted under this lease, or brought a message.
        last_error: the last failure of a stream, None before the first.

    """

    def __init__(
        self,
        upstream: Upstream,
        lease: Lease,
        buffer: Buffer,
        count_stored: Callable[[], int],
        expect_duplicates: Callable[[], None],
        waits: Waits,
        counts: StreamCounts,
    ) -> None:
        self._upstream = upstream
        self._lease = lease
        self._buffer = buffer
        self._count_stored = count_stored
        self._expect_duplicates = expect_duplicates
        self._waits = waits
        self._counts = counts
        self._overlap = waits.as_timedelta(waits.overlap)
        self._backoff = Backoff(waits.backoff_first, waits.backoff_cap)
        self._stream: GrpcStream | None = None
        self._open_since: float | None = None
        self._received = 0
        self._history = StreamHistory()
        self._token_renewed = False
        self._log = StreamLog(lease.app, upstream.address.url)
        self._unreachable_since_logged = False
        self._unknown_contracts: set[Contract] = set()
        self.ended_normally = False
        self.has_succeeded = False
        self._reads: Contract | None = None
        self.last_error: str | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a stream is open, or the last one ended normally."""
        return self.ended_normally if self._stream is None else self._stream.is_open

    @property
    def contract(self) -> Contract | None:
        """The contract of the open stream; None while there is none."""
        return None if self._stream is None else self._stream.contract

    async def run(self) -> None:
        """Connect again and again until cancelled.

        Raises:
            EventStoreError: the upstream or the issuer refuses for good.
            psycopg.Error: the lease's connection failed.

        """
        while True:
            await self._buffer.drained()
            stored_before = self._count_stored()
            self._received = 0
            self._open_since = None
            cursor = await self._load_cursor()
            contract = self._choose_contract(cursor)
            error: EventStoreError | None = None
            self._reads = contract
            try:
                await self._read_stream(cursor, contract)
            except (UpstreamError, CredentialsError) as failure:
                error = failure
            self._reads = None
            open_for = 0.0 if self._open_since is None else monotonic() - self._open_since
            self.ended_normally = error is None
            await self._buffer.drained()
            if error is None or self._received:
                await self._save_success(contract, decided=True)
            stored_new = self._count_stored() > stored_before
            self._history.stream_ended(received=self._received > 0, stored_new=stored_new, failed=error is not None)
            if stored_new or open_for >= self._waits.healthy_after:
                self._backoff.reset()
            if error is not None and await self._is_final(error):
                raise error
            if not isinstance(error, NoSuchService) or await self._decided_contract() is not None:
                await self._back_off(error)

    async def save_success_after_stop(self) -> None:
        """Save that the stream works, if :meth:`run` was cancelled while it read one that had brought messages.

        Raises:
            psycopg.Error: the lease's connection failed.

        """
        if self._reads is not None and self._received:
            await self._save_success(self._reads, decided=True)

    async def _read_stream(self, cursor: cursor_row.Cursor, contract: Contract) -> None:
        sent = await self._resume_point(cursor, contract)
        self._history.stream_starts(cursor)
        token = await self._upstream.tokens.token()
        self._expect_duplicates()
        log.debug("connecting", app=cursor.app, contract=contract.value, after=sent.event_id, why=sent.why)
        async with (
            open_stream(
                self._upstream, contract, token=token, after_event_id=sent.event_id, waits=self._waits
            ) as stream,
            self._watch(stream),
        ):
            await self._receive(stream, cursor, sent)

    async def _resume_point(self, cursor: cursor_row.Cursor, contract: Contract) -> ResumePoint:
        now = datetime.now(UTC)
        saved = await read_saved(self._lease.conn, cursor, self._history)
        if is_clock_behind(saved.recent, now):
            self._log.clock_behind()
        settings = ResumeSettings(contract, self._upstream.since, self._overlap)
        chosen = choose_resume_point(saved, settings, self._history, now)
        if chosen.unreachable_since is not None and not self._unreachable_since_logged:
            self._unreachable_since_logged = True
            asked, start = ulid.time_of(chosen.unreachable_since), ulid.time_of(chosen.event_id or "")
            log.warning(
                "since is older than the upstream replays; starting with the oldest events that it replays",
                app=cursor.app,
                asked=asked and asked.isoformat(),
                starting_at=start and start.isoformat(),
            )
        return chosen

    @asynccontextmanager
    async def _watch(self, stream: GrpcStream) -> AsyncIterator[None]:
        """Watch a stream while it is read: when it connects, whether it is accepted, and whether it is silent."""
        self._stream = stream
        tasks = [
            asyncio.create_task(self._watch_connection(stream)),
            asyncio.create_task(self._watch_acceptance(stream)),
            asyncio.create_task(stream.watch_silence(self._waits, lambda: self._buffer.has_room, self._log.silent)),
        ]
        try:
            yield
        finally:
            self._stream = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, stream: GrpcStream, cursor: cursor_row.Cursor, sent: ResumePoint) -> None:
        contract, buffer, counts = stream.contract, self._buffer, self._counts
        expired = False
        has_frames = contract is not Contract.CHAT_EXTERNAL
        with stream.translate_errors():
            async for message in stream.messages:
                stream.last_message_at = counts.last_frame_at = monotonic()
                counts.frames += 1
                if not has_frames:
                    item = Received(contract, message)
                else:
                    kind, data, detail = read_frame(contract, message)
                    if kind is FrameKind.CURSOR_EXPIRED and not expired:
                        expired = True
                        if await self._record_gap(cursor, sent, detail):
                            return  # the next call sends a later event_id
                    if kind is not FrameKind.EVENT and kind is not FrameKind.GARBAGE:
                        continue
                    item = Received(contract, data, kind is FrameKind.GARBAGE)
                if not self._received and sent.replays_gap and not expired:
                    await cursor_row.shorten_last_gap(self._lease.conn, cursor, sent.event_id)
                self._received += 1
                self.has_succeeded = True
                if not buffer.put(item):
                    await buffer.room()

    async def _watch_connection(self, stream: GrpcStream) -> None:
        await stream.wait_until_connected()
        self._counts.connected()
        self._open_since = monotonic()

    async def _watch_acceptance(self, stream: GrpcStream) -> None:
        accepted = await stream.is_accepted(self._waits.settle, self._waits.healthy_after)
        if accepted:
            await self._retry_save_success(stream)
        # A call that is merely open may still be refused: only an answer decides the contract, however late it comes.
        if accepted and not stream.is_answered and await stream.is_accepted(self._waits.settle, None):
            await self._retry_save_success(stream)

    async def _retry_save_success(self, stream: GrpcStream) -> None:
        async def log_lock() -> None:
            log.debug("an append has locked the cursor; retrying", app=self._lease.app)

        await retry_on_lock(
            lambda: self._save_success(stream.contract, decided=stream.is_answered), before_retry=log_lock
        )

    async def _save_success(self, contract: Contract, *, decided: bool) -> None:
        self._token_renewed = False
        self.has_succeeded = True
        app, epoch, conn = self._lease.app, self._lease.epoch, self._lease.conn
        if decided and await self._decided_contract() is not contract:
            await cursor_row.save_contract(conn, app, epoch, contract)
        self._log.works(contract.value)
        await cursor_row.save_error(conn, app, epoch, None)

    async def _record_gap(self, cursor: cursor_row.Cursor, sent: ResumePoint, detail: str) -> bool:
        """Record a gap; return whether to call again at once, from an event_id that the upstream may still replay."""
        # First commit what was received before the gap: the gap's position is the head of the log, and an append at
        # work has locked the cursor's row.
        await self._buffer.drained()
        now, words = datetime.now(UTC), quoted(detail)
        retry_from: str | None = None
        if sent.is_first_contact and not self._received:
            self._history.first_contact_refused = True
            replayed_gap = cursor.gaps[-1]["upper"] if sent.replays_gap else None
            retry_from = second_first_contact(sent.event_id, replayed_gap, now)
        gap = cursor_row.Gap(sent.event_id, retry_from or ulid.first_ulid_at(now - self._overlap), now, words)
        upper = await cursor_row.save_gap(self._lease.conn, cursor, gap, extends_last=sent.replays_gap)
        log.warning(
            "gap: the upstream can no longer replay these events",
            app=cursor.app,
            lower=sent.event_id,
            upper=upper,
            detail=words,
        )
        return retry_from is not None

    def _choose_contract(self, cursor: cursor_row.Cursor) -> Contract:
        if self._upstream.contract is not None:
            return self._upstream.contract
        if cursor.contract is not None:
            return cursor.contract
        return next(contract for contract in Contract if contract not in self._unknown_contracts)

    async def _decided_contract(self) -> Contract | None:
        """Return the contract under which a stream was accepted before, if it is the one to use."""
        contract = (await self._load_cursor()).contract
        configured = self._upstream.contract
        return contract if configured is None or configured is contract else None

    async def _is_final(self, error: EventStoreError) -> bool:
        has_worked = await self._decided_contract() is not None
        if isinstance(error, TokenRefused):
            # A gateway that checks tokens answers with HTTP 401 too: a new token may help there as well.
            renewed, self._token_renewed = self._token_renewed, True
            is_new = not renewed and await self._upstream.tokens.renew()
            return not is_new and (error.by_platform or not has_worked)
        if isinstance(error, NoSuchService):
            if has_worked:
                return False
            self._unknown_contracts.add(self._choose_contract(await self._load_cursor()))
            return self._upstream.contract is not None or len(self._unknown_contracts) == len(Contract)
        if isinstance(error, CredentialsRefused):
            return error.by_issuer or not has_worked
        return isinstance(error, UpstreamRefused) and (error.by_platform or not has_worked)

    async def _load_cursor(self) -> cursor_row.Cursor:
        return await cursor_row.load(self._lease.conn, self._lease.app, self._lease.epoch)

    async def _back_off(self, error: EventStoreError | None) -> None:
        app = self._lease.app
        if error is None:
            wait = self._backoff.next(cap=self._waits.normal_end_cap)
            log.debug("the stream ended", app=app, retry_in=round(wait, 2))
        else:
            self._counts.failures += 1
            requested = getattr(error, "retry_after", None) or 0.0
            wait = self._backoff.next(at_least=min(requested, self._waits.retry_after_cap))
            self.last_error = sentence = describe(error)
            self._log.failed(sentence, wait)
            renewing = isinstance(error, TokenRefused)
            await cursor_row.save_error(self._lease.conn, app, self._lease.epoch, sentence, keep_refusal=renewing)
        await asyncio.sleep(wait)
