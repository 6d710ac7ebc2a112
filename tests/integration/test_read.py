"""Reading the log: in commit order, page by page; neither memory nor a snapshot grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from eventstore.contracts import Event, decode
from eventstore.event_reader import StoredEvent, read, read_head
from tests import store, wire
from tests.queries import fetch_row
from tests.store import APP, CHAT, PageSizes, new_events, next_ulid


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reader") as conn:
        yield conn


def events_of_sizes(bytes_each: Sequence[int]) -> list[Event]:
    """Return events whose payloads are at least this long."""
    return [decode(wire.event(next_ulid(), more=wire.bytes_field(5000, b"x" * size)), APP, CHAT) for size in bytes_each]


async def read_all(log: AsyncIterator[StoredEvent]) -> list[StoredEvent]:
    return [item async for item in log]


async def test_an_empty_log_yields_nothing(conn: AsyncConnection) -> None:
    assert await read_all(read(conn)) == []
    assert await read_all(read(conn, 5)) == []
    assert await read_head(conn) == 0


@pytest.mark.parametrize("page_events", [1, 2, 3, 9, 10, 11])
async def test_every_event_is_read_once_and_in_order_for_any_page_size(
    conn: AsyncConnection, appender: Appender, page_events: int
) -> None:
    events = new_events(10)
    await appender.append(events)
    found = await read_all(read(conn, page_events=page_events))
    assert [item.event for item in found] == events
    assert [item.position for item in found] == list(range(1, 11))
    assert await read_head(conn) == 10


@pytest.mark.parametrize(("after", "up_to"), [(0, 10), (3, 10), (3, 7), (0, 0), (9, 10), (10, 10), (7, 3), (10, 99)])
async def test_events_after_one_position_and_up_to_another_are_read(
    conn: AsyncConnection, appender: Appender, after: int, up_to: int
) -> None:
    await appender.append(new_events(10))
    found = await read_all(read(conn, after, up_to=up_to, page_events=2))
    assert [item.position for item in found] == list(range(after + 1, min(up_to, 10) + 1))


async def test_a_page_ends_with_the_event_that_fills_it(
    conn: AsyncConnection, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = events_of_sizes([1_000] * 7)
    await appender.append(events)
    pages = PageSizes(monkeypatch)
    size = len(events[0].payload)
    assert len(await read_all(read(conn, page_bytes=3 * size))) == 7
    assert pages.sizes == [3, 3, 1, 0]
    pages.sizes.clear()
    assert len(await read_all(read(conn, page_bytes=3 * size + 1))) == 7
    assert pages.sizes == [4, 3, 0]


async def test_an_event_larger_than_a_page_is_read(
    conn: AsyncConnection, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = events_of_sizes([10, 100_000, 10, 10, 200_000])
    await appender.append(events)
    pages = PageSizes(monkeypatch)
    assert [item.event for item in await read_all(read(conn, page_bytes=5_000))] == events
    assert pages.sizes == [2, 3, 0]
    pages.sizes.clear()
    assert [item.event for item in await read_all(read(conn, page_bytes=1))] == events
    assert pages.sizes == [1, 1, 1, 1, 1, 0]


async def test_events_appended_meanwhile_are_read_too(conn: AsyncConnection, appender: Appender) -> None:
    await appender.append(new_events(3))
    found = []
    async for item in read(conn, page_events=2):
        found.append(item.position)
        if item.position == 3:
            await appender.append(new_events(2))
    assert found == [1, 2, 3, 4, 5]


async def test_no_snapshot_is_held_between_pages(conn: AsyncConnection, appender: Appender, database_url: str) -> None:
    await appender.append(new_events(5))
    async with store.connection(database_url, "watcher") as watcher:

        async def state() -> tuple[object, ...]:
            row = await fetch_row(
                watcher,
                "SELECT state, xact_start, backend_xmin FROM pg_stat_activity WHERE application_name = 'reader'",
            )
            assert row is not None
            return row

        async def idle() -> bool:
            return (await state())[0] == "idle"

        async for _ in read(conn, page_events=2):
            await store.wait_until(idle, "an idle reader")
            assert await state() == ("idle", None, None)


async def test_the_same_connection_may_be_used_between_events(conn: AsyncConnection, appender: Appender) -> None:
    await appender.append(new_events(4))
    async for item in read(conn, page_events=2):
        assert await read_head(conn) == 4
        assert item.position <= 4


async def test_times_are_in_utc_and_columns_of_their_types(conn: AsyncConnection, appender: Appender) -> None:
    await appender.append(new_events(1))
    (item,) = await read_all(read(conn))
    assert item.received_at.tzname() == "UTC"
    assert item.event.occurred_at.tzname() == "UTC"
    assert isinstance(item.event.payload, bytes)


async def test_a_log_that_is_read_while_it_is_written_is_read_whole(conn: AsyncConnection, appender: Appender) -> None:
    async def append_all() -> None:
        for _ in range(20):
            await appender.append(new_events(5))

    writing = asyncio.create_task(append_all())
    found: list[int] = []
    while not writing.done() or len(found) < 100:
        found += [item.position async for item in read(conn, found[-1] if found else 0, page_events=3)]
    await writing
    assert found == list(range(1, 101))
