"""Searches the whole database for numbers: every column that can hold text or bytes, of every table.

Values are read in Postgres's binary form, in which texts, arrays, JSON and bytes stand as they are. So a number is
found wherever it is in a value. Tables are read in slices of pages, so that no snapshot lasts long and memory is
bounded. What can't be read is reported: nothing counts as searched that was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from psycopg import AsyncConnection, Error, errors, sql

from eventstore.erasure.number_finder import NumberFinder, is_too_short
from eventstore.postgres.queries import fetch_all
from projections.erasing.searched_shards import TableSize, find_parts_left_behind, read_shard_sizes

SLICE_BYTES = 8 * 2**20
"""How much of a table one statement reads, as long as its pages are alike; long values outside the pages count too."""

# Numbers, times, booleans, ranges, bit strings and the like can't hold a text.
_COLUMNS = """
SELECT n.nspname, c.relname,
       coalesce(pg_relation_size(c.oid) / current_setting('block_size')::bigint, 0)::bigint,
       coalesce(pg_table_size(c.oid), 0),
       array_agg(a.attname ORDER BY a.attnum) FILTER (WHERE readable),
       array_agg(a.attname ORDER BY a.attnum) FILTER (WHERE NOT readable),
       coalesce(bool_or(a.attname = 'app' AND a.atttypid = 'text'::regtype AND readable), false),
       to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type AS element ON element.oid = t.typelem AND t.typcategory = 'A'
CROSS JOIN LATERAL (SELECT has_schema_privilege(n.oid, 'USAGE')
                           AND has_table_privilege(c.oid, 'SELECT') AND t.typsend <> 0
                           AND NOT row_security_active(c.oid) AS readable) AS may
WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND coalesce(element.typcategory, t.typcategory) NOT IN ('N', 'D', 'B', 'T', 'G', 'I', 'R', 'V', 'P', 'E')
GROUP BY n.nspname, c.relname, c.oid ORDER BY n.nspname, c.relname
"""
_SLICE = sql.SQL("SELECT {} FROM {} WHERE ctid >= {}::pg_catalog.tid AND ctid < {}::pg_catalog.tid AND {}")
_LAST_PAGE = 2**32 - 1


class Leftover(NamedTuple):
    """A column that has a number in some of its rows."""

    table: str
    column: str
    rows: int


@dataclass(slots=True)
class SearchResult:
    """What a search read, and what it found.

    Attributes:
        tables: how many tables.
        columns: how many columns.
        found: the columns that have a number.
        shared: the columns that have one in a table without a column ``app``, when one app is searched: the rows may be
            those of the same person in another app.
        too_short: how many numbers were not searched, because they would be found everywhere.
        unreadable: columns that this role may not read, all or some of their rows, or that another session has locked;
            and parts of distributed tables that Citus has yet to remove.

    """

    tables: int = 0
    columns: int = 0
    found: list[Leftover] = field(default_factory=list)
    shared: list[Leftover] = field(default_factory=list)
    too_short: int = 0
    unreadable: list[str] = field(default_factory=list)


class _SearchedTable(NamedTuple):
    """A table: how many pages it has, its bytes with long values, and the columns to search."""

    schema: str
    name: str
    pages: int
    size: int
    columns: Sequence[str]
    condition: sql.Composable

    @property
    def slices(self) -> list[tuple[int, int]]:
        """The first page of each slice, and the page behind it."""
        step = max(SLICE_BYTES * self.pages // max(self.size, 1), 1)
        starts = list(range(0, max(self.pages, 1), step))
        return list(zip(starts, [*starts[1:], _LAST_PAGE], strict=True))


async def find_leftovers(
    conn: AsyncConnection[Any],
    numbers: Sequence[str],
    *,
    app: str | None = None,
    on_table: Callable[[str], None] = lambda _: None,
) -> SearchResult:
    """Search every table for numbers.

    Args:
        conn: an autocommit connection; columns that its role may not read are reported.
        numbers: what to search for.
        app: search only rows of this app in tables with a column ``app``; None for all rows.
        on_table: is called with the name of each table before it is read.

    """
    finder = NumberFinder(numbers)
    result = SearchResult(too_short=sum(map(is_too_short, numbers)))
    tables = await fetch_all(conn, _COLUMNS)
    has_citus = bool(tables) and tables[0][-1]
    shards = await read_shard_sizes(conn) if has_citus else {}
    if has_citus:
        result.unreadable += await find_parts_left_behind(conn)
    for schema, name, pages, size, readable, unreadable, has_app, _ in tables:
        result.unreadable += [f"{schema}.{name}.{column}" for column in unreadable or ()]
        if not readable:
            continue
        on_table(f"{schema}.{name}")
        of_app = app is not None and has_app
        condition = sql.SQL("app = {}").format(sql.Literal(app)) if of_app else sql.SQL("true")
        whole = shards.get((schema, name), TableSize(pages, size))
        table = _SearchedTable(schema, name, whole.pages, whole.size, readable, condition)
        try:
            counts = await _search_table(conn, finder, table)
        except errors.UndefinedTable:  # as when a rebuild ended meanwhile
            continue
        except Error:  # locked, damaged, or a part of a type that can't be sent in binary form
            if conn.broken:
                raise
            result.unreadable += [f"{schema}.{name}.{column}" for column in readable]
            continue
        result.tables += 1
        result.columns += len(readable)
        found = result.found if app is None or has_app else result.shared
        found += [Leftover(f"{schema}.{name}", column, counts[column]) for column in readable if counts[column]]
    return result


async def _search_table(conn: AsyncConnection[Any], finder: NumberFinder, table: _SearchedTable) -> Counter[str]:
    """Return in how many rows each column has a number."""
    counts: Counter[str] = Counter()
    for first, end in table.slices:
        counts += await _search_slice(conn, finder, table, first, end)
    return counts


async def _search_slice(
    conn: AsyncConnection[Any], finder: NumberFinder, table: _SearchedTable, first: int, end: int
) -> Counter[str]:
    """Return in how many rows of some pages each column has a number."""
    statement = _SLICE.format(
        sql.SQL(", ").join(map(sql.Identifier, table.columns)),
        sql.Identifier(table.schema, table.name),
        sql.Literal(f"({first},0)"),
        sql.Literal(f"({end},0)"),
        table.condition,
    )
    cursor = await conn.execute(statement, binary=True)
    found: Counter[str] = Counter()
    rows = cursor.pgresult
    if rows is None:
        return found
    # The values stay as Postgres sent them: making Python's values of them would take longer than the search.
    for place, column in enumerate(table.columns):
        values = [rows.get_value(number, place) or b"" for number in range(rows.ntuples)]
        if finder.is_in(b"\0".join(values)):
            found[column] = sum(map(finder.is_in, values))
    return found
