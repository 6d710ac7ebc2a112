"""Finds which tables of a projection are missing, and creates them.

Every command needs this, so this module doesn't load Alembic, which takes long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection
from sqlalchemy import Connection, MetaData, Table, inspect

from eventstore.postgres.queries import fetch_row
from projections.projection import Projection

_MISSING = (
    "SELECT name FROM unnest(%s::text[], %s::text[]) AS owned (schema, name)"
    " WHERE to_regclass(format('%%I.%%I', schema, name)) IS NULL LIMIT 1"
)


def find_missing_tables(connection: Connection, projection: Projection) -> list[Table]:
    """Return the tables of a projection that are missing in the database."""
    inspector = inspect(connection)
    return [table for table in projection.tables if not inspector.has_table(table.name, schema=table.schema)]


def describe_missing_table(table: str) -> str:
    """Return the sentence that a table is missing, and what to do."""
    return f"table {table} is missing; run projections migrate"


async def not_migrated(conn: AsyncConnection[Any], projection: Projection) -> str | None:
    """Return why a projection can't fold, if one of its tables is missing; None if none is."""
    names = ([table.schema for table in projection.tables], [table.name for table in projection.tables])
    row = await fetch_row(conn, _MISSING, names)
    return describe_missing_table(row[0]) if row else None


def create_tables(connection: Connection, tables: Sequence[Table]) -> None:
    """Create tables, with their indexes and comments."""
    by_metadata: dict[MetaData, list[Table]] = {}
    for table in tables:
        by_metadata.setdefault(table.metadata, []).append(table)
    for metadata, its_own in by_metadata.items():
        metadata.create_all(connection, tables=its_own)
