"""What every part does while the database is unavailable: retry with back-off, and report it without flooding the log.

An outage begins with the first failure and ends with the first success. Its beginning is reported once, then again
about once a minute while it lasts, and its end once. :func:`retry_while_unavailable` is the loop around it. Some
callers have a loop of their own, because they do more between two attempts: they stop early, give up, or note what may
have been committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Protocol, TypeVar

import psycopg

from eventstore.backoff import Backoff
from eventstore.errors import describe

T = TypeVar("T")

FIRST_RETRY_SECONDS = 0.1
REPEAT_SECONDS = 60.0
"""Seconds between two reports of the same outage."""
READ_ONLY = "25006"
"""The SQLSTATE of a server that takes no writes, as a standby that is not yet promoted."""


class Report:
    """How an outage is reported; this one reports nothing."""

    def began(self, what: str, error: str, retry_in: float) -> None:
        """Report the first failure.

        Args:
            what: what is wrong with the database, in a few words.
            error: the error in one line.
            retry_in: seconds until the next attempt.

        """

    def failed_again(self, what: str, error: str, retry_in: float, seconds: float, *, is_due: bool) -> None:
        """Report one more failure.

        Args:
            what: as above.
            error: as above.
            retry_in: as above.
            seconds: how long the outage has lasted.
            is_due: whether the last report is long ago.

        """

    def ended(self, seconds: float) -> None:
        """Report that the database is available again.

        Args:
            seconds: how long the outage lasted.

        """


class Logger(Protocol):
    """What is needed of a structlog logger."""

    def debug(self, event: str, **fields: Any) -> Any: ...  # noqa: ANN401, D102 - as structlog has them
    def info(self, event: str, **fields: Any) -> Any: ...  # noqa: ANN401, D102 - as structlog has them
    def warning(self, event: str, **fields: Any) -> Any: ...  # noqa: ANN401, D102 - as structlog has them


class LogReport(Report):
    """Reports an outage in the log: warnings, and each attempt between them at debug level.

    Args:
        log: the logger of the module that retries.
        fields: what every line carries, such as the app or the projection.

    """

    def __init__(self, log: Logger, **fields: str) -> None:
        self._log = log
        self._fields = fields

    def began(self, what: str, error: str, retry_in: float) -> None:
        """Log a warning."""
        self._log.warning(what, **self._fields, error=error, retry_in=round(retry_in, 2))

    def failed_again(self, what: str, error: str, retry_in: float, seconds: float, *, is_due: bool) -> None:
        """Log a warning if one is due."""
        write = self._log.warning if is_due else self._log.debug
        write(what, **self._fields, error=error, retry_in=round(retry_in, 2), since_seconds=round(seconds))

    def ended(self, seconds: float) -> None:
        """Log that the database is available again."""
        self._log.info("database available again", **self._fields, after_seconds=round(seconds, 1))


class Outage:
    """The outages that one part of the program meets.

    Args:
        report: how they are reported.
        cap: the longest back-off, in seconds.
        repeat_after: seconds between two reports of the same outage.
        clock: seconds that only rise.

    """

    def __init__(
        self,
        report: Report,
        *,
        cap: float,
        repeat_after: float = REPEAT_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._report = report
        self._backoff = Backoff(FIRST_RETRY_SECONDS, cap)
        self._repeat_after = repeat_after
        self._clock = clock
        self._began: float | None = None
        self._reported_at = 0.0

    @property
    def is_ongoing(self) -> bool:
        """Whether the last attempt failed."""
        return self._began is not None

    def failed(self, error: BaseException | str) -> float:
        """Report a failed attempt; return the seconds to wait before the next one."""
        retry_in = self._backoff.next()
        what = "database takes no writes" if _is_read_only(error) else "database unavailable"
        why = error if isinstance(error, str) else describe(error)
        now = self._clock()
        if self._began is None:
            self._began = self._reported_at = now
            self._report.began(what, why, retry_in)
            return retry_in
        is_due = now - self._reported_at >= self._repeat_after
        if is_due:
            self._reported_at = now
        self._report.failed_again(what, why, retry_in, now - self._began, is_due=is_due)
        return retry_in

    def ended(self) -> None:
        """Report that the database is available, if it was not; the next back-off begins at its shortest."""
        self._backoff.reset()
        if self._began is not None:
            self._report.ended(self._clock() - self._began)
            self._began = None


async def retry_while_unavailable(
    outage: Outage, attempt: Callable[[], Awaitable[T]], errors: tuple[type[Exception], ...]
) -> T:
    """Repeat an attempt until it succeeds, with back-off; cancelling ends it immediately.

    Args:
        outage: reports the failures. An attempt that goes on for long calls :meth:`Outage.ended` at its first success.
        attempt: opens a connection and works on it.
        errors: the errors after which the attempt is repeated; all others are raised.

    """
    while True:
        try:
            result = await attempt()
        except errors as error:
            await asyncio.sleep(outage.failed(error))
        else:
            outage.ended()
            return result


def _is_read_only(error: BaseException | str) -> bool:
    return isinstance(error, psycopg.Error) and error.sqlstate == READ_ONLY
