"""Shows how far a replay is: a bar on a terminal, elsewhere a line every few seconds; both on stderr."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic

from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from eventstore.redaction.redact import hide_secrets
from projections.cli.shared.console import new_console
from projections.cli.shared.output import counted, print_message, stderr_is_interactive
from projections.rebuilding.replay_progress import Progress
from projections.terminal_text import visible

LINE_SECONDS = 5.0
RATE_SECONDS = 30.0
"""The rate, and the time left, are computed over this time: a replay may become slower or faster."""


class RecentRate:
    """Events per second over the last :data:`RATE_SECONDS`."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, position: int) -> None:
        """Note the position that was reached."""
        self._seen.append((now, position))
        while len(self._seen) > 2 and now - self._seen[1][0] > RATE_SECONDS:
            self._seen.popleft()

    @property
    def per_second(self) -> float | None:
        """The rate; None while it isn't known."""
        if len(self._seen) < 2:
            return None
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began and last > first else None


class ProgressLines:
    """Prints a line at the start of each phase, and every few seconds how far it is.

    Args:
        name: what the lines begin with.
        only_long: whether a phase is printed only if it takes longer than :data:`LINE_SECONDS`.

    """

    def __init__(self, name: str, *, only_long: bool = False) -> None:
        self._name = name
        self._only_long = only_long
        self._phase = ""
        self._target: int | None = None
        self._rate = RecentRate()
        self._printed_at = 0.0

    def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
        """Begin another phase."""
        self._target = target
        self._rate = RecentRate()
        self._printed_at = monotonic()
        self._rate.at(self._printed_at, position)
        of = "" if target is None else f" {counted(target - position, 'event')}"
        self._phase = f"{self._name}: {name}{of}"
        if not self._only_long:
            self._print_phase()

    def _print_phase(self) -> None:
        if self._phase:
            print_message(self._phase)
        self._phase = ""

    def at(self, position: int) -> None:
        """Every event up to here is folded."""
        now = monotonic()
        self._rate.at(now, position)
        if self._target and position < self._target and now - self._printed_at >= LINE_SECONDS:
            self._printed_at = now
            self._print_phase()
            print_message(f"{self._name}: {progress_text(position, self._target, self._rate.per_second)}")

    def note(self, line: str) -> None:
        """Print a line."""
        print_message(line)


def progress_text(position: int, target: int, rate: float | None) -> str:
    """Return how far it is, how fast, and how long the rest will take at that rate."""
    far = f"{position:,} of {counted(target, 'event')} ({100 * position // target}%)"
    if rate is None:
        return far
    return f"{far}, {rate:,.0f} events/s, about {duration_text((target - position) / rate)} left"


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class ProgressBar:
    """Moves a bar of Rich's."""

    def __init__(self, name: str, progress: RichProgress, task: TaskID) -> None:
        self._name = name
        self._progress = progress
        self._task = task
        self._rate = RecentRate()
        self._target: int | None = None

    def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
        """Begin another phase."""
        self._target = target
        self._rate = RecentRate()
        self._rate.at(monotonic(), position)
        text = f"{self._name}: {name}"
        self._progress.update(self._task, description=text, total=target, completed=position, text="")

    def at(self, position: int) -> None:
        """Every event up to here is folded."""
        self._rate.at(monotonic(), position)
        text = progress_text(position, self._target, self._rate.per_second) if self._target else ""
        self._progress.update(self._task, completed=position, text=text)

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(visible(hide_secrets(line)))


@contextmanager
def shown_progress(name: str, *, only_long: bool = False) -> Iterator[Progress]:
    """Show one projection's replay while the block runs; ``only_long`` is for :class:`ProgressLines`."""
    with shown_together(only_long=only_long) as shown, shown(name) as progress:
        yield progress


@contextmanager
def shown_together(*, only_long: bool = False) -> Iterator[Callable[[str], AbstractContextManager[Progress]]]:
    """Show replays that run side by side: yields what shows one of them, by its name, while a block runs."""
    if not stderr_is_interactive():
        yield lambda name: nullcontext(ProgressLines(name, only_long=only_long))
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
    )
    with RichProgress(*columns, console=new_console(stderr=True), transient=True) as display:

        @contextmanager
        def bar(name: str) -> Iterator[Progress]:
            task = display.add_task(name, total=None, text="")
            try:
                yield ProgressBar(name, display, task)
            finally:
                display.remove_task(task)

        yield bar
