"""Explains a row of a read model: finds the events behind it, and what each changed in the row.

Invariants. The events behind the row are found by index if they have a person or a request in common; otherwise the
log is searched (:mod:`projections.inspecting.group_search`). Everything else costs in proportion to these events, of
which there are at most ``row_events.MOST_EVENTS``: a row with more is refused. How they are folded is in
:mod:`projections.inspecting.row_folding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, DataError
from sqlalchemy import Table

from eventstore.archived_rows import read_archived_up_to
from eventstore.distributed_log import is_distributed, wait_for_commits
from eventstore.errors import describe
from eventstore.postgres.connection import connect
from eventstore.postgres.session_settings import ONE_SNAPSHOT, SEARCHING
from projections.errors import ProjectionsError, UsageError
from projections.folding.text_dates import load_odd_dates_as_text
from projections.inspecting.group_search import find_group
from projections.inspecting.row_folding import RowChange, RowQuery, fold_row, is_same
from projections.inspecting.row_key import Row, complete_key, deciding_column, read_row
from projections.projection import Projection
from projections.rebuilding.replay_checkpoint import read_checkpoint_in_log
from projections.rebuilding.replay_context import ReplayContext
from projections.running.checkpoint import Checkpoint, hold_up_folding


@dataclass(frozen=True, slots=True)
class Explanation:
    """The history of a row.

    Attributes:
        table: the read model's.
        key: the row's.
        partition: the names of the columns in which the events behind the row agree, or the rows of ``counted``.
        counted: the table whose rows the row counts, if these can move from one row to another; else None.
        position: the projection's checkpoint; events behind it are not folded yet.
        changes: what changed the row, in order of event_id; in a group of many events, some are folded together.
        without_effect: how many of the events behind the row changed nothing in it.
        skipped: the event_ids among them that the projection skips.
        decided_by: the event that decides the row; None where no single event does, or none has yet.
        is_decided_by_one: whether in this table a single event decides a row.
        row: the row by the log; None if there should be none.
        table_row: the row in the table; None if there is none.
        archived_up_to: events up to this position are archived and weren't searched; 0 if none are.

    """

    table: str
    key: Row
    partition: tuple[str, ...]
    counted: str | None
    position: int
    changes: tuple[RowChange, ...]
    without_effect: int
    skipped: tuple[str, ...]
    decided_by: str | None
    is_decided_by_one: bool
    row: Row | None
    table_row: Row | None
    archived_up_to: int = 0

    @property
    def group(self) -> str:
        """What the events behind the row have in common, in words."""
        names = " and ".join([name for name in self.partition if name != "app"] or self.partition)
        if self.counted is not None:
            return f"of rows of {self.counted} that are or were counted for this {names}"
        return f"with the same {names}"

    @property
    def equal(self) -> bool:
        """Whether the table's row equals the log's."""
        return is_same(self.row, self.table_row)


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
        ProjectionsError: the projection has not run yet, its rows are of another version, or there are too many events
            behind the row.
        psycopg.Error: the database failed, or the connection.

    """
    async with await connect(context.url, name="projections explain", waits=context.waits, settings=SEARCHING) as conn:
        load_odd_dates_as_text(conn)
        try:
            whole_key = await complete_key(conn, table, key, app)
        except DataError as error:
            raise UsageError(f"that can't be a key of {table.name}: {describe(error)}") from error
        at, table_row = await _read_row_at_checkpoint(conn, projection, table, whole_key)
        context.progress.phase("searching", target=at.position)
        group = await find_group(conn, projection, table, whole_key, at.position, context.progress)
        found = sorted(group.events, key=lambda one: one.event_id)
        column = deciding_column(projection, table)
        query = RowQuery(projection, table, whole_key, column, at.skipped)
        row, changes, without_effect = await fold_row(conn, query, found, context.progress)
        return Explanation(
            table=table.name,
            key=whole_key,
            partition=group.columns,
            counted=group.counted,
            position=at.position,
            changes=changes,
            without_effect=without_effect,
            skipped=tuple(event.event_id for event in found if event.event_id in set(at.skipped)),
            decided_by=row.get(column) if row and column else None,
            is_decided_by_one=column is not None,
            row=row,
            table_row=table_row,
            archived_up_to=await read_archived_up_to(conn),
        )


async def _read_row_at_checkpoint(
    conn: AsyncConnection[Any], projection: Projection, table: Table, key: Row
) -> tuple[Checkpoint, Row | None]:
    """Read checkpoint and row as they belong together, for workers move both."""
    distributed = await is_distributed(conn)
    async with conn.transaction():
        if distributed:  # rows of several servers are in no snapshot of this one
            await hold_up_folding(conn, projection.name)
            await wait_for_commits(conn)
        else:
            await conn.execute(ONE_SNAPSHOT)
        at = await read_checkpoint_in_log(conn, projection)
        if at.version != projection.version:
            raise ProjectionsError(
                f"the rows of {projection.name} are of version {at.version}, this code is version"
                f" {projection.version}; run projections rebuild {projection.name}"
            )
        return at, await read_row(conn, table, key)
