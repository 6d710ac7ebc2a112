"""A lock that one process holds for as long as it lives, and that a frozen one loses.

Invariants. It is a session's advisory lock on a connection of its own, which is queried every few seconds and which
Postgres ends when it is not. Whoever loses the connection has lost the lock, and stops its work. What such a process
had under way may still reach the database when it wakes up: its work must be fenced by something that the next holder
changes.
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
from eventstore.postgres.lock_holder import find_holder
from eventstore.postgres.queries import fetch_value
from eventstore.waits import Waits

T = TypeVar("T")

UNLOCK_SECONDS = 5.0
HOST_BYTES = 12
"""Of the host's name, at the least, in a session's name that is cut short."""


class Lock(NamedTuple):
    """A lock to hold: its number, and what it is for, in messages."""

    key: int
    what: str


def session_name(work: str) -> str:
    """Return the application_name of a session that does some work, by which people find the process."""
    host, pid = socket.gethostname(), f":{os.getpid()}"
    begin = f"projections {work} "
    # Postgres cuts a long name at its end, where the process's number is.
    room = MAX_NAME_BYTES - len(begin.encode()) - len(pid)
    if room < min(len(host), HOST_BYTES):
        begin = begin.encode()[: MAX_NAME_BYTES - len(pid) - HOST_BYTES - 4].decode(errors="ignore") + "… "
        room = HOST_BYTES
    return f"{begin}{host[:room]}{pid}"


async def keep_alive(conn: AsyncConnection[Any], waits: Waits, what: str) -> Never:
    """Query the connection that holds a lock, again and again.

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
    """Take a lock at once, and hold it; yields the connection that holds it, for :func:`keep_alive`.

    Args:
        url: the database.
        key: the lock's number.
        name: the session's application_name.
        what: what the lock is for, in messages.
        waits: ``leader_heartbeat`` and ``leader_timeout`` count.

    Raises:
        LockHeld: another session has it; the message names that session.
        psycopg.Error: the database is away.

    """
    conn = await connect(url, name=name, waits=waits, idle_session_timeout=waits.leader_timeout)
    try:
        if not await fetch_value(conn, TRY_SESSION_LOCK, [key]):
            holder = await find_holder(conn, key)
            raise LockHeld(what, (holder.application_name if holder else None) or "another session")
        yield conn
    finally:
        with suppress(psycopg.Error, TimeoutError):
            # Postgres notices a session's end a moment later, and the next one may come at once.
            async with asyncio.timeout(UNLOCK_SECONDS):
                await conn.execute(RELEASE_SESSION_LOCKS)
        with suppress(psycopg.Error):
            await conn.close()


async def run_while_held(conn: AsyncConnection[Any], waits: Waits, what: str, work: Coroutine[Any, Any, T]) -> T:
    """Do some work while the lock is held; losing the lock ends the work.

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
    """Take locks, each at once or not at all, and do some work while all of them are held.

    Args:
        url: the database.
        locks: which; one order for all who take several, or two may keep each other out.
        name: the sessions' application_name.
        waits: as :func:`hold_lock` takes them.
        work: is called once all are held.

    Raises:
        LockHeld: another session has one of them; nothing was begun.
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
