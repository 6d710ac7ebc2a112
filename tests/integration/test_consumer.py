"""Named consumers: every event at least once and in order, from a durable checkpoint, one process at a time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from eventstore.consuming import page_reader
from eventstore.consuming.batch import Batch
from eventstore.consuming.consumer import consumer
from eventstore.consuming.consumers import (
    ConsumerStatus,
    drop_consumer,
    find_reset_position,
    read_consumer,
    read_consumers,
    reset_consumer,
)
from eventstore.contracts import Event, decode
from eventstore.contracts.event_types import EventType
from eventstore.errors import CheckpointNotInLog, LockHeld, MissingPositions, NotAcknowledged, UsageError
from eventstore.waits import Waits
from projections.granting.role_kinds import RoleKind
from tests import store, wire
from tests.databases import Server
from tests.oracle import FAILED
from tests.roles import granted_roles
from tests.store import APP, CHAT, lose_events, new_events, next_ulid

NAME = "billing"
QUICK = Waits(standby=0.01, database_backoff_cap=0.02)
NEVER = 600.0
"""A poll interval with which only a notification wakes a consumer in time."""


def consume(url: str, name: str = NAME, **options: Any) -> AsyncGenerator[Batch]:  # noqa: ANN401 - any option
    return consumer(name, url, **{"waits": QUICK, **options})


async def consume_all(url: str, **options: Any) -> list[Batch]:  # noqa: ANN401
    """Return the batches up to the head; all are acknowledged."""
    return [batch async for batch in consume(url, follow=False, **options)]


def positions_of(batches: Sequence[Batch]) -> list[list[int]]:
    return [[stored.position for stored in batch] for batch in batches]


async def status_of(conn: AsyncConnection, name: str = NAME) -> ConsumerStatus:
    return await read_consumer(conn, name)


@asynccontextmanager
async def handed_out(url: str, **options: Any) -> AsyncIterator[tuple[AsyncGenerator[Batch], Batch]]:  # noqa: ANN401
    """A consumer whose program works on its first batch."""
    async with aclosing(consume(url, **options)) as batches:
        yield batches, await anext(batches)


async def end_session(conn: AsyncConnection) -> None:
    """End the consumer's session, as a network or a server does."""
    await conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'projections consume %'"
    )


# At least once


async def test_every_event_is_handed_out_once_and_in_order(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    events = new_events(10)
    await appender.append(events)
    batches = await consume_all(database_url, batch_events=4)
    assert positions_of(batches) == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert [stored.event for batch in batches for stored in batch] == events
    assert [(batch.position, batch.attempt, len(batch)) for batch in batches] == [(4, 1, 4), (8, 1, 4), (10, 1, 2)]
    assert repr(batches[0]) == "<Batch of 4 events, positions 1 to 4, attempt 1>"
    found = await status_of(conn)
    assert (found.position, found.events, found.attempts, found.events_behind) == (10, 10, 0, 0)
    assert (found.is_in_log, found.held_by, found.seconds_behind) == (True, None, 0.0)
    assert await consume_all(database_url) == []
    await appender.append(new_events(1))
    assert positions_of(await consume_all(database_url)) == [[11]]


async def _break(batches: AsyncGenerator[Batch]) -> None:
    async for _ in batches:
        break
    await batches.aclose()


async def _raise(batches: AsyncGenerator[Batch]) -> None:
    async def fail() -> None:
        async with aclosing(batches):
            async for _ in batches:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def _cancel(batches: AsyncGenerator[Batch]) -> None:
    began = asyncio.Event()

    async def work() -> None:
        async with aclosing(batches):
            async for _ in batches:
                began.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


@pytest.mark.parametrize("leave", [_break, _raise, _cancel])
async def test_a_batch_that_the_program_left_is_handed_out_again(
    database_url: str, conn: AsyncConnection, appender: Appender, leave: Callable[[AsyncGenerator[Batch]], Any]
) -> None:
    await appender.append(new_events(5))
    for _ in range(2):
        await leave(consume(database_url, batch_events=3))
    found = await status_of(conn)
    assert (found.position, found.attempts, found.handed_out_at is not None) == (0, 2, True)
    batches = await consume_all(database_url, batch_events=3)
    assert positions_of(batches) == [[1, 2, 3], [4, 5]]
    assert [batch.attempt for batch in batches] == [3, 1]


async def test_a_loop_that_is_left_releases_the_consumer_by_itself(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(1))

    async def leave(*, fails: bool) -> None:
        async for batch in consume(database_url):
            assert (await status_of(conn)).held_by is not None
            if fails:
                raise ZeroDivisionError
            assert batch.events
            break

    async def is_free() -> bool:
        return (await status_of(conn)).held_by is None

    await leave(fails=False)
    await store.wait_until(is_free, "the consumer to be free after a break")
    with pytest.raises(ZeroDivisionError):
        await leave(fails=True)
    await store.wait_until(is_free, "the consumer to be free after an error")


async def test_a_part_of_a_batch_can_be_acknowledged(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(6))
    async with handed_out(database_url, batch_events=4) as (batches, batch):
        await batch.acknowledge(batch.events[1])
        found = await status_of(conn)
        assert (found.position, found.events, found.attempts) == (2, 2, 0)
        await batch.acknowledge(batch.events[0])  # it is done already
        assert (await status_of(conn)).position == 2
        second = await anext(batches)
        assert positions_of([second]) == [[5, 6]]
        with pytest.raises(UsageError, match="another batch was handed out since"):
            await batch.acknowledge()
        with pytest.raises(UsageError, match="position 1 is not in this batch"):
            await second.acknowledge(batch.events[0])
        await second.acknowledge()
        await second.acknowledge()
    found = await status_of(conn)
    assert (found.position, found.events) == (6, 6)
    with pytest.raises(UsageError, match="another batch"):
        await second.acknowledge()


async def test_a_batch_is_bounded_by_the_bytes_of_its_payloads(database_url: str, appender: Appender) -> None:
    sizes = (10, 3_000, 10, 10, 10)
    await appender.append(
        [decode(wire.event(next_ulid(), more=wire.bytes_field(5000, b"x" * size)), APP, CHAT) for size in sizes]
    )
    assert positions_of(await consume_all(database_url, batch_bytes=2_000)) == [[1, 2], [3, 4, 5]]


# Filters


@pytest.mark.oldest
async def test_filters_and_how_the_checkpoint_passes_what_they_leave_out(
    database_url: str, conn: AsyncConnection, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_reader, "WINDOW", 3)
    other = decode(wire.event(next_ulid(), event_type=FAILED, recipient=wire.recipient("12300000002")), "other", CHAT)
    failed = decode(wire.event(next_ulid(), event_type=FAILED, recipient=wire.recipient("12300000002")), APP, CHAT)
    for events in (new_events(7), [other], new_events(4), [failed], new_events(3)):
        await appender.append(events)
    failures = await consume_all(database_url, types={EventType.RECIPIENT_FAILED})
    assert [stored.event for batch in failures for stored in batch] == [other, failed]
    found = await status_of(conn)
    assert (found.position, found.events, found.is_in_log) == (16, 2, True)
    (batch,) = await consume_all(database_url, name="b", types=[FAILED], apps=[APP], batch_events=1)
    assert [stored.event for stored in batch] == [failed]
    assert await consume_all(database_url, name="c", types=[EventType.POLL_RESPONSE_RECEIVED]) == []
    assert (await status_of(conn, "c")).position == 16
    assert [one.name for one in await read_consumers(conn)] == ["b", NAME, "c"]


# Where a consumer begins


async def test_where_a_new_consumer_begins(database_url: str, conn: AsyncConnection, appender: Appender) -> None:
    await appender.append(new_events(4))
    assert positions_of(await consume_all(database_url, name="a", start=3)) == [[4]]
    assert positions_of(await consume_all(database_url, name="a", start="beginning")) == []
    assert await consume_all(database_url, name="b", start="now") == []
    assert (await status_of(conn, "b")).position == 4
    with pytest.raises(UsageError, match=r"consumer c can't start after position 5: the log ends at 4"):
        await consume_all(database_url, name="c", start=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a b"}, "can't name a consumer"),
        ({"start": -1}, "can't start at -1"),
        ({"start": "later"}, "can't start at 'later'"),
        ({"types": []}, "must name something"),
        ({"types": ["RECIPIENT_FAILED"]}, r"types is a list, such as \[EventType.RECIPIENT_FAILED\]"),
        ({"types": 2}, "types is a list, .* not 2"),
        ({"apps": "shop"}, r"apps is a list, such as \['shop'\]"),
        ({"batch_events": 0}, "at least 1"),
        ({"poll": 0.0}, "more than 0 seconds"),
    ],
)
async def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        await consume_all("postgresql://nowhere.invalid/none", **options)


async def test_a_database_without_the_table(empty_database_url: str) -> None:
    with pytest.raises(UsageError, match="run projections migrate"):
        await consume_all(empty_database_url)


async def test_the_first_connection_must_work() -> None:
    with pytest.raises(psycopg.OperationalError):
        await consume_all("postgresql://nobody@127.0.0.1:1/none")


# One process at a time


async def test_a_second_process_stands_by_until_the_first_ends(
    database_url: str, conn: AsyncConnection, appender: Appender, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "eventstore.consumer")
    await appender.append(new_events(2))
    async with handed_out(database_url, batch_events=1):
        holder = (await status_of(conn)).held_by
        assert holder is not None
        assert holder.startswith("projections consume billing ")
        for change in (reset_consumer(database_url, QUICK, NAME, 1), drop_consumer(database_url, QUICK, NAME)):
            with pytest.raises(LockHeld, match=r"consumer 'billing': held by .*; stop its program first"):
                await change
        second = asyncio.create_task(consume_all(database_url))

        async def stands_by() -> bool:
            line = f"standing by: another process has it consumer='billing' holder={holder!r}"
            return [one.levelname for one in caplog.records if one.getMessage() == line] == ["WARNING"]

        await store.wait_until(stands_by, "the second process standing by")
    assert positions_of(await second) == [[1, 2]]


async def test_a_stop_ends_a_consumer_that_waits_or_stands_by(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(2))
    stop = asyncio.Event()
    async with handed_out(database_url, batch_events=1, stop=stop, poll=NEVER) as (batches, _):
        waiting = asyncio.create_task(anext(consume(database_url, stop=stop), None))
        await anext(batches)
        stop.set()
        assert await anext(batches, None) is None
        assert await waiting is None
    found = await status_of(conn)
    assert (found.position, found.attempts) == (2, 0)

    stop.clear()
    waiting = asyncio.create_task(anext(consume(database_url, stop=stop, poll=NEVER), None))

    async def is_held() -> bool:
        return (await status_of(conn)).held_by is not None

    await store.wait_until(is_held, "a consumer at the head")
    stop.set()
    assert await waiting is None


# What happens meanwhile


async def test_an_append_wakes_a_consumer_at_the_head(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    async with aclosing(consume(database_url, poll=NEVER, waits=Waits(leader_heartbeat=50, leader_timeout=60))) as all_:
        waiting = asyncio.create_task(anext(all_))

        async def waits_at_head() -> bool:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE '%%coalesce(max(position)%%'"
            )
            return bool(await store.value(conn, query + " AND application_name LIKE 'projections consume %%'"))

        await store.wait_until(waits_at_head, "a consumer at the head")
        for number in range(1, 4):
            await appender.append(new_events(1))
            batch = await waiting
            assert (positions_of([batch]), batch.attempt) == ([[number]], 1)
            waiting = asyncio.create_task(anext(all_))

        async def is_acknowledged() -> bool:
            return (await status_of(conn)).position == 3

        await store.wait_until(is_acknowledged, "the third batch acknowledged, although no fourth one is there")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_lost_connection_repeats_nothing_that_was_done(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(6))
    async with handed_out(database_url, batch_events=2) as (batches, first):
        await end_session(conn)
        second = await anext(batches)
        await end_session(conn)
        await second.acknowledge()
        third = await anext(batches)
        assert positions_of([first, second, third]) == [[1, 2], [3, 4], [5, 6]]
        assert [first.attempt, second.attempt, third.attempt] == [1, 1, 1]
    assert (await status_of(conn)).position == 4


async def test_a_process_that_lost_the_consumer_moves_nothing(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(6))
    async with handed_out(database_url, batch_events=2) as (batches, first):
        await end_session(conn)
        async with handed_out(database_url, batch_events=4) as (others, batch):
            assert (positions_of([batch]), batch.attempt) == ([[1, 2, 3, 4]], 2)
            await anext(others)
            refused = asyncio.create_task(first.acknowledge())

            async def has_connected() -> bool:
                query = "SELECT count(*) > 1 FROM pg_stat_activity WHERE application_name LIKE 'projections consume %%'"
                return bool(await store.value(conn, query))

            await store.wait_until(has_connected, "the first process standing by")
        with pytest.raises(NotAcknowledged, match="its events are handed out again"):
            await refused
        again = await anext(batches)
        assert (positions_of([again]), again.attempt) == ([[5, 6]], 2)
    assert (await status_of(conn)).position == 4


async def test_events_that_the_database_lost_are_handed_out_as_they_are_now(
    database_url: str, conn: AsyncConnection, appender: Appender, caplog: pytest.LogCaptureFixture
) -> None:
    await appender.append(new_events(10))
    async with handed_out(database_url, batch_events=4) as (batches, _):
        assert positions_of([await anext(batches)]) == [[5, 6, 7, 8]]
        await lose_events(conn, after=6)
        await appender.append(later := new_events(4))
        again = await anext(batches)
        assert positions_of([again]) == [[5, 6, 7, 8]]
        assert [stored.event for stored in again][2:] == later[:2]
        assert positions_of([await anext(batches)]) == [[9, 10]]
    assert "the database lost events that were handed out consumer='billing' position=4" in caplog.messages


@pytest.mark.oldest
@pytest.mark.parametrize("ends_session", [True, False])
async def test_filters_pass_over_no_event_that_took_the_place_of_a_lost_one(
    database_url: str, conn: AsyncConnection, appender: Appender, *, ends_session: bool
) -> None:
    def failed() -> Event:
        return decode(wire.event(next_ulid(), event_type=FAILED, recipient=wire.recipient("12300000002")), APP, CHAT)

    await appender.append([*new_events(2), failed()])
    async with handed_out(database_url, types={EventType.RECIPIENT_FAILED}, follow=False) as (batches, first):
        await lose_events(conn, after=2)
        await appender.append([later := failed(), *new_events(3)])
        if ends_session:
            await end_session(conn)
        second = await anext(batches)
        assert positions_of([first, second]) == [[3], [3]]
        assert second.events[0].event == later
        assert [batch async for batch in batches] == []
    assert (await status_of(conn)).position == 6


async def test_a_checkpoint_that_is_not_in_the_log_hands_out_nothing(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(5))
    await consume_all(database_url)
    await lose_events(conn, after=3)
    for _ in range(2):
        with pytest.raises(CheckpointNotInLog, match=r"at position 5\) is not in the log, which ends at position [36]"):
            await consume_all(database_url)
        assert not (await status_of(conn)).is_in_log
        await appender.append(new_events(3))  # other events at these positions
    await reset_consumer(database_url, QUICK, NAME, await find_reset_position(conn, "3"))
    assert positions_of(await consume_all(database_url)) == [[4, 5, 6, 7, 8, 9]]


async def test_missing_positions_are_never_passed(database_url: str, conn: AsyncConnection, appender: Appender) -> None:
    await appender.append(new_events(6))
    await lose_events(conn, after=3)
    await appender.append(new_events(2))
    async with conn.transaction():
        await conn.execute("ALTER TABLE eventstore.events DISABLE TRIGGER USER")
        await conn.execute("UPDATE eventstore.events SET position = position + 2 WHERE position > 3")
        for trigger in ("refuse_change_row", "refuse_change_statement"):
            await conn.execute(f"ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER {trigger}".encode())
    async with handed_out(database_url) as (batches, first):
        assert positions_of([first]) == [[1, 2, 3]]
        with pytest.raises(MissingPositions, match=r"positions 4\.\.5 are missing in the log; import"):
            await anext(batches)
    assert (await status_of(conn)).position == 3


async def test_a_consumer_that_was_dropped_meanwhile(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(2))
    async with handed_out(database_url, batch_events=1) as (batches, _):
        await conn.execute("DELETE FROM eventstore.consumers")
        await end_session(conn)
        with pytest.raises(Exception, match="consumer billing no longer exists"):
            await anext(batches)


class Program:
    """A program that consumes, and what it was handed and acknowledged; every batch begins where that ends."""

    def __init__(self, url: str) -> None:
        self.done = 0
        self.seen: set[int] = set()
        self._url = url
        self._batch: Batch | None = None
        self._batches = self._start()

    async def ask(self) -> None:
        self.done = self._batch.position if self._batch else self.done
        self._batch = await anext(self._batches, None)
        if self._batch is None:
            self._batches = self._start()
        else:
            found = [stored.position for stored in self._batch]
            assert found == list(range(self.done + 1, self.done + 1 + len(found)))
            self.seen.update(found)

    async def acknowledge(self, at: int) -> None:
        if self._batch is not None:
            stored = self._batch.events[at % len(self._batch)]
            await self._batch.acknowledge(stored)
            self.done = max(self.done, stored.position)

    async def restart(self) -> None:
        await self._batches.aclose()
        self._batch, self._batches = None, self._start()

    async def lose_to_another(self) -> None:
        """Let another process take the consumer over, and finish what is there."""
        for batch in await consume_all(self._url):
            self.seen.update(stored.position for stored in batch)
            self.done, self._batch = batch.position, None

    def _start(self) -> AsyncGenerator[Batch]:
        return consume(self._url, batch_events=3, follow=False)


@pytest.mark.newest
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_every_event_is_handed_out_and_nothing_that_was_acknowledged_is_repeated(
    database_url: str, conn: AsyncConnection, appender: Appender, seed: int
) -> None:
    draw = random.Random(seed)  # noqa: S311 - a test needs the same draws each time
    program, stored = Program(database_url), 0
    for _ in range(60):
        match draw.choice(["append", "append", "ask", "ask", "acknowledge", "cut", "restart", "another"]):
            case "append":
                await appender.append(new := new_events(draw.randint(1, 4)))
                stored += len(new)
            case "ask":
                await program.ask()
            case "acknowledge":
                await program.acknowledge(draw.randint(0, 2))
            case "cut":
                await end_session(conn)
            case "restart":
                await program.restart()
            case "another":
                await end_session(conn)
                await program.lose_to_another()
        assert program.seen >= set(range(1, program.done + 1))
    await program.restart()
    while program.done < stored:
        await program.ask()
    await program.restart()
    assert program.seen == set(range(1, stored + 1))


# From outside


@pytest.mark.oldest
async def test_resetting_and_dropping_a_consumer(database_url: str, conn: AsyncConnection, appender: Appender) -> None:
    await appender.append(events := new_events(5))
    await consume_all(database_url)
    places = {"beginning": 0, "now": 5, "4": 4, events[1].event_id: 2}
    assert {to: await find_reset_position(conn, to) for to in places} == places
    for wrong in ("6", "-1", "x", "", next_ulid()):
        with pytest.raises(UsageError):
            await find_reset_position(conn, wrong)
    await reset_consumer(database_url, QUICK, NAME, 3)
    assert positions_of(await consume_all(database_url)) == [[4, 5]]
    await drop_consumer(database_url, QUICK, NAME)
    with pytest.raises(UsageError, match="there is no consumer 'billing'; no consumer has run yet"):
        await status_of(conn)
    assert positions_of(await consume_all(database_url, start=4)) == [[5]]


async def test_a_consumer_role_needs_nothing_else(postgres: Server, database_url: str, appender: Appender) -> None:
    await appender.append(new_events(3))
    async with granted_roles(postgres, database_url, RoleKind.CONSUMER) as roles:
        url = roles[RoleKind.CONSUMER].url
        assert positions_of(await consume_all(url)) == [[1, 2, 3]]
        await reset_consumer(url, QUICK, NAME, 1)
        await drop_consumer(url, QUICK, NAME)
