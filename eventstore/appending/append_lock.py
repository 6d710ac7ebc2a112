"""The append lock, which makes positions gapless, and how a frozen holder of it is ended.

Invariants. Whoever gives out positions holds the append lock until its transaction ends; it is always the last lock
taken. A process that is frozen in the middle of an append keeps the lock past every timeout of Postgres, so those who
wait end it: when one and the same transaction held the lock for a whole wait, its backend is terminated and what it
wrote is rolled back. A holder that changes is progress, and nobody is ended for it.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import NamedTuple

from psycopg import AsyncConnection, errors, sql

from eventstore.errors import AppendLockBusy
from eventstore.postgres.queries import fetch_row, fetch_value


def lock_key(name: str) -> int:
    """Return the advisory lock's number for a name: 64 bits, signed, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"projections:{name}".encode()).digest()[:8], "big", signed=True)


APPEND_LOCK = lock_key("append")


IMPORT_LOCK = lock_key("import")
"""Followers share it; who puts events behind the head, at positions that they had, has it alone."""


def app_lock(app: str) -> int:
    """Return the number of the lock that the one follower of an app holds."""
    return lock_key(f"app:{app}")


class Holder(NamedTuple):
    """The transaction that holds a lock.

    ``backend_start`` and ``xact_start`` are None when this role may not see them.
    """

    pid: int
    backend_start: datetime | None
    xact_start: datetime | None
    application_name: str | None


_HOLDER = sql.SQL(
    "SELECT l.pid, a.backend_start, a.xact_start, a.application_name"
    " FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"
    " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
    " AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
    " AND l.classid = ((%(key)s::bigint >> 32) & 4294967295)::oid AND l.objid = (%(key)s::bigint & 4294967295)::oid"
)


async def holder_of(conn: AsyncConnection, key: int) -> Holder | None:
    """Return who holds an advisory lock of this database, or None."""
    row = await fetch_row(conn, _HOLDER, {"key": key})
    return Holder(*row) if row else None


_CURSOR_HOLDER = (
    "SELECT l.pid, a.backend_start, a.xact_start, a.application_name FROM eventstore.cursors c"
    " JOIN pg_catalog.pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = c.xmax"
    " LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid WHERE c.app = %s"
)


async def holder_of_cursor(conn: AsyncConnection, app: str) -> Holder | None:
    """Return whose unfinished transaction moved an app's cursor, or None.

    It need not hold the append lock: a follower may freeze after the one and before the other, in the middle of a
    pipeline, where none of Postgres's timeouts ends it. Only the holder of the app's lock may end it.
    """
    row = await fetch_row(conn, _CURSOR_HOLDER, [app])
    return Holder(*row) if row else None


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
        FrozenHolder: the same transaction held it all the while; end it with :func:`end_holder`.
        AppendLockBusy: others took turns; try again.

    """
    before = await holder_of(conn, APPEND_LOCK)
    milliseconds = max(int(wait / timedelta(milliseconds=1)), 1)
    await conn.execute("SELECT set_config('lock_timeout', %s, true)", [f"{milliseconds}ms"])
    try:
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock(%s)", [APPEND_LOCK])
    except errors.LockNotAvailable:
        now = await holder_of(conn, APPEND_LOCK)
        if now is not None and now == before:
            raise FrozenHolder(now) from None
        raise AppendLockBusy("other appends took turns at the lock for the whole wait") from None


async def end_holder(conn: AsyncConnection, holder: Holder, older_than: timedelta) -> bool:
    """End the backend of a frozen transaction, if it is still the same one and older than that.

    Returns whether a backend was told to end. A role that may not end the backend gets Postgres's own error.
    """
    return bool(
        await fetch_value(
            conn,
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
            " WHERE pid = %s AND backend_start = %s AND xact_start = %s AND clock_timestamp() - xact_start > %s",
            [holder.pid, holder.backend_start, holder.xact_start, older_than],
        )
    )
