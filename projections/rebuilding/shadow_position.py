"""The position of a shadow: a row beside its tables, which also names the run that fills them.

Invariants. The row is as durable as the shadow's tables, and moves with them in one transaction: after a crash of the
server both have their contents, or neither has. A run takes over the row while it holds the projection's rebuild lock,
and every later statement requires the run's id. So a frozen run that wakes up after another one has taken over changes
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql
from psycopg.errors import InsufficientPrivilege

from eventstore.archiving.archived_events import TEMPORARY
from eventstore.postgres.queries import fetch_all, fetch_row, fetch_value
from eventstore.postgres.session_settings import SCAN_WHOLE_TABLES, STATEMENT_TIMEOUT
from eventstore.whole_window import LOG, hi_if_whole
from projections.engine_tables import SHADOW_POSITIONS_DDL
from projections.projection import SHADOW_POSITIONS
from projections.rebuilding.shadow_tables import SHADOW_SCHEMA

_POSITIONS = sql.Identifier(SHADOW_SCHEMA, SHADOW_POSITIONS)
_EXISTS = sql.SQL("SELECT to_regclass({}) IS NOT NULL").format(sql.Literal(_POSITIONS.as_string()))
_START = sql.SQL(
    "INSERT INTO {} VALUES (%s, %s, %s, %s, 0) ON CONFLICT (projection) DO UPDATE SET run = excluded.run,"
    " version = excluded.version, fingerprint = excluded.fingerprint, position = 0"
).format(_POSITIONS)
_READ = sql.SQL("SELECT run, version, fingerprint, position FROM {} WHERE projection = %s").format(_POSITIONS)
_OF_RUNS = sql.SQL("SELECT run, position FROM {} WHERE run = ANY(%s)").format(_POSITIONS)
_TAKE_OVER = sql.SQL("UPDATE {} SET run = %s WHERE projection = %s").format(_POSITIONS)
_DELETE = sql.SQL("DELETE FROM {} WHERE projection = %s AND run = %s").format(_POSITIONS)
_DELETE_ALL = sql.SQL("DELETE FROM {}").format(_POSITIONS)
_LOCK = sql.SQL("SELECT position FROM {} WHERE projection = %s AND run = %s FOR UPDATE").format(_POSITIONS)
_SHARE = sql.SQL("{}, {} FROM {} WHERE projection = %(name)s AND run = %(run)s FOR SHARE").format(
    sql.SQL(SCAN_WHOLE_TABLES), sql.SQL(STATEMENT_TIMEOUT), _POSITIONS
)
_JUMP = sql.SQL("UPDATE {} SET position = %s WHERE projection = %s AND run = %s AND position = 0").format(_POSITIONS)
_MOVE_TO = sql.SQL(
    "UPDATE {} SET position = {} WHERE projection = %(name)s AND run = %(run)s AND position = %(lo)s RETURNING {}"
)


def _move(schema: str) -> sql.Composed:
    hi = hi_if_whole(sql.SQL("%(lo)s::bigint"), sql.SQL("%(hi)s::bigint"), schema)
    return _MOVE_TO.format(_POSITIONS, hi, sql.SQL(STATEMENT_TIMEOUT))


_MOVES = {schema: _move(schema) for schema in (LOG, TEMPORARY)}
_MOVE_AFTER_COUNT = _MOVE_TO.format(_POSITIONS, sql.SQL("%(hi)s::bigint"), sql.SQL(STATEMENT_TIMEOUT))


class EarlierRun(NamedTuple):
    """The row that an earlier run left: its id, its code's version and fingerprint, and how far it folded."""

    run_id: int
    version: int
    fingerprint: str
    position: int


class ShadowPosition:
    """The row of one run.

    Args:
        conn: the connection that fills the shadow.
        name: the projection's name.
        run_id: the run's id.

    """

    def __init__(self, conn: AsyncConnection[Any], name: str, run_id: int) -> None:
        self._conn = conn
        self._name = name
        self._run_id = run_id

    async def create_table(self) -> None:
        """Create the table of positions if it doesn't exist."""
        # Citus lets only the owner run the statement on a table that exists.
        if not await positions_exist(self._conn):
            await self._conn.execute(SHADOW_POSITIONS_DDL)

    async def start(self, version: int, fingerprint: str) -> None:
        """Put this run's row, at position 0, in place of any earlier one."""
        await self._conn.execute(_START, [self._name, self._run_id, version, fingerprint])

    async def read_earlier(self) -> EarlierRun | None:
        """Return the row that an earlier run left; None if there is none."""
        row = await fetch_row(self._conn, _READ, [self._name])
        return EarlierRun(*row) if row else None

    async def take_over(self) -> None:
        """Make an earlier run's row this run's."""
        await self._conn.execute(_TAKE_OVER, [self._run_id, self._name])

    async def lock(self) -> bool:
        """Lock the row for the caller's transaction; returns whether it is still this run's."""
        return await fetch_row(self._conn, _LOCK, [self._name, self._run_id]) is not None

    async def share(self, conn: AsyncConnection[Any], statement_timeout: str) -> bool:
        """Keep other runs from taking over while a session's transaction lasts; let it read whole tables, for a time.

        Args:
            conn: the session; several may work on one shadow.
            statement_timeout: for the next statements of the transaction.

        Returns:
            Whether the row is still this run's.

        """
        values = {"name": self._name, "run": self._run_id, "timeout": statement_timeout}
        return await fetch_row(conn, _SHARE, values) is not None

    async def jump(self, position: int) -> bool:
        """Move the position from 0 to one up to which all windows were whole; returns whether the row is this run's."""
        return (await self._conn.execute(_JUMP, [position, self._name, self._run_id])).rowcount == 1

    async def move(
        self, lo: int, hi: int, statement_timeout: str, schema: str = LOG, *, is_counted: bool = False
    ) -> bool:
        """Move the position, and set the timeout of the transaction's next statements, in one round trip.

        If the window has a gap in the table of its events, the position becomes NULL, which the NOT NULL column
        refuses; but a window that is counted already (``is_counted``), as in a distributed log, is not counted again.

        Returns:
            Whether the row is still this run's, and at ``lo``.

        """
        values = {"name": self._name, "run": self._run_id, "lo": lo, "hi": hi, "timeout": statement_timeout}
        statement = _MOVE_AFTER_COUNT if is_counted else _MOVES[schema]
        return (await self._conn.execute(statement, values)).rowcount == 1

    async def delete(self) -> bool:
        """Delete the row; returns whether it was still this run's."""
        return (await self._conn.execute(_DELETE, [self._name, self._run_id])).rowcount == 1


async def positions_exist(conn: AsyncConnection[Any]) -> bool:
    """Return whether any run has created the table of positions."""
    return bool(await fetch_value(conn, _EXISTS))


async def read_positions_of_runs(conn: AsyncConnection[Any], run_ids: Sequence[int]) -> dict[int, int]:
    """Return how far the shadows of these runs are, by the run's id, as far as this role may know.

    A role that only reads, or receives, need not see the shadows. Then none is returned, and how far a run is known to
    be is what it has recorded.

    Args:
        conn: an autocommit connection.
        run_ids: the runs.

    """
    with suppress(InsufficientPrivilege):
        if await positions_exist(conn):
            return dict(await fetch_all(conn, _OF_RUNS, [list(run_ids)]))
    return {}


async def delete_all_positions(conn: AsyncConnection[Any]) -> None:
    """Delete the rows of all shadows, so that none of them is resumed."""
    if await positions_exist(conn):
        await conn.execute(_DELETE_ALL)
