"""Runs something on Postgres whose connections are cut before one of its messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg

from tests import store
from tests.fault.proxy import PostgresProxy, target_of, through

_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


async def ended_before_cut(
    url: str, message: int, work: Callable[[str], Awaitable[object]], *expected: type[Exception]
) -> bool:
    """Run work through a connection that is cut before a message; return whether it ended before that.

    Returns when the sessions of the work are gone.

    Args:
        url: the database.
        message: the message, from 1, that is not forwarded, nor any later one.
        work: gets the URL that goes through the connection.
        expected: what it may raise besides errors of the connection.

    """
    async with store.connection(url, "observer") as conn:
        before = await store.value(conn, _OTHERS)
        async with PostgresProxy(*target_of(url), before=lambda number, _: number < message) as proxy:
            with suppress(psycopg.Error, OSError, *expected):
                await work(through(url, proxy.port))
                return True

        async def sessions_ended() -> bool:
            return await store.value(conn, _OTHERS) == before

        await store.wait_until(sessions_ended, "the end of the sessions whose connections were cut")
    return False
