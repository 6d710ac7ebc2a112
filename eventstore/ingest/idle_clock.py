"""How long a follower has received no new event, for ``--until-idle``."""

from __future__ import annotations

from eventstore.ingest.follower import Follower


class IdleClock:
    """Counts the seconds in which an app's stream was open and no new event was stored.

    Time without a connection or with uncommitted messages is left out; a new event starts the count over.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._stored = follower.stored
        self.seconds = 0.0

    def tick(self, elapsed: float) -> None:
        """Count the seconds since the last tick."""
        if self._follower.stored != self._stored:
            self._stored = self._follower.stored
            self.seconds = 0.0
        elif self._follower.is_quiet:
            self.seconds += elapsed
