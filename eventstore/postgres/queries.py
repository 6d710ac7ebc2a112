"""Runs a query and returns its rows, one round trip each.

Every function takes a connection or a cursor, and returns rows in the form that its row factory gives them.
"""

from __future__ import annotations

from typing import Any, LiteralString, TypeAlias, TypeVar

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
    prepare: bool | None = None,
) -> list[Row]:
    """Return all rows of a query.

    Args:
        conn: where to run it.
        query: the statement.
        params: its parameters.
        binary: whether values come in Postgres's binary format.
        prepare: whether the statement is prepared on the server; None lets psycopg decide.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    # Cursors that write values into the text get results as texts only.
    runner = AsyncCursor(conn) if binary and isinstance(conn, AsyncConnection) else conn
    cursor = await runner.execute(query, params, prepare=prepare, binary=binary)
    return await cursor.fetchall()


async def fetch_row(
    conn: AsyncConnection[Row] | AsyncCursor[Row],
    query: Query,
    params: Params | None = None,
    *,
    prepare: bool | None = None,
) -> Row | None:
    """Return the first row of a query; None when it has none."""
    cursor = await conn.execute(query, params, prepare=prepare)
    return await cursor.fetchone()


async def fetch_value(
    conn: AsyncConnection[Any], query: Query, params: Params | None = None, *, prepare: bool | None = None
) -> Any:  # noqa: ANN401 - a value has the type of its column
    """Return the first column of a query's first row; None when there is no row."""
    row = await fetch_row(conn, query, params, prepare=prepare)
    return None if row is None else row[0]


async def fetch_column(conn: AsyncConnection[Any], query: Query, params: Params | None = None) -> list[Any]:
    """Return the first column of all rows of a query."""
    return [row[0] for row in await fetch_all(conn, query, params)]
