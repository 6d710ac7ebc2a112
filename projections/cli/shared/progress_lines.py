"""A line every few seconds about how far a command is."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from projections.cli.shared.output import print_message

LINE_SECONDS = 5.0


def progress_lines(name: str) -> Callable[[int, int], None]:
    """Return a function that takes how many of how many are done, and prints that every few seconds."""
    printed_at = monotonic()

    def report(done: int, total: int) -> None:
        nonlocal printed_at
        if monotonic() - printed_at >= LINE_SECONDS:
            printed_at = monotonic()
            print_message(f"{name}: {done:,} of {total:,} ({100 * done // max(total, 1)}%)")

    return report
