"""How long a follower has waited for others, so that a run until idle need not wait for ever."""

from __future__ import annotations

from collections.abc import Iterable

from eventstore.ingest.follower import Follower


class StallClock:
    """Counts the seconds in which a follower waited for its upstream, the database or another process.

    An open stream and any new message start the count over: an upstream that has much to bring is not down.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._came = self._count()
        self.seconds = 0.0

    def tick(self, elapsed: float) -> None:
        """Count what went by since the last tick, in seconds."""
        came = self._count()
        if came != self._came or self._follower.waits_for is None:
            self._came, self.seconds = came, 0.0
        else:
            self.seconds += elapsed

    def sentence(self) -> str:
        """Return what it waits for."""
        return f"app {self._follower.app!r} waits for {self._follower.waits_for or 'nothing'}"

    def _count(self) -> int:
        return self._follower.stored + self._follower.duplicates + self._follower.quarantined


def gave_up(clocks: Iterable[StallClock], seconds: float) -> str | None:
    """Return why to give up, once one of them waited for so long; None before."""
    stalled = [clock.sentence() for clock in clocks if clock.seconds >= seconds]
    return f"gave up after {seconds:g} s: {'; '.join(stalled)}" if stalled else None
