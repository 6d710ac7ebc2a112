"""Explains a row of a read model: folds the events behind it one by one, and records what each changes in the row.

Invariants. The fold is the one that workers run, over windows of one position each, in order of event_id, into
temporary tables. Every window is a transaction of its own, so no snapshot lasts longer than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, DataError
from sqlalchemy import MetaData, Table

from eventstore.errors import describe
from eventstore.postgres.connection import connect
from eventstore.postgres.session_settings import ONE_SNAPSHOT, SEARCHING
from projections.errors import ProjectionsError, UsageError
from projections.folding.table_copies import plain_copy
from projections.folding.text_dates import load_odd_dates_as_text
from projections.folding.window_fold import build_fold
from projections.inspecting.row_events import RowEvent, find_events
from projections.inspecting.row_key import Row, complete_key, deciding_column, read_row
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.rebuilding.replay_checkpoint import read_checkpoint_in_log
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.replay_progress import Progress
from projections.rebuilding.shadow_tables import create_fold_table
from projections.running.checkpoint import Checkpoint

_TEMPORARY = "pg_temp"


@dataclass(frozen=True, slots=True)
class RowChange:
    """What an event changed in the row: the row before and after it; None where there was no row."""

    event: RowEvent
    before: Row | None
    after: Row | None

    @property
    def columns(self) -> dict[str, tuple[Any, Any]]:
        """The columns that changed, with their values before and after."""
        old, new = self.before or {}, self.after or {}
        changed = (name for name in (new or old) if not _same(old.get(name), new.get(name)))
        return {name: (old.get(name), new.get(name)) for name in changed}


@dataclass(frozen=True, slots=True)
class Explanation:
    """The history of a row.

    Attributes:
        table: the read model's.
        key: the row's.
        partition: the names of the columns of the row's partition.
        position: the projection's checkpoint; events behind it are not folded yet.
        changes: what each event that changed the row made of it, in order of event_id.
        without_effect: how many events of the row's partition changed nothing in it.
        skipped: the event_ids among them that the projection skips.
        decided_by: the event that decides the row; None where no single event does, or none has yet.
        is_decided_by_one: whether in this table a single event decides a row.
        row: the row by the log; None if there should be none.
        table_row: the row in the table; None if there is none.

    """

    table: str
    key: Row
    partition: tuple[str, ...]
    position: int
    changes: tuple[RowChange, ...]
    without_effect: int
    skipped: tuple[str, ...]
    decided_by: str | None
    is_decided_by_one: bool
    row: Row | None
    table_row: Row | None

    @property
    def equal(self) -> bool:
        """Whether the table's row equals the log's."""
        return _same(self.row, self.table_row)


def _same(one: object, other: object) -> bool:
    """Compare as ``verify`` does, by the written form: NaN equals itself, and 1.5 differs from 1.50."""
    return repr(one) == repr(other)


async def explain(
    context: ReplayContext, projection: Projection, table: Table, key: Sequence[str], app: str | None
) -> Explanation:
    """Find the events that produced a row, and what each of them changed.

    Args:
        context: the database, and who receives the progress of the search and of the fold.
        projection: the one that owns the table.
        table: the read model.
        key: the primary key's values in order, with or without the app.
        app: the app, where ``key`` leaves it out; None for the only one that has such a row.

    Raises:
        UsageError: the key is not one of the table, or several apps have such a row.
        ProjectionsError: the projection has not run yet, or its rows are of another version.
        psycopg.Error: the database failed, or the connection.

    """
    async with await connect(context.url, name="projections explain", waits=context.waits, settings=SEARCHING) as conn:
        load_odd_dates_as_text(conn)
        try:
            whole_key = await complete_key(conn, table, key, app)
        except DataError as error:
            raise UsageError(f"that can't be a key of {table.name}: {describe(error)}") from error
        at, table_row = await _read_row_at_checkpoint(conn, projection, table, whole_key)
        partition = {name: whole_key[name] for name in projection.partition_by}
        context.progress.phase("searching", target=at.position)
        found = await find_events(conn, projection, partition, at.position, context.progress)
        changes = await _fold_one_by_one(conn, projection, table, whole_key, found, at.skipped, context.progress)
        row = changes[-1].after if changes else None
        column = deciding_column(projection, table)
        return Explanation(
            table=table.name,
            key=whole_key,
            partition=tuple(partition),
            position=at.position,
            changes=tuple(changes),
            without_effect=len(found) - len(changes),
            skipped=tuple(event.event_id for event in found if event.event_id in set(at.skipped)),
            decided_by=row.get(column) if row and column else None,
            is_decided_by_one=column is not None,
            row=row,
            table_row=table_row,
        )


async def _read_row_at_checkpoint(
    conn: AsyncConnection[Any], projection: Projection, table: Table, key: Row
) -> tuple[Checkpoint, Row | None]:
    """Read checkpoint and row in one snapshot, for workers move both."""
    async with conn.transaction():
        await conn.execute(ONE_SNAPSHOT)
        at = await read_checkpoint_in_log(conn, projection)
        if at.version != projection.version:
            raise ProjectionsError(
                f"the rows of {projection.name} are of version {at.version}, this code is version"
                f" {projection.version}; run projections rebuild {projection.name}"
            )
        return at, await read_row(conn, table, key)


async def _fold_one_by_one(
    conn: AsyncConnection[Any],
    projection: Projection,
    table: Table,
    key: Row,
    found: Sequence[RowEvent],
    skipped: Sequence[str],
    progress: Progress,
) -> list[RowChange]:
    """Fold events into temporary tables, in order of event_id; return what each changed in the row."""
    copies = {one.name: plain_copy(one, MetaData(), _TEMPORARY) for one in projection.tables}
    for copy in copies.values():
        await create_fold_table(conn, copy, logged=True)
    fold = build_fold(projection, {READ_MODEL_SCHEMA: _TEMPORARY})
    changes: list[RowChange] = []
    row: Row | None = None
    progress.phase("folding", target=len(found))
    for number, event in enumerate(sorted(found, key=lambda one: one.event_id), 1):
        async with conn.transaction():
            await fold.run(conn, event.position - 1, event.position, skipped)
        after = await read_row(conn, copies[table.name], key)
        if not _same(after, row):
            changes.append(RowChange(event, row, after))
        row = after
        progress.at(number)
    return changes
