"""Finds the rows in which a read model differs from its shadow, and makes them equal.

Invariants. A comparison reads both tables in one snapshot and keeps the keys of the rows that differ, in temporary
tables; all other rows were equal. After the snapshot, only events after min(checkpoint, shadow position) can change
rows, and only in the partitions that these events name. Their keys are added before the difference is applied. So the
long comparison needs no lock, and the checkpoint is locked for a short time only. Nor does it need one long
transaction: large tables are compared in ranges of keys, each in a snapshot of its own. What changes between them was
changed by events after the checkpoint of the first one, whichever range it is in.

A row that differs is updated in place, so that what depends on it stays. Only if its new values collide with those that
another row still has in a unique index, as when two rows swap values, is it deleted, and inserted again when the others
are done.

:class:`~projections.rebuilding.shadow_run.ShadowRun` calls these methods in their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, LiteralString

from psycopg import AsyncConnection, sql
from sqlalchemy import Executable, delete
from sqlalchemy.schema import CreateTable, DropTable, sort_tables

from eventstore.postgres.queries import fetch_all, fetch_value
from eventstore.postgres.session_settings import JOIN_FREELY, JOIN_IN_KEY_ORDER, SCAN_WHOLE_TABLES
from projections.errors import ProjectionsError
from projections.folding.compiled_once import compile_once
from projections.folding.run_statement import execute_and_count, fetch_rows
from projections.folding.sql_text import NumberedText, compile_ddl, compile_numbered
from projections.projection import Window
from projections.rebuilding.distributed_tables import distribute_like, quoted_name
from projections.rebuilding.row_changes import Changes, Sample
from projections.rebuilding.shadow import Shadow
from projections.rebuilding.shadow_tables import SHADOW_SCHEMA, create_shadow_tables
from projections.rebuilding.table_difference import TableDifference
from projections.rebuilding.table_ranges import WHOLE, KeyRange, count_live_rows, find_key_ranges, read_sizes

_MAY_CREATE_TEMPORARY = "SELECT has_database_privilege(current_database(), 'TEMPORARY')"
_COLUMN_TYPES = (
    "SELECT named.name, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attcollation"
    " FROM unnest(%s::text[]) AS named (name)"
    " JOIN pg_catalog.pg_attribute AS a ON a.attrelid = to_regclass(named.name) AND a.attnum > 0 AND NOT a.attisdropped"
)
# One row for each unique index of these tables but the primary key's, and for each exclusion constraint: its columns,
# or NULL where equal values alone don't decide what collides.
_UNIQUE_INDEXES = (
    "SELECT named.name,"
    " CASE WHEN i.indisunique AND i.indexprs IS NULL AND i.indpred IS NULL AND NOT i.indnullsnotdistinct THEN"
    " ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = i.indrelid"
    " AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1])) END"
    " FROM unnest(%s::text[]) AS named (name) JOIN pg_catalog.pg_index AS i ON i.indrelid = to_regclass(named.name)"
    " AND (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary"
)


class Difference:
    """The difference between a projection's tables and its shadow.

    Args:
        conn: the connection that fills the shadow; the keys are in its temporary tables.
        shadow: what the tables should be.

    Attributes:
        since: events behind this position may have changed rows after they were compared.

    """

    def __init__(self, conn: AsyncConnection[Any], shadow: Shadow) -> None:
        self.since = 0
        self._conn = conn
        self._shadow = shadow
        pairs = zip(shadow.projection.tables, shadow.tables, strict=True)
        self._pairs = list(pairs)
        self._tables = [TableDifference(f"differing_{number}", *pair) for number, pair in enumerate(self._pairs)]
        self._ranges: deque[tuple[TableDifference, deque[KeyRange]]] = deque()

    async def check(self) -> None:
        """Make sure that the tables can be compared, before the long work begins.

        Raises:
            ProjectionsError: they can't; the message says what to do.

        """
        if not await fetch_value(self._conn, _MAY_CREATE_TEMPORARY):
            raise ProjectionsError(
                "this role may not create temporary tables, which a comparison needs; ask the database's owner to run"
                " GRANT TEMPORARY ON DATABASE"
            )
        if self._shadow.is_distributed:
            await self._create_distributed_keys()
        types: dict[str, dict[str, tuple[str, int]]] = {
            quoted_name(table): {} for one in self._tables for table in (one.live, one.copy)
        }
        for name, column, kind, collation in await fetch_all(self._conn, _COLUMN_TYPES, [[*types]]):
            types[name][column] = kind, collation
        for one in self._tables:
            live, copy = types[quoted_name(one.live)], types[quoted_name(one.copy)]
            for column in one.columns:
                (found, _), (declared, _) = live.get(column, copy[column]), copy[column]
                if found != declared:
                    raise ProjectionsError(
                        f"{one.live.name}.{column} is {found} in the database and {declared} in the code;"
                        " change one of them"
                    )
            one.sorts_alike = all(live.get(column) == copy.get(column) for column in one.key_columns)

    async def measure(self) -> None:
        """Count the rows of each table, and read how large it is; outside of any transaction."""
        sizes = await read_sizes(self._conn, [table for one in self._tables for table in (one.live, one.copy)])
        for one in self._tables:
            one.before = await count_live_rows(self._conn, one.live, sizes[one.live])
            one.size = sizes[one.live].whole + sizes[one.copy].whole

    async def begin(self, checkpoint: int) -> None:
        """Begin a comparison of all rows, inside its first part's transaction, which has read the checkpoint."""
        await self._empty_keys()
        self.since = min(self._shadow.position, checkpoint)
        self._ranges = deque()
        for one in self._tables:
            # Folding stands still while distributed tables are compared, so a range at a time would be no better.
            is_whole = self._shadow.is_distributed
            self._ranges.append(
                (one, deque([WHOLE] if is_whole else await find_key_ranges(self._conn, one.copy, one.size)))
            )

    @property
    def is_compared(self) -> bool:
        """Whether all rows have been compared."""
        return not self._ranges

    async def compare_next(self, most: int) -> None:
        """Compare at most so many ranges of keys, inside the caller's REPEATABLE READ transaction."""
        await self._conn.execute(SCAN_WHOLE_TABLES)
        while self._ranges and most > 0:
            one, ranges = self._ranges[0]
            taken = [ranges.popleft() for _ in range(min(most, len(ranges)))]
            most -= len(taken)
            if not ranges:
                self._ranges.popleft()
            await self._compare(one, taken[0].up_to(taken[-1]))

    async def compare_again(self) -> None:
        """Compare all rows again, for what the caller's transaction does next; :attr:`since` stays."""
        await self._empty_keys()
        await self._conn.execute(SCAN_WHOLE_TABLES)
        for one in self._tables:
            await self._compare(one, WHOLE)

    async def _empty_keys(self) -> None:
        if self._shadow.is_distributed:
            for one in self._tables:
                await execute_and_count(self._conn, delete(one.keys))
            return
        statements = [
            compile_ddl(each)
            for one in self._tables
            for each in (DropTable(one.keys, if_exists=True), CreateTable(one.keys))
        ]
        await self._conn.execute("; ".join(statements), prepare=False)

    async def _compare(self, one: TableDifference, part: KeyRange) -> None:
        if one.lies_in_key_order:
            await self._conn.execute(JOIN_IN_KEY_ORDER)
        version = self._conn.info.server_version
        what = ("differing keys", part.shape, version, one.sorts_alike)
        statement = self._compiled(one, what, partial(one.insert_differing_keys, part, version))
        await execute_and_count(self._conn, statement, **part.values)
        if one.lies_in_key_order:
            await self._conn.execute(JOIN_FREELY)

    async def add_touched(self, up_to: int) -> None:
        """Add the keys of rows that events behind :attr:`since`, up to a position, may have changed in either table."""
        if up_to <= self.since:
            return
        # All event types: an older version of the code, which handles others, may have written the rows.
        window, projection = Window(None), self._shadow.projection
        for one in self._tables:
            partition = tuple(projection.partition_of(one.live))
            for table in (one.live, one.copy):
                what = ("touched keys", table.schema, partition)
                statement = self._compiled(one, what, partial(one.insert_touched_keys, table, window, partition))
                await execute_and_count(self._conn, statement, lo=self.since, hi=up_to, skipped=[])

    async def narrow(self, checkpoint: int, shadow: int) -> None:
        """Add the keys of rows that changed up to now, inside a transaction like that of :meth:`compare`."""
        await self.add_touched(max(checkpoint, shadow))
        self.since = min(checkpoint, shadow)

    def advance(self, since: int) -> None:
        """Note that a committed transaction added every key up to a position, in both tables."""
        self.since = since

    async def changes(self) -> list[Changes]:
        """Count, inside the caller's transaction, which of the rows that were kept differ now."""
        await self._prepare()
        found = []
        for one in self._tables:
            (row,) = await fetch_rows(self._conn, self._compiled(one, "count", one.count))
            found.append(Changes(one.live.name, one.before, row["added"], row["removed"], row["changed"]))
        return found

    async def samples(self, limit: int) -> list[Sample]:
        """Return the first rows that differ, table by table, ordered by key; each table gets its share."""
        await self._prepare()
        found = []
        for one in self._tables:
            statement = self._compiled(one, ("samples", limit), partial(one.select_samples, limit))
            found.append([one.sample(row) for row in await fetch_rows(self._conn, statement)])
        while sum(map(len, found)) > limit:
            max(found, key=len).pop()
        return [sample for samples in found for sample in samples]

    async def apply(self) -> list[Changes]:
        """Make the tables equal to the shadow, inside the caller's transaction that has locked the checkpoint."""
        # In between, rows may refer to others that are deleted for a moment, or not inserted yet.
        await self._prepare("SET CONSTRAINTS ALL DEFERRED")
        # Referenced tables come first, whatever the projection's order is.
        order = {table: number for number, table in enumerate(sort_tables([one.live for one in self._tables]))}
        tables = sorted(self._tables, key=lambda one: order[one.live])

        async def execute(one: TableDifference, what: Hashable, statement: Callable[[], Executable]) -> int:
            return await execute_and_count(self._conn, self._compiled(one, what, statement))

        removed = {one: await execute(one, "extra", one.delete_extra) for one in reversed(tables)}
        indexes = await fetch_all(self._conn, _UNIQUE_INDEXES, [[quoted_name(one.live) for one in tables]])
        displaced: dict[TableDifference, int] = {}
        changed: dict[TableDifference, int] = {}
        for one in tables:
            unique = [columns for name, columns in indexes if name == quoted_name(one.live)]
            displaced[one] = await execute_and_count(self._conn, one.delete_colliding(unique)) if unique else 0
            changed[one] = displaced[one] + await execute(one, "changed", one.update_changed)
        # A row that was deleted only to be inserted again counts as changed, not as added.
        added = {one: await execute(one, "missing", one.insert_missing) - displaced[one] for one in tables}
        await self._conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        return [Changes(one.live.name, one.before, added[one], removed[one], changed[one]) for one in self._tables]

    def _compiled(self, one: TableDifference, what: Hashable, statement: Callable[[], Executable]) -> NumberedText:
        """Return a statement, compiled once for the projection's class; ``what`` tells it from others of the table."""
        if self._shadow.is_distributed:  # the keys' tables have other names in each run
            return compile_numbered(statement())
        # The shadow's keys have the collations of this database's.
        collations = tuple(getattr(column.type, "collation", None) for column in one.copy.primary_key.columns)
        of = ("difference", one.keys.name, collations, what)
        return compile_once(self._shadow.projection, of, lambda: compile_numbered(statement()))

    async def _prepare(self, *statements: LiteralString) -> None:
        # Autovacuum doesn't analyze temporary tables, and without statistics the planner would join whole tables for a
        # few keys.
        keys = sql.SQL(", ").join(sql.Identifier(str(one.keys.schema), one.keys.name) for one in self._tables)
        analyze = sql.SQL("ANALYZE {}").format(keys)
        first = [sql.SQL(SCAN_WHOLE_TABLES), analyze, *map(sql.SQL, statements)]
        await self._conn.execute(sql.SQL("; ").join(first), prepare=False)

    async def _create_distributed_keys(self) -> None:
        """Put the keys beside the rows that they name; temporary tables can't be distributed."""
        prefix = f"differing_{self._shadow.run_id}"
        self._tables = [
            TableDifference(f"{prefix}_{number}", *pair, keys_schema=SHADOW_SCHEMA)
            for number, pair in enumerate(self._pairs)
        ]
        keys = [one.keys for one in self._tables]
        async with self._conn.transaction():
            live = [one.live for one in self._tables]
            await create_shadow_tables(self._conn, keys, self._shadow.comment, keys_of=live)
            await distribute_like(self._conn, [(one.keys, one.live) for one in self._tables])
