"""Reads a table in pages that are limited in rows and in bytes, so that neither memory nor a snapshot grows with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from functools import lru_cache
from typing import Any

from psycopg import AsyncConnection
from sqlalchemy import BigInteger, Select, Table, bindparam, func, select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from eventstore.postgres.queries import fetch_all

PAGE_ROWS = 1_000
PAGE_BYTES = 8 * 2**20

_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]


def first_page(rows: Select[Any], key: str, columns: Iterable[str]) -> Select[Any]:
    """Return the query for the first page of some rows.

    A page has at most ``page_rows`` rows, and ends with the row that brings its payloads to ``page_bytes`` bytes: one
    row that is larger than a page is a page by itself. Both are parameters of the query, with defaults.

    Args:
        rows: a query for all rows; ``payload`` is among its columns.
        key: the column by which rows are ordered, without duplicates.
        columns: which columns to return.

    """
    ordered = rows.order_by(rows.selected_columns[key]).limit(bindparam("page_rows", PAGE_ROWS)).subquery("first")
    size = func.octet_length(ordered.c.payload)
    before = func.sum(size).over(order_by=ordered.c[key]) - size
    page = select(ordered, before.label("bytes_before")).subquery("page")
    limit = bindparam("page_bytes", PAGE_BYTES, type_=BigInteger)
    return select(*(page.c[name] for name in columns)).where(page.c.bytes_before < limit).order_by(page.c[key])


def compile_page(query: Select[Any]) -> tuple[bytes, dict[str, Any]]:
    """Return the text of a query for a page, and its parameters with their defaults."""
    compiled = query.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    return compiled.string.encode(), dict(compiled.params)


async def read_pages(
    conn: AsyncConnection,
    table: Table,
    key: str,
    columns: Iterable[str],
    *,
    after: int = 0,
    up_to: int | None = None,
    page_rows: int = PAGE_ROWS,
    page_bytes: int = PAGE_BYTES,
) -> AsyncIterator[list[tuple[Any, ...]]]:
    """Yield pages of a table's rows, each as it is when the page is read, in the order of a key.

    Args:
        conn: on an autocommit connection no snapshot outlives a page.
        table: a table with a column ``payload``.
        key: a numeric column, without duplicates.
        columns: what to read besides the key, which comes first in each row.
        after: the key before the first row.
        up_to: the last key; None for no end.
        page_rows: rows of a page, at the most.
        page_bytes: bytes of payloads after which a page ends.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    text = _compile_range(table, key, (key, *columns))
    values = {"up_to": 2**63 - 1 if up_to is None else up_to, "page_rows": page_rows, "page_bytes": page_bytes}
    while rows := await fetch_all(conn, text, {**values, "after": after}, binary=True):
        yield rows
        after = rows[-1][0]


@lru_cache(maxsize=16)  # compiling it takes longer than reading a short page
def _compile_range(table: Table, key: str, columns: tuple[str, ...]) -> bytes:
    """Return the text of the query for a page of the rows whose keys are in a range."""
    is_in_range = (table.c[key] > bindparam("after", type_=BigInteger)) & (
        table.c[key] <= bindparam("up_to", type_=BigInteger)
    )
    return compile_page(first_page(select(table).where(is_in_range), key, columns))[0]
