"""The events of one person or one request are found by index in a log of 60,000 events, and as well without it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, LiteralString

import pytest
from psycopg import AsyncConnection, AsyncRawCursor, sql

from eventstore.erasure import person_events
from eventstore.erasure.person_events import Person, find_events_of_persons, prepare_persons
from eventstore.event_search import SEARCHED_COLUMNS, events_with_value, read_indexed_columns
from eventstore.postgres.session_settings import SEARCHING
from projections.folding.sql_text import compile_with_numbered_parameters
from projections.inspecting import read_status
from projections.inspecting.row_events import find_events
from projections.inspecting.status import MOST_COUNTED
from projections.migrating.metadata import READ_MODELS
from projections.read_models.people import People
from projections.read_models.request_status import RequestStatus
from projections.rebuilding.replay_progress import NoProgress
from projections.registry import Registry
from tests import store
from tests.integration.test_plans import plan_nodes
from tests.queries import fetch_row

EVENTS, PERSONS, RECIPIENTS = 60_000, 11_987, 20
PERSON, REQUEST = "41790000007", "request 1234"
INDEX = "events_person_request_idx"
# Each person has five events, spread over the whole log; the events of a request are together.
_EVENTS: LiteralString = """
INSERT INTO eventstore.events (event_id, position, app, contract, event_type, send_request_id, ppnum, occurred_at,
    received_at, payload)
SELECT lpad(p::text, 26, '0'), p, 'app ' || p % 2, 'chat.external', CASE WHEN p % 20 = 0 THEN 6 ELSE 1 END,
       'request ' || p / 20, CASE WHEN p % 20 <> 0 THEN '4179' || lpad((p * 7919 % 11987)::text, 7, '0') END,
       now(), now(), repeat('x', 100)::bytea
FROM generate_series(1, 60000) AS p
"""
_DROP = "DROP INDEX eventstore.events_person_request_idx"


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with store.connection(database_url, "searching") as conn:
        for name, value in SEARCHING.items():
            await conn.execute("SELECT set_config(%s, %s, false)", [name, value])
        # Nobody else makes filters or statistics.
        await conn.execute("ALTER TABLE eventstore.events SET (autovacuum_enabled = false)")
        await conn.execute(_EVENTS)
        yield conn


async def plan_of(conn: AsyncConnection[Any], column: str, value: str) -> tuple[set[str], int]:
    """Return the index names of the plan, and how many pages running it took."""
    source = events_with_value(column, value)
    statement = source.select().where(source.c.app == "app 1", source.c.position <= EVENTS)
    text, values = compile_with_numbered_parameters(statement, {})
    return await run_plan(conn, text, values)


async def run_plan(conn: AsyncConnection[Any], text: str, values: Sequence[Any]) -> tuple[set[str], int]:
    async with AsyncRawCursor(conn) as cursor:
        row = await (
            await cursor.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + text.encode(), values)
        ).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    assert not [node for node in plan_nodes(plan) if node["Node Type"] == "Seq Scan"]
    used = {node["Index Name"] for node in plan_nodes(plan) if "Index Name" in node}
    return used, plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


@pytest.mark.oldest
async def test_a_search_reads_the_index_and_few_pages_with_and_without_statistics(
    conn: AsyncConnection[Any], subtests: pytest.Subtests
) -> None:
    assert await read_indexed_columns(conn) == set(SEARCHED_COLUMNS)
    pages = (await fetch_row(conn, "SELECT pg_relation_size('eventstore.events') / 8192")) or (0,)
    for prepared in ("VACUUM eventstore.events", "ANALYZE eventstore.events"):
        await conn.execute(prepared.encode())
        for column, value in zip(SEARCHED_COLUMNS, (PERSON, REQUEST), strict=True):
            with subtests.test(f"{column} after {prepared}"):
                used, blocks = await plan_of(conn, column, value)
                assert used == {INDEX}
                # About five ranges of 8 pages, and the filters of all ranges.
                assert blocks < pages[0] / 8
    with subtests.test("the history of a person's consent"):
        # The planner chooses by chance between the index and the table, which is small here.
        history = "SELECT * FROM public.consent_history WHERE app = $1 AND ppnum = $2 ORDER BY event_id"
        used, blocks = await run_plan(conn, history, ["app 1", PERSON])
        assert used == {INDEX}
        assert blocks < pages[0] / 8


@pytest.mark.oldest
async def test_the_same_events_are_found_without_the_index(conn: AsyncConnection[Any]) -> None:
    person, request = {"app": "app 1", "ppnum": PERSON}, {"app": "app 1", "send_request_id": REQUEST}
    both = {**person, "send_request_id": f"request {EVENTS}"}
    progress = NoProgress()

    async def search() -> list[list[int]]:
        found = [await find_events(conn, People(), person, EVENTS, progress)]
        found.append(await find_events(conn, RequestStatus(), request, EVENTS, progress))
        found.append(await find_events(conn, People(), person, EVENTS // 2, progress))
        found.append(await find_events(conn, People(), both, EVENTS, progress))
        return [[event.position for event in events] for events in found]

    by_index = await search()
    assert [len(one) > 0 for one in by_index] == [True, True, True, False]
    assert len(by_index[0]) > len(by_index[2])
    await conn.execute(_DROP)
    assert await read_indexed_columns(conn) == set()
    assert await search() == by_index


async def test_few_persons_are_found_by_index_and_many_with_one_pass(
    conn: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [PERSON, "41790000008", "49300000000"]
    persons = [Person(number, f"erased:{place:026}") for place, number in enumerate(numbers)]

    async def find() -> tuple[list[Any], list[Any], int]:
        steps: list[int] = []
        await prepare_persons(conn, persons)
        found = await find_events_of_persons(
            conn, app="app 1", up_to=EVENTS, on_progress=lambda position, _: steps.append(position)
        )
        rows = await conn.execute("SELECT position, person, bytes FROM pg_temp.erasing_events ORDER BY position")
        return found, await rows.fetchall(), len(steps)

    monkeypatch.setattr(person_events, "RANGE", 10_000)
    found, events, steps = await find()
    assert [one.person for one in found] == [0, 1]
    assert steps == len(persons)
    monkeypatch.setattr(person_events, "FOUND_BY_INDEX", 2)
    assert await find() == (found, events, EVENTS // 10_000)
    monkeypatch.undo()
    await conn.execute(_DROP)
    assert (await find())[:2] == (found, events)


async def test_status_reads_as_many_rows_of_a_log_of_any_length(
    conn: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2,500 events without a known type, and of 5,000 without a request, only 100 are counted."""
    await conn.execute(
        """INSERT INTO eventstore.events (event_id, position, app, contract, event_type, send_request_id, occurred_at,
               received_at, payload)
           SELECT lpad(p::text, 26, '0'), p, 'app 1', 'chat.external', 9 - p % 2, NULL, now(), now(), ''
           FROM generate_series(60001, 65000) AS p"""
    )
    await conn.execute("VACUUM ANALYZE eventstore.events")
    text = read_status._COUNTS.as_string().replace(f"LIMIT {MOST_COUNTED}", "LIMIT 100")
    monkeypatch.setattr(read_status, "_COUNTS", sql.SQL(text))
    before = await count_rows_read(conn)
    found = await read_status.read_status(conn, Registry({one.name: one() for one in READ_MODELS}, {}))
    assert (found.without_request, found.unknown_types) == (100, 100)
    assert await count_rows_read(conn) - before < 500


async def count_rows_read(conn: AsyncConnection[Any]) -> int:
    """Return how many events this session and those before it have read, by index and without one."""
    await conn.execute("SELECT pg_stat_force_next_flush()")
    row = await fetch_row(
        conn,
        """SELECT (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relid = 'eventstore.events'::regclass)
                  + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes
                     WHERE relid = 'eventstore.events'::regclass AND indexrelname <> 'events_person_request_idx')""",
    )
    assert row is not None
    return int(row[0])
