"""One streaming call: the replay, then the live events, and the faults that are due on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from ulid import ULID

from eventstore import ulid
from eventstore.contracts import Contract
from eventstore.contracts._generated.pcs.external.v1 import message_service_pb2 as pcs
from projections.sandbox.simulator.call_record import Call, CallError
from projections.sandbox.simulator.contract_log import ContractLog, LogReader, SimulatedEvent, encode_message
from projections.sandbox.simulator.faults import STATUSES, Fault, FaultKind
from projections.sandbox.simulator.server_state import ServerState

_KEEP_ALIVE = pcs.SendRequestEventFrame(keep_alive=pcs.KeepAlive()).SerializeToString()
_LATE_BY_MS = 60_000
_FAR_FUTURE_MS = int(datetime(9000, 1, 1, tzinfo=UTC).timestamp()) * 1000
_NO_MESSAGE = b"\xff" * 11  # a field's tag has at most 10 bytes, so no decoder accepts this


class StreamingCall:
    """One call on one contract's log; ``write`` sends one message and returns when there is room for the next."""

    def __init__(
        self, state: ServerState, log: ContractLog, call: Call, write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self._state = state
        self._log = log
        self._call = call
        self._write = write
        self._has_frames = call.contract is Contract.PCS_EXTERNAL_V1
        self._next_keep_alive = time.monotonic() + state.settings.keep_alive

    async def run(self) -> None:
        """Serve until the stream ends normally.

        Raises:
            CallError: the stream ends with a status.

        """
        expired = self._has_frames and self._is_expired()
        live = self._has_frames and (expired or self._call.after_event_id is None)
        reader = self._log.open(self._call.after_event_id, self._call.send_request_id, live=live)
        try:
            if expired:
                await self._send_cursor_expired()
            await self._serve(reader)
        finally:
            self._log.close(reader)

    async def _serve(self, reader: LogReader) -> None:
        call, state = self._call, self._state
        plan, call_changed, write, read = state.plan, state.call_changed, self._write, reader.next
        while True:
            if plan and (fault := plan.take(call.events_sent, expires=self._has_frames)):
                call.faults.append(fault.kind)
                if await self._inject_fault(fault, reader):
                    return
            elif (data := read()) is not None:
                await write(data)
                call.events_sent += 1
                call_changed.notify()
            elif state.settings.end_at_log_end and state.is_log_complete:
                return
            else:
                await self._idle()

    async def _idle(self) -> None:
        """Wait for a new event or fault; send a keep-alive when one is due."""
        if not self._has_frames:
            await self._state.work_available.wait()
            return
        try:
            async with asyncio.timeout(self._next_keep_alive - time.monotonic()):
                await self._state.work_available.wait()
        except TimeoutError:
            await self._write(_KEEP_ALIVE)
            self._call.keep_alives_sent += 1
            self._next_keep_alive = time.monotonic() + self._state.settings.keep_alive
            self._state.call_changed.notify()

    def _is_expired(self) -> bool:
        oldest = (self._state.settings.now() - self._state.settings.replay_window) * 1000
        after = self._call.after_event_id
        return after is not None and ulid.time_milliseconds(after) < oldest

    async def _send_cursor_expired(self) -> None:
        notice = pcs.CursorExpired(detail="the cursor is older than the replay window; this is the live edge")
        await self._write(pcs.SendRequestEventFrame(cursor_expired=notice).SerializeToString())

    async def _inject_fault(self, fault: Fault, reader: LogReader) -> bool:
        """Make a fault happen; return whether the stream ends normally by it."""
        self._state.call_changed.notify()
        status = STATUSES.get(fault.kind)
        if fault.kind is FaultKind.END:
            return True
        if status is not None:
            raise CallError(status, f"simulated {fault.kind}", fault.trailing_metadata)
        if fault.kind is FaultKind.SILENCE:
            await asyncio.Event().wait()  # until the client leaves, which cancels this
        if fault.kind is FaultKind.CURSOR_EXPIRED:
            reader.go_live()
            await self._send_cursor_expired()
        elif fault.kind is FaultKind.GARBAGE:
            data = fault.data if fault.data is not None else _NO_MESSAGE + self._state.random.randbytes(16)
            self._call.injected.append(data)
            await self._write(data)
        elif fault.kind is FaultKind.DUPLICATES:
            for entry in reader.last(fault.count):
                await self._send_extra(entry.payloads[self._call.contract])
        else:
            await self._send_variant(fault.kind, reader)
        return False

    async def _send_variant(self, kind: FaultKind, reader: LogReader) -> None:
        """Send a variant of the last event: in protobuf, a field replaces the same field earlier in the message."""
        (original,) = reader.last(1)
        payload = original.payloads[self._call.contract]
        if kind is FaultKind.OTHER_BYTES:
            await self._send_extra(payload + b"\x18\x02")  # event_type = RECIPIENT_FAILED
        elif kind is FaultKind.FUTURE_ULID:
            await self._send_extra(payload + _event_id_field(self._new_ulid(_FAR_FUTURE_MS)))
        else:
            event_id = self._new_ulid(max(ulid.time_milliseconds(original.event_id) - _LATE_BY_MS, 0))
            late = payload + _event_id_field(event_id)
            # It is an event of the app like any other, so the log keeps it where it was sent.
            self._log.insert(
                reader.position, SimulatedEvent(event_id, original.send_request_id, {self._call.contract: late})
            )
            reader.position += 1
            await self._write(encode_message(self._call.contract, late))
            self._call.events_sent += 1

    async def _send_extra(self, payload: bytes) -> None:
        self._call.injected.append(payload)
        await self._write(encode_message(self._call.contract, payload))

    def _new_ulid(self, milliseconds: int) -> str:
        return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + self._state.random.randbytes(10)))


def _event_id_field(event_id: str) -> bytes:
    return b"\x0a\x1a" + event_id.encode("ascii")
