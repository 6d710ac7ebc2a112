"""Parses the ``since`` setting: how long ago, or at which time, a first contact starts."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from eventstore import ulid
from eventstore.errors import UsageError

_DURATION = re.compile(r"(\d{1,9})\s*([smhd])", re.ASCII)
TOLERANCE = timedelta(minutes=5)
"""How far ahead of this machine's clock a time may be, since another machine's clock may have written it."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_moment(text: str, now: datetime, *, name: str = "since") -> datetime:
    """Return a time: a duration back from now (``36h``, ``7d``), or an ISO time with its zone.

    Args:
        text: what somebody wrote.
        now: the time.
        name: what the messages call the value.

    Raises:
        UsageError: the text is neither, or there is no such date.

    """
    moment: datetime | None = None
    try:
        if match := _DURATION.fullmatch(text.strip()):
            moment = now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        else:
            moment = datetime.fromisoformat(text.strip())
    except OverflowError:
        raise UsageError(f"{name} {text!r} is too long ago: there is no such date") from None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(
            f"{name} {text!r} is neither a duration (36h, 7d) nor a time with its zone (2026-11-01T00:00:00Z)"
        )
    return moment


def parse_since(text: str, now: datetime) -> str:
    """Return the first event_id of a time, which :func:`parse_moment` reads.

    A time before 1970 becomes 1970: no ULID is older.

    Raises:
        UsageError: it is not a time, or a time in the future.

    """
    moment = parse_moment(text, now)
    try:
        cursor = ulid.first_ulid_at(moment)
    except OverflowError:  # the time zone moves it past the last possible date
        raise UsageError(f"since {text!r} is not a time that exists") from None
    if moment > now + TOLERANCE:
        raise UsageError(f"since {text!r} is in the future: a stream can only start at a time that has passed")
    return cursor
