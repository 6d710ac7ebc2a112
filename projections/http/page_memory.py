"""What the page's server remembers between readings: rates, the moving charts, and changes of state that it saw.

Invariants. Memory is bounded: readings of the last ten minutes, and the last changes. Nothing is remembered while no
page is open, since nothing is read then; a chart shows that as a gap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from projections.inspecting.live_status import LiveStatus
from projections.recent_log import LogLine

HISTORY_SECONDS = 600.0
RATE_SECONDS = 10.0
"""A rate is the mean of so many seconds."""
GAP_SECONDS = 5.0
"""Two readings that are further apart are not joined by a line."""
MAX_CHANGES = 100


@dataclass(frozen=True, slots=True)
class StatusSample:
    """One reading, as far as charts and rates need it."""

    at: float
    head: int
    positions: Mapping[str, int]
    lags: Mapping[str, tuple[float, int]]
    received: Mapping[str, float]


class PageMemory:
    """Remembers samples and changes."""

    def __init__(self) -> None:
        self._samples: deque[StatusSample] = deque()
        self._received: dict[str, float] = {}
        self._states: dict[str, str] | None = None
        self._numbers = count(1)
        self._changes: deque[LogLine] = deque(maxlen=MAX_CHANGES)

    @property
    def head(self) -> int | None:
        """The head at the last reading; None before the first."""
        return self._samples[-1].head if self._samples else None

    def remember(self, status: LiveStatus, new_by_app: Mapping[str, float]) -> None:
        """Remember a reading, and what changed since the last one."""
        at = status.now.timestamp()
        if self._samples and at - self._samples[-1].at > GAP_SECONDS:
            new_by_app = {}  # a page was opened again: these events are not of the last seconds
        for app in status.apps:
            self._received[app.app] = self._received.get(app.app, 0.0) + new_by_app.get(app.app, 0.0)
        self._samples.append(
            StatusSample(
                at,
                status.head,
                {one.name: one.position for one in status.projections},
                {one.name: (one.seconds_behind, one.events_behind) for one in status.projections},
                dict(self._received),
            )
        )
        while self._samples[0].at < at - HISTORY_SECONDS:
            self._samples.popleft()
        self._note_changes(status)

    def append_rate(self) -> float | None:
        """Return how many events are appended a second; None before there are two readings."""
        return self._rate(lambda sample: sample.head)

    def fold_rate(self, name: str) -> float | None:
        """Return how many positions a projection moves in a second."""
        return self._rate(lambda sample: sample.positions.get(name))

    def app_rate(self, app: str) -> float | None:
        """Return how many events of an app are appended a second."""
        return self._rate(lambda sample: sample.received.get(app))

    def history(self) -> dict[str, Any]:
        """Return the lags of the last ten minutes, for the charts of a page that opens."""
        names = list(self._samples[-1].lags) if self._samples else []
        times: list[float] = []
        lags: dict[str, dict[str, list[float | None]]] = {name: {"seconds": [], "events": []} for name in names}
        for sample, is_after_gap in _with_gaps(self._samples):
            if is_after_gap:
                times.append(round(sample.at - 1, 3))
                for lag in lags.values():
                    lag["seconds"].append(None)
                    lag["events"].append(None)
            times.append(round(sample.at, 3))
            for name, lag in lags.items():
                known = sample.lags.get(name)
                lag["seconds"].append(None if known is None else round(known[0], 2))
                lag["events"].append(None if known is None else known[1])
        return {"times": times, "lags": lags}

    def changes(self) -> list[LogLine]:
        """Return the changes of state that readings showed, the newest first."""
        return list(reversed(self._changes))

    def _rate(self, value: Any) -> float | None:  # noqa: ANN401 - a function of a sample
        recent: list[StatusSample] = []
        for sample in reversed(self._samples):
            if self._samples[-1].at - sample.at > RATE_SECONDS or (recent and recent[-1].at - sample.at > GAP_SECONDS):
                break
            recent.append(sample)
        known = [(sample.at, value(sample)) for sample in recent if value(sample) is not None]
        if len(known) < 2 or known[0][0] <= known[-1][0]:
            return None
        return max(0.0, float((known[0][1] - known[-1][1]) / (known[0][0] - known[-1][0])))

    def _note_changes(self, status: LiveStatus) -> None:
        states = dict(_states(status))
        if self._states is not None:
            for name, state in states.items():
                if self._states.get(name) != state:
                    level = "warning" if ": " in state else "info"
                    at = status.now.isoformat().replace("+00:00", "Z")
                    self._changes.append(LogLine(next(self._numbers), at, level, name, {"": state}))
        self._states = states


def _states(status: LiveStatus) -> Iterator[tuple[str, str]]:
    for one in status.projections:
        yield one.name, one.shown_state + (f": {one.last_error}" if one.last_error else "")
    for app in status.apps:
        state = "followed" if app.followed_by else "not followed"
        yield f"app {app.app}", state + (f": {app.last_error}" if app.last_error else "")


def _with_gaps(samples: Iterable[StatusSample]) -> Iterator[tuple[StatusSample, bool]]:
    last: StatusSample | None = None
    for sample in samples:
        yield sample, last is not None and sample.at - last.at > GAP_SECONDS
        last = sample
