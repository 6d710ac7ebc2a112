"""What tests of the event store share: events made of bytes, connections, and a look at what lies in the tables."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

import pytest
from psycopg import AsyncConnection, AsyncCursor

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
"""A test may hold a lock for as long as the processes that it watches take."""
GIVE_UP = 30.0
"""Seconds after which a condition that does not come about fails the test."""

with_and_without_probing = pytest.mark.parametrize("probing", [True, False], ids=["probing", "copying"])
"""With an appender that asks first which events are there, as after a connect, and one that copies at once."""

_ULIDS = wire.ulids()
T = TypeVar("T")

_APPEND_LOCK_WAITERS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    " AND ((classid::bigint << 32) | objid::bigint) = %s"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def next_ulid() -> str:
    """A ULID that no other call returns."""
    return next(_ULIDS)


def new_events(count: int = 1, *, app: str = APP, contract: Contract = CHAT, ppnum: str = "12300000001") -> list[Event]:
    """New events, each with an id of its own."""
    return [
        decode(wire.event(next_ulid(), recipient=wire.recipient(ppnum)), app, contract)
        for _ in itertools.repeat(0, count)
    ]


def pcs_event(event_id: str, ppnum: str = "12300000001", app: str = APP) -> Event:
    """The event that :func:`of_chat` makes, as the other contract writes it."""
    payload = wire.event(event_id, recipient=wire.recipient(ppnum), occurred_at=wire.timestamp_of(OCCURRED))
    return decode(payload, app, PCS)


def chat_event(event_id: str, ppnum: str = "12300000001", app: str = APP) -> Event:
    """An event that happened at ``OCCURRED``."""
    payload = wire.event(event_id, recipient=wire.recipient(ppnum), occurred_at=wire.rfc3339(OCCURRED))
    return decode(payload, app, CHAT)


def conflicting_event(event: Event) -> Event:
    """Other bytes, and other values, under the same event_id."""
    payload = wire.event(event.event_id, recipient=wire.recipient("99900000009"), occurred_at="2020-01-01T00:00:00Z")
    return decode(payload, event.app, Contract(event.contract))


def garbage(number: int = 0, app: str = APP) -> Rejected:
    """Bytes that are no event."""
    return Rejected(app, CHAT.value, b"\xff%d" % number, "the bytes are not a SendRequestEvent")


@asynccontextmanager
async def connection(url: str, name: str = "test", waits: Waits = QUICK) -> AsyncIterator[AsyncConnection]:
    conn = await connect(url, name=name, waits=waits)
    try:
        # Tests read tables as people do, whose search path has public; the engine's own sessions keep theirs.
        await conn.execute("SET search_path = public")
        yield conn
    finally:
        await conn.close()


@asynccontextmanager
async def appender(url: str, name: str = "test", waits: Waits = QUICK) -> AsyncIterator[Appender]:
    async with connection(url, name, waits) as conn:
        yield Appender(conn, waits)


async def set_epoch(conn: AsyncConnection, app: str = APP, epoch: int = 1) -> None:
    """Make an app's cursor row, or take it over."""
    await conn.execute(
        "INSERT INTO eventstore.cursors (app, epoch) VALUES (%s, %s)"
        " ON CONFLICT (app) DO UPDATE SET epoch = excluded.epoch",
        [app, epoch],
    )


async def value(conn: AsyncConnection, query: str, *arguments: object) -> object:
    """The one value of a query."""
    row = await fetch_row(conn, query.encode(), arguments)
    assert row is not None
    return row[0]


async def cursor_of(conn: AsyncConnection, app: str = APP) -> object:
    return await value(conn, "SELECT last_event_id FROM eventstore.cursors WHERE app = %s", app)


async def stored_events(conn: AsyncConnection) -> list[Event]:
    """The events that are stored, in order of position."""
    return [item.event async for item in read(conn)]


async def positions(conn: AsyncConnection) -> dict[str, int]:
    """Each event_id and its position, in order of position; the numbers are 1, 2, 3 without a gap, or it fails."""
    rows = await fetch_all(conn, "SELECT event_id, position FROM eventstore.events ORDER BY position")
    assert [position for _, position in rows] == list(range(1, len(rows) + 1))
    return dict(rows)


class QuarantineRow(NamedTuple):
    """A row of the quarantine."""

    event_id: str | None
    payload: bytes
    reason: str
    times: int


async def quarantine_rows(conn: AsyncConnection) -> list[QuarantineRow]:
    """What lies in quarantine, in the order in which it came."""
    rows = await conn.execute("SELECT event_id, payload, reason, count FROM eventstore.quarantine ORDER BY id")
    return [QuarantineRow(*row) for row in await rows.fetchall()]


async def assert_nothing_written(conn: AsyncConnection) -> None:
    assert await positions(conn) == {}
    assert await quarantine_rows(conn) == []


class PageSizes:
    """How many rows each page brought."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        fetch = AsyncCursor.fetchall

        async def fetched(cursor: AsyncCursor[tuple[object, ...]]) -> list[tuple[object, ...]]:
            rows = await fetch(cursor)
            self.sizes.append(len(rows))
            return rows

        monkeypatch.setattr(AsyncCursor, "fetchall", fetched)


async def wait_until(check: Callable[[], Awaitable[T]], what: str) -> T:
    """Ask again and again until the answer is true, and return it."""
    try:
        async with asyncio.timeout(GIVE_UP):
            while not (answer := await check()):  # noqa: ASYNC110 - what is waited for happens in Postgres
                await asyncio.sleep(0.002)
            return answer
    except TimeoutError:
        raise AssertionError(f"never came about: {what}") from None


async def wait_for_append_lock_waiters(conn: AsyncConnection, count: int = 1) -> None:
    """Return when so many sessions wait for the append lock."""

    async def enough() -> bool:
        waiters = await value(conn, _APPEND_LOCK_WAITERS, APPEND_LOCK)
        return isinstance(waiters, int) and waiters >= count

    await wait_until(enough, f"{count} waiting for the append lock")


async def wait_until_blocked(conn: AsyncConnection, pid: int) -> None:
    """Return when that backend waits for a lock that another holds."""

    async def waits() -> bool:
        return bool(await value(conn, "SELECT cardinality(pg_blocking_pids(%s)) > 0", pid))

    await wait_until(waits, f"backend {pid} waiting for a lock")


async def wait_until_session_ended(conn: AsyncConnection, name: str) -> None:
    """Return when no session of that name is left, so that nothing of its work is under way."""

    async def gone() -> bool:
        return not await value(conn, "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", name)

    await wait_until(gone, f"the end of session {name}")


def by_id(events: Iterable[Event]) -> dict[str, Event]:
    return {event.event_id: event for event in events}


async def lose_events(conn: AsyncConnection, after: int) -> None:
    """Take the events behind a position away, as a failover does; cursors and checkpoints stay."""
    async with conn.transaction():
        await conn.execute("ALTER TABLE eventstore.events DISABLE TRIGGER USER")
        await conn.execute("DELETE FROM eventstore.events WHERE position > %s", [after])
        for trigger in ("refuse_change_row", "refuse_change_statement"):
            await conn.execute(f"ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER {trigger}".encode())
