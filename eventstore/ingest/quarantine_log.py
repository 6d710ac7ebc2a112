"""Logs quarantined messages: the first ones at once, then one line a minute with their number."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

import structlog

from eventstore.appending.append import Appended
from eventstore.appending.quarantine import Rejected

log = structlog.get_logger(__name__)

EVERY_SECONDS = 60.0


class QuarantineLog:
    """Writes the log lines about one app's quarantine."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._messages = 0
        self._reasons: set[str] = set()
        self._next = monotonic()
        self._limit_logged = False

    def report(self, result: Appended, rejected: Iterable[Rejected]) -> None:
        """Log a batch, or add it to the next line."""
        if not result.quarantined:
            return
        self._messages += result.quarantined
        self._reasons.update(item.reason for item in rejected)
        if monotonic() >= self._next:
            self.flush()
        if result.not_kept and not self._limit_logged:
            self._limit_logged = True
            what = "further messages are counted, and a sample of them is kept"
            log.warning("quarantine limit reached", app=self._app, what=what, see="projections status")

    def flush(self) -> None:
        """Log the messages that are not logged yet."""
        if self._messages:
            reasons, where = sorted(self._reasons), "eventstore.quarantine"
            log.warning("quarantined", app=self._app, messages=self._messages, reasons=reasons, see=where)
            self._messages = 0
            self._reasons.clear()
            self._next = monotonic() + EVERY_SECONDS
