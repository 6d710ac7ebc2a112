"""The lease of an app: one process follows it, and what happens when that process loses the lease.

Invariants.

- The lease is a session-level advisory lock. Its connection is queried every few seconds; if the queries stop, Postgres
  closes the session, so a frozen process loses its app.
- Each new holder raises the app's epoch and writes a fencing token. The cursor moves only under the holder's own epoch,
  and only from the token that the holder wrote last. So a process that wakes up late can't move the cursor back, and a
  holder notices when the database lost what it had committed.
- No app is followed while an import appends events after the head, at the positions that the file gives them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import psycopg
import structlog
from psycopg import AsyncConnection

from eventstore.appending.cursor_move import new_token
from eventstore.errors import LeadershipLost, LockLost
from eventstore.ingest.context import IngestContext
from eventstore.locks import IMPORT_LOCK, TRY_SESSION_LOCK, TRY_SHARED_SESSION_LOCK, app_lock
from eventstore.postgres.connection import connect
from eventstore.postgres.lock_holder import find_cursor_holder, terminate_holder, try_lock
from eventstore.postgres.lock_retry import retry_on_lock
from eventstore.postgres.queries import fetch_row
from eventstore.postgres.session_lock import keep_alive, session_name
from eventstore.postgres.session_settings import SESSION_LOCK_TIMEOUT, milliseconds
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
        fence: the fencing token that this holder wrote; the first move of the cursor starts from it.
        conn: the connection that holds the lock; short statements about the app may run on it.

    """

    def __init__(self, app: str, epoch: int, fence: int, conn: AsyncConnection, waits: Waits) -> None:
        self.app = app
        self.epoch = epoch
        self.fence = fence
        self.conn = conn
        self._waits = waits

    async def keep(self) -> None:
        """Query the connection every few seconds.

        Raises:
            LeadershipLost: it did not answer.

        """
        try:
            await keep_alive(self.conn, self._waits, f"app {self.app!r}")
        except LockLost as error:
            raise LeadershipLost(self.app, "the connection that held its lock is lost") from error


@asynccontextmanager
async def hold_lease(
    context: IngestContext,
    app: str,
    on_standby: Callable[[], None] = lambda: None,
    on_connect: Callable[[AsyncConnection], Awaitable[object]] | None = None,
) -> AsyncIterator[Lease]:
    """Stand by while another process follows the app or imports events, then hold the lease.

    Args:
        context: the database and the timeouts.
        app: the app.
        on_standby: called whenever another process is found to hold the lease.
        on_connect: awaited with the new connection, before anything else uses it.

    Raises:
        psycopg.Error: the database is unavailable.

    """
    waits = context.waits
    conn = await connect(
        context.url,
        name=session_name(f"ingest {app}"),
        waits=waits,
        idle_session_timeout=waits.leader_timeout,
        lock_timeout=waits.append_lock,
    )
    try:
        if on_connect is not None:
            await on_connect(conn)
        await _acquire(conn, app, waits, on_standby)
        epoch, fence = await raise_epoch(conn, app, waits)
        yield Lease(app, epoch, fence, conn, waits)
    finally:
        with suppress(psycopg.Error):
            await conn.close()


async def _acquire(conn: AsyncConnection, app: str, waits: Waits, on_standby: Callable[[], None]) -> None:
    logged_holder: str | None = None
    missing_locks = [(TRY_SHARED_SESSION_LOCK, IMPORT_LOCK), (TRY_SESSION_LOCK, app_lock(app))]
    while missing_locks:
        statement, key = missing_locks[0]
        holder = await try_lock(conn, statement, key)
        if holder is None:
            del missing_locks[0]
            continue
        on_standby()
        if holder != logged_holder:
            log.info("standing by", app=app, holder=holder)
            logged_holder = holder
        await asyncio.sleep(min(waits.standby, waits.leader_timeout / 3))


async def raise_epoch(conn: AsyncConnection, app: str, waits: Waits) -> tuple[int, int]:
    """Take over an app's cursor from the last follower; only the holder of the app's lock may do this.

    Returns:
        The new epoch, and the fencing token that the next move of the cursor must start from.

    Raises:
        psycopg.Error: the database or the connection failed.

    """

    async def terminate_frozen_holder() -> None:
        # The last follower froze in an append, after it had moved the cursor.
        holder = await find_cursor_holder(conn, app)
        if holder is not None:
            await terminate_holder(conn, holder, waits.as_timedelta(waits.append_lock))

    await conn.execute(SESSION_LOCK_TIMEOUT, [milliseconds(waits.append_lock)])
    row = await retry_on_lock(
        lambda: fetch_row(conn, _RAISE_EPOCH, [app, new_token()]), before_retry=terminate_frozen_holder
    )
    if row is None:
        raise LeadershipLost(app)
    return row[0], row[1]
