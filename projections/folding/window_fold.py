"""Runs a projection's fold for any window: its statements, compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from psycopg import AsyncConnection, AsyncRawCursor

from projections.folding.python_projection import OnProgress, PythonFold, PythonProjection
from projections.folding.sql_text import Schemas, compile_fold_statement
from projections.projection import Projection, Window


class WindowFold(Protocol):
    """Whatever folds a window.

    Attributes:
        in_pipeline: whether it is well run in a pipeline, its statements sent at once.

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

        ``told`` is called now and then with the position up to which events were handled, by a fold that knows it.

        Raises:
            psycopg.Error: a statement failed.
            Exception: whatever a fold written in Python raises.

        """
        ...


class SqlFold:
    """The statements of a projection, ready to run.

    Args:
        projection: whose fold it is.
        schemas: as :func:`build_fold` takes them.

    """

    in_pipeline = True

    def __init__(self, projection: Projection, schemas: Schemas | None = None) -> None:
        self._statements = [
            compile_fold_statement(statement, schemas) for statement in projection.fold(Window(projection.handles))
        ]

    async def run(
        self,
        conn: AsyncConnection[Any],
        lo: int,
        hi: int,
        skipped: Sequence[str] = (),
        on_progress: OnProgress | None = None,  # noqa: ARG002 - Postgres tells nothing of a statement under way
    ) -> None:
        """Run the statements in order."""
        window = {"lo": lo, "hi": hi, "skipped": list(skipped)}
        async with AsyncRawCursor(conn) as cursor:
            for statement, names in self._statements:
                await cursor.execute(statement, [window[name] for name in names], prepare=True)


def build_fold(
    projection: Projection, schemas: Schemas | None = None, *, handle_timeout: float | None = None
) -> WindowFold:
    """Return what folds a projection.

    Args:
        projection: which.
        schemas: other schemas for those of its tables (``public``) and of the events (``eventstore``); None for none.
        handle_timeout: seconds that ``handle`` may take for one event; None for any. Of statements, whoever runs the
            fold sets Postgres's ``statement_timeout``.

    """
    if isinstance(projection, PythonProjection):
        return PythonFold(projection, schemas, handle_timeout)
    return SqlFold(projection, schemas)
