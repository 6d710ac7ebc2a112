"""How long a follower has waited for others, so that ``--until-idle`` can give up."""

from __future__ import annotations

from collections.abc import Iterable

from eventstore.ingest.follower import Follower


class WaitingClock:
    """Counts the seconds in which a follower waited for its upstream, the database or another process.

    An open stream and any new message start the count over: an upstream that sends messages is not down.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._messages = self._count_messages()
        self.seconds = 0.0

    def tick(self, elapsed: float) -> None:
        """Count the seconds since the last tick."""
        messages = self._count_messages()
        if messages != self._messages or self._follower.waits_for is None:
            self._messages, self.seconds = messages, 0.0
        else:
            self.seconds += elapsed

    def sentence(self) -> str:
        """Return what the follower waits for."""
        return f"app {self._follower.app!r} waits for {self._follower.waits_for or 'nothing'}"

    def _count_messages(self) -> int:
        return self._follower.stored + self._follower.duplicates + self._follower.quarantined


def reason_to_give_up(clocks: Iterable[WaitingClock], seconds: float) -> str | None:
    """Return a sentence once a follower has waited this long; None before."""
    sentences = [clock.sentence() for clock in clocks if clock.seconds >= seconds]
    return f"gave up after {seconds:g} s: {'; '.join(sentences)}" if sentences else None
