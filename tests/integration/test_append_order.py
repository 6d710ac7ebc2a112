"""Commit order: positions become visible in order and gapless, also when writers are slow, rolled back or killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
import pytest
from psycopg import AsyncConnection, errors, sql

from eventstore.appending.append import Appended, Appender
from eventstore.appending.cursor_move import CursorMove
from eventstore.contracts import Event
from eventstore.event_reader import StoredEvent, read
from tests import store
from tests.store import APP, conflicting_event, garbage, new_events, positions

PATIENT = store.QUICK.model_copy(update={"append_lock": 30})
SLOW = 42
SLOWED = """
CREATE FUNCTION slowed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.ppnum = 'slow' THEN PERFORM pg_advisory_xact_lock(42); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER slowed BEFORE INSERT ON eventstore.events FOR EACH ROW EXECUTE FUNCTION slowed();
"""


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection to a database where an event of ppnum ``slow`` waits for the lock 42."""
    async with store.connection(database_url) as conn:
        await conn.execute(SLOWED)
        yield conn


async def visible_positions(conn: AsyncConnection, after: int = 0) -> list[int]:
    return [item.position async for item in read(conn, after)]


@asynccontextmanager
async def slow_append(
    database_url: str, conn: AsyncConnection, batch: list[Event]
) -> AsyncIterator[tuple[asyncio.Task[Appended], int]]:
    """Start an append that waits in the middle of its COPY until the block ends; yields its task and backend."""
    async with store.appender(database_url, "slow", PATIENT) as slow, store.connection(database_url) as gate:
        pid = slow._conn.info.backend_pid
        async with gate.transaction():
            await gate.execute("SELECT pg_advisory_xact_lock(%s)", [SLOW])
            task = asyncio.create_task(slow.append(batch))
            await store.wait_until_blocked(conn, pid)
            yield task, pid
        await asyncio.wait([task])


def slow_batch(count: int = 3) -> list[Event]:
    return [*new_events(count - 1), *new_events(1, ppnum="slow")]


async def test_a_slow_append_that_began_first_gets_the_first_positions(
    database_url: str, conn: AsyncConnection
) -> None:
    async with store.appender(database_url, waits=PATIENT) as quick:
        await quick.append(new_events(2))
        first, second = slow_batch(), new_events(2)
        async with slow_append(database_url, conn, first) as (slow, _):
            task = asyncio.create_task(quick.append(second))
            await store.wait_for_append_lock_waiters(conn)
            assert await visible_positions(conn) == [1, 2]
        assert (await slow).head == 5
        assert (await task).head == 7
    assert await visible_positions(conn, after=2) == [3, 4, 5, 6, 7]
    assert list(await positions(conn))[2:] == [event.event_id for event in (*first, *second)]


async def test_a_rolled_back_append_leaves_no_missing_positions(database_url: str, conn: AsyncConnection) -> None:
    async with store.appender(database_url, waits=PATIENT) as quick:
        lost, kept = slow_batch(), new_events(2)
        async with slow_append(database_url, conn, lost) as (slow, pid):
            task = asyncio.create_task(quick.append(kept))
            await store.wait_for_append_lock_waiters(conn)
            await conn.execute("SELECT pg_cancel_backend(%s)", [pid])
            assert (await task).head == 2
        with pytest.raises(errors.QueryCanceled):
            await slow
        assert list(await positions(conn)) == [event.event_id for event in kept]
        assert (await quick.append(lost)).head == 5


async def test_a_killed_backend_leaves_no_missing_positions(database_url: str, conn: AsyncConnection) -> None:
    async with store.appender(database_url, waits=PATIENT) as quick:
        lost, kept = slow_batch(), new_events(2)
        async with slow_append(database_url, conn, lost) as (slow, pid):
            task = asyncio.create_task(quick.append(kept))
            await store.wait_for_append_lock_waiters(conn)
            await conn.execute("SELECT pg_terminate_backend(%s)", [pid])
            assert (await task).head == 2
        with pytest.raises(psycopg.OperationalError):
            await slow
        assert list(await positions(conn)) == [event.event_id for event in kept]
        assert (await quick.append(lost)).head == 5


async def test_appends_take_turns_under_any_default_isolation(database_url: str, conn: AsyncConnection) -> None:
    name = str(await store.value(conn, "SELECT current_database()"))
    for level in ("serializable", "repeatable read"):
        await conn.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_isolation TO {}").format(sql.Identifier(name), level)
        )
        async with (
            store.appender(database_url, waits=PATIENT) as one,
            store.appender(database_url, waits=PATIENT) as two,
        ):
            await store.set_epoch(conn, "one")
            await store.set_epoch(conn, "two")
            async with slow_append(database_url, conn, slow_batch()) as (slow, _):
                waiting = [
                    asyncio.create_task(appender.append(events, cursor=CursorMove(app, 1, events[-1].event_id)))
                    for app, appender in (("one", one), ("two", two))
                    for events in [new_events(2, app=app)]
                ]
                await store.wait_for_append_lock_waiters(conn, 2)
            await slow
            await asyncio.gather(*waiting)
    assert len(await positions(conn)) == 14


class Reader:
    """Polls the log, and assumes that no new event appears at or below the last position that it has read."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.found: list[StoredEvent] = []
        self.enough = asyncio.Event()

    async def poll(self) -> None:
        """Poll until ``enough`` is set, and once more."""
        async with store.connection(self._url, "reader") as conn:
            while True:
                last_round = self.enough.is_set()
                async for item in read(conn, self.found[-1].position if self.found else 0, page_events=7):
                    assert item.position == len(self.found) + 1
                    self.found.append(item)
                if last_round:
                    return


class Writer:
    """Appends batches of a pool of events; it opens a new connection whenever the old one was killed."""

    def __init__(self, url: str, number: int, pool: list[Event], seed: int) -> None:
        self._url = url
        self.number = number
        self._pool = pool
        self._random = random.Random(seed * 1000 + number)  # noqa: S311 - repeatable, not secret
        self.pid: int | None = None
        self.deaths = 0

    def _batch(self) -> list[Event]:
        chosen = self._random.choices(self._pool, k=self._random.randint(1, 12))
        return [conflicting_event(event) if self._random.random() < 0.1 else event for event in chosen]

    async def write(self, rounds: int) -> None:
        """Append random batches, and finally the whole pool."""
        batches = deque([*(self._batch() for _ in range(rounds)), self._pool])
        while batches:
            try:
                async with store.appender(self._url, f"writer {self.number}", PATIENT) as appender:
                    self.pid = appender._conn.info.backend_pid
                    while batches:
                        await self._append(appender, batches[0])
                        batches.popleft()
            except psycopg.OperationalError:
                self.deaths += 1

    async def _append(self, appender: Appender, batch: list[Event]) -> None:
        appender.probing = self._random.random() < 0.5
        cursor = CursorMove(f"app {self.number % 2}", 1, batch[-1].event_id)
        rejected = [garbage(self._random.randrange(3)) for _ in range(self._random.randrange(3))]
        await appender.append(batch, rejected=rejected, cursor=cursor)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_reader_sees_every_event_once_and_in_order_while_writers_are_killed(
    database_url: str, seed: int
) -> None:
    pool = new_events(150)
    reader = Reader(database_url)
    writers = [Writer(database_url, number, pool, seed) for number in range(6)]
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    async with store.connection(database_url, "killer") as conn:
        for app in ("app 0", "app 1"):
            await store.set_epoch(conn, app)
        polling = asyncio.create_task(reader.poll())
        writing = [asyncio.create_task(writer.write(15)) for writer in writers]
        while not all(task.done() for task in writing):
            victim = dice.choice(writers)
            began = time.monotonic()
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND application_name = %s"
                " AND state <> 'idle'",
                [victim.pid, f"writer {victim.number}"],
            )
            # Lets some appends complete, also on a machine so slow that a round trip takes 0.02 s.
            await asyncio.sleep(max(0.02, 20 * (time.monotonic() - began)))
        await asyncio.gather(*writing)
        reader.enough.set()
        await polling
        final = await positions(conn)
    assert sum(writer.deaths for writer in writers) > 0
    assert [item.event.event_id for item in reader.found] == list(final)
    assert set(final) == {event.event_id for event in pool}
    originals = store.by_id(pool)
    for item in reader.found:
        original = originals[item.event.event_id]
        assert item.event in (original, conflicting_event(original))
    assert [item.received_at for item in reader.found] == sorted(item.received_at for item in reader.found)


async def test_concurrent_appends_of_the_same_events_store_each_once(database_url: str) -> None:
    pool = new_events(60)
    orders = [pool, pool[::-1], pool[30:] + pool[:30], sorted(pool, key=lambda event: event.event_id[::-1])]
    async with AsyncExitStack() as stack:
        conn = await stack.enter_async_context(store.connection(database_url))
        appenders: list[Appender] = [
            await stack.enter_async_context(store.appender(database_url, waits=PATIENT)) for _ in orders
        ]
        for number, appender in enumerate(appenders):
            appender.probing = number % 2 == 0

        async def append_all(appender: Appender, order: list[Event]) -> Appended:
            total = Appended(0, 0, 0, 0)
            for start in range(0, len(order), 7):
                result = await appender.append(order[start : start + 7])
                total = Appended(*(a + b for a, b in zip(total, result, strict=True)))
            return total

        totals = await asyncio.gather(*map(append_all, appenders, orders))
        assert sum(total.stored for total in totals) == len(pool)
        assert sum(total.duplicates for total in totals) == 3 * len(pool)
        assert set(await positions(conn)) == {event.event_id for event in pool}
        assert await store.quarantine_rows(conn) == []


async def test_appends_of_two_apps_do_not_deadlock(database_url: str) -> None:
    async with AsyncExitStack() as stack:
        conn = await stack.enter_async_context(store.connection(database_url))
        for app in (APP, "other"):
            await store.set_epoch(conn, app)
        appenders = [await stack.enter_async_context(store.appender(database_url, waits=PATIENT)) for _ in range(6)]

        async def append_some(number: int, appender: Appender) -> None:
            app = (APP, "other")[number % 2]
            for turn in range(8):
                events = new_events((turn + number) % 3, app=app)
                again = [*events, *map(conflicting_event, events)][::-1] if turn % 2 else events
                rejected = [garbage(n, app) for n in range(4)][:: 1 if number % 4 < 2 else -1]
                # Some have no cursor, like an import: only the order of the locks prevents a deadlock.
                cursor = CursorMove(app, 1, None) if number < 4 else None
                await appender.append(again, rejected=rejected, cursor=cursor)

        await asyncio.gather(*(append_some(number, appender) for number, appender in enumerate(appenders)))
        await positions(conn)
        assert {row.times for row in await store.quarantine_rows(conn) if row.payload.startswith(b"\xff")} == {24}
