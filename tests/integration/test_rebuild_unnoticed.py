"""Readers of a read model, and objects that depend on it, see nothing of a rebuild but the repaired rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from psycopg import AsyncConnection, sql

from projections.projection import Projection
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.people import People
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from tests import folding, rebuilding, store
from tests.databases import Server
from tests.fix_full_matrix import stood_for
from tests.queries import fetch_all
from tests.rebuilding import ANY_REMOVAL, NOBODY, damage_all, rebuild, sample_records

_FACTS = {
    "tables, their files, rights, comments and replica identity": (
        "SELECT oid, relname, relfilenode, relacl::text, obj_description(oid, 'pg_class'), relreplident, relpersistence"
        " FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') ORDER BY oid"
    ),
    "columns": (
        "SELECT attrelid, attnum, attname, atttypid, attacl::text, col_description(attrelid, attnum) FROM pg_attribute"
        " JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'public'::regnamespace ORDER BY 1, 2"
    ),
    "indexes": (
        "SELECT indexrelid, indrelid, pg_get_indexdef(indexrelid), relfilenode FROM pg_index"
        " JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    ),
    "constraints": (
        "SELECT oid, conrelid, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace ORDER BY 1"
    ),
    "triggers": "SELECT oid, tgrelid, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1",
    "publications": "SELECT pubname, tablename, attnames FROM pg_publication_tables ORDER BY 1, 2",
}
_MODES = (
    "SELECT relation, mode FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " LEFT JOIN pg_index ON indexrelid = relation JOIN pg_class AS c ON c.oid = coalesce(indrelid, relation)"
    " WHERE starts_with(application_name, 'projections rebuild ') AND relnamespace = 'public'::regnamespace"
    " AND locktype = 'relation'"
)
_HELD_UP = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE starts_with(application_name, 'projections rebuild ') AND %s = ANY (pg_blocking_pids(pid))"
)
ALLOWED = {"AccessShareLock", "RowShareLock", "RowExclusiveLock"}


async def catalog_facts(conn: AsyncConnection) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything in ``public``, as the catalog describes it."""
    return {name: await fetch_all(conn, query.encode()) for name, query in _FACTS.items()}


def stable_rows_query(projection: type[Projection]) -> sql.Composed:
    """Return a query of all rows except those that the load changes, in one snapshot and through users' views."""
    parts = [
        sql.SQL("SELECT {}, v::text FROM public.{} AS v WHERE app IN ({}, {})").format(
            table.name, sql.Identifier(f"bi_{table.name}"), store.APP, NOBODY
        )
        for table in projection.tables
    ]
    return sql.SQL("{} ORDER BY 1, 2").format(sql.SQL(" UNION ALL ").join(parts))


class Reader:
    """Reads repeatedly, and records each state that it sees, in order."""

    def __init__(self, conn: AsyncConnection, query: sql.Composed) -> None:
        self.states: list[list[tuple[str, str]]] = []
        self.times = 0
        self._conn = conn
        self._query = query

    async def read(self) -> None:
        rows = await fetch_all(self._conn, self._query)
        self.times += 1
        if not self.states or self.states[-1] != rows:
            self.states.append(rows)

    async def wait_for_next_read(self) -> None:
        """Wait until a read that begins from now on has ended."""
        wanted = self.times + 2

        async def has_read() -> bool:
            return self.times >= wanted

        await store.wait_until(has_read, "another read")


@asynccontextmanager
async def repeat(act: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Repeat an action while the block runs, and once more after it."""
    is_over = False

    async def repeat_action() -> None:
        while not is_over:
            await act()
        await act()

    task = asyncio.create_task(repeat_action())
    try:
        yield
    finally:
        is_over = True
        await task


@pytest.mark.parametrize(
    "projection",
    [
        PollTallies,
        ConsentRegistry,
        *stood_for(
            "PollTallies also has a table of rows and one that counts them, so the rebuild takes the same locks in both"
            " tables; test_damage_is_found_in_every_range repairs the rows of this one",
            *(RequestStatus, People),
        ),
    ],
)
async def test_readers_and_dependent_objects_see_no_disturbance(
    postgres: Server, database_url: str, projection: type[Projection]
) -> None:
    names = [table.name for table in projection.tables]
    async with (
        rebuilding.role(postgres, database_url) as role,
        store.connection(database_url, "reading") as conn,
        store.connection(database_url, "watching") as watching,
        store.connection(database_url, "holder") as holder,
    ):
        await folding.append(conn, *sample_records())
        await folding.fold_all(database_url)
        for name in names:
            view, table = sql.Identifier(f"bi_{name}"), sql.Identifier(name)
            await conn.execute(sql.SQL("CREATE VIEW public.{} AS SELECT * FROM public.{}").format(view, table))
            await conn.execute(sql.SQL("COMMENT ON COLUMN public.{}.app IS 'whose, says BI'").format(table))
            await conn.execute(sql.SQL("CREATE PUBLICATION {} FOR TABLE public.{}").format(view, table))
            for one in (view, table):
                await conn.execute(sql.SQL("GRANT SELECT ON public.{} TO {}").format(one, sql.Identifier(role.name)))
        query = stable_rows_query(projection)
        true = await fetch_all(conn, query)
        await damage_all(conn, projection)
        damaged = await fetch_all(conn, query)
        for name in names:  # at least a tenth of each table differs
            wrong = {row for row in damaged if row[0] == name} ^ {row for row in true if row[0] == name}
            assert len(wrong) >= 0.1 * sum(row[0] == name for row in true)
        before = await catalog_facts(conn)

        modes: set[tuple[int, str]] = set()

        async def watch() -> None:
            modes.update(await fetch_all(watching, _MODES.encode()))

        async def is_blocked() -> bool:
            return bool(await store.value(conn, _HELD_UP, holder.info.backend_pid))

        async with (
            store.connection(role.url, "reader") as reading_on,
            rebuilding.live_load(database_url, projection()) as load,
        ):
            reader = Reader(reading_on, query)
            await reader.read()
            async with repeat(watch), repeat(reader.read):
                async with holder.transaction():
                    # The last table's rows are changed after rows of others were deleted: the rebuild is blocked there.
                    rows = sql.SQL("SELECT FROM public.{} WHERE app = {} FOR UPDATE")
                    await holder.execute(rows.format(sql.Identifier(names[-1]), store.APP))
                    task = asyncio.create_task(
                        rebuild(
                            database_url,
                            projection(),
                            limits=ANY_REMOVAL,
                            window=50,
                            rest=50,
                            lock_timeout=folding.NEVER,
                        )
                    )
                    await store.wait_until(is_blocked, "the blocked rebuild")
                    modes.update(await fetch_all(conn, _MODES.encode()))
                    # While it is blocked, readers read and appenders append.
                    await reader.wait_for_next_read()
                    await load.wait_for_batches()
                done = await task
            await load.wait_for_batches()

        assert reader.states == [damaged, true]
        assert rebuilding.total_differences(done) > 0
        oids = {oid for oid, relname, *_ in before[next(iter(_FACTS))] if relname in names}
        assert {oid for oid, mode in modes if mode == "RowExclusiveLock"} >= oids
        assert {mode for _, mode in modes} <= ALLOWED
        assert await catalog_facts(conn) == before
        await folding.fold_all(database_url)
        await folding.assert_rows_match_oracle(conn)
