"""Which sessions fold a projection: every worker's session holds a shared advisory lock for the projection.

The lock excludes nobody; it only makes the session visible. ``pg_locks`` shows it to every role, while
``pg_stat_activity`` hides most of another role's session. The worker's process is taken from the session's name. The
time when it was last active is that of its last statement, because a worker at the head polls about once a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.locks import TRY_SHARED_SESSION_LOCK, fold_lock
from eventstore.postgres.lock_holder import HELD_LOCK
from eventstore.postgres.queries import fetch_all
from eventstore.postgres.session_lock import session_name

_WORK = "run"

# A backend that runs a statement is active now; one that waits for the rest of its client's message is not.
_FOLDING_SESSIONS = sql.SQL("""
SELECT wanted.name, held.pid, activity.application_name,
       CASE WHEN activity.state = 'active' AND activity.wait_event IS DISTINCT FROM 'ClientRead'
            THEN clock_timestamp() ELSE activity.state_change END
FROM unnest(%s::text[], %s::bigint[]) AS wanted (name, key)
JOIN pg_catalog.pg_locks AS held ON {is_held}
LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
ORDER BY wanted.name, held.pid
""").format(is_held=HELD_LOCK.format(lock=sql.Identifier("held"), key=sql.Identifier("wanted", "key")))


@dataclass(frozen=True)
class FoldingSession:
    """A worker's session; what this role may not see of it is None.

    Attributes:
        backend: the process id of its backend.
        host: the host of the worker's process.
        pid: the worker's process.
        seen_at: when it was last active.

    """

    backend: int
    host: str | None = None
    pid: int | None = None
    seen_at: datetime | None = None


def folding_session_name(name: str) -> str:
    """Return the application_name of a session that folds a projection."""
    return session_name(f"{_WORK} {name}")


async def announce_folding(conn: AsyncConnection[Any], name: str) -> None:
    """Show to other sessions, until this session ends, that it folds a projection.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    await conn.execute(TRY_SHARED_SESSION_LOCK, [fold_lock(name)])


async def find_folding_sessions(
    conn: AsyncConnection[Any], names: Sequence[str]
) -> dict[str, tuple[FoldingSession, ...]]:
    """Return the sessions that fold each of these projections; a projection without one has no entry.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    found: dict[str, tuple[FoldingSession, ...]] = {}
    rows = await fetch_all(conn, _FOLDING_SESSIONS, [list(names), [fold_lock(name) for name in names]])
    for name, backend, session, seen_at in rows:
        folding = FoldingSession(backend, *_process_of(session), seen_at)
        found[name] = (*found.get(name, ()), folding)
    return found


def _process_of(session: str | None) -> tuple[str | None, int | None]:
    """Return the host and the process id in the name of one of our sessions; None and None for other names."""
    host, separator, pid = (session or "").rpartition(" ")[2].rpartition(":")
    return (host, int(pid)) if separator and pid.isdecimal() else (None, None)
