"""One process follows an app: the lock that says which, and what happens when it is lost.

Invariants. The lock is a session's advisory lock, held on a connection that is queried every few seconds and that
Postgres ends when it is not: a frozen process loses its app. Each new holder raises the app's epoch and writes a
fencing token, and a cursor moves only under the holder's own epoch and from the token that the holder wrote last: a
process that wakes up late can't move it back, and a holder notices when the database lost what it had committed.
Nobody follows any app while an import gives out positions that events had elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import psycopg
import structlog
from psycopg import AsyncConnection, errors

from eventstore.appending.append import new_token
from eventstore.errors import LeadershipLost, LockLost
from eventstore.locks import IMPORT_LOCK, TRY_SESSION_LOCK, TRY_SHARED_SESSION_LOCK, app_lock
from eventstore.postgres.connection import connect
from eventstore.postgres.lock_holder import find_cursor_holder, find_holder, terminate_holder
from eventstore.postgres.queries import fetch_row, fetch_value
from eventstore.postgres.session_lock import keep, session_name
from eventstore.waits import Waits

log = structlog.get_logger(__name__)

_RAISE_EPOCH = (
    "INSERT INTO eventstore.cursors AS c (app, epoch, fence) VALUES (%s, 1, %s)"
    " ON CONFLICT (app) DO UPDATE SET epoch = c.epoch + 1, fence = excluded.fence RETURNING epoch, fence"
)


class Lease:
    """The right to follow an app, as long as its connection lives.

    Attributes:
        app: the app.
        epoch: this holder's epoch.
        fence: the fencing token that it wrote; the first move of the cursor starts from it.
        conn: the connection that holds the lock; short statements about the app may run on it.

    """

    def __init__(self, app: str, epoch: int, fence: int, conn: AsyncConnection, waits: Waits) -> None:
        self.app = app
        self.epoch = epoch
        self.fence = fence
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
    url: str,
    app: str,
    waits: Waits,
    standing_by: Callable[[], None] = lambda: None,
    connected: Callable[[AsyncConnection], Awaitable[object]] | None = None,
) -> AsyncIterator[Lease]:
    """Stand by until no other process follows the app, nor imports, then hold it.

    Args:
        url: the database.
        app: the app.
        waits: the timeouts.
        standing_by: is called when another process is seen to follow the app.
        connected: is awaited with each new connection, before anything else is done with it.

    Raises:
        psycopg.Error: the database is unavailable.

    """
    conn = await connect(
        url,
        name=session_name(f"ingest {app}"),
        waits=waits,
        idle_session_timeout=waits.leader_timeout,
        lock_timeout=waits.append_lock,
    )
    try:
        if connected is not None:
            await connected(conn)
        await _acquire(conn, app, waits, standing_by)
        epoch, fence = await raise_epoch(conn, app, waits)
        yield Lease(app, epoch, fence, conn, waits)
    finally:
        with suppress(psycopg.Error):
            await conn.close()


async def _acquire(conn: AsyncConnection, app: str, waits: Waits, standing_by: Callable[[], None]) -> None:
    told: str | None = None
    wanted = [
        (TRY_SHARED_SESSION_LOCK, IMPORT_LOCK),
        (TRY_SESSION_LOCK, app_lock(app)),
    ]
    while True:
        statement, key = wanted[0]
        if await fetch_value(conn, statement, [key]):
            del wanted[0]
            if not wanted:
                return
            continue
        standing_by()
        holder = await find_holder(conn, key)
        name = (holder.application_name if holder else None) or "another session"
        if name != told:
            log.info("standing by", app=app, holder=name)
            told = name
        await asyncio.sleep(min(waits.standby, waits.leader_timeout / 3))


async def raise_epoch(conn: AsyncConnection, app: str, waits: Waits) -> tuple[int, int]:
    """Take an app's cursor from whoever moved it before; only the holder of the app's lock may.

    Returns:
        The new epoch, and the fencing token that the next move of the cursor must start from.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    wait = timedelta(seconds=waits.append_lock)
    await conn.execute("SELECT set_config('lock_timeout', %s, false)", [f"{int(waits.append_lock * 1000)}ms"])
    while True:
        try:
            row = await fetch_row(conn, _RAISE_EPOCH, [app, new_token()])
        except errors.LockNotAvailable:
            # A follower before us froze in the middle of an append, after it had moved the cursor.
            holder = await find_cursor_holder(conn, app)
            if holder is not None:
                await terminate_holder(conn, holder, wait)
            continue
        if row is None:
            raise LeadershipLost(app)
        return row[0], row[1]
