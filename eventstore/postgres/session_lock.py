"""Session locks: a process holds one for as long as it lives, and loses it when it freezes.

Invariants. The lock is a session's advisory lock on its own connection. The holder queries the connection every few
seconds; if it doesn't, Postgres ends the session. A process that loses the connection has lost the lock and stops its
work. When a frozen process wakes up, statements that it had already sent may still reach the database. So the work must
be fenced: it must fail once the next holder has changed something, such as an epoch.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NamedTuple, Never, TypeVar

import psycopg
from psycopg import AsyncConnection

from eventstore.errors import LockHeld, LockLost
from eventstore.locks import RELEASE_SESSION_LOCKS, TRY_SESSION_LOCK
from eventstore.postgres.connection import MAX_NAME_BYTES, connect
from eventstore.postgres.lock_holder import try_lock
from eventstore.waits import Waits

T = TypeVar("T")

UNLOCK_SECONDS = 5.0
HOST_BYTES = 12
"""How much of the host's name is kept when a session's name is too long."""


class Lock(NamedTuple):
    """A lock: its number, and what it is for, in messages."""

    key: int
    what: str


def session_name(work: str) -> str:
    """Return the application_name for a session that does some work; people find the process by it."""
    host, pid = socket.gethostname(), f":{os.getpid()}"
    begin = f"projections {work} "
    # Postgres cuts a long name at its end, where the process's number is.
    room = MAX_NAME_BYTES - len(begin.encode()) - len(pid)
    if room < min(len(host), HOST_BYTES):
        begin = begin.encode()[: MAX_NAME_BYTES - len(pid) - HOST_BYTES - 4].decode(errors="ignore") + "… "
        room = HOST_BYTES
    return f"{begin}{host[:room]}{pid}"


def is_session_of(name: str | None, *works: str) -> bool:
    """Return whether a session's name is one that :func:`session_name` gives for any of these works."""
    return name is not None and name.startswith(tuple(f"projections {work} " for work in works))


async def keep_alive(conn: AsyncConnection[Any], waits: Waits, what: str) -> Never:
    """Query the connection that holds a lock, every ``waits.leader_heartbeat`` seconds.

    Raises:
        LockLost: it did not answer.

    """
    while True:
        await asyncio.sleep(waits.leader_heartbeat)
        try:
            async with asyncio.timeout(waits.leader_timeout):
                await conn.execute("SELECT 1")
        except (psycopg.Error, TimeoutError) as error:
            raise LockLost(what) from error


@asynccontextmanager
async def hold_lock(url: str, key: int, *, name: str, what: str, waits: Waits) -> AsyncIterator[AsyncConnection[Any]]:
    """Acquire a lock without waiting, and hold it; yields its connection, for :func:`keep_alive`.

    Args:
        url: the database.
        key: the lock's number.
        name: the session's application_name.
        what: what the lock is for, in messages.
        waits: ``leader_heartbeat`` and ``leader_timeout`` count.

    Raises:
        LockHeld: another session holds it; the message names that session.
        psycopg.Error: the database is unavailable.

    """
    conn = await connect(url, name=name, waits=waits, idle_session_timeout=waits.leader_timeout, values_in_text=True)
    try:
        if (holder := await try_lock(conn, TRY_SESSION_LOCK, key)) is not None:
            raise LockHeld(what, holder)
        yield conn
    finally:
        with suppress(psycopg.Error, TimeoutError):
            # Postgres notices the end of a session a moment later, and the next process may try immediately.
            async with asyncio.timeout(UNLOCK_SECONDS):
                await conn.execute(RELEASE_SESSION_LOCKS)
        with suppress(psycopg.Error):
            await conn.close()


async def run_while_held(conn: AsyncConnection[Any], waits: Waits, what: str, work: Coroutine[Any, Any, T]) -> T:
    """Do some work while the lock is held; if the lock is lost, the work is cancelled.

    Raises:
        LockLost: the lock's connection did not answer; the work was cancelled.
        Exception: whatever the work raises.

    """
    working = asyncio.create_task(work)
    keeping = asyncio.create_task(keep_alive(conn, waits, what))
    try:
        done, _ = await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
        if working in done:
            return working.result()
        keeping.result()
        raise LockLost(what)
    finally:
        working.cancel()
        keeping.cancel()
        await asyncio.gather(working, keeping, return_exceptions=True)


async def run_under_locks(
    url: str, locks: Sequence[Lock], *, name: str, waits: Waits, work: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    """Acquire locks without waiting, and do some work while all of them are held.

    Args:
        url: the database.
        locks: in the order of :mod:`eventstore.locks`.
        name: the sessions' application_name.
        waits: as for :func:`hold_lock`.
        work: is called once all locks are held.

    Raises:
        LockHeld: another session holds one of them; the work was not started.
        LockLost: the connection of one did not answer; the work was cancelled.
        Exception: whatever the work raises.

    """
    async with AsyncExitStack() as stack:
        conns = [
            await stack.enter_async_context(hold_lock(url, lock.key, name=name, what=lock.what, waits=waits))
            for lock in locks
        ]
        job = work()
        for conn, lock in zip(conns, locks, strict=True):
            job = run_while_held(conn, waits, lock.what, job)
        return await job
