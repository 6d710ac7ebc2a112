"""Shared by tests of the event store: builds events from bytes, opens connections, and reads the tables."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

import pytest
from psycopg import AsyncConnection, AsyncCursor, sql

from eventstore.appending.append import Appender
from eventstore.appending.quarantine import Rejected
from eventstore.contracts import Contract, Event, decode
from eventstore.event_reader import read
from eventstore.locks import APPEND_LOCK
from eventstore.postgres.connection import connect
from eventstore.waits import Waits
from tests import wire
from tests.queries import fetch_all, fetch_row

CHAT, PCS = Contract.CHAT_EXTERNAL, Contract.PCS_EXTERNAL_V1
APP = "app"
OCCURRED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
QUICK = Waits(append_lock=0.2, idle_in_transaction=600, database_connect=60)
"""Tests hold locks for a long time, so idle transactions aren't ended."""
GIVE_UP = 180.0
"""Seconds after which a test fails if a condition hasn't become true, also on a machine that does ten other things."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.002, 0.03
"""Seconds between two looks at a condition. Each look takes CPU time from what the test waits for."""

with_and_without_probing = pytest.mark.parametrize("probing", [True, False], ids=["probing", "copying"])
"""Runs a test with an appender that looks for stored events first, as after a connect, and one that copies directly."""

_GAPLESS = sql.SQL(
    "(count(DISTINCT position), coalesce(min(position), 1), coalesce(max(position), 0)) = (count(*), 1, count(*))"
)
IS_GAPLESS = sql.SQL("(SELECT {} FROM eventstore.events)").format(_GAPLESS)
"""Whether positions are 1, 2, 3 and so on, gapless: for a statement that reads more than that."""
CURSOR_AND_IS_GAPLESS = sql.SQL("SELECT last_event_id, {} FROM eventstore.cursors WHERE app = %s").format(IS_GAPLESS)
"""Reads an app's cursor, and whether positions are gapless, for a test that does so hundreds of times."""

_ULIDS = wire.ulids()
T = TypeVar("T")

_APPEND_LOCK_WAITERS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    " AND ((classid::bigint << 32) | objid::bigint) = %s"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def next_ulid() -> str:
    """Return a ULID that no other call returns."""
    return next(_ULIDS)


def new_events(count: int = 1, *, app: str = APP, contract: Contract = CHAT, ppnum: str = "12300000001") -> list[Event]:
    """Return new events, each with a new event_id."""
    return [
        decode(wire.event(next_ulid(), recipient=wire.recipient(ppnum)), app, contract)
        for _ in itertools.repeat(0, count)
    ]


def pcs_event(event_id: str, ppnum: str = "12300000001", app: str = APP) -> Event:
    """Return the event of :func:`chat_event` in the other contract."""
    payload = wire.event(event_id, recipient=wire.recipient(ppnum), occurred_at=wire.timestamp_of(OCCURRED))
    return decode(payload, app, PCS)


def chat_event(event_id: str, ppnum: str = "12300000001", app: str = APP) -> Event:
    """Return an event of ``chat.external`` that occurred at ``OCCURRED``."""
    payload = wire.event(event_id, recipient=wire.recipient(ppnum), occurred_at=wire.rfc3339(OCCURRED))
    return decode(payload, app, CHAT)


def conflicting_event(event: Event) -> Event:
    """Return an event with the same event_id but other bytes and values."""
    payload = wire.event(event.event_id, recipient=wire.recipient("99900000009"), occurred_at="2020-01-01T00:00:00Z")
    return decode(payload, event.app, Contract(event.contract))


def garbage(number: int = 0, app: str = APP) -> Rejected:
    """Return a rejected message whose bytes aren't an event."""
    return Rejected(app, CHAT.value, b"\xff%d" % number, "the bytes are not a SendRequestEvent")


@asynccontextmanager
async def connection(url: str, name: str = "test", waits: Waits = QUICK) -> AsyncIterator[AsyncConnection]:
    conn = await connect(url, name=name, waits=waits)
    try:
        # Tests read tables as users do, with public in the search path; the engine's own sessions don't have it.
        await conn.execute("SET search_path = public")
        yield conn
    finally:
        await conn.close()


@asynccontextmanager
async def appender(url: str, name: str = "test", waits: Waits = QUICK) -> AsyncIterator[Appender]:
    async with connection(url, name, waits) as conn:
        yield Appender(conn, waits)


async def set_epoch(conn: AsyncConnection, app: str = APP, epoch: int = 1) -> None:
    """Insert an app's cursor row with this epoch, or change its epoch."""
    await conn.execute(
        "INSERT INTO eventstore.cursors (app, epoch) VALUES (%s, %s)"
        " ON CONFLICT (app) DO UPDATE SET epoch = excluded.epoch",
        [app, epoch],
    )


async def value(conn: AsyncConnection, query: str, *arguments: object) -> object:
    """Return the only value of a query."""
    row = await fetch_row(conn, query.encode(), arguments)
    assert row is not None
    return row[0]


async def cursor_of(conn: AsyncConnection, app: str = APP) -> object:
    return await value(conn, "SELECT last_event_id FROM eventstore.cursors WHERE app = %s", app)


async def stored_events(conn: AsyncConnection) -> list[Event]:
    """Return all stored events in order of position."""
    return [item.event async for item in read(conn)]


async def positions(conn: AsyncConnection) -> dict[str, int]:
    """Return each event_id and its position, in order; fails unless the positions are 1, 2, 3 and so on, gapless."""
    rows = await fetch_all(conn, "SELECT event_id, position FROM eventstore.events ORDER BY position")
    assert [position for _, position in rows] == list(range(1, len(rows) + 1))
    return dict(rows)


async def assert_ids_have_positions(conn: AsyncConnection) -> None:
    """Assert that the view of ids has each event once, at its position."""
    query = "SELECT event_id, position FROM eventstore.event_positions ORDER BY position"
    assert await fetch_all(conn, query) == list((await positions(conn)).items())


async def count_gapless(conn: AsyncConnection) -> int:
    """Return the number of events; fails unless the positions are 1, 2, 3 and so on, gapless. Reads one row."""
    row = await fetch_row(conn, sql.SQL("SELECT count(*), {} FROM eventstore.events").format(_GAPLESS))
    assert row is not None
    events, is_gapless = row
    assert is_gapless
    return int(events)


class QuarantineRow(NamedTuple):
    """A row of ``eventstore.quarantine``."""

    event_id: str | None
    payload: bytes
    reason: str
    times: int


async def quarantine_rows(conn: AsyncConnection) -> list[QuarantineRow]:
    """Return the quarantined messages in the order in which they were received."""
    query = "SELECT event_id, payload, reason, count FROM eventstore.quarantine ORDER BY id"
    return [QuarantineRow(*row) for row in await fetch_all(conn, query)]


async def assert_nothing_written(conn: AsyncConnection) -> None:
    assert await positions(conn) == {}
    assert await quarantine_rows(conn) == []


class PageSizes:
    """Records the number of rows of each page that is fetched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        fetch = AsyncCursor.fetchall

        async def fetched(cursor: AsyncCursor[tuple[object, ...]]) -> list[tuple[object, ...]]:
            rows = await fetch(cursor)
            self.sizes.append(len(rows))
            return rows

        monkeypatch.setattr(AsyncCursor, "fetchall", fetched)


async def wait_until(check: Callable[[], Awaitable[T]], what: str) -> T:
    """Call a check until its result is true, and return that result; the pauses between calls get longer."""
    pause = SHORTEST_PAUSE
    try:
        async with asyncio.timeout(GIVE_UP):
            while not (result := await check()):
                await asyncio.sleep(pause)
                pause = min(1.25 * pause, LONGEST_PAUSE)
            return result
    except TimeoutError:
        raise AssertionError(f"timed out waiting for: {what}") from None


async def wait_for_append_lock_waiters(conn: AsyncConnection, count: int = 1) -> None:
    """Wait until this many sessions wait for the append lock."""

    async def has_waiters() -> bool:
        waiters = await value(conn, _APPEND_LOCK_WAITERS, APPEND_LOCK)
        return isinstance(waiters, int) and waiters >= count

    await wait_until(has_waiters, f"{count} waiting for the append lock")


async def wait_until_blocked(conn: AsyncConnection, pid: int) -> None:
    """Wait until this backend waits for a lock that another session holds."""

    async def is_blocked() -> bool:
        return bool(await value(conn, "SELECT cardinality(pg_blocking_pids(%s)) > 0", pid))

    await wait_until(is_blocked, f"backend {pid} waiting for a lock")


async def wait_until_session_ended(conn: AsyncConnection, name: str) -> None:
    """Wait until no session with this name is left, so that none of its work is still running."""

    async def has_ended() -> bool:
        return not await value(conn, "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", name)

    await wait_until(has_ended, f"the end of session {name}")


def by_id(events: Iterable[Event]) -> dict[str, Event]:
    return {event.event_id: event for event in events}


async def enable_triggers(conn: AsyncConnection) -> None:
    """Let the triggers of the event table fire always, as they do after a migration."""
    found = await fetch_all(
        conn, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'eventstore.events'::regclass AND NOT tgisinternal"
    )
    for (trigger,) in found:
        await conn.execute(f"ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER {trigger}".encode())


async def lose_events(conn: AsyncConnection, after: int) -> None:
    """Delete the events after a position, as a failover loses them; cursors and checkpoints stay."""
    async with conn.transaction():
        await conn.execute("ALTER TABLE eventstore.events DISABLE TRIGGER USER")
        await conn.execute("DELETE FROM eventstore.events WHERE position > %s", [after])
        await conn.execute("DELETE FROM eventstore.event_ids WHERE position > %s", [after])
        await conn.execute(
            "UPDATE eventstore.event_ids_up_to AS u SET position = %s, event_id ="
            " (SELECT e.event_id FROM eventstore.events AS e WHERE e.position = %s) WHERE u.position > %s",
            [after, after, after],
        )
        await enable_triggers(conn)
