"""Finds the rows in which a read model differs from its shadow, and makes them the same.

Invariants. What is kept of a comparison are keys: every row whose key is not among them was the same in both tables in
the comparison's snapshot. Since then only events behind the lower of the two positions of that snapshot can have
changed a row, and only one of the partitions that they name: those rows are added before the keys are used. So the
long comparison needs no lock, and what is done under the checkpoint's lock is short. Rows are compared by their bytes,
column by column; what Postgres computes in a row is left out, for it follows from the rest.

A row that differs is updated where it is, so that what hangs on it stays. Only where another row still has the value
of a unique index that it is to get, as when two rows swap theirs, it is deleted, and put back when the others are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import AsyncConnection, sql
from sqlalchemy import (
    Column,
    ColumnElement,
    Executable,
    FromClause,
    MetaData,
    Table,
    and_,
    cast,
    delete,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.schema import CreateTable, DropTable, sort_tables
from sqlalchemy.types import UserDefinedType

from eventstore.postgres.queries import fetch_all, fetch_value
from eventstore.postgres.session_settings import SCAN_WHOLE_TABLES
from projections.errors import ProjectionsError
from projections.folding.run_statement import execute_and_count, fetch_rows
from projections.folding.sql_text import compile_ddl
from projections.projection import Window
from projections.rebuilding.shadow import Shadow

_MAY_MAKE_KEYS = "SELECT has_database_privilege(current_database(), 'TEMPORARY')"
_TYPES = (
    "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute AS a"
    " WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped"
)
# One row for each unique index but the primary key's, and each exclusion constraint: its columns, or NULL where values
# alone don't tell what collides.
_UNIQUE = (
    "SELECT CASE WHEN i.indisunique AND i.indexprs IS NULL AND i.indpred IS NULL AND NOT i.indnullsnotdistinct THEN"
    " ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = i.indrelid"
    " AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1])) END"
    " FROM pg_catalog.pg_index AS i WHERE i.indrelid = to_regclass(%s)"
    " AND (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary"
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a rebuild changes in one table, in rows; ``before`` is how many there were."""

    table: str
    before: int
    added: int
    removed: int
    changed: int

    @property
    def total(self) -> int:
        """All of them together."""
        return self.added + self.removed + self.changed


@dataclass(frozen=True, slots=True)
class Sample:
    """One row that differs: ``old`` is the table's, ``new`` the log's; None where there is no such row.

    ``key`` has the primary key's values by column; the rows have the columns that differ, or all of a row that only
    one side has.
    """

    table: str
    key: Mapping[str, Any]
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None

    @property
    def kind(self) -> Literal["missing", "extra", "changed"]:
        """What is wrong with the table."""
        if self.old is None:
            return "missing"
        return "extra" if self.new is None else "changed"


class Difference:
    """What a projection's tables and its shadow differ in.

    Args:
        conn: the connection that fills the shadow; the keys lie in temporary tables of its.
        shadow: what the tables ought to be.

    Attributes:
        since: behind this position events may have changed rows that were compared.

    """

    def __init__(self, conn: AsyncConnection[Any], shadow: Shadow) -> None:
        self.since = 0
        self._conn = conn
        self._shadow = shadow
        pairs = zip(shadow.projection.tables, shadow.tables, strict=True)
        self._tables = [_TableDifference(number, live, copy) for number, (live, copy) in enumerate(pairs)]

    async def check(self) -> None:
        """Make sure that the tables can be compared, before the long work begins.

        Raises:
            ProjectionsError: they can't; the message says what to do.

        """
        if not await fetch_value(self._conn, _MAY_MAKE_KEYS):
            raise ProjectionsError(
                "this role may not make temporary tables, which a comparison needs: let the database's owner"
                " GRANT TEMPORARY ON DATABASE"
            )
        for one in self._tables:
            live, copy = [dict(await fetch_all(self._conn, _TYPES, [_name(table)])) for table in (one.live, one.copy)]
            for column in one.columns:
                if column in live and live[column] != copy[column]:
                    raise ProjectionsError(
                        f"{one.live.name}.{column} is {live[column]} in the database and {copy[column]} in the code:"
                        " make them the same"
                    )

    async def compare(self, checkpoint: int) -> None:
        """Compare all rows, inside the caller's REPEATABLE READ transaction in which the checkpoint was read."""
        await self.compare_again()
        for one in self._tables:
            (row,) = await fetch_rows(self._conn, select(func.count().label("rows")).select_from(one.live))
            one.before = row["rows"]
        self.since = min(self._shadow.position, checkpoint)

    async def compare_again(self) -> None:
        """Compare all rows once more, for what the caller's transaction does next; :attr:`since` stays."""
        await self._conn.execute(SCAN_WHOLE_TABLES)
        for one in self._tables:
            await self._conn.execute(compile_ddl(DropTable(one.keys, if_exists=True)))
            await self._conn.execute(compile_ddl(CreateTable(one.keys)))
            await execute_and_count(self._conn, one.compared())

    async def add_touched(self, up_to: int) -> None:
        """Add the rows that events behind :attr:`since`, up to a position, may have changed in either table."""
        if up_to <= self.since:
            return
        # Of all types: the rows may be those of an older version of the code, which handles others.
        window, partition = Window(None), self._shadow.projection.partition_by
        for one in self._tables:
            for statement in one.touched(window, partition):
                await execute_and_count(self._conn, statement, lo=self.since, hi=up_to, skipped=[])

    async def narrow(self, checkpoint: int, shadow: int) -> None:
        """Take note of what happened up to now, inside a transaction as :meth:`compare` wants it."""
        await self.add_touched(max(checkpoint, shadow))
        self.since = min(checkpoint, shadow)

    async def changes(self) -> list[Changes]:
        """Count, inside the caller's transaction, what differs now among the keys."""
        await self._prepare()
        found = []
        for one in self._tables:
            (row,) = await fetch_rows(self._conn, one.counted())
            found.append(Changes(one.live.name, one.before, row["added"], row["removed"], row["changed"]))
        return found

    async def samples(self, limit: int) -> list[Sample]:
        """Return the first rows that differ, table by table, in order of their keys; each table has its share."""
        await self._prepare()
        found = [[one.sample(row) for row in await fetch_rows(self._conn, one.sampled(limit))] for one in self._tables]
        while sum(map(len, found)) > limit:
            max(found, key=len).pop()
        return [sample for samples in found for sample in samples]

    async def apply(self) -> list[Changes]:
        """Make the tables what the shadow is, inside the caller's transaction that holds the checkpoint."""
        await self._prepare()
        # In between, rows may refer to others that are deleted and put back, or not there yet.
        await self._conn.execute("SET CONSTRAINTS ALL DEFERRED")
        # Those that others refer to first, whatever order the projection has them in.
        order = {table: number for number, table in enumerate(sort_tables([one.live for one in self._tables]))}
        tables = sorted(self._tables, key=lambda one: order[one.live])
        removed = {one: await execute_and_count(self._conn, one.removal()) for one in reversed(tables)}
        displaced: dict[_TableDifference, int] = {}
        changed: dict[_TableDifference, int] = {}
        for one in tables:
            found = await fetch_all(self._conn, _UNIQUE, [_name(one.live)])
            displaced[one] = 0
            if found:
                displaced[one] = await execute_and_count(self._conn, one.displacement([row[0] for row in found]))
            changed[one] = displaced[one] + await execute_and_count(self._conn, one.change())
        # What had to go to come back otherwise is no addition.
        added = {one: await execute_and_count(self._conn, one.addition()) - displaced[one] for one in tables}
        await self._conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        return [Changes(one.live.name, one.before, added[one], removed[one], changed[one]) for one in self._tables]

    async def _prepare(self) -> None:
        # Nobody but we gathers statistics of temporary tables, and on them hangs whether a few keys are looked up or
        # whole tables are joined.
        await self._conn.execute(SCAN_WHOLE_TABLES)
        for one in self._tables:
            await self._conn.execute(f"ANALYZE {one.keys.fullname}".encode())


class _Record(UserDefinedType[Any]):
    """Postgres's type of any row."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "record"


class _TableDifference:
    """The statements for one table and its shadow."""

    def __init__(self, number: int, live: Table, copy: Table) -> None:
        self.live = live
        self.copy = copy
        self.before = 0
        self.names = [column.name for column in live.primary_key.columns]
        self.columns = [column.name for column in live.c if column.computed is None]
        self._values = [name for name in self.columns if name not in self.names]
        key = [Column(column.name, column.type, primary_key=True) for column in live.primary_key.columns]
        # Named with its schema: without, a table of somebody's in public would be dropped while there is none here.
        self.keys = Table(f"differing_{number}", MetaData(schema="pg_temp"), *key)

    def compared(self) -> Executable:
        """Put the keys of all rows that differ among the keys."""
        first = self.names[0]
        keys = [func.coalesce(self.live.c[name], self.copy.c[name]) for name in self.names]
        there = self.live.join(self.copy, self._same(self.live, self.copy), full=True)
        differ = or_(self.live.c[first].is_(None), self.copy.c[first].is_(None), self._differ())
        return insert(self.keys).from_select(self.names, select(*keys).select_from(there).where(differ))

    def touched(self, window: Window, partition: Sequence[str]) -> list[Executable]:
        """Put the keys of the window's partitions, in either table, among the keys."""
        return [
            insert(self.keys)
            .from_select(
                self.names, select(*(table.c[name] for name in self.names)).where(window.touched(table, partition))
            )
            .on_conflict_do_nothing()
            for table in (self.live, self.copy)
        ]

    def counted(self) -> Executable:
        """Count the rows to be added, removed and changed."""
        first = self.names[0]
        old, new = self.live.c[first], self.copy.c[first]
        return select(
            func.count().filter(old.is_(None), new.is_not(None)).label("added"),
            func.count().filter(old.is_not(None), new.is_(None)).label("removed"),
            func.count().filter(old.is_not(None), new.is_not(None), self._differ()).label("changed"),
        ).select_from(self._both())

    def sampled(self, limit: int) -> Executable:
        """Read the first rows that differ."""
        first = self.names[0]
        old, new = self.live.c[first], self.copy.c[first]
        # Numbered, for names may be so long that Postgres would cut off what tells them apart.
        columns = [self.live.c[name].label(f"old_{number}") for number, name in enumerate(self.columns)]
        columns += [self.copy.c[name].label(f"new_{number}") for number, name in enumerate(self.columns)]
        differ = or_(
            old.is_(None) & new.is_not(None),
            old.is_not(None) & new.is_(None),
            and_(old.is_not(None), new.is_not(None), self._differ()),
        )
        keys = [self.keys.c[name] for name in self.names]
        return select(*columns).select_from(self._both()).where(differ).order_by(*keys).limit(limit)

    def sample(self, row: Mapping[str, Any]) -> Sample:
        """Make a sample of a row of :meth:`sampled`."""
        old = {name: row[f"old_{number}"] for number, name in enumerate(self.columns)}
        new = {name: row[f"new_{number}"] for number, name in enumerate(self.columns)}
        first = self.names[0]
        if old[first] is None:
            return Sample(self.live.name, {name: new[name] for name in self.names}, None, new)
        key = {name: old[name] for name in self.names}
        if new[first] is None:
            return Sample(self.live.name, key, old, None)
        differing = [name for name in self._values if repr(old[name]) != repr(new[name])] or self._values
        return Sample(
            self.live.name, key, {name: old[name] for name in differing}, {name: new[name] for name in differing}
        )

    def removal(self) -> Executable:
        """Delete the rows that the shadow lacks."""
        there = exists(literal(1)).where(self._same(self.copy, self.keys)).correlate(self.keys)
        return delete(self.live).where(self._same(self.live, self.keys), ~there)

    def displacement(self, unique: Sequence[Sequence[str] | None]) -> Executable:
        """Delete the rows whose new values another row still has, for :meth:`addition` to put them back.

        Args:
            unique: the columns of each unique index; None for one that only Postgres understands: then all rows go that
                differ.

        """
        other = self.live.alias("other")
        collisions = [
            exists(literal(1))
            .where(and_(*(other.c[name] == self.copy.c[name] for name in columns)), ~self._same(other, self.live))
            .correlate(self.copy, self.live)
            for columns in unique
            if columns is not None and all(name in self.live.c for name in columns)
        ]
        collides = or_(*collisions) if len(collisions) == len(unique) else true()
        there = exists(literal(1)).where(self._same(self.copy, self.keys), self._differ(), collides)
        return delete(self.live).where(self._same(self.live, self.keys), there.correlate(self.keys, self.live))

    def change(self) -> Executable:
        """Update the rows that are otherwise in the shadow."""
        return (
            update(self.live)
            .values({name: self.copy.c[name] for name in self._values or self.names})
            .where(self._same(self.live, self.keys), self._same(self.copy, self.keys), self._differ())
        )

    def addition(self) -> Executable:
        """Insert the rows that only the shadow has."""
        there = exists(literal(1)).where(self._same(self.live, self.keys)).correlate(self.keys)
        rows = select(*(self.copy.c[name] for name in self.columns)).where(self._same(self.copy, self.keys), ~there)
        return insert(self.live).from_select(self.columns, rows)

    def _both(self) -> FromClause:
        return self.keys.outerjoin(self.live, self._same(self.live, self.keys)).outerjoin(
            self.copy, self._same(self.copy, self.keys)
        )

    def _same(self, one: FromClause, other: FromClause) -> ColumnElement[bool]:
        return and_(*(one.c[name] == other.c[name] for name in self.names))

    def _differ(self) -> ColumnElement[bool]:
        if not self._values:
            return false()
        old, new = (
            cast(func.row(*(table.c[name] for name in self._values)), _Record()) for table in (self.live, self.copy)
        )
        return old.op("*<>", is_comparison=True)(new)


def _name(table: Table) -> str:
    return sql.Identifier(str(table.schema), table.name).as_string()
