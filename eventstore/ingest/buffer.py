"""The messages that are received and not committed yet; their number and size are limited, so memory use is too."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import NamedTuple

from eventstore.contracts import Contract

MAX_EVENTS = 20_000
MAX_BYTES = 64 * 2**20
BATCH_EVENTS = 5_000

# While a stream keeps sending, the writer waits a moment, so that there are few large commits instead of many small
# ones; a single event is committed at once.
LINGER_SECONDS = 0.1
PAUSE_SECONDS = 0.002


class Received(NamedTuple):
    """One message that may be an event: its contract, its bytes, and whether the bytes are not even a frame."""

    contract: Contract
    data: bytes
    garbage: bool = False


class Buffer:
    """A queue between one reader and one writer.

    A batch that the writer has taken counts until it is committed. One message may exceed the limit in bytes.

    Attributes:
        waiting_since: since when messages wait and none was committed (``time.monotonic``); None while none waits.

    """

    def __init__(self, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._queue: list[Received] = []
        self._in_flight = 0
        self._bytes = 0
        self._bytes_in_flight = 0
        self.waiting_since: float | None = None
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._drained = asyncio.Event()
        self._drained.set()

    def __len__(self) -> int:
        """Return the number of messages received and not committed."""
        return len(self._queue) + self._in_flight

    @property
    def size(self) -> int:
        """The bytes received and not committed."""
        return self._bytes

    @property
    def has_room(self) -> bool:
        """Whether the reader may put another message."""
        return self._room.is_set()

    def put(self, received: Received) -> bool:
        """Add one message; return False if the buffer is full now and the reader must await :meth:`room`."""
        queue = self._queue
        queue.append(received)
        self._bytes += len(received.data)
        waiting = len(queue)
        if waiting == 1:
            self.waiting_since = self.waiting_since or monotonic()
            self._filled.set()
            self._drained.clear()
        if waiting + self._in_flight < self._max_events and self._bytes < self._max_bytes:
            return True
        self._room.clear()
        return False

    async def room(self) -> None:
        """Wait until there is room."""
        await self._room.wait()

    async def take(self) -> list[Received]:
        """Wait for messages and return up to one batch of them; :meth:`committed` must follow."""
        await self._filled.wait()
        if len(self._queue) > 1:
            await self._linger()
        batch = self._queue[:BATCH_EVENTS]
        del self._queue[:BATCH_EVENTS]
        if not self._queue:
            self._filled.clear()
        self._in_flight = len(batch)
        self._bytes_in_flight = sum(len(received.data) for received in batch)
        return batch

    async def _linger(self) -> None:
        until = monotonic() + LINGER_SECONDS
        before = 0
        while before < len(self._queue) < BATCH_EVENTS and self._room.is_set() and monotonic() < until:
            before = len(self._queue)
            await asyncio.sleep(PAUSE_SECONDS)

    def committed(self) -> None:
        """Remove the batch that was taken last: it is in Postgres."""
        self._bytes -= self._bytes_in_flight
        self._in_flight = self._bytes_in_flight = 0
        if len(self._queue) < self._max_events and self._bytes < self._max_bytes:
            self._room.set()
        self.waiting_since = monotonic() if self._queue else None
        if not self._queue:
            self._drained.set()

    async def drained(self) -> None:
        """Wait until all received messages are committed."""
        await self._drained.wait()
