"""Locks an app's row of ``quarantine_usage``, and counts again what its quarantine holds after rows were removed.

Invariant. Whoever removes quarantined messages locks that row first, and writes the new numbers in the same
transaction. So a quarantine that was full accepts messages again as soon as there is room.
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from eventstore.appending.quarantine_limits import QuarantineLimits

LOCK_USAGE = (
    "INSERT INTO eventstore.quarantine_usage AS u (app) VALUES (%s) ON CONFLICT (app) DO UPDATE SET app = excluded.app"
)
"""Locks an app's row; its parameter is the app."""
RECOUNT_USAGE = """
UPDATE eventstore.quarantine_usage AS u
SET kept_rows = found.kept_rows, kept_bytes = found.kept_bytes, counted_at = clock_timestamp(),
    full_since = CASE WHEN found.kept_rows < %(rows)s AND found.kept_bytes < %(size)s THEN NULL ELSE u.full_since END
FROM (SELECT count(*) AS kept_rows, coalesce(sum(size), 0)::bigint AS kept_bytes
      FROM (SELECT octet_length(payload) AS size FROM eventstore.quarantine
            WHERE app = %(app)s AND NOT is_sample LIMIT %(limit)s) AS kept) AS found
WHERE u.app = %(app)s
"""
"""Counts an app's kept messages, with an upper bound; its parameters are those of :func:`recount_values`."""


def recount_values(app: str, limits: QuarantineLimits) -> dict[str, Any]:
    """Return the parameters of :data:`RECOUNT_USAGE`."""
    return {
        "app": app,
        "rows": limits.max_rows - limits.sample_rows,
        "size": limits.max_bytes - limits.sample_bytes,
        "limit": limits.max_rows + 1,
    }


async def lock_usage(conn: AsyncConnection[Any], app: str) -> None:
    """Lock an app's quarantine until the end of the transaction."""
    await conn.execute(LOCK_USAGE, [app])


async def recount_usage(conn: AsyncConnection[Any], app: str, limits: QuarantineLimits) -> None:
    """Count again what an app's quarantine holds; the caller has locked it and removed messages."""
    await conn.execute(RECOUNT_USAGE, recount_values(app, limits))
