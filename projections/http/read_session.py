"""A read-only session with timeouts, which opens itself again after a failure.

Invariants. At most one query runs at a time, so it is one session however many requests wait for it. A query that takes
too long is cancelled by the server; one that the server doesn't answer is given up. After any failure the connection is
closed, and the next use opens a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection

from eventstore.postgres.connection import connect
from eventstore.postgres.session_lock import session_name
from eventstore.postgres.session_settings import SEARCHING, milliseconds
from eventstore.waits import Waits

STATEMENT_SECONDS = 5.0
"""How long one statement may run."""
ANSWER_SECONDS = 8.0
"""How long one use of the session may take, with a new connection."""


class ReadSession:
    """One read-only session.

    Args:
        url: the database.
        waits: the timeouts of connections.
        name: what it is for, in the session's application_name.

    """

    def __init__(self, url: str, waits: Waits, name: str) -> None:
        self._url = url
        self._waits = waits
        self._name = name
        self._lock = asyncio.Lock()
        self._conn: AsyncConnection[Any] | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Yield the connection, in autocommit, once nobody else uses it.

        Raises:
            psycopg.Error, OSError: the database failed, or the connection.
            TimeoutError: the database did not answer in time.

        """
        async with self._lock:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    if self._conn is None:
                        self._conn = await self._open()
                    yield self._conn
            except BaseException:
                await self._close()
                raise

    async def close(self) -> None:
        """Close the connection."""
        async with self._lock:
            await self._close()

    async def _open(self) -> AsyncConnection[Any]:
        settings = {
            **SEARCHING,
            "default_transaction_read_only": "on",
            "statement_timeout": milliseconds(STATEMENT_SECONDS),
            "lock_timeout": milliseconds(STATEMENT_SECONDS),
        }
        name = session_name(f"http {self._name}")
        return await connect(self._url, name=name, waits=self._waits, settings=settings)

    async def _close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with suppress(psycopg.Error, OSError):
                await conn.close()
