"""ULIDs as text: their form, the time in them, and made-up ULIDs from which a stream can start."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ulid import ULID

_SHAPE = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_DIGITS = {digit: value for value, digit in enumerate("0123456789ABCDEFGHJKMNPQRSTVWXYZ")}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

is_ulid = _SHAPE.fullmatch
"""A match when the text is an upper-case ULID, else None."""


def time_milliseconds(ulid: str) -> int:
    """Return the time in a ULID, in milliseconds since 1970 (UTC)."""
    value = 0
    for digit in ulid[:10]:
        value = value << 5 | _DIGITS[digit]
    return value


def time_of(ulid: str) -> datetime | None:
    """Return the time in a ULID; None when it is after the year 9999, where ``datetime`` ends."""
    try:
        return _EPOCH + timedelta(milliseconds=time_milliseconds(ulid))
    except OverflowError:
        return None


def first_ulid_at(moment: datetime) -> str:
    """Return the smallest ULID of a moment (cut to the millisecond; 1970 at the earliest).

    With this cursor a stream starts with the first event of that millisecond.
    """
    since = max((moment - _EPOCH) // timedelta(milliseconds=1), 0)
    return str(ULID.from_bytes(since.to_bytes(6, "big") + bytes(10)))
