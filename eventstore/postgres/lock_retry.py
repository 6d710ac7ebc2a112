"""Retries work while another session holds a lock that it needs.

Invariants. An attempt is one transaction: it gets all its locks and commits, or it leaves nothing. While it waits for a
lock, every session that wants the same table queues behind it. So ``lock_timeout`` ends the wait soon, the attempt lets
go of everything, and a later attempt starts again.

The append lock has its own retry, because its holder may be frozen: see :mod:`eventstore.appending.append_lock`.
Migrations have their own too, because they can't be asynchronous and report who holds the lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from psycopg import errors

T = TypeVar("T")


async def retry_on_lock(attempt: Callable[[], Awaitable[T]], *, before_retry: Callable[[], Awaitable[None]]) -> T:
    """Run an attempt again until no lock stops it; ``lock_timeout`` of its session is the pause between attempts.

    Raises:
        Exception: whatever the attempt or ``before_retry`` raises, other than that a lock is held.

    """
    while True:
        try:
            return await attempt()
        except errors.LockNotAvailable:
            pass
        await before_retry()
