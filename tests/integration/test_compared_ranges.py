"""Large tables are compared in ranges of keys, each in a snapshot of its own, with the same result as in one."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import AsyncConnection, AsyncRawCursor, sql
from sqlalchemy import Column, Executable, Integer, MetaData, Table, Text, func, select
from sqlalchemy.schema import CreateTable

from eventstore.postgres.queries import fetch_all
from projections.folding.run_statement import execute_and_count, fetch_rows
from projections.folding.sql_text import compile_ddl, compile_with_numbered_parameters
from projections.folding.table_copies import plain_copy
from projections.projection import Projection
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.request_status import RequestStatus
from projections.rebuilding import difference, shadow_run, table_ranges
from projections.rebuilding.difference import Difference
from projections.rebuilding.shadow_tables import create_shadow_schema
from projections.rebuilding.table_difference import MERGES_BY_THE_REST
from projections.rebuilding.table_ranges import WHOLE, KeyRange, count_live_rows, find_key_ranges, read_sizes
from tests import folding, store
from tests.folding import append
from tests.integration.test_equal_bytes import KINDS
from tests.integration.test_plans import plan_nodes
from tests.rebuilding import (
    ANY_REMOVAL,
    DAMAGES,
    append_and_fold,
    damage,
    rebuild,
    sample_records,
    total_differences,
    verify,
)

_FILL = sql.SQL("INSERT INTO {} SELECT 'same', %s, n FROM generate_series(1, 200) AS n ON CONFLICT DO NOTHING")
pytestmark = pytest.mark.usefixtures("_small_ranges")


@pytest.fixture
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tables of two pages into ranges of a few rows, and compare one in each transaction."""
    monkeypatch.setattr(table_ranges, "RANGE_BYTES", 2048)
    monkeypatch.setattr(table_ranges, "COUNTED_PAGES", 1)
    monkeypatch.setattr(shadow_run, "FIRST_RANGES", 1)
    monkeypatch.setattr(shadow_run, "QUICK_SECONDS", 0.0)


class Parts:
    """What is done after each part of a comparison, and how many parts there were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        compare_next = Difference.compare_next

        async def counted(difference: Difference, most: int) -> None:
            await compare_next(difference, most)
            self.count += 1
            await self.after()

        monkeypatch.setattr(Difference, "compare_next", counted)

    async def after(self) -> None:
        """Do nothing."""


@pytest.mark.oldest
@pytest.mark.parametrize("projection", [RequestStatus, ConsentRegistry])
async def test_damage_is_found_in_every_range(
    database_url: str, projection: type[Projection], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(monkeypatch)
    async with store.connection(database_url, "reading") as conn:
        await append_and_fold(database_url, conn, projection)
        assert (await verify(database_url, projection())).equal
        assert parts.count >= 4 * len(projection.tables)
        for kind in DAMAGES:
            damaged = [await damage(conn, table, kind, 0.3) for table in projection.tables]
            found = await verify(database_url, projection())
            assert total_differences(found) == sum(damaged)
            done = await rebuild(database_url, projection(), limits=ANY_REMOVAL)
            assert done.changes == found.changes
        assert (await verify(database_url, projection())).equal


@pytest.mark.parametrize("projection", [RequestStatus, ConsentRegistry])
async def test_rows_that_change_between_two_ranges_are_no_difference(
    database_url: str, projection: type[Projection], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.connection(database_url, "reading") as conn:
        await append_and_fold(database_url, conn, projection)
        records = sample_records(14)[::-1]
        parts = Parts(monkeypatch)

        async def after() -> None:
            """Events for rows that were compared, that are to be compared, and that are new."""
            if records:
                await append(conn, *(records.pop() for _ in range(min(20, len(records)))))
                await folding.fold_all(database_url, [projection])

        monkeypatch.setattr(parts, "after", after)
        assert (await verify(database_url, projection())).equal
        assert parts.count > 3
        records += sample_records(16)
        done = await rebuild(database_url, projection())
        assert total_differences(done) == 0
        records += sample_records(18)
        await damage(conn, projection.tables[0], "changed", 0.5)
        await rebuild(database_url, projection(), limits=ANY_REMOVAL)
        await folding.fold_all(database_url)
        await folding.assert_rows_match_oracle(conn)


@pytest.mark.oldest
async def test_rows_of_requests_are_merged_in_the_order_of_their_keys(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    joins: list[tuple[str, int]] = []

    async def explained(conn: AsyncConnection, statement: Executable) -> int:
        text, values = compile_with_numbered_parameters(statement, {})
        async with AsyncRawCursor(conn) as cursor:
            (found,) = await fetch_all(cursor, f"EXPLAIN (FORMAT JSON) {text}".encode(), values)
        joins.extend(
            (node["Node Type"], node.get("Merge Cond", "").count("="))
            for node in plan_nodes(found[0][0]["Plan"])
            if node.get("Join Type") == "Full"
        )
        return await execute_and_count(conn, statement)

    monkeypatch.setattr(difference, "execute_and_count", explained)
    async with store.connection(database_url, "reading") as conn:
        version = conn.info.server_version
        await append_and_fold(database_url, conn, RequestStatus)
        assert (await verify(database_url, RequestStatus())).equal
    assert {join for join, _ in joins} == {"Merge Join"}
    # A range of one app is merged without it, where Postgres can: by one column of request_status, two of recipients.
    joined = {columns for _, columns in joins}
    assert joined == ({1, 2, 3} if version >= MERGES_BY_THE_REST else {2, 3})


@pytest.mark.oldest
async def test_keys_of_any_type_are_in_one_range_each(conn: AsyncConnection) -> None:
    await create_shadow_schema(conn)
    for number, name in enumerate({*KINDS} - {"json"}):  # json has no order
        kind, values = KINDS[name]
        key = (("same", Text(collation="C")), ("first", kind), ("second", Integer()))
        columns = [Column(column, of, primary_key=True) for column, of in key]
        live = Table(f"keys_{number}", MetaData(schema="public"), *columns)
        copy = plain_copy(live, MetaData(), "projections_shadow", logged=False)
        for table in (live, copy):
            await conn.execute(compile_ddl(CreateTable(table)).encode())
            fill = _FILL.format(sql.Identifier(str(table.schema), table.name))
            async with conn.cursor() as cursor:
                await cursor.executemany(fill, [(value[:500],) for value in values])
        sizes = await read_sizes(conn, [live, copy])
        ranges = await find_key_ranges(conn, copy, sizes[live].whole + sizes[copy].whole)
        assert len(ranges) > 3, name
        total = await count(conn, live, WHOLE)
        assert await count_live_rows(conn, live, sizes[live]) == total
        for table in (live, copy):
            assert sum([await count(conn, table, one) for one in ranges]) == total, name
        others = ranges[0].up_to(ranges[1]), ranges[2].up_to(ranges[-2]), ranges[-1]
        assert sum([await count(conn, live, one) for one in others]) == total, name


async def count(conn: AsyncConnection, table: Table, part: KeyRange) -> Any:  # noqa: ANN401 - a count
    query = select(func.count().label("rows")).select_from(table).where(part.contains(table))
    (row,) = await fetch_rows(conn, query)
    return row["rows"]
