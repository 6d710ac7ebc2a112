"""Apps and their cursors for commands: list, show, reset, forget.

Invariants. A cursor is changed only while holding the app's lock, so while no process follows the app, and under a new
epoch: a follower that was frozen can't move it afterwards. Events, quarantine and read models are never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from eventstore import ulid
from eventstore.contracts import Contract
from eventstore.errors import LockHeld
from eventstore.event_reader import HEAD
from eventstore.ingest import cursor_row
from eventstore.ingest.app_lease import raise_epoch
from eventstore.ingest.context import IngestContext
from eventstore.ingest.resume import ResumePoint, ResumeSettings, StreamHistory, choose_resume_point, read_saved
from eventstore.locks import app_lock
from eventstore.postgres.connection import connect
from eventstore.postgres.lock_holder import find_holder_name
from eventstore.postgres.queries import fetch_all, fetch_value
from eventstore.postgres.session_lock import hold_lock, run_while_held, session_name
from eventstore.waits import Waits

_NEXT_APP = "SELECT min(app) FROM eventstore.events WHERE app > %s"
_APPS = """
SELECT app, c.app IS NOT NULL AS has_cursor, c.contract, c.last_event_id, c.last_received_at,
       coalesce(c.holes, '[]') AS gaps, coalesce(c.epoch, 0) AS epoch, c.reset_to, c.reset_position, c.last_error,
       (SELECT count(*) FROM eventstore.quarantine AS q WHERE q.app = named.app) AS quarantined
FROM (SELECT unnest(%s::text[]) UNION SELECT app FROM eventstore.cursors) AS named (app)
LEFT JOIN eventstore.cursors AS c USING (app) ORDER BY app
"""
_COUNT = "SELECT count(*) FROM eventstore.events WHERE app = %s"
_RESET = sql.SQL("""
UPDATE eventstore.cursors
SET last_event_id = NULL, last_received_at = NULL, reset_to = %s, reset_position = {head}
WHERE app = %s AND epoch = %s
""").format(head=HEAD)


@dataclass(frozen=True, slots=True)
class App:
    """An app that is or was followed, or whose events are stored.

    ``has_cursor`` is False if only its events are left; ``followed_by`` is the session that follows it now, or None;
    ``quarantined`` counts rows; the other fields are those of :class:`eventstore.ingest.cursor_row.Cursor`.
    """

    app: str
    has_cursor: bool
    contract: str | None
    last_event_id: str | None
    last_received_at: datetime | None
    gaps: list[dict[str, Any]]
    epoch: int
    reset_to: str | None
    reset_position: int | None
    last_error: str | None
    quarantined: int
    followed_by: str | None = None

    @property
    def cursor(self) -> cursor_row.Cursor:
        """The saved cursor."""
        contract = Contract(self.contract) if self.contract is not None else None
        return cursor_row.Cursor(
            self.app, self.epoch, contract, self.last_event_id, self.gaps, self.reset_to, self.reset_position
        )


async def read_apps(conn: AsyncConnection) -> dict[str, App]:
    """Return all apps by name."""
    # They are looked up one by one in the index on (app, position): a DISTINCT would read all events.
    stored: list[str] = []
    while (app := await fetch_value(conn, _NEXT_APP, [stored[-1] if stored else ""])) is not None:
        stored.append(app)
    async with conn.cursor(row_factory=class_row(App)) as rows:
        found = await fetch_all(rows, _APPS, [stored])
    return {one.app: replace(one, followed_by=await follower_of(conn, one.app)) for one in found}


async def follower_of(conn: AsyncConnection, app: str) -> str | None:
    """Return the session that now follows an app or imports its events, or None."""
    return await find_holder_name(conn, app_lock(app))


async def count_events(conn: AsyncConnection, app: str) -> int:
    """Return how many events of an app are stored."""
    return int(await fetch_value(conn, _COUNT, [app]) or 0)


async def next_resume_point(
    conn: AsyncConnection, app: App, *, contract: Contract | None, since: str | None, waits: Waits
) -> tuple[Contract, ResumePoint]:
    """Return what a follower would send if it connected now, and under which contract.

    Args:
        conn: a connection.
        app: the app.
        contract: the configured one; None if it is not configured, or not known here.
        since: the first contact's event_id, made up from the ``since`` setting, or None.
        waits: ``overlap`` counts.

    """
    cursor, history = app.cursor, StreamHistory()
    contract = contract or cursor.contract or next(iter(Contract))
    settings = ResumeSettings(contract, since, waits.as_timedelta(waits.overlap))
    saved = await read_saved(conn, cursor, history)
    return contract, choose_resume_point(saved, settings, history, datetime.now(UTC))


async def refuse_followed(conn: AsyncConnection, app: str) -> None:
    """Refuse an app that is followed now.

    Raises:
        LockHeld: it is followed; the message names the session.

    """
    if (follower := await follower_of(conn, app)) is not None:
        raise LockHeld(f"app {app!r}", follower)


async def reset_cursor(context: IngestContext, app: str, to: str | None) -> None:
    """Make an app's stream start again: the last event_id received is removed; events and recorded gaps stay.

    Args:
        context: the database and the timeouts.
        app: an app with a cursor.
        to: a made-up ULID to start at; None to start where a first contact does.

    Raises:
        LockHeld: the app is followed.
        LockLost: the connection that held the lock is lost; the reset may or may not be done.
        psycopg.Error: the database or the connection failed.

    """

    async def reset(conn: AsyncConnection) -> None:
        epoch, _ = await raise_epoch(conn, app, context.waits)
        await conn.execute(_RESET, [to, app, epoch])

    await _run_under_app_lock(context, app, "cursor reset", reset)


async def forget_app(context: IngestContext, app: str) -> None:
    """Remove an app's cursor; its events, its quarantine and the rows of read models stay.

    Raises:
        LockHeld: the app is followed.
        LockLost: the connection that held the lock is lost; the cursor may or may not be removed.
        psycopg.Error: the database or the connection failed.

    """

    async def forget(conn: AsyncConnection) -> None:
        # Raise the epoch first: that waits for, or terminates, a frozen follower's append that has moved the cursor.
        epoch, _ = await raise_epoch(conn, app, context.waits)
        await conn.execute("DELETE FROM eventstore.cursors WHERE app = %s AND epoch = %s", [app, epoch])

    await _run_under_app_lock(context, app, "apps forget", forget)


async def _run_under_app_lock(
    context: IngestContext, app: str, work: str, change: Callable[[AsyncConnection], Coroutine[Any, Any, None]]
) -> None:
    url, waits, what = context.url, context.waits, f"app {app!r}"
    async with (
        hold_lock(url, app_lock(app), name=session_name(work), what=what, waits=waits) as lock,
        await connect(url, name=session_name(work), waits=waits) as conn,
    ):
        await run_while_held(lock, waits, what, change(conn))


def time_in(event_id: str) -> datetime | None:
    """Return the time in a cursor's event_id; None if it is not a ULID."""
    return ulid.time_of(event_id) if ulid.is_ulid(event_id) else None
