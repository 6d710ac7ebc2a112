"""The append lock: a holder that is frozen for a whole wait is terminated, and nobody else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore.appending.append_lock import FrozenHolder, wait_for_append_lock
from eventstore.appending.cursor_move import CursorMove
from eventstore.errors import AppendLockBusy
from eventstore.ingest.app_lease import hold_lease
from eventstore.ingest.context import IngestContext
from eventstore.locks import APPEND_LOCK, app_lock
from eventstore.postgres.connection import connect
from eventstore.postgres.lock_holder import Holder, find_cursor_holder, find_holder, terminate_holder
from tests import store
from tests.store import APP, QUICK, new_events, positions

ALREADY = timedelta(0)
PATIENT = QUICK.model_copy(update={"append_lock": 3})
"""Long enough that a working holder isn't taken for a frozen one."""


@asynccontextmanager
async def frozen_in_copy(url: str, *, with_cursor: bool = False) -> AsyncIterator[AsyncConnection]:
    """A client that acquired the append lock, began a COPY, and then sends nothing more."""
    conn = await connect(url, name="frozen", waits=QUICK, autocommit=False)
    try:
        if with_cursor:
            await conn.execute("UPDATE eventstore.cursors SET last_event_id = repeat('0', 26) WHERE app = %s", [APP])
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", [APPEND_LOCK])
        copying = conn.cursor().copy("COPY eventstore.events FROM STDIN")
        copy = await copying.__aenter__()
        await copy.write(b"half a row")
        yield conn
        # A client that continues notices the lost connection when it ends the copy, if not before.
        with pytest.raises(psycopg.OperationalError):
            await copying.__aexit__(None, None, None)
    finally:
        await conn.close()


async def test_a_client_that_freezes_in_the_middle_of_a_copy_is_terminated_and_the_waiter_appends(
    database_url: str, conn: AsyncConnection
) -> None:
    async with frozen_in_copy(database_url), store.appender(database_url) as appender:
        events = new_events(2)
        assert (await appender.append(events)).head == 2
        await store.wait_until_session_ended(conn, "frozen")
    assert list(await positions(conn)) == [event.event_id for event in events]


async def test_several_appends_that_wait_for_a_frozen_holder_all_succeed(
    database_url: str, conn: AsyncConnection
) -> None:
    async with (
        frozen_in_copy(database_url),
        store.appender(database_url, "one", PATIENT) as one,
        store.appender(database_url, "two", PATIENT) as two,
        store.appender(database_url, "three", PATIENT) as three,
    ):
        three.probing = False
        await asyncio.gather(*(appender.append(new_events(2)) for appender in (one, two, three)))
        await store.wait_until_session_ended(conn, "frozen")
    assert len(await positions(conn)) == 6


async def test_a_holder_that_is_idle_in_its_transaction_is_terminated_too(
    database_url: str, conn: AsyncConnection
) -> None:
    holder = await connect(database_url, name="idle", waits=QUICK, autocommit=False)
    await holder.execute("SELECT pg_advisory_xact_lock(%s)", [APPEND_LOCK])
    async with store.appender(database_url) as appender:
        assert (await appender.append(new_events(1))).head == 1
    await store.wait_until_session_ended(conn, "idle")
    await holder.close()


async def test_a_frozen_follower_loses_its_app_and_its_cursor_row(database_url: str, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    async with (
        frozen_in_copy(database_url, with_cursor=True),
        hold_lease(IngestContext(database_url, QUICK), APP) as taken,
    ):
        events = new_events(2)
        async with store.appender(database_url) as appender:
            await appender.append(events, cursor=CursorMove(APP, taken.epoch, events[-1].event_id))
        assert await store.cursor_of(conn) == events[-1].event_id


async def test_nobody_is_terminated_while_the_holder_changes(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[type[AppendLockBusy]] = []
    gave_up, ended = asyncio.Event(), []

    async def waiting(conn: AsyncConnection, time: timedelta) -> None:
        try:
            await wait_for_append_lock(conn, time)
        except AppendLockBusy as error:
            waited.append(type(error))
            gave_up.set()
            raise

    async def ending(conn: AsyncConnection, holder: Holder, older_than: timedelta) -> bool:
        ended.append(holder)
        return await terminate_holder(conn, holder, older_than)

    monkeypatch.setattr("eventstore.appending.append_lock.wait_for_append_lock", waiting)
    monkeypatch.setattr("eventstore.appending.append_lock.terminate_holder", ending)
    async with (
        store.connection(database_url, "first") as first,
        store.connection(database_url, "second") as second,
        store.appender(database_url, waits=PATIENT) as appender,
    ):

        async def hold(conn: AsyncConnection, until: asyncio.Event) -> None:
            async with conn.transaction():
                await conn.execute("SELECT pg_advisory_xact_lock(%s)", [APPEND_LOCK])
                await until.wait()

        first_may_end = asyncio.Event()
        holding = asyncio.create_task(hold(first, first_may_end))
        await store.wait_until(lambda: find_holder(conn, APPEND_LOCK), "a holder")
        # The second is before the appender in the queue, so it holds the lock when the appender gives up.
        queued = asyncio.create_task(hold(second, gave_up))
        await store.wait_for_append_lock_waiters(conn, 1)
        task = asyncio.create_task(appender.append(new_events(1)))
        await store.wait_for_append_lock_waiters(conn, 2)
        first_may_end.set()
        assert (await task).head == 1
        await asyncio.gather(holding, queued)
    assert waited == [AppendLockBusy]
    assert ended == []


async def test_a_backend_is_terminated_only_in_the_transaction_that_held_the_lock(
    database_url: str, conn: AsyncConnection
) -> None:
    async with store.connection(database_url, "holder") as holder:
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock(%s)", [APPEND_LOCK])
            before = await find_holder(conn, APPEND_LOCK)
            assert before is not None
            assert before.pid == holder.info.backend_pid
            assert before.application_name == "holder"
            assert not await terminate_holder(conn, before, timedelta(hours=1))
        assert not await terminate_holder(conn, before, ALREADY)
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock(%s)", [APPEND_LOCK])
            assert not await terminate_holder(conn, before, ALREADY)
            now = await find_holder(conn, APPEND_LOCK)
            assert now is not None
            assert (now.pid, now.backend_start) == (before.pid, before.backend_start)
            assert now.xact_start != before.xact_start
        assert await store.value(holder, "SELECT 1") == 1
        await holder.execute("BEGIN")
        await holder.execute("SELECT pg_advisory_xact_lock(%s)", [APPEND_LOCK])
        now = await find_holder(conn, APPEND_LOCK)
        assert now is not None
        assert await terminate_holder(conn, now, ALREADY)
        with pytest.raises(psycopg.OperationalError):
            await holder.execute("SELECT 1")


@pytest.mark.oldest
async def test_the_transaction_that_moved_a_cursor_is_found(database_url: str, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    await store.set_epoch(conn, "other")
    async with store.connection(database_url, "mover") as mover:
        async with mover.transaction():
            await mover.execute("UPDATE eventstore.cursors SET last_event_id = repeat('1', 26) WHERE app = %s", [APP])
            holder = await find_cursor_holder(conn, APP)
            assert holder is not None
            assert (holder.pid, holder.application_name) == (mover.info.backend_pid, "mover")
            assert await find_cursor_holder(conn, "other") is None
        assert await find_cursor_holder(conn, APP) is None
        assert not await terminate_holder(conn, holder, ALREADY)


@pytest.mark.oldest
async def test_a_frozen_holder_is_named_in_the_error(database_url: str, conn: AsyncConnection) -> None:
    async with store.connection(database_url, "holder") as holder, holder.transaction():
        await holder.execute("SELECT pg_advisory_xact_lock(%s)", [APPEND_LOCK])
        with pytest.raises(FrozenHolder) as caught:
            async with conn.transaction():
                await wait_for_append_lock(conn, timedelta(milliseconds=1))
        assert caught.value.holder == await find_holder(conn, APPEND_LOCK)
        assert str(holder.info.backend_pid) in str(caught.value)


async def test_locks_of_another_database_or_kind_are_not_the_append_lock(
    conn: AsyncConnection, database_url: str
) -> None:
    async with store.connection(database_url, "other") as other, other.transaction():
        high, low = APPEND_LOCK >> 32, APPEND_LOCK & 0xFFFFFFFF
        await other.execute("SELECT pg_advisory_xact_lock(%s, %s)", [high, low - 2**32 if low >= 2**31 else low])
        await other.execute("SELECT pg_advisory_xact_lock(%s)", [app_lock(APP)])
        assert await find_holder(conn, APPEND_LOCK) is None
        assert await find_holder(conn, app_lock(APP)) is not None
        assert await find_holder(conn, app_lock("another")) is None


async def test_the_waiting_append_writes_its_batch_once(database_url: str, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    async with frozen_in_copy(database_url), store.appender(database_url) as appender:
        events = new_events(2)
        batch = [*events, store.conflicting_event(events[0])]
        result = await appender.append(batch, rejected=[store.garbage()], cursor=CursorMove(APP, 1, events[1].event_id))
        assert result[:3] == (2, 0, 2)
    assert [row.times for row in await store.quarantine_rows(conn)] == [1, 1]
    assert await store.cursor_of(conn) == events[1].event_id


async def test_the_lock_timeout_ends_with_its_transaction(database_url: str) -> None:
    async with frozen_in_copy(database_url), store.appender(database_url) as appender:
        await appender.append(new_events(1))
        assert await store.value(appender._conn, "SHOW lock_timeout") == "0"
