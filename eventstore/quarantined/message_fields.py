"""Reads the fields of a message that can't be decoded, as far as its bytes can be read; the schema is only a hint.

Unlike the decoder this reader refuses nothing: it reads field by field, gives a field that it knows its name, and stops
where the bytes are no field. It is for people who look for the reason.

Invariant. Unless personal data is asked for, what it returns has no phone number, neither in a field nor in the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from eventstore.contracts.event_types import KNOWN_TYPES, EventType
from eventstore.contracts.times import read_time
from eventstore.redaction.phone_numbers import phone_numbers
from eventstore.redaction.redact import MASK, redact

MAX_FIELDS = 500
"""How many fields of a message are shown."""
MAX_VALUE = 1_000
"""How many bytes of a value are shown."""
MAX_DEPTH = 8

_VARINT, _FIXED64, _DELIMITED, _GROUP, _END_GROUP, _FIXED32 = range(6)


class _Known(NamedTuple):
    """A field that we know: its name, what it contains, and the fields inside a message."""

    name: str
    kind: str = "text"
    fields: Mapping[int, _Known] = {}


_RECIPIENT = {
    1: _Known("id"),
    2: _Known("ppnum", "person"),
    3: _Known("status", "number"),
    4: _Known("message_id"),
    5: _Known("error_code"),
    6: _Known("created_at", "time"),
}
_SUMMARY = {
    1: _Known("id"),
    2: _Known("status", "number"),
    3: _Known("total_recipients", "number"),
    4: _Known("delivered", "number"),
    5: _Known("pending_consent", "number"),
    6: _Known("failed", "number"),
    7: _Known("created_at", "time"),
    8: _Known("completed_at", "time"),
}
_POLL = {1: _Known("poll_id"), 2: _Known("selected_options")}
_EVENT = {
    1: _Known("event_id"),
    2: _Known("send_request_id"),
    3: _Known("event_type", "type"),
    4: _Known("recipient", "message", _RECIPIENT),
    5: _Known("summary", "message", _SUMMARY),
    6: _Known("occurred_at", "time"),
    1007: _Known("poll_response", "message", _POLL),
}
_FRAME = {
    1: _Known("event", "message", _EVENT),
    2: _Known("keep_alive", "message"),
    4: _Known("cursor_expired", "message", {1: _Known("detail")}),
}


class MessageField(NamedTuple):
    """A field: where it begins in the bytes, its path (``recipient.ppnum``; ``?9`` if we don't know it), its value."""

    at: int
    path: str
    value: str


@dataclass(frozen=True, slots=True)
class MessageReading:
    """What can be read of a message.

    Attributes:
        fields: the fields, in their order.
        unreadable_at: where the first bytes begin that are no field; None if there are none.
        has_more: whether there are more fields than are shown.
        hex: the bytes in hexadecimal; those of hidden numbers are ``**``.

    """

    fields: tuple[MessageField, ...]
    unreadable_at: int | None
    has_more: bool
    hex: str


class _Unreadable(Exception):
    """The bytes from here on are no field."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


def read_fields(payload: bytes, *, is_frame: bool = False, personal_data: bool = False) -> MessageReading:
    """Return what can be read of a message.

    Args:
        payload: the bytes.
        is_frame: whether they are a whole message of a framed stream, not an event.
        personal_data: whether phone numbers are shown.

    """
    reader = _Reader(payload, personal_data=personal_data)
    has_more = False
    try:
        reader.read(0, len(payload), _FRAME if is_frame else _EVENT, "", 0)
    except _Unreadable as error:
        reader.unreadable = error.at if reader.unreadable is None else reader.unreadable
    except _Enough:
        has_more = True
    return MessageReading(tuple(reader.found), reader.unreadable, has_more, reader.hex(0, len(payload)))


class _Enough(Exception):
    """There are more fields than are shown."""


class _Reader:
    """Reads one message: ``found`` has its fields; at ``unreadable`` the first bytes begin that are no field."""

    def __init__(self, data: bytes, *, personal_data: bool) -> None:
        self._data = data
        self._shows_all = personal_data
        self.found: list[MessageField] = []
        self.unreadable: int | None = None
        self._hidden: list[tuple[int, int]] = []
        if not personal_data:
            # One character for each byte, so positions in the text are positions in the bytes.
            self._hidden = list(phone_numbers(data.decode("latin-1")))

    def read(self, at: int, end: int, known: Mapping[int, _Known], path: str, depth: int) -> None:
        """Read the fields from one position to another.

        Raises:
            _Unreadable: somewhere the bytes are no field.
            _Enough: there are more fields than are shown.

        """
        while at < end:
            begin = at
            tag, at = self._varint(at, end)
            number, wire_type = tag >> 3, tag & 7
            if number == 0:
                raise _Unreadable(begin)
            field = known.get(number, _Known(f"?{number}", "unknown"))
            name = f"{path}{field.name}"
            if wire_type == _VARINT:
                value, at = self._varint(at, end)
                self._add(begin, name, self._number(value, field))
            elif wire_type in (_FIXED64, _FIXED32):
                size = 8 if wire_type == _FIXED64 else 4
                if at + size > end:
                    raise _Unreadable(begin)
                self._add(begin, name, f"0x{self.hex(at, at + size)} ({size} bytes)")
                at += size
            elif wire_type == _DELIMITED:
                size, at = self._varint(at, end)
                if at + size > end:
                    raise _Unreadable(begin)
                self._read_delimited(begin, at, at + size, field, name, depth)
                at += size
            elif wire_type in (_GROUP, _END_GROUP):
                self._add(begin, name, "a group begins" if wire_type == _GROUP else "a group ends")
            else:
                raise _Unreadable(begin)

    def _read_delimited(self, begin: int, at: int, end: int, field: _Known, name: str, depth: int) -> None:
        raw = self._data[at:end]
        if field.kind == "message" and depth < MAX_DEPTH:
            self._add(begin, name, f"{end - at} bytes")
            try:
                self.read(at, end, field.fields, f"{name}.", depth + 1)
            except _Unreadable as error:  # the fields after this one can be read nevertheless
                self.unreadable = error.at if self.unreadable is None else self.unreadable
        elif field.kind == "person":
            if raw and not self._shows_all:
                self._hidden.append((at, end))
                self._add(begin, name, f"{MASK} ({len(raw)} bytes)")
            else:
                self._add(begin, name, _text(raw))
        elif field.kind == "time":
            self._add(begin, name, self._time(raw, at, end))
        elif field.kind in ("text", "unknown") and _is_text(raw):
            self._add(begin, name, self._clean(_text(raw)))
        else:
            self._add(begin, name, f"0x{self.hex(at, min(end, at + MAX_VALUE))} ({end - at} bytes, not text)")

    def _number(self, value: int, field: _Known) -> str:
        signed = value - 2**64 if value >= 2**63 else value
        if field.kind == "type":
            return f"{signed} ({EventType(value).name if value in KNOWN_TYPES else 'of no known type'})"
        # In a field that we don't know, somebody may have written a phone number as a number.
        return str(signed) if field.kind == "number" else self._clean(str(signed))

    def _time(self, raw: bytes, at: int, end: int) -> str:
        try:
            moment: datetime | None = read_time(raw)
        except ValueError:
            moment = None
        if moment is not None:
            return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return self._clean(_text(raw)) if _is_text(raw) else f"0x{self.hex(at, end)} ({len(raw)} bytes, not a time)"

    def _add(self, at: int, path: str, value: str) -> None:
        if len(self.found) == MAX_FIELDS:
            raise _Enough
        self.found.append(MessageField(at, path, value))

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        for index in range(at, min(end, at + 10)):
            byte = self._data[index]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), index + 1
            shift += 7
        raise _Unreadable(at)

    def _clean(self, text: str) -> str:
        return text if self._shows_all else redact(text)

    def hex(self, at: int, end: int) -> str:
        """Return bytes in hexadecimal; those of hidden numbers as ``**``."""
        pairs = [f"{byte:02x}" for byte in self._data[at:end]]
        for begin, stop in self._hidden:
            for index in range(max(begin, at), min(stop, end)):
                pairs[index - at] = "**"
        return "".join(pairs)


def _is_text(raw: bytes) -> bool:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\n\t" for char in text[:MAX_VALUE])


def _text(raw: bytes) -> str:
    text = raw.decode(errors="replace")
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(raw):,} bytes)"
