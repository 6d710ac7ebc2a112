"""Folds a window in Python: reads its events page by page, hands each to ``handle``, and writes the resulting rows.

Invariants. Of all rows that a window gives for one key, the one that wins by its event_id is written: the latest, or
the first. Between two events other tasks run, and Postgres gets a statement at least once a second, so that the
transaction does not look idle. The engine's checks of returned rows are here: table, columns, key and partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, TypeAlias

from psycopg import AsyncConnection
from sqlalchemy import Table

from eventstore.contracts import Event
from eventstore.distributed_log import event_of_row
from eventstore.postgres.queries import fetch_all
from eventstore.redaction.redact import redact
from projections.code_place import find_code_place
from projections.errors import HandleFailed, HandleTooSlow, InvalidProjection
from projections.folding.decided_rows import DecidedRows, DecidedTable
from projections.folding.python_projection import PythonProjection, Row, Tombstone
from projections.folding.row_types import TypedRow, find_row_types, values_of
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
        self._tables = {table: DecidedTable(table, schemas) for table in projection.tables}
        self._row_types = find_row_types(projection.tables)

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
        rows: dict[Table, DecidedRows] = {table: {} for table in self._tables}
        window = {**self._constants, "hi": hi, "skipped": list(skipped)}
        statement_at = progress_at = monotonic()
        while lo < hi:
            page = await fetch_all(conn, self._page, {**window, "lo": lo}, binary=True)
            if not page:
                break
            for position, *columns in page:
                statement_at = await _yield_and_keep_alive(conn, statement_at)
                self._handle(event_of_row(columns), rows)
                if on_progress is not None and monotonic() - progress_at >= PROGRESS_SECONDS:
                    progress_at = monotonic()
                    on_progress(position)
            lo = page[-1][0]
        for table, its_rows in rows.items():
            if its_rows:
                await self._tables[table].write(conn, its_rows)

    def try_event(self, event: Event) -> None:
        """Hand one event to ``handle`` and check the rows that it returns, without writing them.

        Raises:
            HandleFailed, InvalidProjection: as :meth:`run` raises them.

        """
        self._handle(event, {table: {} for table in self._tables})

    def _handle(self, event: Event, rows: dict[Table, DecidedRows]) -> None:
        """Add the rows of one event to those of the window."""
        for row in self._call_handle(event):
            table, values = self._table_and_values(row)
            known = self._tables.get(table)
            if known is None:
                raise InvalidProjection(f"handle returned a row of {table.name}, which is not the projection's")
            known.add(rows[table], event.event_id, values, is_tombstone=isinstance(row, Tombstone))
            for column in self._projection.partition_by:
                if values[column] != getattr(event, column):
                    raise InvalidProjection(f"{column} of a row of {table.name} differs from its event's")

    def _table_and_values(self, row: Row | Tombstone | TypedRow) -> tuple[Table, Mapping[str, Any]]:
        if isinstance(row, Row):
            return row.table, row.values
        if isinstance(row, Tombstone):
            return row.table, row.key
        table = self._row_types.get(type(row))
        if table is None:
            *names, last = (one.__name__ for one in (Row, *self._row_types, Tombstone))
            raise InvalidProjection(
                f"handle returned a {type(row).__name__}; it must return {', '.join(names)} or {last}"
            )
        return table, values_of(row)

    def _call_handle(self, event: Event) -> list[Row | Tombstone | TypedRow]:
        began = monotonic()
        try:
            rows = list(self._projection.handle(event))
        except Exception as error:
            words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            place = find_code_place(error, type(self._projection).__module__)
            # The place comes first, because a long text is cut off.
            begin = "" if place is None else f"{place}: "
            raise HandleFailed(begin + _without_phone_number(words, event)) from error
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
