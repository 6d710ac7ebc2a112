"""Counts the windows that a worker folds, for metrics; counting costs a few additions a window."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds, in seconds, by which the durations of windows are counted."""


class FoldCounts:
    """What one worker folded since its process started.

    Attributes:
        events: how many events.
        seconds: how long all windows took together.
        failures: how often a window failed so that the projection stopped.
        windows_by_bound: how many windows took at most each of ``BOUNDS`` and more than the one before; the last
            number counts those that took longer than all.

    """

    def __init__(self) -> None:
        self.events = 0
        self.seconds = 0.0
        self.failures = 0
        self.windows_by_bound = [0] * (len(BOUNDS) + 1)

    def add_window(self, events: int, seconds: float) -> None:
        """Count one window that was folded."""
        self.events += events
        self.seconds += seconds
        self.windows_by_bound[bisect_left(BOUNDS, seconds)] += 1
