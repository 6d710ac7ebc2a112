"""The record of each streaming call, for tests to look at, and the bell that wakes who waits for a change."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import grpc

from eventstore.contracts import Contract
from projections.sandbox.simulator.faults import FaultKind


@dataclass(slots=True)
class Call:
    """One streaming call, as it goes.

    Attributes:
        contract: under which it was made.
        authorization: the metadata of that name; None: it had none.
        after_event_id: the cursor it came with, or None.
        send_request_id: the filter it came with, or None.
        events_sent: how many events of the log went out on it.
        keep_alives_sent: how many keep-alives did.
        faults: what was made to go wrong on it, in order.
        injected: event bytes that went out besides the log (duplicates, garbage, ...), without a frame.
        ended: None while it lasts; OK: this side ended it; CANCELLED: the client left or this server was stopped;
            else the status with which it was refused.

    """

    contract: Contract
    authorization: str | None = field(repr=False)
    after_event_id: str | None = None
    send_request_id: str | None = None
    events_sent: int = 0
    keep_alives_sent: int = 0
    faults: list[FaultKind] = field(default_factory=list)
    injected: list[bytes] = field(default_factory=list, repr=False)
    ended: grpc.StatusCode | None = None


class CallError(Exception):
    """A call ends with a status.

    Attributes:
        code: the status.
        detail: what it says.
        trailing_metadata: what it carries besides.

    """

    def __init__(self, code: grpc.StatusCode, detail: str, trailing_metadata: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.trailing_metadata = trailing_metadata


class Bell:
    """Wakes everyone who waits for something to have changed; who waits looks again at what it waits for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._waiting = 0

    def ring(self) -> None:
        """Wake everyone who waits now."""
        if self._waiting:  # asked on every message sent, so it costs next to nothing when nobody waits
            self._event.set()
            self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next ring."""
        self._waiting += 1
        try:
            await self._event.wait()
        finally:
            self._waiting -= 1
