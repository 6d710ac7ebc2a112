"""The steps of a sliced replay: windows of the log to spread over the slices, and slices to fold.

Invariants. A step is marked as done in the transaction that does it. So a replay that is killed repeats none of what it
committed, and whoever resumes it finds what is left. The table is as durable as the slices: after a crash of the server
both are empty.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql

from eventstore.postgres.queries import fetch_all

_CREATE = sql.SQL(
    "CREATE UNLOGGED TABLE {} (number integer PRIMARY KEY, lo bigint, hi bigint, slice integer, done boolean NOT NULL)"
)
_ADD = sql.SQL("INSERT INTO {} VALUES {}")
_READ = sql.SQL("SELECT number, lo, hi, slice, done FROM {} ORDER BY number")
_DONE = sql.SQL("UPDATE {} SET done = true WHERE number = {} AND NOT done")


class SliceStep(NamedTuple):
    """A step: the window lo < p <= hi to spread, or the slice to fold."""

    number: int
    lo: int | None
    hi: int | None
    slice: int | None
    done: bool


class SliceSteps:
    """The table of the steps of one replay.

    Args:
        table: its name.

    """

    def __init__(self, table: sql.Identifier) -> None:
        self._table = table

    async def create(
        self, conn: AsyncConnection[Any], target: int, window: int, slices: int, *, mark: sql.Composed
    ) -> None:
        """Create the table with all steps: first windows up to the target, then slices.

        Args:
            conn: the replay's connection.
            target: the last position.
            window: how many positions a window has.
            slices: how many slices there are.
            mark: is executed with it, and gives the table its comment.

        """
        windows = [(lo, min(lo + window, target), None) for lo in range(0, target, window)]
        steps = [*windows, *((None, None, number) for number in range(slices))]
        rows = [sql.SQL("({}, false)").format(_literals([number, *step])) for number, step in enumerate(steps)]
        add = _ADD.format(self._table, sql.SQL(", ").join(rows))
        await conn.execute(sql.SQL("; ").join([_CREATE.format(self._table), mark, add]))

    async def read(self, conn: AsyncConnection[Any]) -> list[SliceStep]:
        """Return all steps in order."""
        return [SliceStep(*row) for row in await fetch_all(conn, _READ.format(self._table))]

    async def mark_done(self, conn: AsyncConnection[Any], step: SliceStep) -> None:
        """Mark a step as done, inside the transaction that does it."""
        await conn.execute(_DONE.format(self._table, step.number))


def _literals(values: list[int | None]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Literal, values))
