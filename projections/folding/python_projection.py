"""The second base class: a projection that folds in Python, from decoded events to rows that carry their event_id.

Invariants. A row is written only when its event_id is greater than the stored one's, and then all of it: so rows don't
hang on the order of events, nor on where windows were cut, nor on events coming twice. A delete is a row too, a
tombstone, or else an older event that comes later would bring the deleted row back. ``handle`` sees the event alone:
neither its position nor when it was received, which another log of the same events has otherwise.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from psycopg import AsyncConnection
from sqlalchemy import Executable, Table, select

from eventstore.contracts import Event
from eventstore.postgres.byte_pages import first_page
from eventstore.postgres.queries import fetch_all
from eventstore.redaction.redact import redact
from projections.errors import HandleFailed, HandleTooSlow, InvalidProjection
from projections.folding.latest_wins import DELETED, LatestRows, LatestWinsTable
from projections.folding.sql_text import Schemas, compile_statement
from projections.projection import Projection, Window

OnProgress = Callable[[int], None]

TELL_SECONDS = 0.5
LIFE_SECONDS = 1.0
"""Postgres ends a transaction that says nothing for long: ``handle`` may take its time, if not for one event."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a row is from this event on.

    Attributes:
        table: one of the projection's tables.
        values: by column's name: the key, and whatever else; columns left out get their server default, or NULL.
            ``event_id`` and ``deleted`` are the engine's.

    """

    table: Table
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """From this event on there is no such row: what is left of it is its key, its event_id, and ``deleted``.

    Attributes:
        table: one of the projection's tables.
        key: the columns of the primary key, by name.

    """

    table: Table
    key: Mapping[str, Any]


class PythonProjection(Projection):
    """A read model that is folded in Python, event by event.

    Each of its tables has, besides the primary key and columns of its own, ``event_id text COLLATE "C" NOT NULL`` (the
    event that decided the row) and ``deleted boolean NOT NULL`` (readers ask for ``NOT deleted``).
    """

    @abstractmethod
    def handle(self, event: Event) -> Iterable[Row | Tombstone]:
        """Return what an event of a handled type makes of rows.

        It must depend on the event alone: not on rows, nor on the clock, nor on events seen before. The key's
        ``partition_by`` columns must hold the event's own values; an event that lacks one (None) has no row. Of two
        that one event gives for the same key, the latter holds.

        Raises:
            Exception: any error fails the window, and the projection stops at the event.

        """

    def fold(self, window: Window) -> Sequence[Executable]:
        """Return the statement that reads a page of the window's events, in order of position."""
        return (first_page(select(window.events), "position", ("position", *Event._fields)),)


class PythonFold:
    """Reads a window page by page, hands each event over, and writes the greatest of each row.

    It wants no pipeline around it: in one, Postgres would wait for a frozen process for ever, past every timeout.

    Args:
        projection: whose fold it is.
        schemas: other schemas for those of its tables and of the events; None for none.
        handle_timeout: seconds that ``handle`` may take for one event, which is known once it returns; None for any.

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
        """Fold positions lo < p <= hi; ``told`` is called now and then with the position of the event just handled.

        Raises:
            HandleFailed: ``handle`` raised an error, or took too long for one event.
            InvalidProjection: it returned what can't be a row.
            psycopg.Error: the database failed, or refuses a row.

        """
        latest: dict[Table, LatestRows] = {table: {} for table in self._tables}
        window = {**self._constants, "hi": hi, "skipped": list(skipped)}
        spoke = said = monotonic()
        while lo < hi:
            page = await fetch_all(conn, self._page, {**window, "lo": lo}, binary=True)
            if not page:
                break
            for position, *columns in page:
                spoke = await _give_way(conn, spoke)
                event = Event(*columns)
                for table, key, values in self._handled(event):
                    known = latest[table].get(key)
                    if known is None or known[0] <= event.event_id:
                        latest[table][key] = (event.event_id, values)
                if on_progress is not None and monotonic() - said >= TELL_SECONDS:
                    said = monotonic()
                    on_progress(position)
            lo = page[-1][0]
        for table, rows in latest.items():
            if rows:
                await self._tables[table].write(conn, rows)

    def _handled(self, event: Event) -> Iterable[tuple[Table, tuple[Any, ...], Mapping[str, Any]]]:
        began = monotonic()
        try:
            rows = list(self._projection.handle(event))
        except Exception as error:
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise HandleFailed(_without_phone_number(said, event)) from error
        if self._handle_timeout is not None and (took := monotonic() - began) > self._handle_timeout:
            raise HandleTooSlow(f"handle took {took:.1f} s")
        for row in rows:
            if not isinstance(row, Row | Tombstone):
                raise InvalidProjection(f"handle returned a {type(row).__name__}: it must be a Row or a Tombstone")
            guarded = self._tables.get(row.table)
            if guarded is None:
                raise InvalidProjection(f"handle returned a row of {row.table.name}, which isn't the projection's")
            values = row.values if isinstance(row, Row) else row.key
            key = guarded.key_of(values, is_tombstone=isinstance(row, Tombstone))
            for column in self._projection.partition_by:
                if values[column] != getattr(event, column):
                    raise InvalidProjection(f"a row of {row.table.name} has another {column} than its event")
            yield row.table, key, {**values, DELETED: isinstance(row, Tombstone)}


async def _give_way(conn: AsyncConnection[Any], spoke: float) -> float:
    """Let others run between two events, and the database know that this process lives; returns when it last did."""
    await asyncio.sleep(0)
    if monotonic() - spoke < LIFE_SECONDS:
        return spoke
    await conn.execute("SELECT 1")
    return monotonic()


def _without_phone_number(text: str, event: Event) -> str:
    return redact(text.replace(event.ppnum, "(phone number)") if event.ppnum else text)
