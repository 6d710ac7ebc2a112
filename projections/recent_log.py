"""The process's last log lines, in memory, for the page of ``projections run --http``.

Invariants. A line is remembered as it is logged: after it was redacted, and only if its level is logged at all. Only
our own lines of level info and above are remembered, which are changes of state; the oldest are dropped, so the memory
is bounded whatever happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableMapping
from itertools import count
from typing import Any, NamedTuple

MAX_LINES = 200
"""How many lines are remembered."""
MAX_FIELD_CHARACTERS = 2_000
"""How much of a field is remembered."""
_LEVELS = frozenset({"info", "warning", "error", "critical"})
_NOT_CHANGES = frozenset({"progress"})
"""What is logged every few seconds without a change of state."""
_OWN_KEYS = frozenset({"event", "level", "timestamp"})


class LogLine(NamedTuple):
    """One line: its number in this process, its time as ISO text in UTC, and what it says."""

    number: int
    at: str
    level: str
    event: str
    fields: dict[str, str]


class RecentLog:
    """Remembers the last lines."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._lines: deque[LogLine] = deque(maxlen=MAX_LINES)

    def remember(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Remember a line; a processor of structlog, which passes the line on unchanged."""
        if event.get("level") in _LEVELS and event.get("event") not in _NOT_CHANGES:
            fields = {
                key: str(value)[:MAX_FIELD_CHARACTERS]
                for key, value in event.items()
                if key not in _OWN_KEYS and not key.startswith("_")
            }
            at, level = str(event.get("timestamp", "")), str(event["level"])
            self._lines.append(LogLine(next(self._numbers), at, level, str(event.get("event", "")), fields))
        return event

    def lines(self, at_most: int = MAX_LINES) -> list[LogLine]:
        """Return the last lines, the newest first."""
        return list(self._lines)[: -at_most - 1 : -1]


recent_log = RecentLog()
"""The lines of this process."""
