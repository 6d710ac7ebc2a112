"""Folds the usual window in one round trip: a function of the session does what a worker does, in one statement.

Invariants. It is the transaction of :mod:`projections.running.worker`, statement by statement: the checkpoint's row
is locked, the window is what lies between its position and the head, the fold's statements run over it, the
checkpoint moves.
No statement of a fold runs without that lock, nor over a window that has none of its events, which it could have been
cut out of. Whatever isn't usual is left to the worker, who
knows what to do about it: another state or version, somebody else at work, an error.

What a window of one event costs is mostly talk. The function lies in the session's own temporary schema, so it is there
for this code and nobody else, and its statements are planned once for a session.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection, sql
from sqlalchemy import select

from eventstore.postgres.queries import fetch_row
from projections.folding.sql_text import VARIABLES, compile_plpgsql_query, compile_plpgsql_step
from projections.projection import Projection, Window
from projections.running import checkpoint

_CALL = "SELECT * FROM pg_temp.projections_fold(%s)"
_FUNCTION = """
CREATE OR REPLACE FUNCTION pg_temp.projections_fold(
    bigint, OUT {lo} bigint, OUT {hi} bigint, OUT projections_head bigint
) LANGUAGE plpgsql AS {quote}
DECLARE {skipped} text[];
BEGIN
    {take};
    IF NOT FOUND THEN RETURN; END IF;
    {read_under_lock};
    {hi} := least({lo} + $1, projections_head);
    IF {hi} > {lo} THEN
        IF EXISTS ({handled}) THEN
            {fold}
        END IF;
        {move};
    END IF;
END {quote}
"""


class FoldedWindow(NamedTuple):
    """The window that was folded: positions lo < p <= hi, none when there were none; and the log's head.

    ``hi`` is less than ``lo`` when the checkpoint is ahead of the log; nothing was folded then.
    """

    lo: int
    hi: int
    head: int


class FoldFunction:
    """One projection's windows, each at once.

    Args:
        projection: which; it is folded by SQL.

    """

    def __init__(self, projection: Projection) -> None:
        name = sql.Literal(projection.name).as_string()
        window = Window(projection.handles)
        self._function = _FUNCTION.format(
            **VARIABLES,
            take=checkpoint.take_running(name, projection.version, lo=VARIABLES["lo"]),
            read_under_lock=checkpoint.read_under_lock(name, skipped=VARIABLES["skipped"], head="projections_head"),
            handled=compile_plpgsql_query(select(window.events.c.position)),
            fold="\n".join(compile_plpgsql_step(statement) for statement in projection.fold(window)),
            move=checkpoint.move(
                sql.Literal(projection.name), sql.SQL(VARIABLES["lo"]), sql.SQL(VARIABLES["hi"])
            ).as_string(),
            quote=f"$fold_{secrets.token_hex(8)}$",  # in no literal of a statement
        )
        self._tried: AsyncConnection[Any] | None = None
        self._is_there = False

    async def fold(self, conn: AsyncConnection[Any], size: int) -> FoldedWindow | None:
        """Fold the next window, of so many positions at the most, on a connection in autocommit.

        Returns:
            The window, committed; None when the checkpoint couldn't be taken as one that runs, or the role may not make
            a temporary function.

        Raises:
            psycopg.Error: a statement failed, and nothing was done.

        """
        if self._tried is not conn:
            self._tried = conn
            self._is_there = await self._make(conn)
        if not self._is_there:
            return None
        row = await fetch_row(conn, _CALL % int(size), prepare=False)
        return FoldedWindow(*row) if row and row[0] is not None else None

    async def _make(self, conn: AsyncConnection[Any]) -> bool:
        try:
            await conn.execute(self._function, prepare=False)
        except psycopg.Error:
            if conn.broken or conn.closed:
                raise
            return False
        return True
