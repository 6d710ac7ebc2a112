"""Encodes the messages of both contracts by hand, so that tests don't depend on the project's own encoding.

This module imports neither the project nor protobuf. The builders omit what an encoder omits (absent parts, and zeroes
in a Timestamp). Invalid messages are built with the field helpers at the top.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

Text: TypeAlias = str | bytes
"""Text, or bytes that need not be valid text."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
VARINT, FIXED64, DELIMITED, GROUP, END_GROUP, FIXED32 = range(6)

# Fields


def varint(value: int) -> bytes:
    """Encode a varint; a negative number takes ten bytes, as always in protobuf."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def number_field(number: int, value: int) -> bytes:
    return tag(number, VARINT) + varint(value)


def bytes_field(number: int, value: Text) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return tag(number, DELIMITED) + varint(len(raw)) + raw


def fixed32_field(number: int, value: int) -> bytes:
    return tag(number, FIXED32) + (value & 0xFFFFFFFF).to_bytes(4, "little")


def fixed64_field(number: int, value: int) -> bytes:
    return tag(number, FIXED64) + (value & (2**64 - 1)).to_bytes(8, "little")


def group_field(number: int, content: bytes = b"") -> bytes:
    return tag(number, GROUP) + content + tag(number, END_GROUP)


def _optional(number: int, value: Text | None) -> bytes:
    return b"" if value is None else bytes_field(number, value)


# Times


def rfc3339(moment: datetime) -> str:
    """``occurred_at`` of ``chat.external``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def timestamp(seconds: int = 0, nanos: int = 0) -> bytes:
    """``occurred_at`` of ``pcs.external.v1``: a google.protobuf.Timestamp."""
    return (number_field(1, seconds) if seconds else b"") + (number_field(2, nanos) if nanos else b"")


def timestamp_of(moment: datetime) -> bytes:
    since = moment - EPOCH
    return timestamp(since // timedelta(seconds=1), since.microseconds * 1000)


# Parts of an event


def recipient(
    ppnum: Text | None = "12300000001",
    *,
    status: int = 2,
    recipient_id: Text | None = None,
    message_id: Text | None = None,
    error_code: Text | None = None,
    created_at: Text | None = None,
) -> bytes:
    return b"".join(
        (
            _optional(1, recipient_id),
            _optional(2, ppnum),
            number_field(3, status),
            _optional(4, message_id),
            _optional(5, error_code),
            _optional(6, created_at),
        )
    )


def summary(
    total: int = 0,
    delivered: int = 0,
    pending_consent: int = 0,
    failed: int = 0,
    *,
    status: int = 3,
    summary_id: Text | None = None,
    created_at: Text | None = None,
    completed_at: Text | None = None,
) -> bytes:
    return b"".join(
        (
            _optional(1, summary_id),
            number_field(2, status),
            number_field(3, total),
            number_field(4, delivered),
            number_field(5, pending_consent),
            number_field(6, failed),
            _optional(7, created_at),
            _optional(8, completed_at),
        )
    )


def poll(poll_id: Text | None, *options: Text) -> bytes:
    return _optional(1, poll_id) + b"".join(bytes_field(2, option) for option in options)


def event(
    event_id: Text | None = None,
    event_type: int | None = 1,
    *,
    send_request_id: Text | None = "01HZZZZZZZZZZZZZZZZZZZZZZZ",
    recipient: bytes | None = None,
    summary: bytes | None = None,
    occurred_at: Text | None = "2026-01-02T03:04:05.678901Z",
    poll_response: bytes | None = None,
    more: bytes = b"",
) -> bytes:
    """Encode a SendRequestEvent; the contracts differ in ``occurred_at``. Without an id it gets a new one."""
    return b"".join(
        (
            bytes_field(1, new_ulid() if event_id is None else event_id),
            _optional(2, send_request_id),
            b"" if event_type is None else number_field(3, event_type),
            _optional(4, recipient),
            _optional(5, summary),
            _optional(6, occurred_at),
            _optional(1007, poll_response),
            more,
        )
    )


# Frames of pcs.external.v1


def frame(event_bytes: bytes) -> bytes:
    return bytes_field(1, event_bytes)


def keep_alive() -> bytes:
    return bytes_field(2, b"")


def cursor_expired(detail: Text | None = None) -> bytes:
    return bytes_field(4, _optional(1, detail))


def unknown_frame() -> bytes:
    return bytes_field(9, b"from a later version")


# The request, the same in both


def request(after_event_id: Text | None = None, send_request_id: Text | None = None) -> bytes:
    return _optional(1, send_request_id) + _optional(2, after_event_id)


# ULIDs


def ulid_of(milliseconds: int, tail: int = 0) -> str:
    """Return the ULID of a time (48 bits) and a random part (80 bits)."""
    value = milliseconds << 80 | tail
    digits = []
    for _ in range(26):
        digits.append(CROCKFORD[value & 31])
        value >>= 5
    return "".join(reversed(digits))


def ulid_at(moment: datetime, tail: int = 0) -> str:
    return ulid_of((moment - EPOCH) // timedelta(milliseconds=1), tail)


def new_ulid() -> str:
    return ulid_of(time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10), "big"))


def ulids(start: int = 1_767_225_600_000) -> Iterator[str]:
    """Yield ULIDs without end, each a millisecond after the one before; no two calls yield the same ones."""
    tail = int.from_bytes(os.urandom(10), "big")
    return (ulid_of(milliseconds, tail) for milliseconds in itertools.count(start))
