"""A follower moves its cursor only from its own last commit, in a log that still has it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from psycopg import AsyncConnection, OperationalError

from eventstore.appending.append import Appended, Appender
from eventstore.appending.cursor_move import CursorMove, new_token
from eventstore.contracts import Event
from eventstore.errors import AlreadyAppended, CommitsLost, LeadershipLost
from eventstore.ingest.app_lease import Lease, hold_lease
from eventstore.ingest.buffer import Buffer, Received
from eventstore.ingest.context import IngestContext
from eventstore.ingest.event_writer import EventWriter
from eventstore.ingest.lost_events import KnownHeads, LostEvents
from tests import store
from tests.store import APP, CHAT, QUICK, garbage, new_events, with_and_without_probing


@dataclass
class Moves:
    """The moves of one follower's cursor; each starts from the previous one."""

    after: int | None = None
    head: int = 0
    made: list[CursorMove] = field(default_factory=list)

    def to(self, event_id: str | None) -> CursorMove:
        move = CursorMove(APP, 1, event_id, new_token(), after=self.after, head=self.head)
        self.after = move.token
        self.made.append(move)
        return move


@with_and_without_probing
async def test_each_move_starts_from_the_last_one(appender: Appender, conn: AsyncConnection, probing: bool) -> None:
    await store.set_epoch(conn)
    moves = Moves()
    for number in range(1, 4):
        (event,) = new_events(1)
        appender.probing = probing
        result = await appender.append([event], cursor=moves.to(event.event_id))
        moves.head = result.head
        assert result == Appended(1, 0, 0, number)
    assert await store.value(conn, "SELECT fence FROM eventstore.cursors") == moves.after


@with_and_without_probing
@pytest.mark.parametrize("batch", ["events", "garbage alone"])
async def test_a_log_without_the_last_commit_accepts_nothing_more(
    appender: Appender, conn: AsyncConnection, probing: bool, batch: str
) -> None:
    await store.set_epoch(conn)
    moves = Moves()
    first, second, third = new_events(3)
    await appender.append([first], cursor=moves.to(first.event_id))
    appender.probing = probing
    kept = await store.value(conn, "SELECT fence FROM eventstore.cursors")
    await appender.append([second], cursor=moves.to(second.event_id))
    # A standby took over that has the first commit but not the second.
    await store.lose_events(conn, 1)
    await conn.execute("UPDATE eventstore.cursors SET fence = %s, last_event_id = %s", [kept, first.event_id])
    events = [third] if batch == "events" else []
    with pytest.raises(CommitsLost, match="lost events that were committed"):
        await appender.append(events, rejected=[garbage()], cursor=moves.to(third.event_id))
    assert await store.positions(conn) == {first.event_id: 1}
    assert await store.cursor_of(conn) == first.event_id
    assert await store.quarantine_rows(conn) == []


async def test_another_follower_of_the_same_epoch_is_distinguished(appender: Appender, conn: AsyncConnection) -> None:
    """After a failover another process may get the same epoch: only the tokens distinguish the two."""
    await store.set_epoch(conn)
    moves = Moves()
    (event,) = new_events(1)
    await appender.append([event], cursor=moves.to(event.event_id))
    await conn.execute("UPDATE eventstore.cursors SET fence = %s", [new_token()])
    with pytest.raises(CommitsLost):
        await appender.append(new_events(1), cursor=moves.to(None))


async def test_a_lower_epoch_means_that_the_database_lost_events(appender: Appender, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    move = CursorMove(APP, 2, None, new_token(), after=5)
    with pytest.raises(CommitsLost):
        await appender.append(new_events(1), cursor=move)


async def test_a_removed_cursor_ends_the_leadership(appender: Appender, conn: AsyncConnection) -> None:
    with pytest.raises(LeadershipLost, match="its cursor was deleted") as caught:
        await appender.append(new_events(1), cursor=Moves(after=5).to(None))
    assert not isinstance(caught.value, CommitsLost)
    await store.assert_nothing_written(conn)


@with_and_without_probing
async def test_a_head_below_a_known_position_is_refused(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    await store.set_epoch(conn)
    moves = Moves()
    events = new_events(3)
    moves.head = (await appender.append(events, cursor=moves.to(events[-1].event_id))).head
    appender.probing = probing
    await store.lose_events(conn, 2)  # and the cursor stays
    with pytest.raises(CommitsLost):
        await appender.append(new_events(1), cursor=moves.to(None))
    assert len(await store.positions(conn)) == 2


async def test_a_batch_that_was_committed_is_not_appended_again(appender: Appender, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    moves = Moves()
    (event,) = new_events(1)
    move = moves.to(event.event_id)
    await appender.append([event], rejected=[garbage()], cursor=move)
    move = move._replace(after=17)  # its previous token is no longer stored
    with pytest.raises(AlreadyAppended):
        await appender.append([event], rejected=[garbage()], cursor=move)
    assert await store.value(conn, "SELECT sum(count)::int FROM eventstore.quarantine") == 1


# The writer


async def lease_of(conn: AsyncConnection) -> Lease:
    fence = await store.value(conn, "UPDATE eventstore.cursors SET epoch = 1, fence = 9 RETURNING fence")
    assert isinstance(fence, int)
    return Lease(APP, 1, fence, conn, QUICK)


async def write_batches(writer: EventWriter, buffer: Buffer, *batches: list[Event]) -> None:
    """Let a writer append batches, one after another."""
    task = asyncio.create_task(writer.run())
    try:
        for events in batches:
            for event in events:
                buffer.put(Received(CHAT, event.payload))
            draining = asyncio.create_task(buffer.drained())
            await asyncio.wait({draining, task}, return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            if task.done():
                task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_commit_whose_answer_is_lost_is_counted_once(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.set_epoch(conn)
    append = Appender.append
    lost: list[Appended] = []

    async def without_answer(self: Appender, *args: Any, **more: Any) -> Appended:  # noqa: ANN401 - passed on
        result = await append(self, *args, **more)
        if result.head == 5 and not lost:
            lost.append(result)
            raise OperationalError("the connection was lost behind the COMMIT")
        return result

    monkeypatch.setattr(Appender, "append", without_answer)
    buffer, results = Buffer(), list[Appended]()
    writer = EventWriter(IngestContext(database_url, QUICK), await lease_of(conn), KnownHeads(), buffer, results.append)
    await write_batches(writer, buffer, new_events(2), new_events(3))
    assert lost
    assert [(one.stored, one.duplicates) for one in results] == [(2, 0), (3, 0)]
    assert len(await store.positions(conn)) == 5


async def test_a_writer_ends_when_the_database_lost_its_events(database_url: str, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    buffer, heads = Buffer(), KnownHeads()
    held = await lease_of(conn)
    results: list[Appended] = []
    writer = EventWriter(IngestContext(database_url, QUICK), held, heads, buffer, results.append)
    await write_batches(writer, buffer, new_events(2))
    assert heads.last == 2
    await conn.execute("UPDATE eventstore.cursors SET fence = 9")
    with pytest.raises(CommitsLost):
        await write_batches(writer, buffer, new_events(2))
    assert len(await store.positions(conn)) == 2


# The record of lost events


async def heads_after(appender: Appender, *sizes: int) -> KnownHeads:
    heads = KnownHeads()
    for size in sizes:
        events = new_events(size)
        heads.add((await appender.append(events)).head, events[-1].event_id)
    return heads


async def test_nothing_is_recorded_while_no_event_is_lost(appender: Appender, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    assert await KnownHeads().find_lost(conn, APP) is None
    assert await (await heads_after(appender, 3, 2)).find_lost(conn, APP) is None
    assert await store.value(conn, "SELECT went_back FROM eventstore.cursors") == []


async def test_lost_events_are_recorded_once_with_their_positions(appender: Appender, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    heads = await heads_after(appender, 3, 2, 4, 1)
    await store.lose_events(conn, 6)  # inside the third batch
    assert await heads.find_lost(conn, APP) == LostEvents(last_lost=10, last_kept=5)
    assert await heads.find_lost(conn, APP) is None
    assert heads.last == 6, "6 is the head now"
    found = await store.value(conn, "SELECT went_back FROM eventstore.cursors")
    assert isinstance(found, list)
    assert [(one["from"], one["to"]) for one in found] == [(10, 5)]
    assert found[0]["noticed_at"]


@pytest.mark.oldest
async def test_other_events_at_the_lost_positions_hide_nothing(appender: Appender, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    heads = await heads_after(appender, 3, 2)
    await store.lose_events(conn, 3)
    await appender.append(new_events(7, app="another"))
    assert await heads.find_lost(conn, APP) == LostEvents(last_lost=5, last_kept=3)


async def test_a_database_without_any_remembered_event_lost_everything(
    appender: Appender, conn: AsyncConnection
) -> None:
    heads = await heads_after(appender, 3)
    await store.lose_events(conn, 0)
    assert await heads.find_lost(conn, APP) == LostEvents(last_lost=3, last_kept=0)
    assert await store.value(conn, "SELECT jsonb_array_length(went_back) FROM eventstore.cursors") == 1


async def test_a_process_that_committed_nothing_notices_lost_events_that_it_saw(
    appender: Appender, conn: AsyncConnection
) -> None:
    await appender.append(new_events(20))
    heads = KnownHeads()
    assert await heads.find_lost(conn, APP) is None
    await store.lose_events(conn, 14)
    assert await heads.find_lost(conn, APP) == LostEvents(last_lost=20, last_kept=13), "it knows 20, 19, 17, 13 and 5"
    assert heads.last == 14


async def test_lost_events_are_noticed_before_the_lease_is_acquired(
    database_url: str, appender: Appender, conn: AsyncConnection
) -> None:
    """Also by a standby process: another one may have taken the app over without knowing the lost events."""
    heads = await heads_after(appender, 3, 2)
    await store.lose_events(conn, 3)
    noticed: list[LostEvents | None] = []

    async def check(conn: AsyncConnection) -> None:
        noticed.append(await heads.find_lost(conn, APP))

    async with hold_lease(IngestContext(database_url, QUICK), APP), asyncio.timeout(store.GIVE_UP):
        standing_by = asyncio.Event()

        async def second() -> None:
            async with hold_lease(IngestContext(database_url, QUICK), APP, standing_by.set, check):
                pass

        task = asyncio.create_task(second())
        await standing_by.wait()
        assert noticed == [LostEvents(last_lost=5, last_kept=3)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
