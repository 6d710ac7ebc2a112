"""How a replay's progress is shown: a bar on a terminal, a line every few seconds elsewhere; both on stderr."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from eventstore.redaction.redact import hide_secrets
from projections.cli.shared.output import console, counted, is_shown_to_people, say
from projections.terminal_text import visible

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from projections.rebuilding.replay_progress import Progress

LINE_SECONDS = 5.0
RATE_SECONDS = 30.0
"""The rate, and with it the time left, is that of so many seconds before: a replay need not go on as it began."""


class Rate:
    """Events a second, of late."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, position: int) -> None:
        """Note how far it is."""
        self._seen.append((now, position))
        while len(self._seen) > 2 and now - self._seen[1][0] > RATE_SECONDS:
            self._seen.popleft()

    @property
    def per_second(self) -> float | None:
        """The rate; None while nothing can be said."""
        if len(self._seen) < 2:
            return None
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began and last > first else None


class Lines:
    """Says a line at each phase, and every few seconds how far it is.

    Args:
        name: what the lines begin with.
        only_long: whether a phase is said only once it takes longer than such a few seconds.

    """

    def __init__(self, name: str, *, only_long: bool = False) -> None:
        self._name = name
        self._only_long = only_long
        self._phase = ""
        self._target: int | None = None
        self._rate = Rate()
        self._told = 0.0

    def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
        """Something else begins."""
        self._target = target
        self._rate = Rate()
        self._told = monotonic()
        self._rate.at(self._told, position)
        of = "" if target is None else f" {counted(target - position, 'event')}"
        self._phase = f"{self._name}: {name}{of}"
        if not self._only_long:
            self._say_phase()

    def _say_phase(self) -> None:
        if self._phase:
            say(self._phase)
        self._phase = ""

    def at(self, position: int) -> None:
        """Every event up to here is folded."""
        now = monotonic()
        self._rate.at(now, position)
        if self._target and position < self._target and now - self._told >= LINE_SECONDS:
            self._told = now
            self._say_phase()
            say(f"{self._name}: {told(position, self._target, self._rate.per_second)}")

    def note(self, line: str) -> None:
        """Say it."""
        say(line)


def told(position: int, target: int, rate: float | None) -> str:
    """Say how far it is, how fast, and how long it will take at that rate."""
    far = f"{position:,} of {counted(target, 'event')} ({100 * position // target}%)"
    if rate is None:
        return far
    return f"{far}, {rate:,.0f} events/s, about {duration((target - position) / rate)} left"


def duration(seconds: float) -> str:
    """Say a duration in the two largest units that matter."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class Bar:
    """Moves a bar of Rich's."""

    def __init__(self, name: str, progress: RichProgress, task: TaskID) -> None:
        self._name = name
        self._progress = progress
        self._task = task
        self._rate = Rate()
        self._target: int | None = None

    def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
        """Something else begins."""
        self._target = target
        self._rate = Rate()
        self._rate.at(monotonic(), position)
        text = f"{self._name}: {name}"
        self._progress.update(self._task, description=text, total=target, completed=position, told="")

    def at(self, position: int) -> None:
        """Every event up to here is folded."""
        self._rate.at(monotonic(), position)
        text = told(position, self._target, self._rate.per_second) if self._target else ""
        self._progress.update(self._task, completed=position, told=text)

    def note(self, line: str) -> None:
        """Say it above the bar."""
        self._progress.console.print(visible(hide_secrets(line)))


@contextmanager
def showing(name: str, *, only_long: bool = False) -> Iterator[Progress]:
    """Show one projection's replay while the block runs; with ``only_long``, off a terminal, only if it takes long."""
    if not is_shown_to_people():
        yield Lines(name, only_long=only_long)
        return
    from rich.progress import (  # noqa: PLC0415 - loaded when it runs
        BarColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as RichProgress  # noqa: PLC0415

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[told]}", markup=False),
        TimeElapsedColumn(),
    )
    with RichProgress(*columns, console=console(stderr=True), transient=True) as progress:
        yield Bar(name, progress, progress.add_task(name, total=None, told=""))
