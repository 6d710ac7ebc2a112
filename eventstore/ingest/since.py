"""Reads where a first contact begins: how long ago, or when."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from eventstore import ulid
from eventstore.errors import ConfigurationError

_DURATION = re.compile(r"(\d{1,9})\s*([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_since(text: str, now: datetime) -> str:
    """Return the cursor of a moment: a duration back from now (``36h``, ``7d``), or an ISO time with its zone.

    Raises:
        ConfigurationError: the text is neither.

    """
    moment: datetime | None = None
    try:
        if match := _DURATION.fullmatch(text.strip()):
            moment = now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        else:
            moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigurationError(
            f"since {text!r} is neither a duration (36h, 7d) nor a time with its zone (2026-11-01T00:00:00Z)"
        )
    return ulid.first_at(moment)
