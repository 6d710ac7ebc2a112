"""Takes locks in short attempts, so that nobody queues for long behind a migration that itself waits.

Invariants. An attempt is one transaction: it gets all its locks and commits, or it leaves nothing. While it waits for a
lock, everybody who wants the same table waits behind it; so it waits only briefly, lets go, and comes back later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from eventstore.postgres.connection import connect_sync
from eventstore.postgres.session_settings import LOCK_TIMEOUT, milliseconds
from eventstore.waits import Waits
from projections.errors import MigrationBlocked
from projections.migrating.sqlalchemy_connection import sqlalchemy_connection

T = TypeVar("T")

LOOK_SECONDS = 0.3
NAME = "projections migrate watch"

_RELEASED_LATER = ("55P03", "40P01")
"""SQLSTATEs of a lock that wasn't had in time, and of a deadlock."""

_HOLDERS = (
    "SELECT pid, application_name, xact_start FROM pg_catalog.pg_stat_activity"
    " WHERE pid = ANY(pg_catalog.pg_blocking_pids(%s)) ORDER BY xact_start NULLS LAST, pid"
)


def _say_nothing(_: str) -> None:
    pass


class Patience(NamedTuple):
    """How long to wait for locks, in seconds.

    ``lock`` is for one attempt and for the pause after it; ``say_every`` is between sentences to ``tell``;
    ``give_up_after`` is for all attempts together, None for never.
    """

    lock: float
    say_every: float = 10.0
    give_up_after: float | None = None
    tell: Callable[[str], None] = _say_nothing


class _Holder(NamedTuple):
    """A session that holds what we wait for; ``since`` is when its transaction began, None if we may not see it."""

    pid: int
    name: str | None
    since: datetime | None

    def __str__(self) -> str:
        since = f", since {self.since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if self.since else ""
        return f"{self.name or 'a session without a name'} (process {self.pid}{since})"


def patiently(url: str, work: Callable[[Connection], T], *, waits: Waits, patience: Patience) -> T:
    """Do some work in one transaction, again and again until it gets its locks.

    Raises:
        MigrationBlocked: not within ``give_up_after``; the message names who holds the lock.
        Exception: whatever the work raises.

    """
    began = said_at = time.monotonic()
    holders: list[_Holder] = []
    while True:
        try:
            with sqlalchemy_connection(url) as connection, connection.begin(), _Watch(url, connection, waits) as watch:
                connection.exec_driver_sql(LOCK_TIMEOUT, (milliseconds(max(patience.lock, 0.001)),))
                return work(connection)
        except Exception as error:
            if _sqlstate(error) not in _RELEASED_LATER:
                raise
            holders = watch.holders or holders
            now = time.monotonic()
            if patience.give_up_after is not None and now - began >= patience.give_up_after:
                raise MigrationBlocked(f"gave up after {now - began:.0f} s: {_held_by(holders)}") from error
        if now - said_at >= patience.say_every:
            said_at = now
            patience.tell(f"{_held_by(holders)}; waiting for {now - began:.0f} s, and still trying")
        time.sleep(patience.lock)


def _held_by(holders: list[_Holder]) -> str:
    if not holders:
        return "a lock that the migration needs is held by another session"
    others = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    return f"a lock that the migration needs is held by {holders[0]}{others}"


def _sqlstate(error: BaseException | None) -> str | None:
    """Return the SQLSTATE behind an error, whatever it was wrapped in."""
    while error is not None:
        if isinstance(error, DBAPIError):
            error = error.orig
        if isinstance(error, psycopg.Error):
            return error.sqlstate
        error = error.__cause__ if error is not None else None
    return None


class _Watch:
    """Looks, while a block runs for longer than a moment, who holds what its connection waits for."""

    def __init__(self, url: str, connection: Connection, waits: Waits) -> None:
        self.holders: list[_Holder] = []
        self._url = url
        self._waits = waits
        self._pid = connection.execute(text("SELECT pg_catalog.pg_backend_pid()")).scalar_one()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        if self._done.wait(LOOK_SECONDS):
            return
        try:
            with connect_sync(self._url, name=NAME, waits=self._waits) as conn:
                conn.autocommit = True
                while not self._done.is_set():
                    found = [_Holder(*row) for row in conn.execute(_HOLDERS, [self._pid]).fetchall()]
                    self.holders = found or self.holders
                    self._done.wait(LOOK_SECONDS)
        except psycopg.Error:  # then the sentence names nobody
            return
