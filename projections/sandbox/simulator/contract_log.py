"""The simulator's log: the events of one contract in the order of arrival, and the readers of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eventstore.contracts import Contract

_FRAME_EVENT = b"\x0a"  # field 1, length-delimited: the event of a pcs.external.v1 frame


@dataclass(frozen=True, slots=True)
class SimulatedEvent:
    """One event of the log.

    Args:
        event_id: the ULID by which a cursor finds the event.
        send_request_id: the id that the filter compares.
        payloads: the bytes of the ``SendRequestEvent`` for each contract, without a frame; a contract that is not a
            key does not have the event.

    """

    event_id: str
    send_request_id: str
    payloads: Mapping[Contract, bytes]


def encode_message(contract: Contract, payload: bytes) -> bytes:
    """Return the message for an event's bytes: in a frame, or for ``chat.external`` as they are."""
    if contract is Contract.CHAT_EXTERNAL:
        return payload
    size, length = len(payload), bytearray(_FRAME_EVENT)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes(length) + payload


class ContractLog:
    """One contract's events in order, encoded in advance; every reader sees events that are appended later."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.entries: list[SimulatedEvent] = []
        self.messages: list[bytes] = []
        self._readers: set[LogReader] = set()

    def append(self, entry: SimulatedEvent) -> None:
        """Append an event, if this contract has it."""
        if self.contract in entry.payloads:
            self.entries.append(entry)
            self.messages.append(encode_message(self.contract, entry.payloads[self.contract]))

    def insert(self, position: int, entry: SimulatedEvent) -> None:
        """Insert an event at a position; readers that are past it never see the event."""
        self.entries.insert(position, entry)
        self.messages.insert(position, encode_message(self.contract, entry.payloads[self.contract]))
        for reader in self._readers:
            reader.position += reader.position > position
            reader.replayed += reader.replayed > position

    def open(self, after_event_id: str | None, send_request_id: str | None, *, live: bool) -> LogReader:
        """Return a reader.

        Args:
            after_event_id: a ULID. If the log has that event, the reader starts after it. Otherwise it reads those of
                the present events that have a greater ULID, in log order, and all later ones. None: all events.
            send_request_id: only this request's events; None: all.
            live: only later events, whatever the cursor.

        """
        position, above = 0, None
        if live:
            position = len(self.entries)
        elif after_event_id is not None:
            matches = (at for at, entry in enumerate(self.entries, start=1) if entry.event_id == after_event_id)
            position = next(matches, 0)
            above = None if position else after_event_id
        reader = LogReader(self, position, above, send_request_id)
        self._readers.add(reader)
        return reader

    def close(self, reader: LogReader) -> None:
        """Remove a reader."""
        self._readers.discard(reader)


class LogReader:
    """One stream's place in a log; ``position`` is the index of the event to read next."""

    def __init__(self, log: ContractLog, position: int, above: str | None, send_request_id: str | None) -> None:
        self.log = log
        self.position = position
        self.replayed = len(log.entries)  # ``above`` applies to the events before this index
        self._above = above
        self._send_request_id = send_request_id

    def next(self) -> bytes | None:
        """Return the next message and move past it; None at the end of the log."""
        messages = self.log.messages
        while self.position < len(messages):
            at = self.position
            self.position += 1
            if self._wants(at):
                return messages[at]
        return None

    def last(self, count: int) -> list[SimulatedEvent]:
        """Return the last events that were read, oldest first."""
        found: list[SimulatedEvent] = []
        for at in range(self.position - 1, -1, -1):
            if len(found) == count:
                break
            if self._wants(at):
                found.append(self.log.entries[at])
        return found[::-1]

    def go_live(self) -> None:
        """Move to the end of the log."""
        self.position = self.replayed = len(self.log.entries)

    def _wants(self, at: int) -> bool:
        if self._above is None and self._send_request_id is None:
            return True
        entry = self.log.entries[at]
        if self._send_request_id is not None and entry.send_request_id != self._send_request_id:
            return False
        return self._above is None or at >= self.replayed or entry.event_id > self._above
