"""Rows of blocks are explained from the events behind them, however broad the projection's partition is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from eventstore.contracts import Event
from projections.blocks import BlockProjection, count, day, event, key, latest, prefix, rows, tally
from projections.inspecting import row_events, row_folding
from projections.inspecting.explain import Explanation, explain
from projections.inspecting.row_key import find_table
from projections.testing import event as new_event
from tests import folding, rebuilding, store
from tests.block_examples import EXAMPLES, Example
from tests.queries import fetch_all

EVENING = datetime(2026, 3, 1, 22, tzinfo=UTC)  # 23:00 in Zurich

sent = rows(
    "sent_messages",
    key("app"),
    key("ppnum"),
    latest("event_id"),
    latest("day", day(event.occurred_at, "Europe/Zurich")),
    of=1,
)
daily = tally(
    "daily_messages", sent, key("app"), key("day"), key("country", prefix(sent.c.ppnum, 2)), count("messages")
)


class Daily(BlockProjection):
    name, version, blocks = "daily", 1, (sent, daily)


async def explain_row(url: str, projection: BlockProjection, table: str, *values: str, app: str) -> Explanation:
    owner, found = find_table({projection.name: projection}, table)
    return await explain(rebuilding.replay_context(url), owner, found, values, app)


async def append_and_fold(url: str, projection: BlockProjection, events: Sequence[Event]) -> None:
    async with store.appender(url) as appender:
        await appender.append(events)
    await folding.fold_all(url, [type(projection)])


async def test_a_tally_is_explained_by_the_events_of_the_rows_that_are_or_were_in_it(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_events, "SEARCH_WINDOW", 3)
    await folding.create_tables_of(conn, Daily)
    days = [EVENING, EVENING + timedelta(days=1), EVENING + timedelta(days=2)]
    stays, moves, comes = (f"41{number}" for number in range(3))
    events = [
        new_event(1, app="a", ppnum=ppnum, occurred_at=at)
        for ppnum, at in (
            (stays, days[0]),
            (moves, days[0]),
            (comes, days[2]),
            ("491", days[0]),
            ("419", days[2]),
            (moves, days[1]),
            (comes, days[0]),
        )
    ]
    await append_and_fold(database_url, Daily(), events)
    found = await explain_row(database_url, Daily(), "daily_messages", "2026-03-01", "41", app="a")
    assert [(change.event.event_id, (change.after or {})["messages"]) for change in found.changes] == [
        (events[0].event_id, 1),
        (events[1].event_id, 2),
        (events[5].event_id, 1),
        (events[6].event_id, 2),
    ]
    # Of the seven events only those of the three rows were folded.
    assert (found.without_effect, found.equal, found.decided_by, found.is_decided_by_one) == (1, True, None, False)
    assert found.group == "of rows of sent_messages that are or were counted for this day and country"

    found = await explain_row(database_url, Daily(), "sent_messages", moves, app="a")
    assert [change.event.event_id for change in found.changes] == [events[1].event_id, events[5].event_id]
    assert (found.decided_by, found.without_effect, found.equal) == (events[5].event_id, 0, True)
    assert found.group == "with the same ppnum"

    found = await explain_row(database_url, Daily(), "daily_messages", "2030-01-01", "41", app="a")
    assert (found.changes, found.row, found.equal) == ((), None, True)


def moving_events(count: int) -> list[Event]:
    """Return events of every type about few recipients, whose days, errors and answers change."""
    return [
        new_event(
            1 + number % 8,
            app="ab"[number % 2],
            send_request_id=f"request {number % 3}",
            ppnum=f"4{number % 5}",
            error_code=(None, "blocked", "expired")[number % 7 % 3],
            poll_options=[f"option {number % 11 % 3}"][: number % 2],
            occurred_at=EVENING + timedelta(hours=number * 7 % 60),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=[one.projection.name for one in EXAMPLES])
async def test_every_block_is_explained_as_it_is_folded(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch, example: Example
) -> None:
    monkeypatch.setattr(row_folding, "ONE_BY_ONE", 4)
    projection = example.projection()
    await folding.create_tables_of(conn, example.projection)
    await append_and_fold(database_url, projection, moving_events(80))
    explained = 0
    async for table, row in _some_rows(conn, projection):
        owner, found = find_table({projection.name: projection}, table)
        values = [str(row[column.name]) for column in found.primary_key.columns]
        explanation = await explain(rebuilding.replay_context(database_url), owner, found, values, None)
        assert explanation.equal, (table, row, explanation.row)
        assert explanation.row is not None
        assert explanation.is_decided_by_one == (table in projection.decided_by)
        explained += 1
    assert explained


async def _some_rows(conn: AsyncConnection, projection: BlockProjection) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield the first and the last row of each table."""
    for table in projection.tables:
        query = sql.SQL("SELECT * FROM public.{} ORDER BY 1, 2").format(sql.Identifier(table.name))
        async with conn.cursor(row_factory=dict_row) as cursor:
            found = await fetch_all(cursor, query)
        for row in [*found[:1], *found[1:][-1:]]:
            yield table.name, row
