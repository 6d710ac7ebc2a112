"""One streaming call: replay, then the live tail, then whatever the plan makes go wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from ulid import ULID

from eventstore import ulid
from eventstore.contracts import Contract
from eventstore.contracts._generated.pcs.external.v1 import message_service_pb2 as pcs
from projections.sandbox.simulator.call_context import Shared
from projections.sandbox.simulator.calls import Call, CallError
from projections.sandbox.simulator.event_log import Feed, Reader, SimulatedEvent, message
from projections.sandbox.simulator.faults import STATUSES, Fault, FaultKind

_KEEP_ALIVE = pcs.SendRequestEventFrame(keep_alive=pcs.KeepAlive()).SerializeToString()
_LATE_BY_MS = 60_000
_FAR_FUTURE_MS = int(datetime(9000, 1, 1, tzinfo=UTC).timestamp()) * 1000
_NO_MESSAGE = b"\xff" * 11  # a field's tag has at most 10 bytes, so no reader takes this for a message


class Stream:
    """One call on one contract's feed; ``write`` sends one message and returns when there is room for the next."""

    def __init__(self, shared: Shared, feed: Feed, call: Call, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._shared = shared
        self._feed = feed
        self._call = call
        self._write = write
        self._frames = call.contract is Contract.PCS_EXTERNAL_V1
        self._next_keep_alive = time.monotonic() + shared.settings.keep_alive

    async def run(self) -> None:
        """Serve until the stream ends normally.

        Raises:
            CallError: it ends with a status.

        """
        expired = self._frames and self._is_expired()
        live = self._frames and (expired or self._call.after_event_id is None)
        reader = self._feed.open(self._call.after_event_id, self._call.send_request_id, live=live)
        try:
            if expired:
                await self._say_expired()
            await self._serve(reader)
        finally:
            self._feed.close(reader)

    async def _serve(self, reader: Reader) -> None:
        call, shared = self._call, self._shared
        plan, seen, write, read = shared.plan, shared.seen, self._write, reader.next
        while True:
            if plan and (fault := plan.take(call.events_sent, expires=self._frames)):
                call.faults.append(fault.kind)
                if await self._misbehave(fault, reader):
                    return
            elif (data := read()) is not None:
                await write(data)
                call.events_sent += 1
                seen.ring()
            elif shared.settings.end_at_log_end and shared.complete:
                return
            else:
                await self._idle()

    async def _idle(self) -> None:
        """Wait for something to do, and keep the stream alive meanwhile."""
        if not self._frames:
            await self._shared.wake.wait()
            return
        try:
            async with asyncio.timeout(self._next_keep_alive - time.monotonic()):
                await self._shared.wake.wait()
        except TimeoutError:
            await self._write(_KEEP_ALIVE)
            self._call.keep_alives_sent += 1
            self._next_keep_alive = time.monotonic() + self._shared.settings.keep_alive
            self._shared.seen.ring()

    def _is_expired(self) -> bool:
        oldest = (self._shared.settings.now() - self._shared.settings.replay_window) * 1000
        after = self._call.after_event_id
        return after is not None and ulid.milliseconds(after) < oldest

    async def _say_expired(self) -> None:
        notice = pcs.CursorExpired(detail="the cursor is older than the replay window; this is the live edge")
        await self._write(pcs.SendRequestEventFrame(cursor_expired=notice).SerializeToString())

    async def _misbehave(self, fault: Fault, reader: Reader) -> bool:
        """Make it go wrong; return whether that was the stream's normal end."""
        self._shared.seen.ring()
        status = STATUSES.get(fault.kind)
        if fault.kind is FaultKind.END:
            return True
        if status is not None:
            raise CallError(status, f"simulated {fault.kind}", fault.trailing_metadata)
        if fault.kind is FaultKind.SILENCE:
            await asyncio.Event().wait()  # until the client leaves, which cancels this
        if fault.kind is FaultKind.CURSOR_EXPIRED:
            reader.go_live()
            await self._say_expired()
        elif fault.kind is FaultKind.GARBAGE:
            data = fault.data if fault.data is not None else _NO_MESSAGE + self._shared.numbers.randbytes(16)
            self._call.injected.append(data)
            await self._write(data)
        elif fault.kind is FaultKind.DUPLICATES:
            for entry in reader.last(fault.count):
                await self._inject(entry.payloads[self._call.contract])
        else:
            await self._disguise(fault.kind, reader)
        return False

    async def _disguise(self, kind: FaultKind, reader: Reader) -> None:
        """Send a variation of the last event: a field that comes again later in a message replaces the earlier one."""
        (model,) = reader.last(1)
        payload = model.payloads[self._call.contract]
        if kind is FaultKind.OTHER_BYTES:
            await self._inject(payload + b"\x18\x02")  # event_type = RECIPIENT_FAILED
        elif kind is FaultKind.FUTURE_ULID:
            await self._inject(payload + _event_id(self._new_ulid(_FAR_FUTURE_MS)))
        else:
            event_id = self._new_ulid(max(ulid.milliseconds(model.event_id) - _LATE_BY_MS, 0))
            late = payload + _event_id(event_id)
            # It is the app's event like any other, so the log keeps it where it arrived.
            self._feed.insert(
                reader.position, SimulatedEvent(event_id, model.send_request_id, {self._call.contract: late})
            )
            reader.position += 1
            await self._write(message(self._call.contract, late))
            self._call.events_sent += 1

    async def _inject(self, payload: bytes) -> None:
        self._call.injected.append(payload)
        await self._write(message(self._call.contract, payload))

    def _new_ulid(self, milliseconds: int) -> str:
        return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + self._shared.numbers.randbytes(10)))


def _event_id(event_id: str) -> bytes:
    return b"\x0a\x1a" + event_id.encode("ascii")
