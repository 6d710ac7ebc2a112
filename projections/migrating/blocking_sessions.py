"""Finds which sessions block a migration, so that its messages can name them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import psycopg
from sqlalchemy import Connection, text

from eventstore.postgres.connection import connect_sync
from eventstore.waits import Waits

LOOK_SECONDS = 0.3
"""How long a migration runs before the first look, and the pause between looks."""
NAME = "projections migrate watch"

_BLOCKING = (
    "SELECT pid, application_name, xact_start FROM pg_catalog.pg_stat_activity"
    " WHERE pid = ANY(pg_catalog.pg_blocking_pids(%s)) ORDER BY xact_start NULLS LAST, pid"
)


class _Session(NamedTuple):
    """A session that blocks the migration; ``since`` is its transaction's start, None if this role may not see it."""

    pid: int
    name: str | None
    since: datetime | None

    def __str__(self) -> str:
        since = f", since {self.since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if self.since else ""
        return f"{self.name or 'a session without a name'} (process {self.pid}{since})"


class BlockingSessions:
    """Remembers which sessions blocked a migration last.

    Args:
        url: the database, for the session that looks.
        waits: timeouts of that session.

    """

    def __init__(self, url: str, waits: Waits) -> None:
        self._url = url
        self._waits = waits
        self._found: list[_Session] = []

    @contextmanager
    def watch(self, connection: Connection) -> Iterator[None]:
        """Look, from another thread, which sessions block a connection while the block runs."""
        pid = connection.execute(text("SELECT pg_catalog.pg_backend_pid()")).scalar_one()
        done = threading.Event()
        thread = threading.Thread(target=self._look, args=(pid, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def describe(self) -> str:
        """Return who holds the lock, as a sentence without its end."""
        if not self._found:
            return "another session holds a lock that the migration needs"
        others = f" and {len(self._found) - 1} more" if len(self._found) > 1 else ""
        return f"a lock that the migration needs is held by {self._found[0]}{others}"

    def _look(self, pid: int, done: threading.Event) -> None:
        if done.wait(LOOK_SECONDS):
            return
        try:
            with connect_sync(self._url, name=NAME, waits=self._waits) as conn:
                conn.autocommit = True
                while not done.is_set():
                    found = [_Session(*row) for row in conn.execute(_BLOCKING, [pid]).fetchall()]
                    self._found = found or self._found
                    done.wait(LOOK_SECONDS)
        except psycopg.Error:  # the message then names nobody
            return
