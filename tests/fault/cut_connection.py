"""Runs something on Postgres whose connections are cut before one of its messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg

from tests.fault.proxy import PostgresProxy, target_of, through


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
    has_ended = False
    async with PostgresProxy(*target_of(url), before=lambda number, _: number < message) as proxy:
        with suppress(psycopg.Error, OSError, *expected):
            await work(through(url, proxy.port))
            has_ended = True
        await proxy.wait_for_disconnect()
    return has_ended
