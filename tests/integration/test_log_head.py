"""Programs see the head of the log, and wait until it reaches a position."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from eventstore.appending.notify_channel import CHANNEL
from eventstore.consuming import log_head
from eventstore.consuming.log_head import head, wait_for
from eventstore.errors import UsageError
from eventstore.postgres.connection import connect
from tests import store
from tests.store import new_events

NEVER = 600.0
"""A poll interval with which only a notification ends the wait in time."""


async def wait_until_listening(conn: AsyncConnection) -> None:
    async def listens() -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waiting' AND state = 'idle'"
        return bool(
            await store.value(conn, query + " AND query LIKE '%%coalesce(max(position)%%' AND backend_xid IS NULL")
        )

    await store.wait_until(listens, "a session that waits")


async def test_waiting_for_a_position(database_url: str, conn: AsyncConnection, appender: Appender) -> None:
    async with await connect(database_url, name="waiting", waits=store.QUICK) as waiter:
        assert await head(waiter) == 0
        assert await wait_for(waiter, 0) == 0
        waiting = asyncio.create_task(wait_for(waiter, 5, poll=NEVER))
        await wait_until_listening(conn)
        await appender.append(new_events(3))
        await asyncio.sleep(0)
        assert not waiting.done()
        await appender.append(new_events(3))
        assert await waiting == 6
        assert await wait_for(waiter, 2) == await head(waiter) == 6
        # It listens no longer.
        await conn.execute(b"NOTIFY " + CHANNEL.encode())
        assert [one async for one in waiter.notifies(timeout=0.01)] == []


async def test_without_notifications_it_polls(
    database_url: str, conn: AsyncConnection, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_standby(_: AsyncConnection) -> bool:
        return False

    monkeypatch.setattr(log_head, "start_listening", is_standby)
    async with await connect(database_url, name="waiting", waits=store.QUICK) as waiter:
        waiting = asyncio.create_task(wait_for(waiter, 1, poll=0.01))
        await wait_until_listening(conn)
        await appender.append(new_events(1))
        assert await waiting == 1


async def test_a_wait_can_be_cancelled_and_the_connection_used_again(database_url: str, conn: AsyncConnection) -> None:
    async with await connect(database_url, name="waiting", waits=store.QUICK) as waiter:
        waiting = asyncio.create_task(wait_for(waiter, 1, poll=NEVER))
        await wait_until_listening(conn)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert await head(waiter) == 0


async def test_a_lost_connection_is_an_error(database_url: str, conn: AsyncConnection) -> None:
    async with await connect(database_url, name="waiting", waits=store.QUICK) as waiter:
        waiting = asyncio.create_task(wait_for(waiter, 1, poll=NEVER))
        await wait_until_listening(conn)
        await conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'waiting'")
        with pytest.raises(psycopg.OperationalError):
            await waiting


async def test_it_needs_autocommit(database_url: str) -> None:
    async with await connect(database_url, autocommit=False) as waiter:
        with pytest.raises(UsageError, match="in autocommit, as connect"):
            await wait_for(waiter, 1)
    async with await connect(database_url) as waiter:
        with pytest.raises(UsageError, match="poll must be more than 0 seconds"):
            await wait_for(waiter, 1, poll=0)
