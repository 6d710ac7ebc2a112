"""Appends: events are stored unchanged, in commit order, together with the cursor of their stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from psycopg import AsyncConnection

from eventstore.appending.append import Appended, Appender
from eventstore.appending.cursor_move import CursorMove
from eventstore.appending.notify_channel import CHANNEL, LISTEN
from eventstore.contracts import decode
from eventstore.errors import LeadershipLost
from eventstore.event_reader import read
from tests import store, wire
from tests.queries import fetch_row
from tests.store import (
    APP,
    CHAT,
    PCS,
    chat_event,
    conflicting_event,
    cursor_of,
    garbage,
    new_events,
    next_ulid,
    positions,
    quarantine_rows,
    stored_events,
    with_and_without_probing,
)

# Unchanged, in order


async def test_positions_are_assigned_in_the_order_of_the_batch(appender: Appender, conn: AsyncConnection) -> None:
    first, second = new_events(3), new_events(2)
    backwards = [*reversed(first)]
    assert await appender.append(backwards) == Appended(stored=3, duplicates=0, quarantined=0, head=3)
    assert await appender.append(second) == Appended(stored=2, duplicates=0, quarantined=0, head=5)
    assert list(await positions(conn)) == [event.event_id for event in (*backwards, *second)]


async def test_every_column_and_every_byte_is_stored_unchanged(appender: Appender, conn: AsyncConnection) -> None:
    top = 2**31 - 1
    payloads = [
        wire.event(next_ulid(), None, send_request_id=None),
        wire.event(next_ulid(), 2, recipient=wire.recipient("", message_id="", error_code="")),
        wire.event(next_ulid(), 2, recipient=wire.recipient("é" * 128, message_id="😀", error_code="\u0001\ufeff")),
        wire.event(next_ulid(), 6, summary=wire.summary(top, top, top, top, status=-(2**31))),
        wire.event(next_ulid(), 6, summary=wire.summary(0, 0, 0, 0, status=2**31 - 1)),
        wire.event(next_ulid(), 7, poll_response=wire.poll("", *["", "NULL", '{"a,b\\"}', "é"])),
        wire.event(next_ulid(), 7, poll_response=wire.poll("poll")),
        wire.event(next_ulid(), 7, poll_response=wire.poll("poll", "x" * 300)),
        wire.event(next_ulid(), -(2**31), more=wire.bytes_field(5000, bytes(range(256)) * 100)),
        wire.event(next_ulid(), 2**31 - 1, occurred_at=b"\xff"),
        wire.event(next_ulid(), occurred_at="0001-01-02T00:00:00Z"),
        wire.event(next_ulid(), occurred_at="9999-12-30T23:59:60Z"),
        wire.event("0" * 26, occurred_at=wire.timestamp(-62_135_510_400)),
        wire.event("7" + "Z" * 25, occurred_at=wire.timestamp(253_402_214_399, 999_999_999)),
    ]
    events = [decode(payload, APP, contract) for payload, contract in zip(payloads, [CHAT, PCS] * 7, strict=True)]
    await appender.append(events)
    assert await stored_events(conn) == events
    assert [event.payload for event in await stored_events(conn)] == payloads


async def test_an_event_of_many_megabytes_is_stored(appender: Appender, conn: AsyncConnection) -> None:
    payload = wire.event(next_ulid(), more=wire.bytes_field(5000, bytes(range(256)) * 16 * 1024))
    await appender.append([*new_events(1), decode(payload, APP, PCS), *new_events(1)])
    assert (await stored_events(conn))[1].payload == payload


async def test_a_batch_of_thousands_is_stored_whole(appender: Appender, conn: AsyncConnection) -> None:
    events = new_events(3_000)
    assert (await appender.append(events)).head == 3_000
    assert await stored_events(conn) == events


@pytest.mark.parametrize("event_type", [0, 9, -1, 2**31 - 1])
async def test_an_unknown_type_is_stored(appender: Appender, conn: AsyncConnection, event_type: int) -> None:
    event = decode(wire.event(next_ulid(), event_type, occurred_at="some day"), APP, CHAT)
    assert (await appender.append([event])).stored == 1
    assert await stored_events(conn) == [event]


async def test_received_at_never_decreases_even_if_the_clock_does(appender: Appender, conn: AsyncConnection) -> None:
    await appender.append(new_events(2))
    ahead = datetime.now(UTC) + timedelta(days=1)
    # The clock was ahead during one append and was corrected afterwards.
    await conn.execute(
        "INSERT INTO eventstore.events (event_id, position, app, contract, event_type, occurred_at, received_at,"
        r" payload) VALUES (%s, 3, 'app', 'chat.external', 1, now(), %s, '\x')",
        [next_ulid(), ahead],
    )
    await appender.append(new_events(2))
    received = [item.received_at async for item in read(conn)]
    assert received[0] == received[1] < received[2]
    assert received[2:] == [ahead] * 3


async def test_only_new_events_are_notified(appender: Appender, conn: AsyncConnection, database_url: str) -> None:
    await conn.execute(LISTEN)
    first = new_events(2)
    await appender.append(first)
    await appender.append(first)
    await appender.append([conflicting_event(first[0])])
    await appender.append([], rejected=[garbage()])
    appender.probing = False
    await appender.append(new_events(1))
    async with store.connection(database_url) as other:
        await other.execute(f"NOTIFY {CHANNEL}, 'end'")
    heard = []
    async for notice in conn.notifies():
        heard.append((notice.channel, notice.payload))
        if notice.payload:
            break
    assert heard == [(CHANNEL, ""), (CHANNEL, ""), (CHANNEL, "end")]


# The cursor


@with_and_without_probing
async def test_the_cursor_moves_with_the_batch(appender: Appender, conn: AsyncConnection, probing: bool) -> None:
    await store.set_epoch(conn)
    appender.probing = probing
    events = new_events(3)
    await conn.execute("UPDATE eventstore.cursors SET last_error = 'away', last_error_at = now()")
    await appender.append(events, cursor=CursorMove(APP, 1, events[-1].event_id))
    query = "SELECT app, last_event_id, last_received_at IS NOT NULL, last_error, last_error_at FROM eventstore.cursors"
    row = await fetch_row(conn, query)
    assert row == (APP, events[-1].event_id, True, None, None)


async def test_the_cursor_is_the_last_id_received_and_not_the_greatest(
    appender: Appender, conn: AsyncConnection
) -> None:
    await store.set_epoch(conn)
    late, early = next_ulid(), "0" * 26
    await appender.append([chat_event(late), chat_event(early)], cursor=CursorMove(APP, 1, early))
    assert await cursor_of(conn) == early


async def test_the_cursor_moves_past_duplicates_and_quarantined_messages(
    appender: Appender, conn: AsyncConnection
) -> None:
    await store.set_epoch(conn)
    first, second = new_events(2)
    await appender.append([first, second], cursor=CursorMove(APP, 1, second.event_id))
    await appender.append([first], cursor=CursorMove(APP, 1, first.event_id))
    assert await cursor_of(conn) == first.event_id
    await appender.append([conflicting_event(second)], cursor=CursorMove(APP, 1, second.event_id))
    assert await cursor_of(conn) == second.event_id
    rejected = garbage()._replace(event_id=first.event_id)
    await appender.append([], rejected=[rejected], cursor=CursorMove(APP, 1, first.event_id))
    assert await cursor_of(conn) == first.event_id


async def test_a_batch_without_any_id_leaves_the_cursor_where_it_is(appender: Appender, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    events = new_events(1)
    await appender.append(events, cursor=CursorMove(APP, 1, events[-1].event_id))
    await appender.append([], rejected=[garbage()], cursor=CursorMove(APP, 1, None))
    assert await cursor_of(conn) == events[-1].event_id
    assert len(await quarantine_rows(conn)) == 1


@with_and_without_probing
@pytest.mark.parametrize("app", [APP, "never followed"])
@pytest.mark.parametrize("count", [2, 0])
async def test_a_follower_of_an_older_epoch_writes_nothing(
    appender: Appender, conn: AsyncConnection, probing: bool, app: str, count: int
) -> None:
    await store.set_epoch(conn, APP, epoch=2)
    appender.probing = probing
    events = new_events(count)
    for epoch in (1, 3) if app == APP else (0, 1):
        with pytest.raises(LeadershipLost) as caught:
            await appender.append(events, rejected=[garbage()], cursor=CursorMove(app, epoch, next_ulid()))
        assert caught.value.app == app
    await store.assert_nothing_written(conn)
    assert await cursor_of(conn) is None
    assert (await appender.append(new_events(1), cursor=CursorMove(APP, 2, None))).stored == 1
