"""Reads how many sessions the server has, who waits for a lock, and which transaction is the oldest."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from eventstore.postgres.queries import fetch_all, fetch_row
from projections.inspecting.live_status import DatabaseLoad

# pg_stat_activity hides the state of another role's sessions, unless this role is a member of pg_read_all_stats.
_CONNECTIONS = """
SELECT CASE WHEN datname = current_database() AND application_name LIKE 'projections%' THEN 'projections' ELSE 'other'
       END AS owner, coalesce(state, 'hidden') AS state, count(*)
FROM pg_catalog.pg_stat_activity WHERE coalesce(backend_type, 'client backend') = 'client backend' AND pid IS NOT NULL
AND datname IS NOT NULL GROUP BY 1, 2
"""
_LOAD = """
SELECT current_setting('max_connections')::integer, waits.sessions, waits.longest, coalesce(transactions.oldest, 0)
FROM (SELECT count(DISTINCT pid) AS sessions,
             coalesce(max(greatest(extract(epoch FROM clock_timestamp() - waitstart), 0)), 0)::double precision
             AS longest
      FROM pg_catalog.pg_locks WHERE NOT granted
      AND (database IS NULL OR database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
     ) AS waits,
     (SELECT greatest(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::double precision AS oldest
      FROM pg_catalog.pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_catalog.pg_backend_pid()
      AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)) AS transactions
"""


async def read_database_load(conn: AsyncConnection[Any]) -> DatabaseLoad:
    """Read the sessions of this database.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    connections = {(owner, state): count for owner, state, count in await fetch_all(conn, _CONNECTIONS)}
    row = await fetch_row(conn, _LOAD)
    return DatabaseLoad(connections, *(row or (0, 0, 0.0, 0.0)))
