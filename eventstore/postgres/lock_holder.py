"""Tries to acquire a lock, finds the session that holds it, and terminates one that is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from psycopg import AsyncConnection, sql

from eventstore.locks import TRY_SHARED_SESSION_LOCK, TRY_SHARED_TRANSACTION_LOCK
from eventstore.postgres.queries import fetch_all, fetch_row, fetch_value

ATTEMPTS = 10
"""How often a lock is tried that is not acquired although no session holds it."""

HELD_LOCK = sql.SQL(
    "{lock}.locktype = 'advisory' AND {lock}.granted AND {lock}.objsubid = 1"
    " AND {lock}.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
    " AND {lock}.classid = (({key} >> 32) & 4294967295)::oid AND {lock}.objid = ({key} & 4294967295)::oid"
)
"""The condition that a row ``lock`` of ``pg_locks`` is an advisory lock of number ``key`` in this database, held."""


class Holder(NamedTuple):
    """The transaction that holds a lock.

    ``backend_start`` and ``xact_start`` are None when this role may not see them.
    """

    pid: int
    backend_start: datetime | None
    xact_start: datetime | None
    application_name: str | None

    @property
    def name(self) -> str:
        """The session's name, or its process if it has none."""
        return self.application_name or f"backend {self.pid}"


_HOLDER = sql.SQL(
    "SELECT l.pid, a.backend_start, a.xact_start, a.application_name"
    " FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid WHERE {is_held}"
).format(is_held=HELD_LOCK.format(lock=sql.Identifier("l"), key=sql.SQL("%(key)s::bigint")))


async def find_holder(conn: AsyncConnection, key: int) -> Holder | None:
    """Return who holds the advisory lock of this number in this database; None if nobody does."""
    row = await fetch_row(conn, _HOLDER, {"key": key})
    return Holder(*row) if row else None


async def find_holder_name(conn: AsyncConnection, key: int) -> str | None:
    """Return the name of the session that holds the advisory lock of this number; None if nobody does."""
    holder = await find_holder(conn, key)
    return holder.name if holder is not None else None


_SHARING = frozenset({TRY_SHARED_SESSION_LOCK, TRY_SHARED_TRANSACTION_LOCK})
_OTHER_HOLDER = sql.SQL(
    "{} AND l.pid <> pg_catalog.pg_backend_pid() AND (l.mode = 'ExclusiveLock' OR NOT %(is_shared)s)"
).format(_HOLDER)


async def try_lock(conn: AsyncConnection, statement: str, key: int) -> str | None:
    """Acquire an advisory lock without waiting.

    Args:
        conn: the connection that will hold it.
        statement: one of the ``TRY_`` statements of :mod:`eventstore.locks`.
        key: the lock's number.

    Returns:
        None if the lock is acquired, otherwise the name of a session that holds it.

    """
    for _ in range(ATTEMPTS):
        if await fetch_value(conn, statement, [key]):
            return None
        row = await fetch_row(conn, _OTHER_HOLDER, {"key": key, "is_shared": statement in _SHARING})
        # A holder that ended after the attempt is no reason to give up or to wait, and has no name any more.
        if row is not None and (holder := Holder(*row)).application_name is not None:
            return holder.name
    return "another session"


_HOLDERS = sql.SQL("""
SELECT wanted.name, coalesce(nullif(activity.application_name, ''), 'backend ' || held.pid)
FROM unnest(%s::text[], %s::bigint[]) AS wanted (name, key)
JOIN pg_catalog.pg_locks AS held ON {is_held}
LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
""").format(is_held=HELD_LOCK.format(lock=sql.Identifier("held"), key=sql.Identifier("wanted", "key")))


async def find_holder_names(conn: AsyncConnection, locks: Mapping[str, int]) -> dict[str, str]:
    """Return, in one query, the session that holds each of these advisory locks; those that nobody holds are left out.

    Args:
        conn: a connection.
        locks: the locks' numbers, each under a name by which the answer has its holder.

    """
    return dict(await fetch_all(conn, _HOLDERS, [list(locks), list(locks.values())])) if locks else {}


_CURSOR_HOLDER = (
    "SELECT l.pid, a.backend_start, a.xact_start, a.application_name FROM eventstore.cursors c"
    " JOIN pg_catalog.pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = c.xmax"
    " LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid WHERE c.app = %s"
)


async def find_cursor_holder(conn: AsyncConnection, app: str) -> Holder | None:
    """Return the unfinished transaction that moved an app's cursor, or None.

    It need not hold the append lock: a follower may freeze after it moved the cursor and before it acquired the append
    lock, in the middle of a pipeline, where none of Postgres's timeouts ends it. Only the holder of the app's lock may
    terminate it.
    """
    row = await fetch_row(conn, _CURSOR_HOLDER, [app])
    return Holder(*row) if row else None


async def terminate_holder(conn: AsyncConnection, holder: Holder, older_than: timedelta) -> bool:
    """Terminate the backend of a frozen transaction, if it is still in that transaction and the transaction is older.

    Returns:
        Whether a backend was signalled. A role that may not terminate it gets Postgres's own error.

    """
    return bool(
        await fetch_value(
            conn,
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
            " WHERE pid = %s AND backend_start = %s AND xact_start = %s AND clock_timestamp() - xact_start > %s",
            [holder.pid, holder.backend_start, holder.xact_start, older_than],
        )
    )
