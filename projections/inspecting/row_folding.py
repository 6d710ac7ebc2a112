"""Folds the events behind a row in order of event_id, and finds what each changed in it.

Invariants. Up to ``ONE_BY_ONE`` events are folded one by one. Of a larger group, the number of folds doesn't grow with
the group: it is folded once to find the row and the event that decides it. Then windows of it are folded; one that
changes nothing in the row is passed over and the next is larger, and one that changes it is undone and folded in
shorter ones, until the event that changed it is alone. That ends after ``FIRST`` changes; the last ``LAST`` events and
the one that decides are folded alone too, and what lies between is folded together, and shown as one change.

A change that an event of a window makes and a later one undoes, so that the row is the same as before, counts as none.

The fold is the one that workers run, into temporary tables. Every window is a transaction of its own, so no snapshot
lasts longer than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from psycopg import AsyncConnection, Rollback, sql
from sqlalchemy import MetaData, Table

from eventstore.distributed_log import is_distributed
from projections.folding.table_copies import plain_copy
from projections.folding.window_fold import build_fold
from projections.inspecting.group_events import COPY, LAST_POSITION, TEMPORARY, VIEW, GroupEvents, copy_group_events
from projections.inspecting.row_events import RowEvent
from projections.inspecting.row_key import Row, read_row
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.rebuilding.replay_progress import Progress
from projections.rebuilding.shadow_tables import create_fold_table

ONE_BY_ONE = 1_000
"""Groups of up to so many events are folded one by one."""
FIRST = 20
"""Changes that are found one by one in a larger group, from its beginning."""
LAST = 20
"""Events at the end of a larger group that are folded one by one."""
PIECE = 10_000
"""Events that are folded together, at the most."""
STRIDE = 4
"""How much larger the next window is after one that changed nothing, and how much shorter after one that did."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """What an event changed in the row, or several that were folded together.

    Attributes:
        event: the event; of several, the last one.
        before: the row before it, or before the first of them; None where there was no row.
        after: the row after it.
        together: how many events were folded together.

    """

    event: RowEvent
    before: Row | None
    after: Row | None
    together: int = 1

    @property
    def columns(self) -> dict[str, tuple[Any, Any]]:
        """The columns that changed, with their values before and after."""
        old, new = self.before or {}, self.after or {}
        changed = (name for name in (new or old) if not is_same(old.get(name), new.get(name)))
        return {name: (old.get(name), new.get(name)) for name in changed}


class FoldedRow(NamedTuple):
    """What a fold of all events made of the row, what changed it, and how many events changed nothing."""

    row: Row | None
    changes: tuple[RowChange, ...]
    without_effect: int


class RowQuery(NamedTuple):
    """Which row: the projection, the table, the key, the column that names its deciding event, and what is skipped."""

    projection: Projection
    table: Table
    key: Row
    deciding_column: str | None
    skipped: Sequence[str]


def is_same(one: object, other: object) -> bool:
    """Compare as ``verify`` does, by the written form: NaN equals itself, and 1.5 differs from 1.50."""
    return repr(one) == repr(other)


async def fold_row(
    conn: AsyncConnection[Any], query: RowQuery, found: Sequence[RowEvent], progress: Progress
) -> FoldedRow:
    """Fold events, and find what each of them changed in a row.

    Args:
        conn: a connection in autocommit, whose temporary tables are nobody else's.
        query: which row.
        found: the events of its partition, in order of event_id.
        progress: receives how many events are folded.

    Raises:
        psycopg.Error: the database failed, or the connection.
        Exception: any error that a fold written in Python raises.

    """
    names = {one.name for one in query.projection.tables}
    copied = None
    # Temporary tables are here, and the events of a distributed log aren't.
    is_large = len(found) > ONE_BY_ONE
    if (is_large or await is_distributed(conn)) and not names & {COPY, VIEW}:
        copied = await copy_group_events(conn, found)
    folding = _RowFolding(conn, query, found, copied)
    await folding.create_tables()
    if copied is None or not is_large:
        progress.phase("folding", target=len(found))
        for number in range(len(found)):
            await folding.fold(number + 1)
            progress.at(number + 1)
    else:
        await _fold_large_group(folding, query, len(found), progress)
    return FoldedRow(folding.row, tuple(folding.changes), len(found) - sum(one.together for one in folding.changes))


async def _fold_large_group(folding: _RowFolding, query: RowQuery, count: int, progress: Progress) -> None:
    progress.phase("folding", target=count)
    while folding.done < count:
        await folding.fold(min(folding.done + PIECE, count))
        progress.at(folding.done)
    decider = folding.place_of(folding.row.get(query.deciding_column)) if folding.row and query.deciding_column else 0
    await folding.start_over()
    progress.phase("finding what changed the row among", target=count)
    # The event that decides is alone, and so are the last ones.
    bounds = sorted({bound for bound in (decider - 1, decider, count - LAST, count) if bound > 0})
    size = 1
    while folding.done < count:
        end = next(bound for bound in bounds if bound > folding.done)
        if folding.done >= count - LAST:
            await folding.fold(folding.done + 1)
        elif len(folding.changes) >= FIRST:
            await folding.fold(min(folding.done + PIECE, end))
        else:
            size = min(size, end - folding.done)
            passed = await folding.fold(folding.done + size, only_alone=True)
            size = size * STRIDE if passed else max(size // STRIDE, 1)
        progress.at(folding.done)


class _RowFolding:
    """Folds events in order; ``done`` are folded, which made ``row``, by ``changes``."""

    def __init__(
        self, conn: AsyncConnection[Any], query: RowQuery, found: Sequence[RowEvent], copied: GroupEvents | None
    ) -> None:
        self.done = 0
        self.row: Row | None = None
        self.changes: list[RowChange] = []
        self._conn, self._query, self._found, self._copied = conn, query, found, copied
        self._tables = {one.name: plain_copy(one, MetaData(), TEMPORARY) for one in query.projection.tables}
        schemas = {READ_MODEL_SCHEMA: TEMPORARY, **(copied.schemas if copied else {})}
        self._fold = build_fold(query.projection, schemas)

    async def create_tables(self) -> None:
        for table in self._tables.values():
            await create_fold_table(self._conn, table)

    async def start_over(self) -> None:
        tables = sql.SQL(", ").join(sql.Identifier(TEMPORARY, name) for name in self._tables)
        await self._conn.execute(sql.SQL("TRUNCATE {}").format(tables))
        self.done, self.row, self.changes = 0, None, []

    def place_of(self, event_id: object) -> int:
        """Return the number of an event; 0 if it isn't there."""
        return next((place for place, one in enumerate(self._found, 1) if one.event_id == event_id), 0)

    async def fold(self, up_to: int, *, only_alone: bool = False) -> bool:
        """Fold the events up to a number; return whether it was done.

        Args:
            up_to: the number of the last one.
            only_alone: whether to undo it if several events changed the row.

        """
        count, event = up_to - self.done, self._found[up_to - 1]
        after = None
        is_done = False
        async with self._conn.transaction() as transaction:
            if self._copied is None:
                await self._fold.run(self._conn, event.position - 1, event.position, self._query.skipped)
            else:
                await self._copied.choose(self.done, up_to)
                await self._fold.run(self._conn, 0, LAST_POSITION, self._query.skipped)
            after = await read_row(self._conn, self._tables[self._query.table.name], self._query.key)
            if only_alone and count > 1 and not is_same(after, self.row):
                raise Rollback(transaction)
            is_done = True
        if is_done:
            self._record(event, after, count)
            self.done = up_to
        return is_done

    def _record(self, event: RowEvent, after: Row | None, count: int) -> None:
        if is_same(after, self.row):
            return
        last = self.changes[-1] if self.changes else None
        if count > 1 and last is not None and last.together > 1:
            self.changes[-1] = RowChange(event, last.before, after, last.together + count)
        else:
            self.changes.append(RowChange(event, self.row, after, count))
        self.row = after
