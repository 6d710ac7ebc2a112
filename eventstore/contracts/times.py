"""Decodes ``occurred_at``, which is RFC 3339 text in one contract and a Timestamp message in the other."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from google.protobuf.message import DecodeError

from eventstore.contracts._generated.eventstore.reading_pb2 import Time

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, tzinfo=UTC)  # exclusive: the last day taken is 9999-12-30
"""One day inside the range of ``datetime``, so that no time zone moves a value out of it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_AS_MESSAGE = b"\x08\x00"  # written out, because an empty message counts as no time
# How nearly every time is written. The standard library reads it, and it is well inside the limits.
_CANONICAL = re.compile(rb"[12]\d{3}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:[0-5]\d(?:\.\d{1,6})?Z")
_RFC3339 = re.compile(
    rb"(\d{4}-\d\d-\d\d)[Tt ]((?:[01]\d|2[0-3]):[0-5]\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))",
)


def read_time(raw: bytes) -> datetime:
    """Return the time, cut to the microsecond, in UTC.

    Raises:
        ValueError: the bytes have neither form, or the time is outside 0001-01-02..9999-12-30 UTC.

    """
    if _CANONICAL.fullmatch(raw):
        try:
            return datetime.fromisoformat(raw.decode("ascii"))
        except ValueError:
            pass  # a day that doesn't exist; suppress() would take a fifth of the time of each event's time
    moment = _read_text(raw) if b"0" <= raw[:1] <= b"9" else _read_message(raw)
    if not EARLIEST <= moment < LATEST:
        raise ValueError("occurred_at is outside 0001-01-02..9999-12-30 UTC")
    return moment


def without_other_fields(raw: bytes) -> bytes:
    """Return the bytes of a time without anything that isn't part of it; empty bytes for what can't be read as a time.

    :func:`read_time` reads the same time from them.
    """
    try:
        moment = read_time(raw)
    except ValueError:
        return b""
    if b"0" <= raw[:1] <= b"9":
        return raw if _CANONICAL.fullmatch(raw) else moment.isoformat().replace("+00:00", "Z").encode()
    time = Time.FromString(raw)
    time.DiscardUnknownFields()
    return time.SerializeToString() or _EPOCH_AS_MESSAGE


def _read_text(raw: bytes) -> datetime:
    match = _RFC3339.fullmatch(raw)
    if match is None:
        raise ValueError("occurred_at is not an RFC 3339 time")
    day, minute, second, fraction, zulu, sign, hours, minutes = match.groups()
    micros = (fraction or b"").ljust(6, b"0")[:6]
    if second == b"60":  # a leap second; Postgres has none, and the ULID decides the order of events
        second, micros = b"59", b"999999"
    text = b"%bT%b:%b.%b+00:00" % (day, minute, second, micros)
    try:
        moment = datetime.fromisoformat(text.decode("ascii"))
        if zulu:
            return moment
        # A bad offset is as wrong as a bad day: fromisoformat refuses 24:00 and 00:60 alike.
        datetime.fromisoformat(f"2000-01-01T{hours.decode()}:{minutes.decode()}")
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        return moment - offset if sign == b"+" else moment + offset
    except (ValueError, OverflowError):
        raise ValueError("occurred_at is not a time that exists") from None


def _read_message(raw: bytes) -> datetime:
    try:
        time = Time.FromString(raw)
    except DecodeError:
        raise ValueError("occurred_at can't be read") from None
    # Text that happens to parse as a message of unknown fields must not read as 1970.
    if raw[:1] not in {b"\x08", b"\x10"} or not 0 <= time.nanos < 1_000_000_000:
        raise ValueError("occurred_at can't be read")
    try:
        return _EPOCH + timedelta(seconds=time.seconds, microseconds=time.nanos // 1000)
    except OverflowError:
        raise ValueError("occurred_at is outside 0001-01-02..9999-12-30 UTC") from None
