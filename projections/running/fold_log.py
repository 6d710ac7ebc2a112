"""What a worker logs while it folds: progress while it is behind, that it caught up, and each new error once.

At the head it logs nothing: that is the normal state.
"""

from __future__ import annotations

from time import monotonic

import structlog

log = structlog.get_logger(__name__)

PROGRESS_SECONDS = 10.0
"""Seconds between two progress lines of one projection."""


class FoldLog:
    """The log lines of one projection.

    Args:
        projection: its name.

    """

    def __init__(self, projection: str) -> None:
        self._projection = projection
        self._progress_at = monotonic()
        self._was_behind = False
        self._error: str | None = None

    def began(self, position: int, head: int) -> None:
        """Log where this worker begins."""
        self._progress("folding", position, head)

    def folded(self, position: int, head: int) -> None:
        """Log progress, if the last line is long ago, or that the worker caught up."""
        self._error = None
        if position < head and monotonic() - self._progress_at >= PROGRESS_SECONDS:
            self._progress("folding", position, head)
        elif position == head and self._was_behind:
            self._progress("caught up", position, head)

    def stopped(self, error: str) -> None:
        """Log why the projection stopped, unless that was logged already."""
        if error != self._error:
            log.error("stopped", projection=self._projection, error=error)
            self._error = error

    def terminated_frozen_holder(self) -> None:
        """Log that another session was terminated."""
        log.warning("terminated a frozen session that held the checkpoint", projection=self._projection)

    def _progress(self, event: str, position: int, head: int) -> None:
        self._progress_at, self._was_behind = monotonic(), head > position
        log.info(event, projection=self._projection, position=position, behind=head - position)
