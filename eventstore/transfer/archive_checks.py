"""Checks each record of a file of events, with the same checks that received messages pass.

The digest only proves that the file is as it was written. Its contents are not trusted: a position, a time, a cursor or
a text that an event store could never have written is refused before anything of the file is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from eventstore import ulid
from eventstore.app_name import APP_NAME
from eventstore.contracts import Contract, decode
from eventstore.contracts._generated.eventstore import archive_pb2 as archive
from eventstore.contracts.times import EARLIEST, LATEST
from eventstore.errors import MAX_MESSAGE_CHARS, Undecodable, storable
from eventstore.transfer.archive import microseconds
from eventstore.transfer.erasure_records import DIGEST_BYTES, erased_event_faults, erasure_faults

FAR_FUTURE = timedelta(days=366)
"""A time further ahead than that is refused: no clock is so wrong unnoticed."""
MAX_PAYLOAD_BYTES = 64 * 2**20
"""The size limit of a message that can be received."""
MAX_GAPS = 10_000
MAX_COUNT = 10**12
"""How often a message may have come at most; sums of greater numbers would not fit into the store's counts."""

_CONTRACTS = {contract.value for contract in Contract}
_GAP_KEYS = {"lower", "upper", "noticed_at", "detail", "position"}
_OPTIONAL_GAP_KEYS = {"position"}


class RecordCheck:
    """Checks the records of one file, in order.

    Args:
        latest: the greatest time that anything in the file may have been received at.

    """

    def __init__(self, latest: datetime | None = None) -> None:
        self._latest = min(latest or datetime.now(UTC) + FAR_FUTURE, LATEST)
        self._bounds = microseconds(EARLIEST), microseconds(self._latest)
        self._head = 0
        self._position = 0
        self._received_at = self._bounds[0]

    def fault(self, record: archive.Record) -> str | None:
        """Return which record is invalid and why; None for a valid one."""
        kind = record.WhichOneof("record")
        if kind == "event":
            why = self._event(record.event)
            return f"the event at position {record.event.position}: {why}" if why else None
        if kind == "header":
            return self._header(record.header)
        if kind == "quarantined":
            why = self._quarantined(record.quarantined)
            return f"a message in quarantine: {why}" if why else None
        if kind == "erasure":
            why = self._erasure(record.erasure)
            return f"an erasure: {why}" if why else None
        if kind == "erased_event":
            why = next(filter(None, erased_event_faults(record.erased_event)), None)
            return f"an erased event: {why}" if why else None
        return None if kind == "end" else "it is of an unknown kind"

    def _erasure(self, one: archive.Erasure) -> str | None:
        faults = (
            *erasure_faults(one),
            _app(one.app) if one.HasField("app") else None,
            self._time("erased_at", one.erased_at),
            _text("why", one.why),
            _text("erased_by", one.erased_by),
        )
        return next(filter(None, faults), None)

    def _event(self, one: archive.StoredEvent) -> str | None:
        why = next(filter(None, self._event_faults(one)), None)
        if why is None:
            self._position, self._received_at = one.position, one.received_at
        return why

    def _event_faults(self, one: archive.StoredEvent) -> Iterator[str | None]:
        yield "positions begin at 1" if one.position < 1 else None
        rises = one.position > self._position
        yield None if rises else f"it follows position {self._position}, but positions must rise"
        yield f"it is beyond the head of the file, {self._head}" if one.position > self._head else None
        yield self._time("received_at", one.received_at)
        fell = one.received_at < self._received_at
        yield "received_at is earlier than that of the event before it" if fell else None
        yield _origin(one.app, one.contract)
        yield _size(one.payload)
        try:
            decode(one.payload, one.app, Contract(one.contract))
        except Undecodable as error:
            yield f"it can't be decoded: {error}"

    def _quarantined(self, one: archive.Quarantined) -> str | None:
        return next(filter(None, self._quarantine_faults(one)), None)

    def _quarantine_faults(self, one: archive.Quarantined) -> Iterator[str | None]:
        yield _origin(one.app, one.contract)
        yield _size(one.payload)
        if one.HasField("event_id"):
            yield _event_id("event_id", one.event_id)
        yield _text("reason", one.reason) if one.reason else "reason is empty"
        is_possible = 1 <= one.count <= MAX_COUNT
        yield None if is_possible else f"count is {one.count}, but must be from 1 to {MAX_COUNT}"
        yield self._time("first_seen", one.first_seen)
        yield self._time("last_seen", one.last_seen)
        if one.HasField("erased_at"):
            yield self._time("erased_at", one.erased_at)
            yield "its payload was erased, but it has one" if one.payload else None
            yield "its digest has the wrong length" if len(one.digest) != DIGEST_BYTES else None
        yield "last_seen is earlier than first_seen" if one.last_seen < one.first_seen else None

    def _header(self, header: archive.Header) -> str | None:
        if header.version < 1:
            return f"the header: unknown format {header.version}"
        if header.head < 0:
            return f"the header: the head is {header.head}"
        self._head = header.head
        known: set[str] = set()
        for cursor in header.cursors:
            if why := self._cursor(cursor):
                return f"the cursor of app {cursor.app[:63]!r}: {why}"
            if cursor.app in known:
                return f"the cursor of app {cursor.app!r}: the app has two cursors"
            known.add(cursor.app)
        return None

    def _cursor(self, cursor: archive.Cursor) -> str | None:
        return next(filter(None, self._cursor_faults(cursor)), None)

    def _cursor_faults(self, cursor: archive.Cursor) -> Iterator[str | None]:
        yield _app(cursor.app)
        if cursor.HasField("contract"):
            yield _contract(cursor.contract)
        if cursor.HasField("last_event_id"):
            yield _event_id("last_event_id", cursor.last_event_id)
        if cursor.HasField("last_received_at"):
            yield self._time("last_received_at", cursor.last_received_at)
        try:
            read_gaps(cursor.holes)
        except ValueError as error:
            yield str(error)

    def _time(self, name: str, value: int) -> str | None:
        earliest, latest = self._bounds
        if value < earliest:
            return f"{name} is before {EARLIEST:%Y-%m-%d}"
        if value > latest:
            return f"{name} is after {self._latest:%Y-%m-%d}, far in the future"
        return None


def read_gaps(text: str) -> list[dict[str, Any]]:
    """Return the gaps that the ``holes`` of a cursor list.

    Raises:
        ValueError: the text is not such a list; the message says why.

    """
    try:
        gaps = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("holes is not JSON") from None
    if not isinstance(gaps, list) or not all(isinstance(gap, dict) for gap in gaps):
        raise ValueError("holes is not a list of objects")
    if len(gaps) > MAX_GAPS:
        raise ValueError(f"holes has more than {MAX_GAPS:,} gaps")
    for number, gap in enumerate(gaps, 1):
        if why := next(filter(None, _gap_faults(gap)), None):
            raise ValueError(f"gap {number}: {why}")
    return gaps


def _gap_faults(gap: dict[str, Any]) -> Iterator[str | None]:
    if not _GAP_KEYS - _OPTIONAL_GAP_KEYS <= gap.keys() <= _GAP_KEYS:
        yield f"its keys must be {', '.join(sorted(_GAP_KEYS))}"
        return
    yield None if gap["lower"] is None else _event_id("lower", gap["lower"])
    yield _event_id("upper", gap["upper"])
    yield _text("detail", gap["detail"])
    position = gap.get("position", 0)
    yield None if type(position) is int and 0 <= position < 2**63 else "position is not valid"
    try:
        moment = datetime.fromisoformat(gap["noticed_at"])
    except (TypeError, ValueError):
        moment = None
    yield None if moment is not None and moment.tzinfo is not None else "noticed_at is not a time with its time zone"


def _origin(app: str, contract: str) -> str | None:
    return _app(app) or _contract(contract)


def _app(name: str) -> str | None:
    return None if APP_NAME.fullmatch(name) else f"{name[:63]!r} is not a valid name of an app"


def _contract(name: str) -> str | None:
    return None if name in _CONTRACTS else f"unknown contract {name[:63]!r}"


def _event_id(name: str, value: object) -> str | None:
    return None if isinstance(value, str) and ulid.is_ulid(value) else f"{name} is not an upper-case ULID"


def _size(payload: bytes) -> str | None:
    return f"its payload is longer than {MAX_PAYLOAD_BYTES:,} bytes" if len(payload) > MAX_PAYLOAD_BYTES else None


def _text(name: str, text: object) -> str | None:
    if not isinstance(text, str):
        return f"{name} is not text"
    if len(text) > MAX_MESSAGE_CHARS:
        return f"{name} is longer than {MAX_MESSAGE_CHARS:,} characters"
    # Lone surrogates come out of JSON, which may write them as escapes.
    return f"{name} has characters that Postgres can't store" if text != storable(text) else None
