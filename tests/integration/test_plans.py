"""The plans of folds use indexes everywhere, with and without statistics about the tables.

A fold that reads a whole table is correct, but slower every day. Only its plan shows that early.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import pytest
from psycopg import AsyncConnection, AsyncRawCursor, sql

from projections.folding.sql_text import compile_fold_statement
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection, Window
from tests import folding, oracle, store
from tests.block_examples import Costs, Persons, Polls
from tests.folding import append, new_record, worker, worker_connection
from tests.queries import fetch_row

EVENTS = 400
BY_INDEX = {"Index Scan", "Index Only Scan", "Bitmap Index Scan"}


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        for table in ("eventstore.events", *(f"public.{one.name}" for each in READ_MODELS for one in each.tables)):
            # Only the test collects statistics.
            name = sql.Identifier(*table.split("."))
            await conn.execute(sql.SQL("ALTER TABLE {} SET (autovacuum_enabled = false)").format(name))
        yield conn


def plan_nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from plan_nodes(part)


def full_reads(plan: dict[str, Any], tables: set[str]) -> list[str]:
    """Return the parts of a plan that read a whole table or index."""
    return [
        f"{node['Node Type']} of {node.get('Relation Name') or node.get('Index Name')}"
        for node in plan_nodes(plan)
        if (node["Node Type"] == "Seq Scan" and node["Relation Name"] in tables)
        or (node["Node Type"] in BY_INDEX and "Index Cond" not in node)
    ]


async def plans(
    conn: AsyncConnection, statements: Iterable[tuple[str, Sequence[str]]], mode: str
) -> AsyncIterator[dict[str, Any]]:
    """Yield the plan of each statement of a fold, a custom one for the values of one window or a generic one."""
    await conn.execute(f"SET plan_cache_mode = force_{mode}_plan".encode())
    for number, (text, names) in enumerate(statements):
        values = {"lo": EVENTS // 2, "hi": EVENTS // 2 + 3, "skipped": []}
        async with AsyncRawCursor(conn) as cursor:
            await cursor.execute(b"PREPARE fold_%d AS %s" % (number, text.encode()))
        given = [
            sql.SQL("{}::text[]").format(sql.Literal("{}")) if value == [] else sql.Literal(value)
            for value in (values[name] for name in names)
        ]
        explain = sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE {} ({})").format(
            sql.Identifier(f"fold_{number}"), sql.SQL(", ").join(given)
        )
        row = await fetch_row(conn, explain)
        assert row is not None
        await conn.execute(b"DEALLOCATE fold_%d" % number)
        yield row[0][0]["Plan"]


async def fill(conn: AsyncConnection) -> None:
    events = []
    for number in range(EVENTS // 8):
        for event_type in range(1, 9):
            options = ("yes", "no") if event_type == oracle.POLL_RESPONSE else None
            ppnum = f"1230000{number:04}"
            events.append(new_record(event_type, ppnum, request=f"request {number // 10}", options=options))
    await append(conn, *events)


@pytest.mark.parametrize("projection", [*READ_MODELS, Costs, Polls, Persons])
async def test_a_fold_reads_through_indexes(
    database_url: str, conn: AsyncConnection, projection: type[Projection]
) -> None:
    tables = {"events", *(table.name for table in projection.tables)}
    if projection not in READ_MODELS:
        await folding.create_tables_of(conn, projection)
    await fill(conn)
    one = worker(database_url, projection())
    fold = one.projection.fold(Window(projection.handles))
    statements = [compile_fold_statement(statement) for statement in fold]
    async with worker_connection(one) as own:
        for known in ("nothing", "empty read models", "everything"):
            for mode in ("custom", "generic"):
                async for plan in plans(own, statements, mode):
                    assert full_reads(plan, tables) == [], f"{mode} plan with statistics about {known}"
            await own.rollback()
            if known == "empty read models":
                await folding.fold_all(database_url, [projection])
            await conn.execute("ANALYZE")
