"""One process follows an app: the lock that says which, and what happens when it is lost.

Invariants. The lock is a session's advisory lock, held on a connection that is queried every few seconds and that
Postgres ends when it is not: a frozen process loses its app. Each new holder raises the app's epoch, and a cursor
moves only under the holder's own epoch: a process that wakes up late can't move it back. Nobody follows any app while
an import gives out positions that events had elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import psycopg
import structlog
from psycopg import AsyncConnection, errors

from eventstore.connection import connect
from eventstore.errors import LeadershipLost, LockLost
from eventstore.locks import IMPORT_LOCK, app_lock, end_holder, holder_of, holder_of_cursor
from eventstore.session_lock import keep, session_name
from eventstore.waits import Waits

log = structlog.get_logger(__name__)

_RAISE_EPOCH = (
    "INSERT INTO eventstore.cursors AS c (app, epoch) VALUES (%s, 1)"
    " ON CONFLICT (app) DO UPDATE SET epoch = c.epoch + 1 RETURNING epoch"
)


class Lease:
    """The right to follow an app, as long as its connection lives.

    Attributes:
        app: the app.
        epoch: this holder's epoch.
        conn: the connection that holds the lock; short statements about the app may run on it.

    """

    def __init__(self, app: str, epoch: int, conn: AsyncConnection, waits: Waits) -> None:
        self.app = app
        self.epoch = epoch
        self.conn = conn
        self._waits = waits

    async def keep(self) -> None:
        """Query the connection again and again.

        Raises:
            LeadershipLost: it did not answer.

        """
        try:
            await keep(self.conn, self._waits, f"app {self.app!r}")
        except LockLost as error:
            raise LeadershipLost(self.app, "the connection that holds it is gone") from error


@asynccontextmanager
async def lease(
    url: str, app: str, waits: Waits, standing_by: Callable[[], None] = lambda: None
) -> AsyncIterator[Lease]:
    """Stand by until no other process follows the app, nor imports, then hold it.

    ``standing_by`` is called when another process is seen to.

    Raises:
        psycopg.Error: the database is away.

    """
    conn = await connect(
        url, name=session_name(f"ingest {app}"), waits=waits, idle_session_timeout=waits.leader_timeout
    )
    try:
        await _acquire(conn, app, waits, standing_by)
        yield Lease(app, await raise_epoch(conn, app, waits), conn, waits)
    finally:
        with suppress(psycopg.Error):
            await conn.close()


async def _acquire(conn: AsyncConnection, app: str, waits: Waits, standing_by: Callable[[], None]) -> None:
    told: str | None = None
    wanted = [
        ("SELECT pg_try_advisory_lock_shared(%s)", IMPORT_LOCK),
        ("SELECT pg_try_advisory_lock(%s)", app_lock(app)),
    ]
    while True:
        statement, key = wanted[0]
        row = await (await conn.execute(statement, [key])).fetchone()
        if row and row[0]:
            del wanted[0]
            if not wanted:
                return
            continue
        standing_by()
        holder = await holder_of(conn, key)
        name = (holder.application_name if holder else None) or "another session"
        if name != told:
            log.info("standing by", app=app, holder=name)
            told = name
        await asyncio.sleep(min(waits.standby, waits.leader_timeout / 3))


async def raise_epoch(conn: AsyncConnection, app: str, waits: Waits) -> int:
    """Take an app's cursor from whoever moved it before; only the holder of the app's lock may.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    wait = timedelta(seconds=waits.append_lock)
    await conn.execute("SELECT set_config('lock_timeout', %s, false)", [f"{int(waits.append_lock * 1000)}ms"])
    while True:
        try:
            row = await (await conn.execute(_RAISE_EPOCH, [app])).fetchone()
        except errors.LockNotAvailable:
            # A follower before us froze in the middle of an append, after it had moved the cursor.
            holder = await holder_of_cursor(conn, app)
            if holder is not None:
                await end_holder(conn, holder, wait)
            continue
        if row is None:
            raise LeadershipLost(app)
        return int(row[0])
