"""The head of the log for programs: where it is now, and waiting until it reaches a position.

Invariants. NOTIFY is only a hint: who waits also polls. The session listens before it reads the head, so an append
between the two is noticed at once. A connection is never replaced here: it belongs to the caller, who gets its error.
"""

from __future__ import annotations

from contextlib import suppress

import psycopg
from psycopg import AsyncConnection, errors, sql

from eventstore.appending.notify_channel import CHANNEL, LISTEN
from eventstore.errors import UsageError
from eventstore.event_reader import read_head

POLL_SECONDS = 1.0
"""Seconds between two looks at the log when no notification comes."""

_STOP_LISTENING = sql.SQL("UNLISTEN {}").format(sql.Identifier(CHANNEL))


async def head(conn: AsyncConnection) -> int:
    """Return the position of the last stored event; 0 while the log is empty. It costs the same on any log.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    return await read_head(conn)


async def wait_for(conn: AsyncConnection, position: int, *, poll: float = POLL_SECONDS) -> int:
    """Wait until the log has an event at a position, and return the head, which is then at or after it.

    It is woken by NOTIFY, and looks every ``poll`` seconds besides. Cancel it, or put it into ``asyncio.timeout``, to
    stop waiting; the connection can be used afterwards. Meanwhile it listens on the connection, which nothing else
    should use.

    Args:
        conn: a connection of :func:`eventstore.connect`, in autocommit.
        position: the position to wait for; ``await head(conn) + 1`` for the next event.
        poll: seconds between two looks at the log when no notification comes, as on a standby, which has none.

    Raises:
        UsageError: the connection is not in autocommit, or ``poll`` is not a positive number.
        psycopg.Error: the database failed, or the connection was lost; connect again and call it again, nothing is
            missed.

    """
    if not conn.autocommit:
        raise UsageError("wait_for needs a connection in autocommit, as connect(url) opens it")
    if not poll > 0:
        raise UsageError(f"poll must be more than 0 seconds, not {poll:g}")
    if (at := await read_head(conn)) >= position:
        return at
    listens = await start_listening(conn)
    try:
        while (at := await read_head(conn)) < position:
            await wait_for_notification(conn, poll)
        return at
    finally:
        if listens:
            with suppress(psycopg.Error):
                await conn.execute(_STOP_LISTENING)


async def start_listening(conn: AsyncConnection) -> bool:
    """Listen for appends; return False on a standby, which can't notify anybody.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    try:
        await conn.execute(LISTEN)
    except errors.ReadOnlySqlTransaction:
        return False
    return True


async def wait_for_notification(conn: AsyncConnection, seconds: float) -> None:
    """Return when events were appended, or after so many seconds.

    Raises:
        psycopg.Error: the connection was lost.

    """
    async for _ in conn.notifies(timeout=seconds, stop_after=1):
        pass
