"""Retries a migration while another session holds a lock that it needs, and reports who holds it.

The invariants are those of :mod:`eventstore.postgres.lock_retry`. This one is not asynchronous, because Alembic isn't.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import psycopg
from sqlalchemy.exc import DBAPIError

from projections.errors import MigrationBlocked

T = TypeVar("T")

_LOCK_CONFLICTS = ("55P03", "40P01")
"""SQLSTATEs of a lock that was not acquired within ``lock_timeout``, and of a deadlock."""


def _report_nothing(_: str) -> None:
    pass


class LockPatience(NamedTuple):
    """How long a migration waits for locks, in seconds.

    ``lock`` is for one attempt and for the pause after it; ``report_every`` is between sentences to ``report``;
    ``give_up_after`` is for all attempts together, None for never.
    """

    lock: float
    report_every: float = 10.0
    give_up_after: float | None = None
    report: Callable[[str], None] = _report_nothing


def retry_migration_on_lock(attempt: Callable[[], T], patience: LockPatience, describe_holders: Callable[[], str]) -> T:
    """Run an attempt again until no lock stops it, with a pause after each.

    Args:
        attempt: sets its ``lock_timeout`` itself.
        patience: how long to go on, and how often to report.
        describe_holders: returns who holds the lock, for messages.

    Raises:
        MigrationBlocked: not within ``give_up_after``; the message names a holder.
        Exception: whatever the attempt raises, other than that a lock is held.

    """
    began = reported_at = time.monotonic()
    while True:
        try:
            return attempt()
        except Exception as error:
            if _sqlstate(error) not in _LOCK_CONFLICTS:
                raise
            now = time.monotonic()
            if patience.give_up_after is not None and now - began >= patience.give_up_after:
                raise MigrationBlocked(f"gave up after {now - began:.0f} s: {describe_holders()}") from error
        if now - reported_at >= patience.report_every:
            reported_at = now
            patience.report(f"{describe_holders()}; waiting for {now - began:.0f} s, still trying")
        time.sleep(patience.lock)


def _sqlstate(error: BaseException | None) -> str | None:
    """Return the SQLSTATE behind an error, whatever it is wrapped in."""
    while error is not None:
        if isinstance(error, DBAPIError):
            error = error.orig
        if isinstance(error, psycopg.Error):
            return error.sqlstate
        error = error.__cause__ if error is not None else None
    return None
