"""An append: as it came, once, in commit order; duplicates, contradictions, refusals, the cursor and the quarantine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import AsyncConnection, errors

from eventstore import duplicates
from eventstore.append import CHANNEL, Appended, Appender, CursorMove
from eventstore.contracts import Event, decode
from eventstore.duplicates import OTHER_BYTES, OTHER_VALUES
from eventstore.errors import ForeignEventId, LeadershipLost
from eventstore.quarantine import Rejected
from eventstore.read import read
from tests import store, wire
from tests.store import APP, CHAT, PCS, contradicting, cursor_of, garbage, kept, made, next_ulid, positions

OCCURRED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
both_ways = pytest.mark.parametrize("probing", [True, False], ids=["probing", "copying"])


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection to look with."""
    async with store.connection(database_url) as conn:
        yield conn


@pytest.fixture
async def appender(database_url: str) -> AsyncIterator[Appender]:
    """An appender that expects duplicates, as after a connect."""
    async with store.appender(database_url) as appender:
        yield appender


async def stored(conn: AsyncConnection) -> list[Event]:
    return [item.event async for item in read(conn)]


def of_pcs(event_id: str, ppnum: str = "12300000001", app: str = APP) -> Event:
    """The event that :func:`of_chat` makes, as the other contract writes it."""
    payload = wire.event(event_id, recipient=wire.recipient(ppnum), occurred_at=wire.timestamp_of(OCCURRED))
    return decode(payload, app, PCS)


def of_chat(event_id: str, ppnum: str = "12300000001", app: str = APP) -> Event:
    payload = wire.event(event_id, recipient=wire.recipient(ppnum), occurred_at=wire.rfc3339(OCCURRED))
    return decode(payload, app, CHAT)


# As it came, in order


async def test_positions_are_given_out_in_the_order_of_the_batch(appender: Appender, conn: AsyncConnection) -> None:
    first, second = made(3), made(2)
    backwards = [*reversed(first)]
    assert await appender.append(backwards) == Appended(stored=3, duplicates=0, quarantined=0, head=3)
    assert await appender.append(second) == Appended(stored=2, duplicates=0, quarantined=0, head=5)
    assert list(await positions(conn)) == [event.event_id for event in (*backwards, *second)]


async def test_every_column_and_every_byte_comes_back_as_it_was(appender: Appender, conn: AsyncConnection) -> None:
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
    assert await stored(conn) == events
    assert [event.payload for event in await stored(conn)] == payloads


async def test_an_event_of_many_megabytes_is_stored(appender: Appender, conn: AsyncConnection) -> None:
    payload = wire.event(next_ulid(), more=wire.bytes_field(5000, bytes(range(256)) * 16 * 1024))
    await appender.append([*made(1), decode(payload, APP, PCS), *made(1)])
    assert (await stored(conn))[1].payload == payload


async def test_a_batch_of_thousands_is_stored_whole(appender: Appender, conn: AsyncConnection) -> None:
    events = made(3_000)
    assert (await appender.append(events)).head == 3_000
    assert await stored(conn) == events


@pytest.mark.parametrize("event_type", [0, 9, -1, 2**31 - 1])
async def test_a_type_that_we_do_not_know_is_stored(appender: Appender, conn: AsyncConnection, event_type: int) -> None:
    event = decode(wire.event(next_ulid(), event_type, occurred_at="some day"), APP, CHAT)
    assert (await appender.append([event])).stored == 1
    assert await stored(conn) == [event]


async def test_received_at_never_falls_even_when_the_clock_does(appender: Appender, conn: AsyncConnection) -> None:
    await appender.append(made(2))
    ahead = datetime.now(UTC) + timedelta(days=1)
    # A clock that went ahead for one append, and was then set right.
    await conn.execute(
        "INSERT INTO eventstore.events (event_id, position, app, contract, event_type, occurred_at, received_at,"
        r" payload) VALUES (%s, 3, 'app', 'chat.external', 1, now(), %s, '\x')",
        [next_ulid(), ahead],
    )
    await appender.append(made(2))
    received = [item.received_at async for item in read(conn)]
    assert received[0] == received[1] < received[2]
    assert received[2:] == [ahead] * 3


async def test_listeners_are_told_of_new_events_only(
    appender: Appender, conn: AsyncConnection, database_url: str
) -> None:
    await conn.execute(f"LISTEN {CHANNEL}")
    first = made(2)
    await appender.append(first)
    await appender.append(first)
    await appender.append([contradicting(first[0])])
    await appender.append([], rejected=[garbage()])
    appender.probing = False
    await appender.append(made(1))
    async with store.connection(database_url) as other:
        await other.execute(f"NOTIFY {CHANNEL}, 'end'")
    heard = []
    async for notice in conn.notifies():
        heard.append((notice.channel, notice.payload))
        if notice.payload:
            break
    assert heard == [(CHANNEL, ""), (CHANNEL, ""), (CHANNEL, "end")]


# Duplicates in one batch


async def test_of_a_batchs_repetitions_the_first_is_stored(appender: Appender, conn: AsyncConnection) -> None:
    a, b = made(2)
    for probing in (True, False):
        appender.probing = probing
        fresh = made(1)[0]
        assert (await appender.append([fresh, fresh, fresh]))[:3] == (1, 2, 0)
    assert await appender.append([a, b, a, b, a]) == Appended(stored=2, duplicates=3, quarantined=0, head=4)
    assert (await stored(conn))[2:] == [a, b]
    assert await kept(conn) == []


@both_ways
async def test_of_a_batchs_contradictions_the_first_is_stored_and_the_others_kept(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    appender.probing = probing
    a, b = made(2)
    other = contradicting(a)
    assert await appender.append([a, b, other, a, other]) == Appended(stored=2, duplicates=1, quarantined=2, head=2)
    assert await stored(conn) == [a, b]
    assert await kept(conn) == [(a.event_id, other.payload, OTHER_BYTES, 2)]


@both_ways
async def test_one_batch_may_bring_an_event_in_both_contracts(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    appender.probing = probing
    same, differing = next_ulid(), next_ulid()
    batch = [of_chat(same), of_pcs(same), of_pcs(differing), of_chat(differing, "99900000009")]
    assert (await appender.append(batch))[:3] == (2, 1, 1)
    assert await stored(conn) == [batch[0], batch[2]]
    assert await kept(conn) == [(differing, batch[3].payload, OTHER_VALUES, 1)]


@both_ways
async def test_one_batch_may_not_bring_one_id_for_two_apps(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    appender.probing = probing
    event_id = next_ulid()
    with pytest.raises(ForeignEventId):
        await appender.append([*made(1), of_chat(event_id), of_chat(event_id, app="other")])
    await store.nothing_written(conn)


@both_ways
async def test_what_a_batch_repeats_is_compared_with_what_is_stored(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    first = made(1)[0]
    other = contradicting(first)
    await appender.append([first])
    appender.probing = probing
    # Had they come one by one: a contradiction, a duplicate, a contradiction, a duplicate.
    assert await appender.append([other, first, other, first]) == Appended(
        stored=0, duplicates=2, quarantined=2, head=1
    )
    assert await stored(conn) == [first]
    assert await kept(conn) == [(first.event_id, other.payload, OTHER_BYTES, 2)]


# Duplicates across batches


@both_ways
async def test_what_is_stored_already_is_a_duplicate(appender: Appender, conn: AsyncConnection, probing: bool) -> None:
    events = made(4)
    await appender.append(events[:3])
    appender.probing = probing
    assert await appender.append(events) == Appended(stored=1, duplicates=3, quarantined=0, head=4)
    appender.probing = probing
    assert await appender.append(events) == Appended(stored=0, duplicates=4, quarantined=0, head=4)
    assert await stored(conn) == events
    assert await kept(conn) == []


@both_ways
async def test_other_bytes_under_a_known_id_are_kept_and_the_first_stays(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    first, *new = made(3)
    other = contradicting(first)
    await appender.append([first])
    appender.probing = probing
    assert await appender.append([new[0], other, new[1]]) == Appended(stored=2, duplicates=0, quarantined=1, head=3)
    assert await stored(conn) == [first, *new]
    assert await kept(conn) == [(first.event_id, other.payload, OTHER_BYTES, 1)]


@both_ways
async def test_other_bytes_that_read_the_same_are_other_bytes(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    payload = wire.event(next_ulid())
    first = decode(payload, APP, CHAT)
    longer = decode(payload + wire.number_field(5000, 1), APP, CHAT)
    assert first == longer._replace(payload=payload)
    await appender.append([first])
    appender.probing = probing
    assert (await appender.append([longer]))[:3] == (0, 0, 1)
    assert await stored(conn) == [first]


@both_ways
@pytest.mark.parametrize("pcs_first", [True, False])
async def test_the_other_contracts_bytes_with_equal_values_are_a_duplicate(
    appender: Appender, conn: AsyncConnection, probing: bool, pcs_first: bool
) -> None:
    event_id = next_ulid()
    pair = [of_pcs(event_id), of_chat(event_id)]
    first, second = pair if pcs_first else reversed(pair)
    await appender.append([first])
    appender.probing = probing
    assert (await appender.append([second, *made(1)]))[:3] == (1, 1, 0)
    assert (await stored(conn))[0] == first
    assert await kept(conn) == []


@both_ways
async def test_the_other_contracts_bytes_with_other_values_are_kept(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    event_id = next_ulid()
    await appender.append([of_chat(event_id)])
    appender.probing = probing
    other = of_pcs(event_id, "99900000009")
    assert (await appender.append([other]))[:3] == (0, 0, 1)
    assert await stored(conn) == [of_chat(event_id)]
    assert await kept(conn) == [(event_id, other.payload, OTHER_VALUES, 1)]


@both_ways
async def test_the_same_bytes_under_the_other_contract_are_a_duplicate(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    payload = wire.event(next_ulid())
    await appender.append([decode(payload, APP, CHAT)])
    appender.probing = probing
    assert (await appender.append([decode(payload, APP, PCS)]))[:3] == (0, 1, 0)
    assert await kept(conn) == []


@both_ways
async def test_an_id_of_another_app_is_that_apps_and_nothing_is_written(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    theirs = made(1, app="theirs")[0]
    await appender.append([theirs])
    await store.follow(conn)
    appender.probing = probing
    batch = [*made(2), theirs._replace(app=APP), *made(2)]
    with pytest.raises(ForeignEventId) as caught:
        await appender.append(batch, rejected=[garbage()], cursor=CursorMove(APP, 1, batch[-1].event_id))
    assert (caught.value.app, caught.value.other, caught.value.event_id) == (APP, "theirs", theirs.event_id)
    assert await stored(conn) == [theirs]
    assert await kept(conn) == []
    assert await cursor_of(conn) is None
    assert (await appender.append(made(1))).stored == 1


async def test_a_batch_whose_fate_is_unknown_is_appended_again(
    appender: Appender, conn: AsyncConnection, database_url: str
) -> None:
    batch = made(5)
    await appender.append(batch, rejected=[garbage()])
    async with store.appender(database_url) as after:
        assert (await after.append(batch, rejected=[garbage()]))[:3] == (0, 5, 1)
    assert await stored(conn) == batch


# The cursor


@both_ways
async def test_the_cursor_moves_with_the_batch(appender: Appender, conn: AsyncConnection, probing: bool) -> None:
    await store.follow(conn)
    appender.probing = probing
    events = made(3)
    await conn.execute("UPDATE eventstore.cursors SET last_error = 'away', last_error_at = now()")
    await appender.append(events, cursor=CursorMove(APP, 1, events[-1].event_id))
    row = await (await conn.execute("SELECT * FROM eventstore.cursors")).fetchone()
    assert row is not None
    assert row[0] == APP
    assert row[2] == events[-1].event_id
    assert row[3] is not None
    assert row[-2:] == (None, None)


async def test_the_cursor_is_the_last_id_received_and_not_the_greatest(
    appender: Appender, conn: AsyncConnection
) -> None:
    await store.follow(conn)
    late, early = next_ulid(), "0" * 26
    await appender.append([of_chat(late), of_chat(early)], cursor=CursorMove(APP, 1, early))
    assert await cursor_of(conn) == early


async def test_the_cursor_moves_past_duplicates_and_quarantined_messages(
    appender: Appender, conn: AsyncConnection
) -> None:
    await store.follow(conn)
    first, second = made(2)
    await appender.append([first, second], cursor=CursorMove(APP, 1, second.event_id))
    await appender.append([first], cursor=CursorMove(APP, 1, first.event_id))
    assert await cursor_of(conn) == first.event_id
    await appender.append([contradicting(second)], cursor=CursorMove(APP, 1, second.event_id))
    assert await cursor_of(conn) == second.event_id
    rejected = garbage()._replace(event_id=first.event_id)
    await appender.append([], rejected=[rejected], cursor=CursorMove(APP, 1, first.event_id))
    assert await cursor_of(conn) == first.event_id


async def test_a_batch_without_any_id_leaves_the_cursor_where_it_is(appender: Appender, conn: AsyncConnection) -> None:
    await store.follow(conn)
    events = made(1)
    await appender.append(events, cursor=CursorMove(APP, 1, events[-1].event_id))
    await appender.append([], rejected=[garbage()], cursor=CursorMove(APP, 1, None))
    assert await cursor_of(conn) == events[-1].event_id
    assert len(await kept(conn)) == 1


@both_ways
@pytest.mark.parametrize("app", [APP, "never followed"])
@pytest.mark.parametrize("count", [2, 0])
async def test_a_follower_whose_epoch_is_over_writes_nothing(
    appender: Appender, conn: AsyncConnection, probing: bool, app: str, count: int
) -> None:
    await store.follow(conn, APP, epoch=2)
    appender.probing = probing
    events = made(count)
    for epoch in (1, 3) if app == APP else (0, 1):
        with pytest.raises(LeadershipLost) as caught:
            await appender.append(events, rejected=[garbage()], cursor=CursorMove(app, epoch, next_ulid()))
        assert caught.value.app == app
    await store.nothing_written(conn)
    assert await cursor_of(conn) is None
    assert (await appender.append(made(1), cursor=CursorMove(APP, 2, None))).stored == 1


# The quarantine


async def test_rejected_messages_are_kept_beside_the_events_of_their_batch(
    appender: Appender, conn: AsyncConnection
) -> None:
    for probing in (True, False):
        appender.probing = probing
        number = int(probing)
        assert (await appender.append(made(2), rejected=[garbage(number)]))[:3] == (2, 0, 1)
    assert [(row.event_id, row.payload, row.times) for row in await kept(conn)] == [
        (None, b"\xff1", 1),
        (None, b"\xff0", 1),
    ]


async def test_bytes_that_come_again_are_counted_and_not_kept_again(appender: Appender, conn: AsyncConnection) -> None:
    await appender.append([], rejected=[garbage(), garbage(), garbage(1)])
    seen = "SELECT first_seen, last_seen FROM eventstore.quarantine ORDER BY id LIMIT 1"
    before = await (await conn.execute(seen)).fetchone()
    await appender.append(made(1), rejected=[garbage(1), garbage()])
    after = await (await conn.execute(seen)).fetchone()
    assert sorted((row.payload, row.times) for row in await kept(conn)) == [(b"\xff0", 3), (b"\xff1", 2)]
    await appender.append(made(1), rejected=[garbage()] * 4)
    assert sorted((row.payload, row.times) for row in await kept(conn)) == [(b"\xff0", 7), (b"\xff1", 2)]
    assert before is not None
    assert after is not None
    assert after[0] == before[0] == before[1] < after[1]


async def test_bytes_that_came_once_were_first_and_last_seen_at_the_same_moment(
    appender: Appender, conn: AsyncConnection
) -> None:
    await appender.append([], rejected=[garbage(number) for number in range(200)])
    seen = "SELECT count(*), count(*) FILTER (WHERE first_seen = last_seen) FROM eventstore.quarantine"
    assert await (await conn.execute(seen)).fetchone() == (200, 200)


async def test_the_same_bytes_are_kept_once_for_each_app_and_contract(
    appender: Appender, conn: AsyncConnection
) -> None:
    one = garbage()
    variants = [one, one._replace(app="b"), one._replace(contract=PCS.value), one._replace(app="b", contract=PCS.value)]
    await appender.append([], rejected=variants)
    await appender.append([], rejected=variants[:2])
    assert sorted(row.times for row in await kept(conn)) == [1, 1, 2, 2]


async def test_the_sha_256_is_the_payloads(appender: Appender, conn: AsyncConnection) -> None:
    await appender.append([], rejected=[Rejected(APP, CHAT.value, b"", "empty"), garbage()])
    equal = await store.value(conn, "SELECT bool_and(sha256 = sha256(payload)) FROM eventstore.quarantine")
    assert equal is True


# What Postgres refuses

CHECK = "ALTER TABLE eventstore.events ADD CONSTRAINT refused CHECK (ppnum IS DISTINCT FROM 'culprit')"
RAISING = """
CREATE FUNCTION raising() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.ppnum = 'culprit' THEN RAISE EXCEPTION 'as the test wants' USING ERRCODE = '%s'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER raising BEFORE INSERT ON eventstore.events FOR EACH ROW EXECUTE FUNCTION raising();
"""
WAITING = """
CREATE FUNCTION waiting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.ppnum = 'culprit' THEN PERFORM pg_advisory_xact_lock(42); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER waiting BEFORE INSERT ON eventstore.events FOR EACH ROW EXECUTE FUNCTION waiting();
"""
STOP_RAISING = "DROP TRIGGER raising ON eventstore.events; DROP FUNCTION raising()"


def with_culprits(count: int, culprits: Sequence[int]) -> list[Event]:
    return [made(1, ppnum="culprit" if number in culprits else "1")[0] for number in range(count)]


@both_ways
@pytest.mark.parametrize("refusal", [CHECK, RAISING % "22003", RAISING % "23502"], ids=["check", "22003", "23502"])
async def test_the_one_event_that_postgres_refuses_is_kept_and_the_others_stored(
    appender: Appender, conn: AsyncConnection, refusal: str, probing: bool
) -> None:
    await conn.execute(refusal.encode())
    await store.follow(conn)
    appender.probing = probing
    batch = with_culprits(7, [4])
    last = batch[-1].event_id
    assert await appender.append(batch, rejected=[garbage()], cursor=CursorMove(APP, 1, last)) == Appended(6, 0, 2, 6)
    assert list(await positions(conn)) == [event.event_id for event in batch if event is not batch[4]]
    rows = {row.payload: row for row in await kept(conn)}
    assert rows.keys() == {garbage().payload, batch[4].payload}
    culprit = rows[batch[4].payload]
    assert (culprit.event_id, culprit.times) == (batch[4].event_id, 1)
    assert culprit.reason.startswith("Postgres can't store it (SQLSTATE 2")
    assert await cursor_of(conn) == last
    appender.probing = False
    assert await appender.append(made(1)) == Appended(1, 0, 0, 7)


@pytest.mark.parametrize("culprits", [[0], [0, 1], [6], [0, 3, 6], [1, 2, 3, 4, 5], range(7)])
async def test_several_that_postgres_refuses_are_each_kept_wherever_they_stand(
    appender: Appender, conn: AsyncConnection, culprits: Sequence[int]
) -> None:
    await conn.execute(CHECK)
    batch = with_culprits(7, culprits)
    good = [event for event in batch if event.ppnum == "1"]
    result = await appender.append([*batch, batch[0]])
    assert (result.stored, result.quarantined, result.head) == (len(good), len(culprits) + (0 in culprits), len(good))
    assert await stored(conn) == good
    assert {row.event_id for row in await kept(conn)} == {batch[number].event_id for number in culprits}


@both_ways
@pytest.mark.parametrize("sqlstate", ["53100", "57014", "40001", "XX000"])
async def test_an_error_of_another_class_is_the_databases_and_nothing_is_written(
    appender: Appender, conn: AsyncConnection, sqlstate: str, probing: bool
) -> None:
    await conn.execute((RAISING % sqlstate).encode())
    await store.follow(conn)
    appender.probing = probing
    batch = with_culprits(7, [4])
    with pytest.raises(psycopg.Error) as caught:
        await appender.append(batch, rejected=[garbage()], cursor=CursorMove(APP, 1, batch[-1].event_id))
    assert caught.value.sqlstate == sqlstate
    await store.nothing_written(conn)
    assert await cursor_of(conn) is None
    await conn.execute(STOP_RAISING)
    assert await appender.append(batch) == Appended(7, 0, 0, 7)


@both_ways
async def test_an_append_that_is_cancelled_in_the_middle_of_its_copy_writes_nothing(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    await conn.execute(WAITING.encode())
    await store.follow(conn)
    appender.probing = probing
    batch = with_culprits(7, [4])
    pid = appender._conn.info.backend_pid
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(42)")
        cursor = CursorMove(APP, 1, batch[-1].event_id)
        task = asyncio.create_task(appender.append(batch, rejected=[garbage()], cursor=cursor))
        await store.blocked(conn, pid)
        await conn.execute("SELECT pg_cancel_backend(%s)", [pid])
        with pytest.raises(errors.QueryCanceled):
            await task
    await store.nothing_written(conn)
    assert await cursor_of(conn) is None
    assert await appender.append(batch) == Appended(7, 0, 0, 7)


async def test_a_writer_that_ignores_the_append_lock_costs_an_error_and_no_event(
    appender: Appender, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Appender._copy
    batch = made(3)

    async def overtaken(self: Appender, events: Sequence[Event], head: int, received_at: datetime) -> None:
        await conn.execute(
            "INSERT INTO eventstore.events (event_id, position, app, contract, event_type, occurred_at, received_at,"
            r" payload) VALUES (%s, 1, 'app', 'chat.external', 1, now(), now(), '\x')",
            [next_ulid()],
        )
        await copy(self, events, head, received_at)

    monkeypatch.setattr(Appender, "_copy", overtaken)
    with pytest.raises(errors.UniqueViolation):
        await appender.append(batch)
    assert await kept(conn) == []
    monkeypatch.undo()
    assert await appender.append(batch) == Appended(3, 0, 0, 4)


# Probing


class Steps:
    """What an appender asked of Postgres, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[str] = []
        probe, copy = duplicates.known_among, Appender._copy

        async def probed(conn: AsyncConnection, events: Sequence[Event]) -> object:
            self.taken.append(f"probe {len(events)}")
            return await probe(conn, events)

        async def copied(appender: Appender, events: Sequence[Event], head: int, received_at: datetime) -> None:
            self.taken.append(f"copy {len(events)}")
            await copy(appender, events, head, received_at)

        monkeypatch.setattr("eventstore.append.known_among", probed)
        monkeypatch.setattr(Appender, "_copy", copied)

    def since(self) -> list[str]:
        taken, self.taken = self.taken, []
        return taken


async def test_batches_are_probed_until_one_is_clean_and_again_after_a_copy_that_hits_a_duplicate(
    appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    known = made(4)
    await appender.append(known)
    assert steps.since() == ["probe 4", "copy 4"]
    await appender.append(made(2))
    assert steps.since() == ["copy 2"]
    await appender.append([*known, *made(1)])
    assert steps.since() == ["copy 5", "probe 5", "copy 1"]
    await appender.append(known)
    assert steps.since() == ["probe 4"]
    await appender.append([*made(2), known[0]])
    assert steps.since() == ["probe 3", "copy 2"]
    repeated = made(2)
    await appender.append([*repeated, *repeated])
    assert steps.since() == ["probe 4", "copy 2"]
    await appender.append([*made(1), *(repeated := made(1)), *repeated])
    assert steps.since() == ["copy 2"]
    await appender.append([], rejected=[garbage()])
    assert steps.since() == []
    await appender.append(made(1), rejected=[garbage()])
    assert steps.since() == ["copy 1"]


async def test_a_batch_that_contradicts_what_is_stored_is_not_clean(
    appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    known = made(2)
    await appender.append(known)
    await appender.append([contradicting(event) for event in known])
    assert steps.since() == ["probe 2", "copy 2", "copy 2", "probe 2"]
    await appender.append(known)
    assert steps.since() == ["probe 2"]


async def test_a_new_connection_expects_duplicates(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    for _ in range(2):
        async with store.appender(database_url) as appender:
            await appender.append(made(1))
            await appender.append(made(2))
        assert steps.since() == ["probe 1", "copy 1", "copy 2"]
