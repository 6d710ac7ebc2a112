"""Projections made of building blocks are folded, rebuilt and verified while events are appended and rows are damaged.

Rows move between groups all the time: each event of a recipient may have another day, error or answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from eventstore.contracts import Event
from projections.testing import event
from tests import folding, store
from tests.block_examples import EXAMPLES, Costs, Example, Persons, Polls
from tests.queries import fetch_all
from tests.rebuilding import ANY_REMOVAL, During, rebuild, total_differences, verify

CHUNK = 40
TALLIES = [one for one in EXAMPLES if one.projection in (Costs, Polls, Persons)]
"""The examples whose rows are counted in groups."""


@pytest.fixture(params=TALLIES, ids=[one.projection.name for one in TALLIES])
def example(request: pytest.FixtureRequest) -> Example:
    found: Example = request.param
    return found


@pytest.fixture
async def conn(database_url: str, example: Example) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_tables_of(conn, example.projection)
        yield conn


def moving_events() -> list[Event]:
    """Return events of every type about few recipients, whose days, errors and answers change."""
    return [
        event(
            1 + number % 8,
            app="ab"[number % 2],
            send_request_id=f"request {number % 3}",
            ppnum=f"4{number % 5}",
            error_code=(None, "blocked", "expired")[number % 7 % 3],
            total_recipients=number % 5,
            poll_options=[f"option {number % 11 % 3}", f"option {number % 4}"][: number % 3],
            occurred_at=datetime(2026, 3, 28, tzinfo=UTC) + timedelta(hours=number * 7 % 60),
        )
        for number in range(5 * CHUNK)
    ]


async def assert_rows(conn: AsyncConnection, example: Example, events: Sequence[Event]) -> None:
    for table, expected in example.fold(events).items():
        key = [column.name for column in table.primary_key.columns]
        query = sql.SQL("SELECT * FROM public.{}").format(sql.Identifier(table.name))
        async with conn.cursor(row_factory=dict_row) as cursor:
            found = {tuple(row[name] for name in key): row for row in await fetch_all(cursor, query)}
        assert found == {tuple(row[name] for name in key): row for row in expected}, table.name


async def test_rows_that_move_while_they_are_rebuilt_are_counted_once(
    database_url: str, conn: AsyncConnection, example: Example
) -> None:
    events = moving_events()
    # The first events arrive last.
    chunks = [events[begin : begin + CHUNK] for begin in range(0, len(events), CHUNK)][::-1]
    appended: list[Event] = []

    async def more() -> None:
        async with store.appender(database_url) as appender:
            await appender.append(chunks.pop(0))
        await folding.fold_all(database_url, [example.projection], batch_size=9)

    async def append_and_check() -> None:
        appended.extend(chunks[0])
        await more()
        await assert_rows(conn, example, appended)

    await append_and_check()
    await append_and_check()
    for table in example.projection.tables:
        name, key = sql.Identifier(table.name), sql.Identifier(list(table.primary_key.columns)[-1].name)
        some = sql.SQL("DELETE FROM public.{0} WHERE {1} = (SELECT min({1}) FROM public.{0})").format(name, key)
        assert (await conn.execute(some)).rowcount
    progress = During(folding=more, comparing=more, applying_the_difference=more)
    await rebuild(database_url, example.projection(), progress=progress, limits=ANY_REMOVAL, window=11)
    assert progress.is_done
    await folding.fold_all(database_url, [example.projection])
    await assert_rows(conn, example, events)
    assert (await verify(database_url, example.projection(), window=7)).equal
    again = await rebuild(database_url, example.projection(), window=1000)
    assert total_differences(again) == 0
