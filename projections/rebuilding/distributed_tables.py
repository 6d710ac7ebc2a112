"""Distributes the tables of a shadow, and those of a comparison, like the read model's tables.

Invariants. Rows of a key are on one server with the row of the same key in the read model, so that folds, comparisons
and changes run beside each other on all servers. If a read model isn't distributed, neither is its shadow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import AsyncConnection, sql
from sqlalchemy import Table

from eventstore.distributed_log import is_distributed
from eventstore.postgres.queries import fetch_all, fetch_value

_COLUMN = (
    "SELECT pg_catalog.column_to_column_name(logicalrelid, partkey) FROM pg_catalog.pg_dist_partition"
    " WHERE logicalrelid = to_regclass(%s) AND partmethod = 'h'"
)
_ALL_COLUMNS = (
    "SELECT n.nspname || '.' || c.relname, pg_catalog.column_to_column_name(d.logicalrelid, d.partkey)"
    " FROM pg_catalog.pg_dist_partition AS d JOIN pg_catalog.pg_class AS c ON c.oid = d.logicalrelid"
    " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE d.partmethod = 'h'"
)
_DISTRIBUTE = "SELECT pg_catalog.create_distributed_table(to_regclass(%s), %s, colocate_with => %s)"


async def distribute_like(conn: AsyncConnection[Any], pairs: Iterable[tuple[Table, Table]]) -> None:
    """Distribute empty tables, each like a table that exists.

    Raises:
        psycopg.Error: the database failed, or refused it.

    """
    for table, like in pairs:
        column = await fetch_value(conn, _COLUMN, [quoted_name(like)])
        if column is not None:
            await conn.execute(_DISTRIBUTE, [quoted_name(table), column, quoted_name(like)])


async def read_distribution(conn: AsyncConnection[Any]) -> dict[str, str] | None:
    """Return by which column each table is distributed, by its name with its schema; None unless the log is."""
    return dict(await fetch_all(conn, _ALL_COLUMNS)) if await is_distributed(conn) else None


def quoted_name(table: Table) -> str:
    """Return a table's name with its schema, as SQL has it."""
    return sql.Identifier(str(table.schema), table.name).as_string()
