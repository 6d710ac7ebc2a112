"""Cuts large tables into ranges, so that they are read in several short transactions.

A table and its shadow are compared in ranges of keys. The bounds are keys from a sample of the shadow's pages. They
needn't be exact: whatever they are, every key is in one range. Rows are counted in ranges of pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql
from sqlalchemy import ColumnElement, Table, and_, bindparam, cast, collate, true, tuple_, types

from eventstore.postgres.queries import fetch_all, fetch_value
from projections.rebuilding.distributed_tables import quoted_name

TEXTS = frozenset({types.String, types.Text, types.TEXT, types.VARCHAR})
"""The types of texts, whose order depends on a collation."""
RANGE_BYTES = 8 * 1024**2
"""How much of both tables a range covers, about; a transaction compares as many as its time allows."""
SAMPLED_PAGES = 10
"""Pages of a range that are sampled, about."""
COUNTED_PAGES = 16_384
"""Pages whose rows are counted by one statement."""
_PAGE_BYTES = 8192

# A partitioned table has no size of its own; pg_partition_tree knows no other tables.
_SIZES = (
    "SELECT n.name, sum(pg_catalog.pg_relation_size(t.relid))::bigint, max(pg_catalog.pg_relation_size(t.relid))"
    " FROM unnest(%s::text[]) AS n (name) CROSS JOIN LATERAL"
    " (SELECT to_regclass(n.name) UNION SELECT relid FROM pg_catalog.pg_partition_tree(to_regclass(n.name)))"
    " AS t (relid) GROUP BY n.name"
)
_COUNT = sql.SQL("SELECT count(*) FROM {}")
_COUNT_FROM_PAGE = sql.SQL("SELECT count(*) FROM {} WHERE ctid >= {}::tid")
_COUNT_PAGES = sql.SQL("SELECT count(*) FROM {} WHERE ctid >= {}::tid AND ctid < {}::tid")
# As texts, which are valid for every type.
_BOUNDS = sql.SQL(
    "SELECT {texts} FROM (SELECT {columns}, row_number() OVER (ORDER BY {columns}) AS n, count(*) OVER () AS sampled"
    " FROM {table} TABLESAMPLE SYSTEM ({percent})) AS keys WHERE mod(n, greatest(sampled / {ranges}, 1)) = 0 ORDER BY n"
)


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys from ``first`` on, and before ``end``, in the order of the key's columns; None is no bound."""

    first: tuple[str, ...] | None = None
    end: tuple[str, ...] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it has all keys."""
        return self.first is None and self.end is None

    @property
    def shared(self) -> int:
        """How many of the first columns of the key have one value in the whole range, such as the app."""
        if self.first is None or self.end is None:
            return 0
        return next((at for at, pair in enumerate(zip(self.first, self.end, strict=True)) if len({*pair}) > 1), 0)

    def up_to(self, last: KeyRange) -> KeyRange:
        """Return the range that begins with this one and ends with a later one."""
        return KeyRange(self.first, last.end)

    @property
    def shape(self) -> tuple[bool, bool, int]:
        """What the text of :meth:`contains` depends on; ranges of one shape differ in :attr:`values` alone."""
        return self.first is None, self.end is None, self.shared

    @property
    def values(self) -> dict[str, str]:
        """The values of the parameters of :meth:`contains`."""
        return {
            f"{bound}_{number}": text
            for bound, texts in (("first", self.first), ("end", self.end))
            for number, text in enumerate(texts or ())
        }

    def contains(self, table: Table, *, by_bytes: bool = False) -> ColumnElement[bool]:
        """Return the condition that a row's key is in the range; its parameters have the names of :attr:`values`.

        Args:
            table: the table.
            by_bytes: whether texts are compared by bytes. That is right whatever the table's collation is, but finds
                keys by index only if the index sorts so.

        """
        key = list(table.primary_key.columns)
        conditions: list[ColumnElement[bool]] = [true()]
        # The planner estimates rows by the first column that is compared, which should not be the app for all rows.
        shared = self.shared
        rest = key[shared:]
        if self.first is not None:
            first = [_value(column, f"first_{number}", by_bytes=by_bytes) for number, column in enumerate(key)]
            conditions += [column == value for column, value in zip(key[:shared], first[:shared], strict=True)]
            conditions.append(tuple_(*rest) >= tuple_(*first[shared:]))
        if self.end is not None:
            end = [_value(column, f"end_{number}", by_bytes=by_bytes) for number, column in enumerate(key)]
            conditions.append(tuple_(*rest) < tuple_(*end[shared:]))
        return and_(*conditions)


WHOLE = KeyRange()


class SizeOnDisk(NamedTuple):
    """The bytes of a table, and of the largest of its partitions."""

    whole: int
    largest: int


async def read_sizes(conn: AsyncConnection[Any], tables: Sequence[Table]) -> dict[Table, SizeOnDisk]:
    """Return the sizes of tables; 0 for those that don't exist."""
    rows = await fetch_all(conn, _SIZES, [[quoted_name(table) for table in tables]])
    sizes = {name: SizeOnDisk(whole or 0, largest or 0) for name, whole, largest in rows}
    return {table: sizes[quoted_name(table)] for table in tables}


async def find_key_ranges(conn: AsyncConnection[Any], copy: Table, size: int) -> list[KeyRange]:
    """Return ranges that together have all keys, in order; one for small tables.

    Args:
        conn: a connection.
        copy: the shadow of a read model's table.
        size: the bytes of both.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    if (number := size // RANGE_BYTES) < 2:
        return [WHOLE]
    key = [sql.Identifier(column.name) for column in copy.primary_key.columns]
    query = _BOUNDS.format(
        texts=sql.SQL(", ").join(sql.SQL("{}::text").format(name) for name in key),
        columns=sql.SQL(", ").join(key),
        table=sql.SQL(quoted_name(copy)),
        percent=sql.Literal(min(100 * SAMPLED_PAGES * _PAGE_BYTES / RANGE_BYTES, 100)),
        ranges=sql.Literal(number),
    )
    bounds: Sequence[tuple[str, ...]] = list(dict.fromkeys(await fetch_all(conn, query)))
    return [KeyRange(*each) for each in zip((None, *bounds), (*bounds, None), strict=True)]


async def count_live_rows(conn: AsyncConnection[Any], table: Table, size: SizeOnDisk) -> int:
    """Count a table's rows; those of a large one in several statements, each of which sees the rows of its time.

    Args:
        conn: an autocommit connection.
        table: the table.
        size: its size.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    name = sql.SQL(quoted_name(table))
    starts = [f"({page},0)" for page in range(0, size.largest // _PAGE_BYTES + 1, COUNTED_PAGES)]
    if len(starts) == 1:
        return int(await fetch_value(conn, _COUNT.format(name)))
    found = 0
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        query = _COUNT_FROM_PAGE if end is None else _COUNT_PAGES
        found += await fetch_value(conn, query.format(name, start, end))
    return found


def _value(column: ColumnElement[Any], name: str, *, by_bytes: bool) -> ColumnElement[Any]:
    value = bindparam(name, None, types.Text())
    if type(column.type) not in TEXTS:
        return cast(value, column.type)
    return collate(value, "C") if by_bytes else value
