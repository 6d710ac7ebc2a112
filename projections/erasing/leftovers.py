"""Searches the whole database for numbers: every column that can hold text or bytes, of every table.

It reads what a dump would have: the columns in Postgres's binary form, in which texts, arrays, JSON and bytes stand as
they are. So a number is found wherever it is in a value. Tables are read in slices of pages, so that no snapshot lasts
long, and nothing of them is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql

from eventstore.erasure.number_finder import NumberFinder
from eventstore.postgres.queries import fetch_all

SLICE_PAGES = 8_192
"""How many pages of a table one statement reads: 64 MiB."""
BUFFER_BYTES = 2**18

# Numbers, times, booleans, ranges, bit strings and the like can't hold a text.
_COLUMNS = """
SELECT n.nspname, c.relname, (pg_relation_size(c.oid) / current_setting('block_size')::bigint)::bigint,
       array_agg(a.attname ORDER BY a.attnum) FILTER (WHERE readable),
       array_agg(a.attname ORDER BY a.attnum) FILTER (WHERE NOT readable)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type AS element ON element.oid = t.typelem AND t.typcategory = 'A'
CROSS JOIN LATERAL (SELECT has_schema_privilege(n.oid, 'USAGE')
                           AND has_table_privilege(c.oid, 'SELECT') AND t.typsend <> 0 AS readable) AS may
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND coalesce(element.typcategory, t.typcategory) NOT IN ('N', 'D', 'B', 'T', 'G', 'I', 'R', 'V', 'P', 'E')
GROUP BY n.nspname, c.relname, c.oid ORDER BY n.nspname, c.relname
"""
_SLICE = sql.SQL(
    "COPY (SELECT {} FROM {} WHERE ctid >= {}::pg_catalog.tid AND ctid < {}::pg_catalog.tid) TO STDOUT (FORMAT binary)"
)
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
        unreadable: columns that this role may not read.

    """

    tables: int = 0
    columns: int = 0
    found: list[Leftover] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


class _SearchedTable(NamedTuple):
    schema: str
    name: str
    pages: int
    columns: Sequence[str]

    @property
    def slices(self) -> list[tuple[int, int]]:
        starts = list(range(0, max(self.pages, 1), SLICE_PAGES))
        return list(zip(starts, [*starts[1:], _LAST_PAGE], strict=True))


async def find_leftovers(
    conn: AsyncConnection[Any], numbers: Sequence[str], *, on_table: Callable[[str], None] = lambda _: None
) -> SearchResult:
    """Search every table for numbers.

    Args:
        conn: an autocommit connection; columns that its role may not read are reported.
        numbers: what to search for.
        on_table: is called with the name of each table before it is read.

    """
    finder = NumberFinder(numbers)
    result = SearchResult()
    for schema, name, pages, readable, unreadable in await fetch_all(conn, _COLUMNS):
        result.unreadable += [f"{schema}.{name}.{column}" for column in unreadable or ()]
        if not readable:
            continue
        on_table(f"{schema}.{name}")
        table = _SearchedTable(schema, name, pages, readable)
        result.tables += 1
        result.columns += len(readable)
        counts: Counter[str] = Counter()
        for first, end in table.slices:
            if await _is_in_slice(conn, finder, table, first, end):
                for column in readable:
                    counts[column] += await _count_rows(conn, finder, table, column, first, end)
        result.found += [Leftover(f"{schema}.{name}", column, rows) for column, rows in counts.items() if rows]
    return result


async def _is_in_slice(
    conn: AsyncConnection[Any], finder: NumberFinder, table: _SearchedTable, first: int, end: int
) -> bool:
    buffer: list[bytes] = []
    size = 0
    is_found = False
    async for row in _read_slice(conn, table, table.columns, first, end):
        buffer.append(row)
        size += len(row)
        if size >= BUFFER_BYTES:
            is_found = is_found or finder.is_in(b"".join(buffer))
            buffer, size = [], 0
    return is_found or finder.is_in(b"".join(buffer))


async def _count_rows(
    conn: AsyncConnection[Any], finder: NumberFinder, table: _SearchedTable, column: str, first: int, end: int
) -> int:
    return sum([finder.is_in(row) async for row in _read_slice(conn, table, [column], first, end)])


async def _read_slice(
    conn: AsyncConnection[Any], table: _SearchedTable, columns: Sequence[str], first: int, end: int
) -> AsyncIterator[bytes]:
    """Yield the rows of some pages, each in Postgres's binary form."""
    statement = _SLICE.format(
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.Identifier(table.schema, table.name),
        sql.Literal(f"({first},0)"),
        sql.Literal(f"({end},0)"),
    )
    async with conn.cursor() as cursor, cursor.copy(statement) as copy:
        async for row in copy:
            yield bytes(row)
