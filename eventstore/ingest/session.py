"""An app's stream under one lease: dials again and again, and puts what comes into the buffer.

Invariants. Before each dial the buffer is drained, so that the cursor sent accounts for all that came before. Only
event frames move the cursor. An upstream that can't now is dialled again after a back-off, for ever; one that refuses
for good ends the session with the refusal. Once a stream has worked, only the platform's own status and the issuer's
own words refuse: an HTTP status may be a proxy's, and is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic

import structlog
from psycopg.errors import LockNotAvailable

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
from eventstore.ingest import cursor as cursors
from eventstore.ingest.buffer import Buffer, Received
from eventstore.ingest.first_contact import second_first_contact
from eventstore.ingest.leader import Lease
from eventstore.ingest.recent_events import is_clock_behind
from eventstore.ingest.resume import (
    ResumePoint,
    ResumeSettings,
    StreamHistory,
    choose_resume_point,
    read_saved,
)
from eventstore.ingest.upstream import Stream, Upstream, dial
from eventstore.redaction.redact import quoted
from eventstore.waits import Waits

log = structlog.get_logger(__name__)


class Session:
    """The dials of an app under one lease.

    Args:
        upstream: what is followed.
        held: the lease.
        buffer: where received messages go.
        stored: tells how many events the app's writer has stored so far.
        expect_duplicates: called before each dial: what comes may be known.
        waits: every wait.

    Attributes:
        ended_normally: whether the last stream ended normally, and none failed since.
        has_succeeded: whether a stream was taken under this lease.

    """

    def __init__(
        self,
        upstream: Upstream,
        held: Lease,
        buffer: Buffer,
        stored: Callable[[], int],
        expect_duplicates: Callable[[], None],
        waits: Waits,
    ) -> None:
        self._upstream = upstream
        self._held = held
        self._buffer = buffer
        self._stored = stored
        self._expect_duplicates = expect_duplicates
        self._waits = waits
        self._overlap = waits.as_timedelta(waits.overlap)
        self._backoff = Backoff(waits.backoff_first, waits.backoff_cap)
        self._stream: Stream | None = None
        self._open_since: float | None = None
        self._received = 0
        self._history = StreamHistory()
        self._token_renewed = False
        self._told = False
        self._unreachable_since_logged = False
        self._unserved: set[Contract] = set()
        self.ended_normally = False
        self.has_succeeded = False
        self.last_error: str | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a stream is open, or the last one ended normally."""
        return self.ended_normally if self._stream is None else self._stream.is_open

    async def run(self) -> None:
        """Dial until cancelled.

        Raises:
            EventStoreError: the upstream or the issuer refuses for good.
            psycopg.Error: the lease's connection failed.

        """
        while True:
            await self._buffer.drained()
            stored = self._stored()
            self._received = 0
            self._open_since = None
            cursor = await self._cursor()
            contract = self._contract(cursor)
            error: EventStoreError | None = None
            try:
                await self._dial(cursor, contract)
            except (UpstreamError, CredentialsError) as failure:
                error = failure
            open_for = 0.0 if self._open_since is None else monotonic() - self._open_since
            self.ended_normally = error is None
            await self._buffer.drained()
            if error is None or self._received:
                await self._succeed(contract, decided=True)
            stored_new = self._stored() > stored
            self._history.stream_ended(received=self._received > 0, stored_new=stored_new, failed=error is not None)
            if stored_new or open_for >= self._waits.healthy_after:
                self._backoff.reset()
            if error is not None and await self._is_final(error):
                raise error
            if not isinstance(error, NoSuchService) or await self._decided() is not None:
                await self._back_off(error)

    async def _dial(self, cursor: cursors.Cursor, contract: Contract) -> None:
        sent = await self._resume_point(cursor, contract)
        self._history.stream_starts(cursor)
        token = await self._upstream.tokens.token()
        self._expect_duplicates()
        log.debug("connecting", app=cursor.app, contract=contract.value, after=sent.event_id, why=sent.why)
        async with (
            dial(
                self._upstream.address,
                contract,
                token=token,
                after_event_id=sent.event_id,
                tls=self._upstream.tls,
                waits=self._waits,
            ) as stream,
            self._attended(stream),
        ):
            await self._read(stream, cursor, sent)

    async def _resume_point(self, cursor: cursors.Cursor, contract: Contract) -> ResumePoint:
        now = datetime.now(UTC)
        saved = await read_saved(self._held.conn, cursor, self._history)
        if is_clock_behind(saved.recent, now):
            log.warning("this machine's clock is behind the upstream's: set it", app=cursor.app)
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
    async def _attended(self, stream: Stream) -> AsyncIterator[None]:
        """Watch a stream from the side while it is read."""
        self._stream = stream
        tasks = [
            asyncio.create_task(self._note_opening(stream)),
            asyncio.create_task(self._note_success(stream)),
            asyncio.create_task(stream.break_silence(self._waits, lambda: self._buffer.has_room)),
        ]
        try:
            yield
        finally:
            self._stream = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, stream: Stream, cursor: cursors.Cursor, sent: ResumePoint) -> None:
        contract, buffer = stream.contract, self._buffer
        expired = False
        bare = contract is Contract.CHAT_EXTERNAL
        with stream.watched():
            async for message in stream.messages:
                stream.last_message_at = monotonic()
                if bare:
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
                    await cursors.shorten_last_gap(self._held.conn, cursor, sent.event_id)
                self._received += 1
                if not buffer.put(item):
                    await buffer.room()

    async def _note_opening(self, stream: Stream) -> None:
        await stream.opened()
        self._open_since = monotonic()

    async def _note_success(self, stream: Stream) -> None:
        settled = await stream.settled(self._waits.settle, self._waits.healthy_after)
        if settled:
            await self._noted(stream)
        # A call that merely stands may still be refused: only an answer decides the contract, however late it comes.
        if settled and not stream.is_answered and await stream.settled(self._waits.settle, None):
            await self._noted(stream)

    async def _noted(self, stream: Stream) -> None:
        while True:
            try:
                return await self._succeed(stream.contract, decided=stream.is_answered)
            except LockNotAvailable:
                log.info("an append holds the cursor; trying again", app=self._held.app)

    async def _succeed(self, contract: Contract, *, decided: bool) -> None:
        self._token_renewed = False
        self.has_succeeded = True
        app, epoch, conn = self._held.app, self._held.epoch, self._held.conn
        if decided and await self._decided() is not contract:
            await cursors.save_contract(conn, app, epoch, contract)
        if not self._told:
            log.info("following", app=app, address=self._upstream.address.url, contract=contract.value)
            self._told = True
        await cursors.save_error(conn, app, epoch, None)

    async def _record_gap(self, cursor: cursors.Cursor, sent: ResumePoint, detail: str) -> bool:
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
        gap = cursors.Gap(sent.event_id, retry_from or ulid.first_at(now - self._overlap), now, words)
        upper = await cursors.save_gap(self._held.conn, cursor, gap, extends_last=sent.replays_gap)
        log.warning(
            "gap: the upstream can no longer replay these events",
            app=cursor.app,
            lower=sent.event_id,
            upper=upper,
            detail=words,
        )
        return retry_from is not None

    def _contract(self, cursor: cursors.Cursor) -> Contract:
        if self._upstream.contract is not None:
            return self._upstream.contract
        if cursor.contract is not None:
            return cursor.contract
        return next(contract for contract in Contract if contract not in self._unserved)

    async def _decided(self) -> Contract | None:
        """Return the contract under which a stream was ever taken, if it is the one to use."""
        contract = (await self._cursor()).contract
        wished = self._upstream.contract
        return contract if wished is None or wished is contract else None

    async def _is_final(self, error: EventStoreError) -> bool:
        has_worked = await self._decided() is not None
        if isinstance(error, TokenRefused):
            # A gateway that checks tokens answers HTTP 401 as well: a new token may help there too.
            renewed, self._token_renewed = self._token_renewed, True
            is_new = not renewed and await self._upstream.tokens.renew()
            return not is_new and (error.by_platform or not has_worked)
        if isinstance(error, NoSuchService):
            if has_worked:
                return False
            self._unserved.add(self._contract(await self._cursor()))
            return self._upstream.contract is not None or len(self._unserved) == len(Contract)
        if isinstance(error, CredentialsRefused):
            return error.by_issuer or not has_worked
        return isinstance(error, UpstreamRefused) and (error.by_platform or not has_worked)

    async def _cursor(self) -> cursors.Cursor:
        return await cursors.load(self._held.conn, self._held.app, self._held.epoch)

    async def _back_off(self, error: EventStoreError | None) -> None:
        app = self._held.app
        if error is None:
            wait = self._backoff.next(cap=self._waits.normal_end_cap)
            log.debug("the stream ended", app=app, again_in=round(wait, 2))
        else:
            asked = getattr(error, "retry_after", None) or 0.0
            wait = self._backoff.next(at_least=min(asked, self._waits.retry_after_cap))
            said = self.last_error = describe(error)
            log.warning("the stream failed", app=app, error=said, again_in=round(wait, 2))
            renewing = isinstance(error, TokenRefused)
            await cursors.save_error(self._held.conn, app, self._held.epoch, said, keep_refusal=renewing)
        await asyncio.sleep(wait)
