"""Runs a query of a test and returns its rows.

Tests don't use ``eventstore.postgres.queries`` for this: tests/statements.py would record their statements as the
product's.
"""

from __future__ import annotations

from typing import LiteralString, TypeAlias, TypeVar

from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.abc import Params

Row = TypeVar("Row")
Query: TypeAlias = LiteralString | bytes | sql.SQL | sql.Composed


async def fetch_all(
    conn: AsyncConnection[Row] | AsyncCursor[Row],
    query: Query,
    params: Params | None = None,
    *,
    binary: bool = False,
) -> list[Row]:
    """Return all rows of a query."""
    cursor = await conn.execute(query, params, binary=binary)
    return await cursor.fetchall()


async def fetch_row(
    conn: AsyncConnection[Row] | AsyncCursor[Row], query: Query, params: Params | None = None
) -> Row | None:
    """Return the first row of a query; None when it has none."""
    cursor = await conn.execute(query, params)
    return await cursor.fetchone()
