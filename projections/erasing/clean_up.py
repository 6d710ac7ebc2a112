"""Removes what Postgres keeps of changed rows: dead versions of them, and samples of their values in the statistics.

VACUUM makes room of dead versions, but Postgres overwrites that room only when it needs it, and keeps the versions that
an older snapshot may still see. What it can't reach at all is in :data:`OUT_OF_REACH`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import AsyncConnection, errors, sql

from eventstore.postgres.queries import fetch_column

OUT_OF_REACH = (
    "the write-ahead log and its archive",
    "backups and dumps",
    "replicas that have not replayed the change yet",
    "exported files and extracts of BI tools",
    "unused space of the data files and indexes, until Postgres overwrites it (VACUUM FULL rewrites a table)",
    "the server's own log, if somebody queried for the number",
)
"""What keeps the numbers although the database is clean: the controller has to see to it."""

_VACUUM = sql.SQL("VACUUM (ANALYZE) {}")
_STATISTICS = ("pg_catalog", "pg_statistic")
_OF_WORKERS = (
    "SELECT nodename || ':' || nodeport"
    " FROM pg_catalog.run_command_on_workers('VACUUM (ANALYZE) pg_catalog.pg_statistic') WHERE NOT success"
)


async def vacuum_changed_tables(
    conn: AsyncConnection[Any], tables: Iterable[str], *, is_distributed: bool = False
) -> list[str]:
    """Vacuum and analyze tables, and then the statistics, which had samples of their values.

    Args:
        conn: an autocommit connection.
        tables: their names, with their schemas.
        is_distributed: whether the log is, so that other servers have statistics too.

    Returns:
        The tables that couldn't be vacuumed, because another session has them locked, or a worker refused.

    """
    skipped = []
    for name in sorted(tables):
        schema, _, table = name.partition(".")
        try:
            await conn.execute(_VACUUM.format(sql.Identifier(schema, table)))
        except errors.UndefinedTable:
            continue
        except errors.LockNotAvailable:
            skipped.append(name)
    try:
        # Only the database's owner may: for others Postgres skips it, with a warning.
        await conn.execute(_VACUUM.format(sql.Identifier(*_STATISTICS)))
    except errors.LockNotAvailable:
        skipped.append(".".join(_STATISTICS))
    if is_distributed:
        name = ".".join(_STATISTICS)
        skipped += [f"{name} on {server}" for server in await fetch_column(conn, _OF_WORKERS)]
    return skipped
