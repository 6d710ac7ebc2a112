"""Builds a projection's fold, which can then fold any window: with SQL statements, compiled once, or in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from psycopg import AsyncConnection, AsyncRawCursor

from projections.folding.compiled_once import compile_once
from projections.folding.python_fold import OnProgress, PythonFold
from projections.folding.python_projection import PythonProjection
from projections.folding.sql_text import Schemas, compile_fold_statement
from projections.projection import Projection, Window


class WindowFold(Protocol):
    """Folds windows of one projection.

    Attributes:
        in_pipeline: whether it should run in a pipeline, which sends its statements without waiting for results.

    """

    in_pipeline: bool

    async def run(
        self,
        conn: AsyncConnection[Any],
        lo: int,
        hi: int,
        skipped: Sequence[str] = (),
        on_progress: OnProgress | None = None,
    ) -> None:
        """Fold positions lo < p <= hi, inside the caller's transaction (or its pipeline).

        Args:
            conn: the caller's connection.
            lo: the position before the window.
            hi: the window's last position.
            skipped: the event_ids to skip.
            on_progress: called by a fold that knows how far it is.

        Raises:
            psycopg.Error: a statement failed.
            Exception: any error that a fold written in Python raises.

        """
        ...


class SqlFold:
    """The fold of a projection that is written in SQL.

    Args:
        projection: the projection.
        schemas: as :func:`build_fold` takes them.

    """

    in_pipeline = True

    def __init__(self, projection: Projection, schemas: Schemas | None = None) -> None:
        what = ("fold", frozenset((schemas or {}).items()))
        self._statements = compile_once(
            projection,
            what,
            lambda: [
                compile_fold_statement(statement, schemas) for statement in projection.fold(Window(projection.handles))
            ],
        )

    async def run(
        self,
        conn: AsyncConnection[Any],
        lo: int,
        hi: int,
        skipped: Sequence[str] = (),
        on_progress: OnProgress | None = None,  # noqa: ARG002 - Postgres reports no progress of a statement
    ) -> None:
        """Run the statements in order."""
        window = {"lo": lo, "hi": hi, "skipped": list(skipped)}
        async with AsyncRawCursor(conn) as cursor:
            for statement, names in self._statements:
                await cursor.execute(statement, [window[name] for name in names], prepare=True)


def build_fold(
    projection: Projection, schemas: Schemas | None = None, *, handle_timeout: float | None = None
) -> WindowFold:
    """Return the fold of a projection.

    Args:
        projection: the projection.
        schemas: other schemas for its tables (``public``) and for the events (``eventstore``); None for none.
        handle_timeout: seconds that ``handle`` may take for one event; None for any time. The limit for SQL statements
            is Postgres's ``statement_timeout``, which the caller sets.

    """
    if isinstance(projection, PythonProjection):
        return PythonFold(projection, schemas, handle_timeout)
    return SqlFold(projection, schemas)
