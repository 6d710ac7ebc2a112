"""Runs SQLAlchemy's statements on a psycopg connection."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import dict_row
from sqlalchemy import Executable

from eventstore.postgres.queries import fetch_all
from projections.folding.sql_text import NumberedText, compile_with_numbered_parameters

# A raw cursor takes $n parameters, so psycopg does not search a long text for placeholders.


async def fetch_rows(
    conn: AsyncConnection[Any],
    statement: Executable | NumberedText,
    **values: Any,  # noqa: ANN401 - a value has the type of its column
) -> list[dict[str, Any]]:
    """Run a query and return its rows by column; ``values`` are the parameters that have no value in the statement.

    Raises:
        psycopg.Error: the statement failed.

    """
    text, parameters = compile_with_numbered_parameters(statement, values)
    async with AsyncRawCursor(conn, row_factory=dict_row) as cursor:
        return await fetch_all(cursor, text, parameters)


async def execute_and_count(
    conn: AsyncConnection[Any],
    statement: Executable | NumberedText,
    **values: Any,  # noqa: ANN401 - a value has the type of its column
) -> int:
    """Run a statement and return how many rows it wrote or deleted; ``values`` as in :func:`fetch_rows`.

    Raises:
        psycopg.Error: the statement failed.

    """
    text, parameters = compile_with_numbered_parameters(statement, values)
    async with AsyncRawCursor(conn) as cursor:
        return (await cursor.execute(text, parameters)).rowcount
