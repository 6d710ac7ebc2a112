"""Logs an app's streams: that they are followed, why they fail, and when they work again; never each attempt.

A failure is logged when it begins. The same failure is logged again after a minute at the earliest, whether it lasted
or came back, and a recovery only after a failure that was logged. In between, attempts are logged at debug level.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import structlog

log = structlog.get_logger(__name__)

REPEAT_SECONDS = 60.0
"""Seconds between two warnings of the same failure."""
WARN_AGAIN_SECONDS = 3600.0
"""Seconds between two warnings that a stream is silent, or that the clock is wrong."""
DIFFERENT_FAILURES = 5
"""So many different failures are logged within :data:`REPEAT_SECONDS`: a text that always differs is no new state."""


class StreamLog:
    """The log lines about one app's streams.

    Args:
        app: the app.
        address: the upstream's URL.
        clock: seconds that only rise.

    """

    def __init__(self, app: str, address: str, clock: Callable[[], float] = monotonic) -> None:
        self._app = app
        self._address = address
        self._clock = clock
        self._failures: dict[str, float] = {}
        self._warnings: dict[str, float] = {}
        self._is_following = False

    def works(self, contract: str) -> None:
        """Log that the app is followed, unless that is the state already."""
        if not self._is_following:
            self._is_following = True
            log.info("following", app=self._app, address=self._address, contract=contract)

    def failed(self, error: str, retry_in: float) -> None:
        """Log why a stream failed."""
        now = self._clock()
        self._failures = {known: at for known, at in self._failures.items() if now - at < REPEAT_SECONDS}
        is_new = error not in self._failures and len(self._failures) < DIFFERENT_FAILURES
        if is_new:
            self._failures[error] = now
            self._is_following = False
        write = log.warning if is_new else log.debug
        write("the stream failed", app=self._app, error=error, retry_in=round(retry_in, 2))

    def silent(self, seconds: float) -> None:
        """Log that a stream brings nothing."""
        self._warn("the stream is silent", address=self._address, seconds=seconds)

    def clock_behind(self) -> None:
        """Log that this machine's clock is wrong."""
        self._warn("this machine's clock is behind the upstream's: set it", app=self._app)

    def _warn(self, event: str, **fields: object) -> None:
        now = self._clock()
        if now - self._warnings.get(event, float("-inf")) >= WARN_AGAIN_SECONDS:
            self._warnings[event] = now
            log.warning(event, **fields)
