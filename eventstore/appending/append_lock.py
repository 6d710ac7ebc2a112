"""The append lock, which makes positions gapless, and how a frozen holder of it is ended.

Invariants. Whoever gives out positions holds the append lock until its transaction ends; it is always the last lock
taken. A process that is frozen in the middle of an append keeps the lock past every timeout of Postgres, so those who
wait end it: when one and the same transaction held the lock for a whole wait, its backend is terminated and what it
wrote is rolled back. A holder that changes is progress, and nobody is ended for it.
"""

from __future__ import annotations

from datetime import timedelta

from psycopg import AsyncConnection, errors

from eventstore.errors import AppendLockBusy
from eventstore.locks import APPEND_LOCK, WAIT_FOR_TRANSACTION_LOCK
from eventstore.postgres.lock_holder import Holder, find_holder


class FrozenHolder(AppendLockBusy):
    """One and the same transaction held the append lock for a whole wait.

    Attributes:
        holder: that transaction.

    """

    def __init__(self, holder: Holder) -> None:
        super().__init__(f"backend {holder.pid} holds the append lock and does not move")
        self.holder = holder


async def wait_for_append_lock(conn: AsyncConnection, wait: timedelta) -> None:
    """Wait for the append lock, inside the caller's transaction.

    Raises:
        FrozenHolder: the same transaction held it all the while; end it with :func:`terminate_holder`.
        AppendLockBusy: others took turns; try again.

    """
    before = await find_holder(conn, APPEND_LOCK)
    milliseconds = max(int(wait / timedelta(milliseconds=1)), 1)
    await conn.execute("SELECT set_config('lock_timeout', %s, true)", [f"{milliseconds}ms"])
    try:
        async with conn.transaction():
            await conn.execute(WAIT_FOR_TRANSACTION_LOCK, [APPEND_LOCK])
    except errors.LockNotAvailable:
        now = await find_holder(conn, APPEND_LOCK)
        if now is not None and now == before:
            raise FrozenHolder(now) from None
        raise AppendLockBusy("other appends took turns at the lock for the whole wait") from None
