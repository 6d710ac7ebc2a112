"""Waits between attempts: exponential, jittered, capped, and begun anew after health."""

from __future__ import annotations

import random
from collections.abc import Callable

MAX_DOUBLINGS = 32


class Backoff:
    """The waits of one thing that is tried again and again.

    The n-th wait lies between half of and the whole of ``first * 2**n`` seconds, and never above the cap: the jitter
    keeps many clients from coming back at one moment, the lower half keeps one client from coming back at once.

    Args:
        first: seconds of the first wait, before jitter.
        cap: the longest wait, in seconds.
        jitter: gives a number in [0, 1); tests put a fixed one here.

    """

    def __init__(self, first: float, cap: float, jitter: Callable[[], float] = random.random) -> None:
        self._first = first
        self._cap = cap
        self._jitter = jitter
        self.attempts = 0

    def reset(self) -> None:
        """Begin anew: it went well."""
        self.attempts = 0

    def next(self, *, cap: float | None = None, at_least: float = 0.0) -> float:
        """Return the next wait in seconds.

        Args:
            cap: a lower cap for this wait.
            at_least: what the other side asked for; it is obeyed even above the cap.

        """
        limit = self._cap if cap is None else min(cap, self._cap)
        longest: float = min(self._first * 2.0 ** min(self.attempts, MAX_DOUBLINGS), limit)
        self.attempts += 1
        return max(at_least, longest / 2 + self._jitter() * longest / 2)
