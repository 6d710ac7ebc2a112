"""Folds a window in Python: reads its events page by page, hands each to ``handle``, and writes the resulting rows.

Invariants. Of all rows that a window gives for one key, the one with the greatest event_id is written. Between two
events other tasks run, and Postgres gets a statement at least once a second, so that the transaction does not look
idle. The engine's checks of returned rows are here: table, columns, key and partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, TypeAlias

from psycopg import AsyncConnection
from sqlalchemy import Table

from eventstore.contracts import Event
from eventstore.postgres.queries import fetch_all
from eventstore.redaction.redact import redact
from projections.errors import HandleFailed, HandleTooSlow, InvalidProjection
from projections.folding.latest_wins import DELETED, LatestRows, LatestWinsTable
from projections.folding.python_projection import PythonProjection, Row, Tombstone
from projections.folding.sql_text import Schemas, compile_statement
from projections.projection import Window

OnProgress: TypeAlias = Callable[[int], None]
"""Is called now and then with the position up to which events were handled."""

PROGRESS_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 1.0
"""Seconds between two statements, if ``handle`` is quicker than that: Postgres ends a transaction that is idle for
too long."""


class PythonFold:
    """The fold of a projection that is written in Python.

    It must not run in a pipeline: in a pipeline no timeout of Postgres ends the transaction of a frozen process.

    Args:
        projection: the projection.
        schemas: other schemas for its tables and for the events; None for none.
        handle_timeout: seconds that ``handle`` may take for one event, checked when it returns; None for any time.

    """

    in_pipeline = False

    def __init__(
        self, projection: PythonProjection, schemas: Schemas | None = None, handle_timeout: float | None = None
    ) -> None:
        self._projection = projection
        self._handle_timeout = handle_timeout
        (page,) = projection.fold(Window(projection.handles))
        self._page, self._constants = compile_statement(page, schemas)
        self._tables = {table: LatestWinsTable(table, schemas) for table in projection.tables}

    async def run(
        self,
        conn: AsyncConnection[Any],
        lo: int,
        hi: int,
        skipped: Sequence[str] = (),
        on_progress: OnProgress | None = None,
    ) -> None:
        """Fold positions lo < p <= hi.

        Raises:
            HandleFailed: ``handle`` raised an error, or took too long for one event.
            InvalidProjection: ``handle`` returned something that can't be a row.
            psycopg.Error: the database failed, or refuses a row.

        """
        latest: dict[Table, LatestRows] = {table: {} for table in self._tables}
        window = {**self._constants, "hi": hi, "skipped": list(skipped)}
        statement_at = progress_at = monotonic()
        while lo < hi:
            page = await fetch_all(conn, self._page, {**window, "lo": lo}, binary=True)
            if not page:
                break
            for position, *columns in page:
                statement_at = await _yield_and_keep_alive(conn, statement_at)
                event = Event(*columns)
                for table, key, values in self._handle(event):
                    known = latest[table].get(key)
                    if known is None or known[0] <= event.event_id:
                        latest[table][key] = (event.event_id, values)
                if on_progress is not None and monotonic() - progress_at >= PROGRESS_SECONDS:
                    progress_at = monotonic()
                    on_progress(position)
            lo = page[-1][0]
        for table, rows in latest.items():
            if rows:
                await self._tables[table].write(conn, rows)

    def _handle(self, event: Event) -> Iterable[tuple[Table, tuple[Any, ...], Mapping[str, Any]]]:
        """Yield the rows of one event: table, key, and values."""
        for row in self._call_handle(event):
            if not isinstance(row, Row | Tombstone):
                raise InvalidProjection(f"handle returned a {type(row).__name__}; it must return Row or Tombstone")
            table = self._tables.get(row.table)
            if table is None:
                raise InvalidProjection(f"handle returned a row of {row.table.name}, which is not the projection's")
            values = row.values if isinstance(row, Row) else row.key
            key = table.key_of(values, is_tombstone=isinstance(row, Tombstone))
            for column in self._projection.partition_by:
                if values[column] != getattr(event, column):
                    raise InvalidProjection(f"{column} of a row of {row.table.name} differs from its event's")
            yield row.table, key, {**values, DELETED: isinstance(row, Tombstone)}

    def _call_handle(self, event: Event) -> list[Row | Tombstone]:
        began = monotonic()
        try:
            rows = list(self._projection.handle(event))
        except Exception as error:
            words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise HandleFailed(_without_phone_number(words, event)) from error
        if self._handle_timeout is not None and (took := monotonic() - began) > self._handle_timeout:
            raise HandleTooSlow(f"handle took {took:.1f} s")
        return rows


async def _yield_and_keep_alive(conn: AsyncConnection[Any], statement_at: float) -> float:
    """Let other tasks run, and keep the transaction alive; return when the last statement ran."""
    await asyncio.sleep(0)
    if monotonic() - statement_at < KEEP_ALIVE_SECONDS:
        return statement_at
    await conn.execute("SELECT 1")
    return monotonic()


def _without_phone_number(text: str, event: Event) -> str:
    return redact(text.replace(event.ppnum, "(phone number)") if event.ppnum else text)
