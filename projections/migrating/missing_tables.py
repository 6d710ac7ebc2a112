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

# By the catalogs, which every role may read, whatever it may do in a schema.
_MISSING = (
    "SELECT name FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS owned (schema, name, number)"
    " WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace AS n ON n.oid = relnamespace"
    " WHERE n.nspname = owned.schema AND relname = owned.name) ORDER BY number LIMIT 1"
)


def find_missing_tables(connection: Connection, projection: Projection) -> list[Table]:
    """Return the tables of a projection that are missing in the database."""
    inspector = inspect(connection)
    return [table for table in projection.tables if not inspector.has_table(table.name, schema=table.schema)]


def describe_missing_table(table: str) -> str:
    """Return the sentence that a table is missing, and what to do."""
    return f"table {table} is missing; run projections migrate"


async def find_missing_table(conn: AsyncConnection[Any], projection: Projection) -> str | None:
    """Return the name of the first table of a projection that is missing; None if none is."""
    names = ([table.schema for table in projection.tables], [table.name for table in projection.tables])
    row = await fetch_row(conn, _MISSING, names)
    return row[0] if row else None


async def not_migrated(conn: AsyncConnection[Any], projection: Projection) -> str | None:
    """Return why a projection can't fold, if one of its tables is missing; None if none is."""
    table = await find_missing_table(conn, projection)
    return None if table is None else describe_missing_table(table)


def create_tables(connection: Connection, tables: Sequence[Table]) -> None:
    """Create tables, with their indexes and comments."""
    by_metadata: dict[MetaData, list[Table]] = {}
    for table in tables:
        by_metadata.setdefault(table.metadata, []).append(table)
    for metadata, its_own in by_metadata.items():
        metadata.create_all(connection, tables=its_own)
