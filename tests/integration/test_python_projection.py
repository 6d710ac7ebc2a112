"""A projection in Python: the greatest event_id wins in any order, and errors of handle are reported."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any, ClassVar

import psycopg
import pytest
from sqlalchemy import Boolean, Column, Computed, DateTime, Integer, MetaData, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from eventstore.contracts import Event
from eventstore.contracts.event_types import EventType
from eventstore.postgres.byte_pages import PAGE_BYTES, PAGE_ROWS
from projections.errors import HandleFailed, InvalidProjection
from projections.folding.python_projection import PythonProjection, Row, Tombstone
from projections.folding.sql_text import compile_statement
from projections.folding.window_fold import build_fold
from projections.migrating.migrate import upgrade
from projections.projection import Window
from projections.running.run_context import RunContext
from projections.running.window_step import Step
from projections.running.worker import Worker
from projections.testing import ProjectionKit, event
from tests import folding, store
from tests.queries import fetch_all

metadata = MetaData(schema="public")


def make_table(name: str, *columns: Column[Any]) -> Table:
    return Table(
        name,
        metadata,
        Column("app", Text, primary_key=True),
        Column("ppnum", Text, primary_key=True),
        *columns,
        Column("event_id", Text(collation="C"), nullable=False),
        Column("deleted", Boolean, nullable=False),
    )


callers = make_table(
    "callers",
    Column("note", Text),
    Column("at", DateTime(timezone=True)),
    Column("more", JSONB),
    Column("options", ARRAY(Text)),
    Column("number", Integer, nullable=False, server_default=text("7")),
    Column("loud", Text, Computed("upper(note)", persisted=True)),
)
second = make_table("second callers")
foreign = Table("foreign", MetaData(schema="public"), Column("app", Text, primary_key=True))

GRANTED, DENIED = EventType.CONSENT_GRANTED, EventType.CONSENT_DENIED
Handle = Callable[[Event], Iterable[Row | Tombstone]]


def handle_consent(event: Event) -> Iterable[Row | Tombstone]:
    """A grant sets a row, and a denial deletes it."""
    key = {"app": event.app, "ppnum": event.ppnum}
    if event.event_type == DENIED:
        yield Tombstone(callers, key)
    else:
        yield Row(callers, {**key, "note": event.send_request_id, "at": event.occurred_at})


class Callers(PythonProjection):
    name: ClassVar[str] = "callers"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({GRANTED, DENIED})
    tables: ClassVar[tuple[Table, ...]] = (callers, second)
    partition_by: ClassVar[tuple[str, ...]] = ("app", "ppnum")

    def __init__(self, handle: Handle = handle_consent) -> None:
        self._handle = handle
        self.seen: list[str] = []

    def handle(self, event: Event) -> Iterable[Row | Tombstone]:
        self.seen.append(event.event_id)
        return self._handle(event)


def with_values(**values: object) -> Handle:
    return lambda event: [Row(callers, {"app": event.app, "ppnum": event.ppnum, **values})]


@pytest.mark.oldest
async def test_the_greatest_event_id_wins_in_every_order(database_url: str) -> None:
    events = [event(GRANTED, send_request_id=f"{number}", ppnum=f"41{number % 3}") for number in range(8)]
    last = {row.ppnum: row for row in events}
    expected = [
        {"app": "app", "ppnum": key, "note": row.send_request_id, "at": row.occurred_at, "event_id": row.event_id}
        for key, row in last.items()
    ]
    async with ProjectionKit(database_url, Callers()) as kit:
        await kit.assert_same_for_every_order(events, {callers: expected, second: []})


async def test_a_tombstone_blocks_older_events_and_is_replaced_by_newer_ones(database_url: str) -> None:
    back = [event(GRANTED, ppnum="1"), event(DENIED, ppnum="1"), event(GRANTED, ppnum="1", send_request_id="back")]
    gone = [event(GRANTED, ppnum="2"), event(DENIED, ppnum="2")]
    never = [event(DENIED, ppnum="3")]
    async with ProjectionKit(database_url, Callers()) as kit:
        expected = [{"app": "app", "ppnum": "1", "note": "back", "number": 7, "loud": "BACK", "deleted": False}]
        await kit.assert_same_for_every_order([*back, *gone, *never], {callers: expected})
        rows = {row["ppnum"]: row for row in await kit.rows(callers, deleted=True)}
        empty = {"note": None, "at": None, "more": None, "options": None, "number": 7, "loud": None, "deleted": True}
        assert rows["2"] == {"app": "app", "ppnum": "2", **empty, "event_id": gone[1].event_id}
        assert rows["3"] == {"app": "app", "ppnum": "3", **empty, "event_id": never[0].event_id}


async def test_a_row_is_written_whole_with_defaults_for_missing_columns(database_url: str) -> None:
    def handle(event: Event) -> Iterable[Row]:
        extra = {"note": "all", "more": [1], "number": 1} if event.send_request_id == "all" else {}
        yield Row(callers, {"app": event.app, "ppnum": event.ppnum, **extra})

    events = [event(GRANTED, send_request_id="all"), event(GRANTED)]
    async with ProjectionKit(database_url, Callers(handle)) as kit:
        await kit.assert_same_for_every_order(events, {callers: [key(note=None, more=None, number=7, loud=None)]})
        await kit.assert_same_for_every_order(
            [event(GRANTED), event(GRANTED, send_request_id="all")],
            {callers: [key(note="all", more=[1], number=1, loud="ALL")]},
        )


def key(**more: object) -> dict[str, object]:
    return {"app": "app", "ppnum": "12300000001", **more}


class Number(IntEnum):
    NINE = 9


class Word(StrEnum):
    YES = "yes"


@pytest.mark.oldest
async def test_values_of_every_type_are_stored_unchanged(database_url: str) -> None:
    at = datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    handle = with_values(
        note=Word.YES, at=at, more={"a": [None, 'é"%(x)s']}, options=["%s", "", "NULL"], number=Number.NINE
    )
    async with ProjectionKit(database_url, Callers(handle)) as kit:
        await kit.given([event(GRANTED)])
        (row,) = await kit.rows(callers)
        assert row["note"] == "yes"
        assert row["at"] == at
        assert row["more"] == {"a": [None, 'é"%(x)s']}
        assert row["options"] == ["%s", "", "NULL"]
        assert row["number"] == 9


async def test_handle_gets_only_handled_types_without_skipped_events_in_order_of_position(database_url: str) -> None:
    events = [event(number % 9) for number in range(40)]
    projection = Callers()
    async with ProjectionKit(database_url, projection) as kit:
        handled = [one.event_id for one in events if one.event_type in {GRANTED, DENIED}]
        await kit.given(events, order="reversed", batch_size=7, twice=False, skipped=[handled[2]])
        assert projection.seen == [event_id for event_id in reversed(handled) if event_id != handled[2]]


async def test_handle_gets_an_event_as_it_was_stored(database_url: str) -> None:
    given = event(DENIED, error_code="é", poll_options=["a", ""], summary_status=4, failed=2**31 - 1, payload=b"\0\xff")
    seen: list[Event] = []

    def handle(event: Event) -> Iterable[Row]:
        seen.append(event)
        return ()

    async with ProjectionKit(database_url, Callers(handle)) as kit:
        await kit.given([given], twice=False)
    assert seen == [given]


@pytest.mark.parametrize("payload", [b"", b"x" * (5 * 2**20)])
async def test_a_window_longer_than_a_page_is_handled_whole(database_url: str, payload: bytes) -> None:
    count = 5 if payload else 2 * PAGE_ROWS
    events = [event(GRANTED, ppnum=f"{number % 4}", payload=payload) for number in range(count)]
    projection = Callers()
    async with ProjectionKit(database_url, projection) as kit:
        await kit.given(events, twice=False)
        assert projection.seen == [one.event_id for one in events]
        assert {row["event_id"] for row in await kit.rows(callers)} == {one.event_id for one in events[-4:]}


async def test_a_page_ends_with_the_event_that_fills_it(database_url: str) -> None:
    events = [event(GRANTED, payload=b"x" * (PAGE_BYTES - 1)) for _ in range(4)]
    projection = Callers()
    (page,) = projection.fold(Window(projection.handles))
    async with ProjectionKit(database_url, projection) as kit:
        await kit.given(events, twice=False)
        statement, constants = compile_statement(page, kit._session.schemas)
        window = {**constants, "lo": 1, "hi": 4, "skipped": []}
        rows = await fetch_all(kit._session.conn, statement, window, binary=True)
    assert [position for position, *_ in rows] == [2, 3]


async def test_the_later_of_two_rows_of_one_event_counts(database_url: str) -> None:
    def handle(event: Event) -> Iterable[Row | Tombstone]:
        yield Tombstone(callers, key())
        yield Row(callers, key(note=event.event_id))
        yield Row(callers, key(note="latter"))

    async with ProjectionKit(database_url, Callers(handle)) as kit:
        await kit.assert_same_for_every_order([event(GRANTED)] * 2, {callers: [key(note="latter")]})


def table_of_another(_: Event) -> Iterable[Row]:
    return [Row(foreign, {"app": "app"})]


def something_else(event: Event) -> Any:  # noqa: ANN401 - mypy would refuse the value
    return [event]


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        (with_values(ppnum="4179"), "ppnum of a row of callers differs from its event's"),
        (with_values(app="App"), "app of a row of callers differs from its event's"),
        (with_values(ppnum=None), "a row of callers must set ppnum of the primary key"),
        (with_values(colour=1, size=2), "a row of callers sets colour, size, which handle may not set"),
        (with_values(**{"12300000001": True}), "a row of callers sets [hidden], which handle may not set"),
        (
            lambda event: [Tombstone(callers, {**key(), f"phone {event.ppnum}": 1})],
            "a tombstone of callers sets phone [hidden], which is not in the primary key",
        ),
        (with_values(event_id="x"), "a row of callers sets event_id, which handle may not set"),
        (with_values(deleted=True), "a row of callers sets deleted, which handle may not set"),
        (with_values(loud="x"), "a row of callers sets loud, which handle may not set"),
        (lambda event: [Row(callers, {"app": event.app})], "a row of callers must set ppnum of the primary key"),
        (
            lambda _: [Tombstone(callers, key(note="x"))],
            "a tombstone of callers sets note, which is not in the primary key",
        ),
        (lambda event: [Tombstone(callers, {"app": event.app})], "a row of callers must set ppnum of the primary key"),
        (table_of_another, "handle returned a row of foreign, which is not the projection's"),
        (something_else, "handle returned a Event; it must return Row or Tombstone"),
    ],
)
async def test_an_invalid_row_is_reported_without_values(database_url: str, handle: Handle, message: str) -> None:
    async with ProjectionKit(database_url, Callers(handle)) as kit:
        with pytest.raises(InvalidProjection) as caught:
            await kit.given([event(GRANTED)])
    assert str(caught.value) == message


async def test_an_event_without_the_partitions_value_has_no_row(database_url: str) -> None:
    nobody = event(GRANTED)._replace(ppnum=None)
    async with ProjectionKit(database_url, Callers(with_values(ppnum=""))) as kit:
        with pytest.raises(InvalidProjection, match="ppnum of a row of callers differs from its event's"):
            await kit.given([nobody])
    async with ProjectionKit(database_url, Callers(with_values())) as kit:
        with pytest.raises(InvalidProjection, match="must set ppnum of the primary key"):
            await kit.given([nobody])


async def test_an_error_of_handle_is_reported_with_its_place_and_without_the_phone_number(database_url: str) -> None:
    def look_up(event: Event) -> Iterable[Row]:
        raise KeyError(event.ppnum)

    def handle(event: Event) -> Iterable[Row]:
        return json.loads(f"{event.ppnum} 1") if event.app == "json" else look_up(event)

    place = "test_python_projection.py:{}: "
    async with ProjectionKit(database_url, Callers(handle)) as kit:
        with pytest.raises(HandleFailed) as caught:
            await kit.given([event(GRANTED)])
        raised_at = look_up.__code__.co_firstlineno + 1
        assert str(caught.value) == f"{place.format(raised_at)}KeyError: '(phone number)'"
        # Of an error in a library, the place is the user's call.
        with pytest.raises(HandleFailed) as caught:
            await kit.given([event(GRANTED)._replace(app="json")])
        called_at = handle.__code__.co_firstlineno + 1
        assert str(caught.value).startswith(f"{place.format(called_at)}JSONDecodeError: Extra data")
        await kit.given([event(1)])
        assert await kit.rows(callers) == []


async def test_a_row_that_postgres_refuses_fails_the_window_and_the_kit_continues(database_url: str) -> None:
    async with ProjectionKit(database_url, Callers(with_values(number=None))) as kit:
        with pytest.raises(psycopg.errors.NotNullViolation):
            await kit.given([event(GRANTED)])
        await kit.given([event(1)])
        assert await kit.rows(callers) == []


@pytest.mark.oldest
async def test_a_worker_folds_it_and_stops_at_the_event_that_cant_be_folded(database_url: str) -> None:
    poison = "12300000666"

    def handle(event: Event) -> Iterable[Row | Tombstone]:
        if event.ppnum == poison:
            raise ValueError(f"{event.ppnum} can't be")
        yield from handle_consent(event)

    projection = Callers(handle)
    upgrade(database_url, projections=[projection])
    events = [event(GRANTED, ppnum="1"), event(DENIED, ppnum="1"), event(GRANTED, ppnum=poison), event(GRANTED)]
    worker = folding.worker(database_url, projection, retry_first=folding.NEVER, retry_cap=folding.NEVER)
    async with store.appender(database_url) as appender, store.connection(database_url) as look:
        await appender.append(events)
        async with folding.worker_connection(worker) as conn:
            assert await folding.fold(worker, conn) is Step.STOPPED
            stand = await folding.checkpoint_row(look, "callers")
            assert (stand.position, stand.state) == (2, "failed")
            assert stand.last_error is not None
            assert stand.last_error.endswith(": ValueError: (phone number) can't be")
            assert events[2].event_id in stand.last_error
            await look.execute(
                "INSERT INTO projections.skips VALUES ('callers', %s, 1, 'a test', now())", [events[2].event_id]
            )
            await look.execute("UPDATE projections.checkpoints SET retry_at = NULL")
            assert await folding.fold(worker, conn) is Step.AT_HEAD
        rows = await fetch_all(look, "SELECT ppnum, event_id, deleted FROM callers ORDER BY ppnum")
    assert rows == [("1", events[1].event_id, True), ("12300000001", events[3].event_id, False)]


@pytest.mark.parametrize("text", ["a \x00 in it", "a \ud800 in it", "x" * 10_000], ids=["U+0000", "surrogate", "long"])
async def test_an_error_whose_text_cannot_be_stored_stops_it_all_the_same(database_url: str, text: str) -> None:
    def handle(_: Event) -> Iterable[Row | Tombstone]:
        raise ValueError(text)

    projection = Callers(handle)
    upgrade(database_url, projections=[projection])
    worker = folding.worker(database_url, projection, retry_first=folding.NEVER, retry_cap=folding.NEVER)
    async with store.appender(database_url) as appender, store.connection(database_url) as look:
        await appender.append([event(GRANTED)])
        async with folding.worker_connection(worker) as conn:
            assert await folding.fold(worker, conn) is Step.STOPPED
        stand = await folding.checkpoint_row(look, "callers")
    assert stand.state == "failed"
    assert stand.last_error is not None
    assert "ValueError: " in stand.last_error
    assert len(stand.last_error) < 1_200


async def test_a_slow_handle_neither_blocks_other_tasks_nor_loses_its_transaction(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.folding.python_fold.KEEP_ALIVE_SECONDS", 0.1)
    waits = folding.QUICK.model_copy(update={"idle_in_transaction": 5})
    others = 0

    def handle(one: Event) -> Iterable[Row | Tombstone]:
        time.sleep(0.9)  # not for synchronisation: it is as slow as a lookup in another system
        yield from handle_consent(one)

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    projection = Callers(handle)
    upgrade(database_url, projections=[projection])
    worker = Worker(RunContext(database_url, waits, folding.SETTINGS), projection)
    async with store.appender(database_url) as appender:
        await appender.append([event(GRANTED, ppnum=str(number)) for number in range(8)])
        async with folding.worker_connection(worker) as conn:
            beside = asyncio.create_task(other())
            assert await folding.fold(worker, conn) is Step.AT_HEAD
            beside.cancel()
    assert others >= 8


async def test_progress_is_reported_within_a_window(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade(database_url, projections=[Callers()])
    async with store.connection(database_url) as conn:
        await folding.append(conn, *(folding.new_record(GRANTED) for _ in range(3)))
        for seconds, expected in ((0, [1, 2, 3]), (3600, [])):
            monkeypatch.setattr("projections.folding.python_fold.PROGRESS_SECONDS", seconds)
            heard: list[int] = []
            await build_fold(Callers()).run(conn, 0, 3, (), heard.append)
            assert heard == expected
