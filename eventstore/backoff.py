"""Back-off between attempts: exponential, with jitter, capped, and reset after a success."""

from __future__ import annotations

import random
from collections.abc import Callable

MAX_DOUBLINGS = 32


class Backoff:
    """The waits between the attempts at one thing.

    The n-th wait is between half of and the whole of ``first * 2**n`` seconds, and never above the cap. The jitter
    keeps many clients from retrying at the same moment; the minimum of one half keeps a client from retrying
    immediately.

    Args:
        first: seconds of the first wait, before jitter.
        cap: the longest wait, in seconds.
        jitter: returns a number in [0, 1); tests pass a fixed one.

    """

    def __init__(self, first: float, cap: float, jitter: Callable[[], float] = random.random) -> None:
        self._first = first
        self._cap = cap
        self._jitter = jitter
        self.attempts = 0

    def reset(self) -> None:
        """Start over with the shortest wait, after a success."""
        self.attempts = 0

    def next(self, *, cap: float | None = None, at_least: float = 0.0) -> float:
        """Return the next wait in seconds.

        Args:
            cap: a lower cap for this wait.
            at_least: the wait that the other side asked for; it is obeyed even above the cap.

        """
        limit = self._cap if cap is None else min(cap, self._cap)
        longest: float = min(self._first * 2.0 ** min(self.attempts, MAX_DOUBLINGS), limit)
        self.attempts += 1
        return max(at_least, longest / 2 + self._jitter() * longest / 2)
