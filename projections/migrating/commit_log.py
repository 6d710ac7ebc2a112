"""Lines about a migration that are logged once it is committed: until then it may be refused and rolled back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog

log = structlog.get_logger(__name__)


class CommitLog:
    """Keeps lines for the log, in order, until the transaction that they report is committed."""

    def __init__(self) -> None:
        self._lines: list[Callable[[], object]] = []

    def info(self, text: str, **values: str) -> None:
        """Keep a line about something that was done."""
        self._lines.append(partial(log.info, text, **values))

    def warning(self, text: str, **values: str) -> None:
        """Keep a line about something that people have to do."""
        self._lines.append(partial(log.warning, text, **values))

    def forget(self) -> None:
        """Forget the lines of an attempt that was rolled back."""
        self._lines.clear()

    def write(self) -> None:
        """Log the lines: their transaction is committed."""
        for line in self._lines:
            line()
        self._lines.clear()
