"""What a worker logs while it folds: each change of its state, and nothing about a window.

The states are: it folds events that are behind it, it has caught up, it is behind the log for long, it stopped with an
error, it is paused. At the head it logs nothing: that is the normal state.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import structlog

log = structlog.get_logger(__name__)

BEHIND_SECONDS = 10.0
"""A worker that was at the head is behind when it hasn't reached the head again for so many seconds."""
_PAUSED = "paused"


class FoldLog:
    """The log lines of one projection.

    Args:
        projection: its name.
        clock: seconds that only rise.

    """

    def __init__(self, projection: str, clock: Callable[[], float] = monotonic) -> None:
        self._projection = projection
        self._clock = clock
        self._is_behind = False
        self._behind_since: float | None = None
        self._stopped: str | None = None

    def began(self, position: int, head: int) -> None:
        """Log where this worker begins."""
        self._is_behind = position < head
        self._log_position("folding", position, head)

    def folded(self, position: int, head: int) -> None:
        """Log that the worker folds again, that it caught up, or that it is behind for long."""
        if self._stopped is not None:
            self._stopped = None
            self._log_position("folding again", position, head)
        if position >= head:
            self._behind_since = None
            if self._is_behind:
                self._is_behind = False
                self._log_position("caught up", position, head)
        elif not self._is_behind:
            now = self._clock()
            self._behind_since = now if self._behind_since is None else self._behind_since
            if now - self._behind_since >= BEHIND_SECONDS:
                self._is_behind = True
                self._log_position("behind", position, head)

    def stopped(self, error: str) -> None:
        """Log why the projection stopped, unless that was logged already."""
        if error != self._stopped:
            self._stopped = error
            log.error("stopped", projection=self._projection, error=error)

    def paused(self) -> None:
        """Log that somebody paused the projection, unless that was logged already."""
        if self._stopped != _PAUSED:
            self._stopped = _PAUSED
            log.info(_PAUSED, projection=self._projection)

    def terminated_frozen_holder(self) -> None:
        """Log that another session was terminated."""
        log.warning("terminated a frozen session that held the checkpoint", projection=self._projection)

    def _log_position(self, event: str, position: int, head: int) -> None:
        log.info(event, projection=self._projection, position=position, behind=head - position)
