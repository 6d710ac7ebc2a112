"""Checks that a window is whole: that the log has an event at each of its positions.

Invariants. Positions have no gaps, so the window lo < p <= hi has exactly ``hi - lo`` events. The statement that moves
a position (a checkpoint's or a shadow's) counts them. If one is missing, that statement sets the position to NULL, its
NOT NULL column refuses that, and nothing of the window is committed.
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.postgres.queries import fetch_row
from eventstore.schema import events

LOG = events.schema or ""
"""The schema of the events, unless they are read from a table of the same name and columns in another schema."""

_HI_IF_WHOLE = sql.SQL(
    "CASE WHEN (SELECT count(*) FROM {events} WHERE position > {lo} AND position <= {hi}) = {hi} - {lo} THEN {hi} END"
)
_FIRST_MISSING = sql.SQL(
    "SELECT previous + 1, position - 1 FROM"
    " (SELECT position, lag(position, 1, %(lo)s::bigint) OVER (ORDER BY position) AS previous FROM"
    " (SELECT position FROM {} WHERE position > %(lo)s AND position <= %(hi)s"
    " UNION ALL SELECT %(hi)s::bigint + 1) AS there) AS gaps WHERE position > previous + 1 ORDER BY 1 LIMIT 1"
)


def hi_if_whole(lo: sql.Composable, hi: sql.Composable, schema: str = LOG) -> sql.Composed:
    """Return the SQL expression that is ``hi`` if the window lo < p <= hi is whole, and NULL if it isn't."""
    return _HI_IF_WHOLE.format(lo=lo, hi=hi, events=sql.Identifier(schema, events.name))


async def find_missing_positions(
    conn: AsyncConnection[Any], lo: int, hi: int, schema: str = LOG
) -> tuple[int, int] | None:
    """Return the first and the last of the first missing positions in lo < p <= hi; None if none is missing."""
    row = await fetch_row(conn, _FIRST_MISSING.format(sql.Identifier(schema, events.name)), {"lo": lo, "hi": hi})
    return (row[0], row[1]) if row else None
