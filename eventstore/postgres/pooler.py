"""Detects a connection pooler that gives each transaction another session of Postgres.

Session locks, LISTEN, temporary tables and settings belong to a session. In PgBouncer's transaction mode they stay with
the session, which the next client gets. The process that works under a session lock would then no longer hold it.

A pooler sends its clients its own process id, for cancelling. It differs from the one that the session reports, so a
direct connection is recognised with one query.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection

from eventstore.errors import PoolerUnusable
from eventstore.postgres.queries import fetch_value

ATTEMPTS = 3

_PID = "SELECT pg_catalog.pg_backend_pid()"


async def check_session_is_ours(
    conn: AsyncConnection[Any], another: Callable[[], Awaitable[AsyncConnection[Any]]], *, seconds: float
) -> None:
    """Check that a connection keeps its session of Postgres between statements.

    Args:
        conn: the connection, in autocommit.
        another: opens another connection; called only if there is a pooler.
        seconds: how long to wait for a session of the pool.

    Raises:
        PoolerUnusable: it doesn't, or the pooler has no second session.

    """
    first = await _pid(conn)
    if first == conn.info.backend_pid:
        return
    try:
        async with asyncio.timeout(seconds):
            other = await another()
    except (TimeoutError, psycopg.errors.ConnectionTimeout):
        raise PoolerUnusable(
            "the connection pooler in front of the database gives this process a single session: raise its pool size"
            " (in PgBouncer default_pool_size), or connect to Postgres itself"
        ) from None
    async with other:
        for _ in range(ATTEMPTS):
            if await _has_changed(conn, other, first, seconds):
                raise PoolerUnusable(
                    "a connection pooler in front of the database gives each transaction another session, so"
                    " session locks would not work: set pool_mode = session in PgBouncer, or connect to Postgres itself"
                )


async def _has_changed(conn: AsyncConnection[Any], other: AsyncConnection[Any], first: int, seconds: float) -> bool:
    """Return whether a connection changed its session while another client's transaction was open."""
    try:
        # If the session was returned to the pool, this transaction gets it.
        async with asyncio.timeout(seconds), other.transaction():
            await _pid(other)
            return await _pid(conn) != first
    except (TimeoutError, psycopg.Error):
        # No session is left for the first connection, or there are no transactions (statement mode).
        return True


async def _pid(conn: AsyncConnection[Any]) -> int:
    return int(await fetch_value(conn, _PID, prepare=False) or 0)
