"""Large tables are compared in ranges of keys, each in a snapshot of its own, with the same result as in one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from psycopg import AsyncConnection, AsyncRawCursor, sql
from sqlalchemy import Column, Executable, Integer, MetaData, Table, Text, func, select
from sqlalchemy.schema import CreateTable

from projections.folding.run_statement import execute_and_count, fetch_rows
from projections.folding.sql_text import (
    NumberedText,
    compile_ddl,
    compile_numbered,
    compile_with_numbered_parameters,
)
from projections.folding.table_copies import plain_copy
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import upgrade
from projections.projection import Projection
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.request_status import RequestStatus
from projections.rebuilding import difference, shadow_run, table_ranges
from projections.rebuilding.difference import Difference
from projections.rebuilding.shadow_tables import create_shadow_schema
from projections.rebuilding.table_difference import MERGES_WITHOUT_SHARED
from projections.rebuilding.table_ranges import WHOLE, KeyRange, count_live_rows, find_key_ranges, read_sizes
from tests import folding, store
from tests.databases import Server
from tests.folding import append
from tests.integration.test_equal_bytes import KINDS
from tests.integration.test_plans import plan_nodes
from tests.migration.test_key_collations import database
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
@pytest.mark.folded
@pytest.mark.parametrize("projection", READ_MODELS)
async def test_damage_is_found_in_every_range(
    database_url: str, projection: type[Projection], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(monkeypatch)
    async with store.connection(database_url, "reading") as conn:
        assert (await verify(database_url, projection())).equal
        assert parts.count >= 4 * len(projection.tables)
        for kind in DAMAGES:
            damaged = [await damage(conn, table, kind, 0.3) for table in projection.tables]
            found = await verify(database_url, projection())
            assert total_differences(found) == sum(damaged)
            done = await rebuild(database_url, projection(), limits=ANY_REMOVAL)
            assert done.changes == found.changes
        assert (await verify(database_url, projection())).equal


@pytest.mark.folded
@pytest.mark.parametrize("projection", [RequestStatus, ConsentRegistry])
async def test_rows_that_change_between_two_ranges_are_no_difference(
    database_url: str, projection: type[Projection], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        store.connection(database_url, "reading") as conn,
        folding.open_workers(database_url, [projection]) as fold_to_head,
    ):
        records = sample_records(14)[::-1]
        parts = Parts(monkeypatch)

        async def after() -> None:
            """Events for rows that were compared, that are to be compared, and that are new."""
            if records:
                await append(conn, *(records.pop() for _ in range(min(20, len(records)))))
                await fold_to_head()

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


@pytest.fixture(params=[pytest.param("", id="keys-by-bytes"), pytest.param("LOCALE 'C'", id="database-by-bytes")])
def sorted_url(request: pytest.FixtureRequest, postgres: Server) -> Iterator[str]:
    """The URL of a database whose read models have the collation "C", or the database's, which sorts by bytes."""
    with database(postgres, sql.SQL(request.param)) as url:
        upgrade(url, projections=())
        yield url


@pytest.mark.oldest
async def test_rows_of_requests_are_merged_by_the_indexes_of_their_keys(
    sorted_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[tuple[str, dict[str, Any]]] = []

    async def explained(conn: AsyncConnection, statement: Executable | NumberedText, **given: object) -> int:
        text, values = compile_with_numbered_parameters(statement, given)
        async with AsyncRawCursor(conn) as cursor:
            await cursor.execute(f"EXPLAIN (FORMAT JSON) {text}".encode(), values)
            (found,) = await cursor.fetchall()
        plans.append((text, found[0][0]["Plan"]))
        return await execute_and_count(conn, statement, **given)

    monkeypatch.setattr(difference, "execute_and_count", explained)
    async with store.connection(sorted_url, "reading") as conn:
        version = conn.info.server_version
        await append_and_fold(sorted_url, conn, RequestStatus)
        assert (await verify(sorted_url, RequestStatus())).equal
    joined = set()
    for text, plan in plans:
        for node in plan_nodes(plan):
            if node.get("Join Type") == "Full":
                assert node["Node Type"] == "Merge Join"
                joined.add(("request_recipients" in text, node["Merge Cond"].count("=")))
            if "Index Name" in node:
                assert " WHERE " not in text.partition("FULL OUTER JOIN")[0] or "Index Cond" in node, text
    # A range of one app is merged without it, where Postgres can.
    shared = {(False, 1), (True, 2)} if version >= MERGES_WITHOUT_SHARED else set()
    assert joined >= {(False, 2), (True, 3), *shared}


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
        (total,) = await counts(conn, live, [WHOLE])
        assert await count_live_rows(conn, live, sizes[live]) == total
        for table in (live, copy):
            for by_bytes in (False, True):
                assert sum(await counts(conn, table, ranges, by_bytes=by_bytes)) == total, name
        others = ranges[0].up_to(ranges[1]), ranges[2].up_to(ranges[-2]), ranges[-1]
        assert sum(await counts(conn, live, others)) == total, name


async def counts(
    conn: AsyncConnection, table: Table, parts: Sequence[KeyRange], *, by_bytes: bool = False
) -> list[int]:
    """Return how many rows of a table are in each range."""
    found = []
    compiled: dict[object, NumberedText] = {}
    for part in parts:
        if part.shape not in compiled:
            rows = func.count().filter(part.contains(table, by_bytes=by_bytes)).label("rows")
            compiled[part.shape] = compile_numbered(select(rows).select_from(table))
        (row,) = await fetch_rows(conn, compiled[part.shape], **part.values)
        found.append(int(row["rows"]))
    return found
