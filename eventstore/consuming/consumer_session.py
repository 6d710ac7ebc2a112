"""The session of a consumer: its connection holds the consumer's lock, reads the log and moves the checkpoint.

Invariants. One process has a consumer; others stand by until it ends. The connection is queried every few seconds, also
while the program works on a batch; if the queries stop because the process is frozen, Postgres ends the session and the
next process takes over. What a process does after it lost the lock is fenced by the epoch of the consumer's row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection

from eventstore.consuming.consumer_row import TakenOver, create_consumer, take_over
from eventstore.consuming.log_head import start_listening
from eventstore.errors import DatabaseError
from eventstore.locks import TRY_SESSION_LOCK, consumer_lock
from eventstore.postgres.connection import connect
from eventstore.postgres.lock_holder import try_lock
from eventstore.postgres.pooler import check_session_is_ours
from eventstore.postgres.session_lock import keep_alive, session_name
from eventstore.postgres.session_settings import SEARCHING
from eventstore.waits import Waits

OnStandby = Callable[[str], Awaitable[bool]]
"""Is called with the name of the session that has the consumer; waits, and returns whether to go on trying."""


class ConsumerSession:
    """A session that has a consumer.

    Attributes:
        conn: its connection, in autocommit.
        listens: whether it is notified of appends.
        taken: the consumer's row as it was taken over.

    """

    def __init__(self, conn: AsyncConnection[Any], taken: TakenOver, waits: Waits, *, listens: bool) -> None:
        self.conn = conn
        self.listens = listens
        self.taken = taken
        self._keeping = asyncio.create_task(keep_alive(conn, waits, "consumer"))

    @property
    def is_lost(self) -> bool:
        """Whether its connection is known to be lost, and with it the lock."""
        return self._keeping.done() or self.conn.closed

    async def close(self) -> None:
        """Release the lock by ending the session."""
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        with suppress(psycopg.Error):
            await self.conn.close()


async def open_session(
    url: str, name: str, waits: Waits, *, start: int | None, is_first: bool, on_standby: OnStandby
) -> ConsumerSession | None:
    """Connect, stand by while another process has the consumer, and take it over.

    Args:
        url: the database.
        name: the consumer.
        waits: ``leader_timeout`` and ``database_connect`` count.
        start: the position after which a new consumer begins; None for the head.
        is_first: whether this process had the consumer before; then it must still exist.
        on_standby: waits between two attempts; if it returns False, nothing is taken over and None is returned.

    Raises:
        CheckpointNotInLog: the log has another event at the checkpoint, or none.
        EventStoreError: the schema, the start or a pooler doesn't fit, or the consumer was dropped meanwhile.
        psycopg.Error: the database is unavailable, or refuses it.

    """

    async def connected() -> AsyncConnection[Any]:
        return await connect(
            url,
            name=session_name(f"consume {name}"),
            waits=waits,
            idle_session_timeout=waits.leader_timeout,
            settings=SEARCHING,
        )

    conn = await connected()
    try:
        if is_first:
            await check_session_is_ours(conn, connected, seconds=waits.database_connect)
            await create_consumer(conn, name, start)
        while (holder := await try_lock(conn, TRY_SESSION_LOCK, consumer_lock(name))) is not None:
            if not await on_standby(holder):
                await conn.close()
                return None
        taken = await _take_over(conn, name)
        return ConsumerSession(conn, taken, waits, listens=await start_listening(conn))
    except BaseException:
        await conn.close()
        raise


async def _take_over(conn: AsyncConnection[Any], name: str) -> TakenOver:
    taken = await take_over(conn, name)
    if taken is None:
        raise DatabaseError(
            f"consumer {name} no longer exists: it was dropped, or the database lost it; a new start of the program"
            " creates it again"
        )
    return taken
