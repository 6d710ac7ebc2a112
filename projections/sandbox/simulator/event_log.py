"""The kept log: one feed per contract in the order of arrival, and the readers that stand somewhere in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eventstore.contracts import Contract

_FRAME_EVENT = b"\x0a"  # field 1, length-delimited: the event of a pcs.external.v1 frame


@dataclass(frozen=True, slots=True)
class SimulatedEvent:
    """One event of the log.

    Args:
        event_id: the ULID under which a cursor finds it.
        send_request_id: what the filter compares.
        payloads: the bytes of the ``SendRequestEvent`` per contract, without a frame; a contract that isn't there
            does not have the event.

    """

    event_id: str
    send_request_id: str
    payloads: Mapping[Contract, bytes]


def message(contract: Contract, payload: bytes) -> bytes:
    """Return what goes over the wire for an event's bytes: a frame around them, or themselves."""
    if contract is Contract.CHAT_EXTERNAL:
        return payload
    size, length = len(payload), bytearray(_FRAME_EVENT)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes(length) + payload


class Feed:
    """One contract's events in log order, framed ahead of time; every reader of it sees what is appended."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.entries: list[SimulatedEvent] = []
        self.messages: list[bytes] = []
        self._readers: set[Reader] = set()

    def append(self, entry: SimulatedEvent) -> None:
        """Put an event at the end, if this contract has it."""
        if self.contract in entry.payloads:
            self.entries.append(entry)
            self.messages.append(message(self.contract, entry.payloads[self.contract]))

    def insert(self, position: int, entry: SimulatedEvent) -> None:
        """Put an event before a position; readers that are already past it don't see it again, or ever."""
        self.entries.insert(position, entry)
        self.messages.insert(position, message(self.contract, entry.payloads[self.contract]))
        for reader in self._readers:
            reader.position += reader.position > position
            reader.replayed += reader.replayed > position

    def open(self, after_event_id: str | None, send_request_id: str | None, *, live: bool) -> Reader:
        """Return a reader.

        Args:
            after_event_id: a ULID. The reader stands right behind that entry if the log has it; else it reads, of what
                is there now, the entries with a greater ULID, in log order; and all that comes later. None: all.
            send_request_id: only this request's events; None: all.
            live: only what comes later, whatever the cursor.

        """
        position, above = 0, None
        if live:
            position = len(self.entries)
        elif after_event_id is not None:
            known = (at for at, entry in enumerate(self.entries, start=1) if entry.event_id == after_event_id)
            position = next(known, 0)
            above = None if position else after_event_id
        reader = Reader(self, position, above, send_request_id)
        self._readers.add(reader)
        return reader

    def close(self, reader: Reader) -> None:
        """Forget a reader."""
        self._readers.discard(reader)


class Reader:
    """One stream's place in a feed: ``position`` is that of the entry to read next."""

    def __init__(self, feed: Feed, position: int, above: str | None, send_request_id: str | None) -> None:
        self.feed = feed
        self.position = position
        self.replayed = len(feed.entries)  # up to here ``above`` decides
        self._above = above
        self._send_request_id = send_request_id

    def next(self) -> bytes | None:
        """Return the next message and step behind it; None at the end of the log."""
        messages = self.feed.messages
        while self.position < len(messages):
            at = self.position
            self.position += 1
            if self._wants(at):
                return messages[at]
        return None

    def last(self, count: int) -> list[SimulatedEvent]:
        """Return the last entries that were read before this place, oldest first."""
        found: list[SimulatedEvent] = []
        for at in range(self.position - 1, -1, -1):
            if len(found) == count:
                break
            if self._wants(at):
                found.append(self.feed.entries[at])
        return found[::-1]

    def go_live(self) -> None:
        """Step behind all that is there now."""
        self.position = self.replayed = len(self.feed.entries)

    def _wants(self, at: int) -> bool:
        if self._above is None and self._send_request_id is None:
            return True
        entry = self.feed.entries[at]
        if self._send_request_id is not None and entry.send_request_id != self._send_request_id:
            return False
        return self._above is None or at >= self.replayed or entry.event_id > self._above
