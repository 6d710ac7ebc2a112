"""Messages that can't be events, and events that Postgres refuses, are quarantined; the rest of a batch is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from psycopg import AsyncConnection, errors

from eventstore.appending import copying
from eventstore.appending.append import Appended, Appender
from eventstore.appending.append_lock import Head
from eventstore.appending.cursor_move import CursorMove
from eventstore.appending.quarantine import Rejected
from eventstore.contracts import Event
from tests import store
from tests.queries import fetch_row
from tests.store import (
    APP,
    CHAT,
    PCS,
    cursor_of,
    garbage,
    new_events,
    next_ulid,
    positions,
    quarantine_rows,
    stored_events,
    with_and_without_probing,
)

# The quarantine


async def test_rejected_messages_are_quarantined_with_the_events_of_their_batch_stored(
    appender: Appender, conn: AsyncConnection
) -> None:
    for probing in (True, False):
        appender.probing = probing
        number = int(probing)
        assert (await appender.append(new_events(2), rejected=[garbage(number)]))[:3] == (2, 0, 1)
    assert [(row.event_id, row.payload, row.times) for row in await quarantine_rows(conn)] == [
        (None, b"\xff1", 1),
        (None, b"\xff0", 1),
    ]


async def test_repeated_bytes_are_counted_and_kept_once(appender: Appender, conn: AsyncConnection) -> None:
    await appender.append([], rejected=[garbage(), garbage(), garbage(1)])
    seen = "SELECT first_seen, last_seen FROM eventstore.quarantine ORDER BY id LIMIT 1"
    before = await fetch_row(conn, seen)
    await appender.append(new_events(1), rejected=[garbage(1), garbage()])
    after = await fetch_row(conn, seen)
    assert sorted((row.payload, row.times) for row in await quarantine_rows(conn)) == [(b"\xff0", 3), (b"\xff1", 2)]
    await appender.append(new_events(1), rejected=[garbage()] * 4)
    assert sorted((row.payload, row.times) for row in await quarantine_rows(conn)) == [(b"\xff0", 7), (b"\xff1", 2)]
    assert before is not None
    assert after is not None
    assert after[0] == before[0] == before[1] < after[1]


async def test_bytes_received_once_have_equal_first_and_last_seen(appender: Appender, conn: AsyncConnection) -> None:
    await appender.append([], rejected=[garbage(number) for number in range(200)])
    seen = "SELECT count(*), count(*) FILTER (WHERE first_seen = last_seen) FROM eventstore.quarantine"
    assert await fetch_row(conn, seen) == (200, 200)


async def test_the_same_bytes_are_kept_once_for_each_app_and_contract(
    appender: Appender, conn: AsyncConnection
) -> None:
    one = garbage()
    variants = [one, one._replace(app="b"), one._replace(contract=PCS.value), one._replace(app="b", contract=PCS.value)]
    await appender.append([], rejected=variants)
    await appender.append([], rejected=variants[:2])
    assert sorted(row.times for row in await quarantine_rows(conn)) == [1, 1, 2, 2]


async def test_the_sha_256_is_the_payloads(appender: Appender, conn: AsyncConnection) -> None:
    await appender.append([], rejected=[Rejected(APP, CHAT.value, b"", "empty"), garbage()])
    equal = await store.value(conn, "SELECT bool_and(sha256 = sha256(payload)) FROM eventstore.quarantine")
    assert equal is True


# Events that Postgres refuses


CHECK = "ALTER TABLE eventstore.events ADD CONSTRAINT refused CHECK (ppnum IS DISTINCT FROM 'culprit')"
RAISING = """
CREATE FUNCTION public.raising() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.ppnum = 'culprit' THEN RAISE EXCEPTION 'as the test wants' USING ERRCODE = '%s'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER raising BEFORE INSERT ON eventstore.events FOR EACH ROW EXECUTE FUNCTION public.raising();
"""
WAITING = """
CREATE FUNCTION public.waiting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.ppnum = 'culprit' THEN PERFORM pg_advisory_xact_lock(42); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER waiting BEFORE INSERT ON eventstore.events FOR EACH ROW EXECUTE FUNCTION public.waiting();
"""
STOP_RAISING = "DROP TRIGGER raising ON eventstore.events; DROP FUNCTION public.raising()"


def batch_with_culprits(count: int, culprits: Sequence[int]) -> list[Event]:
    return [new_events(1, ppnum="culprit" if number in culprits else "1")[0] for number in range(count)]


@with_and_without_probing
@pytest.mark.parametrize("refusal", [CHECK, RAISING % "22003", RAISING % "23502"], ids=["check", "22003", "23502"])
async def test_the_event_that_postgres_refuses_is_quarantined_and_the_others_stored(
    appender: Appender, conn: AsyncConnection, refusal: str, probing: bool
) -> None:
    await conn.execute(refusal.encode())
    await store.set_epoch(conn)
    appender.probing = probing
    batch = batch_with_culprits(7, [4])
    last = batch[-1].event_id
    assert await appender.append(batch, rejected=[garbage()], cursor=CursorMove(APP, 1, last)) == Appended(6, 0, 2, 6)
    assert list(await positions(conn)) == [event.event_id for event in batch if event is not batch[4]]
    rows = {row.payload: row for row in await quarantine_rows(conn)}
    assert rows.keys() == {garbage().payload, batch[4].payload}
    culprit = rows[batch[4].payload]
    assert (culprit.event_id, culprit.times) == (batch[4].event_id, 1)
    assert culprit.reason.startswith("Postgres can't store it (SQLSTATE 2")
    assert await cursor_of(conn) == last
    appender.probing = False
    assert await appender.append(new_events(1)) == Appended(1, 0, 0, 7)


@pytest.mark.parametrize("culprits", [[0], [0, 1], [6], [0, 3, 6], [1, 2, 3, 4, 5], range(7)])
async def test_several_events_that_postgres_refuses_are_all_quarantined(
    appender: Appender, conn: AsyncConnection, culprits: Sequence[int]
) -> None:
    await conn.execute(CHECK)
    batch = batch_with_culprits(7, culprits)
    good = [event for event in batch if event.ppnum == "1"]
    result = await appender.append([*batch, batch[0]])
    assert (result.stored, result.quarantined, result.head) == (len(good), len(culprits) + (0 in culprits), len(good))
    assert await stored_events(conn) == good
    assert {row.event_id for row in await quarantine_rows(conn)} == {batch[number].event_id for number in culprits}


@with_and_without_probing
async def test_only_the_event_whose_text_cannot_be_encoded_is_quarantined(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    """No message decodes to such a text; if one did, the error wouldn't be the connection's or this code's."""
    appender.probing = probing
    batch = new_events(5)
    batch[2] = batch[2]._replace(error_code="\ud800")
    assert await appender.append(batch) == Appended(4, 0, 1, 4)
    assert [(row.event_id, row.reason) for row in await quarantine_rows(conn)] == [
        (batch[2].event_id, "Postgres can't store it (a text can't be written in UTF-8)")
    ]


@with_and_without_probing
async def test_a_session_of_another_encoding_is_an_error_of_the_database(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    """A pooler may ignore the requested encoding of a session; then a new connection is tried."""
    appender.probing = probing
    batch = [new_events()[0]._replace(error_code="недоступен")]
    await appender._conn.execute("SET client_encoding = LATIN1")
    with pytest.raises(psycopg.OperationalError, match=r"the session's encoding is (latin-1|iso8859-1), not UTF-8"):
        await appender.append(batch)
    await store.assert_nothing_written(conn)
    await appender._conn.execute("SET client_encoding = UTF8")
    assert await appender.append(batch) == Appended(1, 0, 0, 1)


@with_and_without_probing
@pytest.mark.parametrize("sqlstate", ["53100", "57014", "40001", "XX000"])
async def test_an_error_of_another_class_quarantines_nothing_and_writes_nothing(
    appender: Appender, conn: AsyncConnection, sqlstate: str, probing: bool
) -> None:
    await conn.execute((RAISING % sqlstate).encode())
    await store.set_epoch(conn)
    appender.probing = probing
    batch = batch_with_culprits(7, [4])
    with pytest.raises(psycopg.Error) as caught:
        await appender.append(batch, rejected=[garbage()], cursor=CursorMove(APP, 1, batch[-1].event_id))
    assert caught.value.sqlstate == sqlstate
    await store.assert_nothing_written(conn)
    assert await cursor_of(conn) is None
    await conn.execute(STOP_RAISING)
    assert await appender.append(batch) == Appended(7, 0, 0, 7)


@with_and_without_probing
async def test_an_append_that_is_cancelled_in_the_middle_of_its_copy_writes_nothing(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    await conn.execute(WAITING.encode())
    await store.set_epoch(conn)
    appender.probing = probing
    batch = batch_with_culprits(7, [4])
    pid = appender._conn.info.backend_pid
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(42)")
        cursor = CursorMove(APP, 1, batch[-1].event_id)
        task = asyncio.create_task(appender.append(batch, rejected=[garbage()], cursor=cursor))
        await store.wait_until_blocked(conn, pid)
        await conn.execute("SELECT pg_cancel_backend(%s)", [pid])
        with pytest.raises(errors.QueryCanceled):
            await task
    await store.assert_nothing_written(conn)
    assert await cursor_of(conn) is None
    assert await appender.append(batch) == Appended(7, 0, 0, 7)


async def test_a_writer_that_ignores_the_append_lock_causes_an_error_and_loses_no_event(
    appender: Appender, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copying.copy_events
    batch = new_events(3)

    async def overtaken(appending: AsyncConnection, events: Sequence[Event], head: Head) -> None:
        await conn.execute(
            "INSERT INTO eventstore.events (event_id, position, app, contract, event_type, occurred_at, received_at,"
            r" payload) VALUES (%s, 1, 'app', 'chat.external', 1, now(), now(), '\x')",
            [next_ulid()],
        )
        await copy(appending, events, head)

    for module in ("append", "copying"):
        monkeypatch.setattr(f"eventstore.appending.{module}.copy_events", overtaken)
    with pytest.raises(errors.UniqueViolation):
        await appender.append(batch)
    assert await quarantine_rows(conn) == []
    monkeypatch.undo()
    assert await appender.append(batch) == Appended(3, 0, 0, 4)
