"""Folds the usual window in one round trip: a function in the session does what a worker does, in one statement.

Invariants. The function is the transaction of :mod:`projections.running.window_step`, statement by statement: it locks
the checkpoint's row, takes the window from its position up to the head, runs the fold's statements, and moves the
checkpoint. Without the lock no fold statement runs. A window without handled events runs no fold statement. Everything
unusual (another state or version, another session at work, an error) is left to the worker.

Most of the cost of a window with one event is round trips. The function is in the session's own temporary schema, so no
other code can call it, and its statements are planned once per session.
"""

from __future__ import annotations

import secrets
from functools import cache
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection, sql
from sqlalchemy import select

from eventstore.postgres.queries import fetch_row
from projections.folding.compiled_once import compile_once
from projections.folding.sql_text import VARIABLES, compile_plpgsql_query, compile_plpgsql_step
from projections.projection import Projection, Window
from projections.running import checkpoint

_CALL = sql.SQL("SELECT * FROM pg_temp.projections_fold({})")
_FUNCTION = sql.SQL("""
CREATE OR REPLACE FUNCTION pg_temp.projections_fold(
    bigint, OUT {lo} bigint, OUT {hi} bigint, OUT {head} bigint
) LANGUAGE plpgsql AS {quote}
DECLARE {skipped} text[];
BEGIN
    {try_lock};
    IF NOT FOUND THEN RETURN; END IF;
    {read_under_lock};
    {hi} := least({lo} + $1, {head});
    IF {hi} > {lo} THEN
        IF EXISTS ({handled}) THEN
            {fold}
        END IF;
        {move};
    END IF;
END {quote}
""")
_LO, _HI, _SKIPPED = (sql.SQL(VARIABLES[name]) for name in ("lo", "hi", "skipped"))
_HEAD = sql.SQL("projections_head")


@cache
def _call(size: int) -> bytes:
    return _CALL.format(size).as_bytes()


class FoldedWindow(NamedTuple):
    """The window that was folded: positions lo < p <= hi, and the log's head.

    ``hi`` equals ``lo`` if there was nothing to fold. It is less than ``lo`` if the checkpoint is ahead of the log;
    nothing was folded then.
    """

    lo: int
    hi: int
    head: int


class FoldFunction:
    """The function that folds windows of one projection.

    Args:
        projection: a projection that folds with SQL.

    """

    def __init__(self, projection: Projection) -> None:
        self._create = compile_once(projection, "fold function", lambda: _compose_function(projection))
        self._created_on: AsyncConnection[Any] | None = None
        self._exists = False

    async def fold(self, conn: AsyncConnection[Any], size: int) -> FoldedWindow | None:
        """Fold the next window, of so many positions at the most, on a connection in autocommit.

        Returns:
            The committed window; None if the checkpoint is not running, another session has its lock, or the role may
            not create a temporary function.

        Raises:
            psycopg.Error: a statement failed, and nothing was done.

        """
        if self._created_on is not conn:
            self._created_on = conn
            self._exists = await self._create_function(conn)
        if not self._exists:
            return None
        row = await fetch_row(conn, _call(size), prepare=False)
        return FoldedWindow(*row) if row and row[0] is not None else None

    async def _create_function(self, conn: AsyncConnection[Any]) -> bool:
        try:
            await conn.execute(self._create, prepare=False)
        except psycopg.Error:
            if conn.broken or conn.closed:
                raise
            return False
        return True


def _compose_function(projection: Projection) -> bytes:
    name = projection.name
    window = Window(projection.handles)
    steps = [compile_plpgsql_step(statement) for statement in projection.fold(window)]
    return _FUNCTION.format(
        lo=_LO,
        hi=_HI,
        head=_HEAD,
        skipped=_SKIPPED,
        try_lock=checkpoint.plpgsql_try_lock(name, projection.version, lo=_LO),
        read_under_lock=checkpoint.plpgsql_read_under_lock(name, skipped=_SKIPPED, head=_HEAD),
        handled=compile_plpgsql_query(select(window.events.c.position)),
        fold=sql.SQL("\n").join(steps),
        move=checkpoint.move_statement(sql.Literal(name), _LO, _HI),
        # A dollar quote that is in no literal of a statement.
        quote=sql.SQL(f"$fold_{secrets.token_hex(8)}$"),
    ).as_bytes()
