"""What folds a projection slice by slice: which projections can be, the columns that slices need, and the statements.

A slice has all events of some partitions: those whose hash leaves the same remainder. Rows of different partitions
never depend on each other, so each slice is folded by itself, whole, into tables that are empty before.

Invariants. The statements are those of the fold, which reads the slice instead of a window, without what an upsert does
to a row that exists. Only projections made of building blocks are folded so: their statements read nothing but the
window's events and the projection's own tables, and an event without one of the partition's values makes no row.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any, Final, LiteralString

from psycopg import sql
from sqlalchemy import Column, MetaData, Table, UniqueConstraint
from sqlalchemy.dialects.postgresql import ExcludeConstraint

from eventstore.schema import events
from projections.blocks.block_projection import BlockProjection
from projections.blocks.tally_block import NARROW
from projections.folding.plain_inserts import NotPlain, make_plain
from projections.folding.slice_window import SliceWindow
from projections.folding.sql_text import compile_fold_statement
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.rebuilding.slice_columns import find_columns

_TOKEN: Final = f"of_slice_{secrets.token_hex(8)}"
"""Stands for a schema in the compiled statements, which nothing else in them can contain."""
_TABLE = re.compile(rf'{_TOKEN}\.("(?:[^"]|"")+"|\w+)')
_EVENTS: Final = "events"
_BYTE_ORDERED = (None, "C", "POSIX", "pg_catalog.C", "pg_catalog.POSIX")


class SliceFold:
    """The statements that fold one slice.

    Args:
        projection: a projection for which :func:`find_slice_fold` found one.
        columns: the columns of the slices.

    Attributes:
        handles: the event types of the slices.
        columns: the columns of the slices.
        partition: the columns whose values decide the slice of an event.

    """

    def __init__(self, projection: BlockProjection, columns: Sequence[Column[Any]]) -> None:
        self.handles = projection.handles
        self.partition = tuple(projection.partition_by)
        self.columns = columns
        self._tables = [table.name for table in projection.tables]
        window = SliceWindow(projection.handles, _slice_table(self.columns))
        schemas = {READ_MODEL_SCHEMA: _TOKEN}
        self._statements = [compile_fold_statement(one, schemas)[0] for one in make_plain(projection.fold(window))]

    def statements(self, events_of_slice: sql.Identifier, tables: Sequence[sql.Identifier]) -> list[LiteralString]:
        """Return the statements for one slice, in order.

        Args:
            events_of_slice: the table of its events.
            tables: the tables that its rows go to, in the order of the projection's.

        """
        names = {name: table.as_string() for name, table in zip(self._tables, tables, strict=True)}
        names[""] = events_of_slice.as_string()

        def replace(match: re.Match[str]) -> str:
            quoted = match[1]
            name = quoted[1:-1].replace('""', '"') if quoted.startswith('"') else quoted
            return names["" if name == f"{_TOKEN}{_EVENTS}" else name]

        return [_TABLE.sub(replace, statement) for statement in self._statements]


def find_slice_fold(projection: Projection) -> SliceFold | None:
    """Return what folds a projection slice by slice; None if that isn't possible, or is of no use."""
    if not isinstance(projection, BlockProjection) or not _is_made_of_blocks(projection):
        return None
    if not NARROW.intersection(projection.partition_by):
        return None  # few partitions: slices would have very different sizes
    if not all(_can_be_sliced(table, projection.partition_by) for table in projection.tables):
        return None
    try:
        whole = SliceWindow(projection.handles, _slice_table(list(events.c)))
        return SliceFold(projection, find_columns(projection, make_plain(projection.fold(whole))))
    except NotPlain:
        return None


def _is_made_of_blocks(projection: BlockProjection) -> bool:
    blocks = projection.blocks
    is_all = not projection.has_own_statements() and len(projection.tables) == len(blocks)
    return is_all and all(set(projection.partition_by) <= set(block.named_by_events) for block in blocks)


def _can_be_sliced(table: Table, partition: Sequence[str]) -> bool:
    """Return whether rows of a table in different slices can't collide, and what isn't inserted is NULL."""
    if any(index.unique for index in table.indexes):
        return False
    if any(isinstance(one, UniqueConstraint | ExcludeConstraint) for one in table.constraints):
        return False
    if any(column.server_default is not None and column.computed is None for column in table.c):
        return False
    return all(getattr(table.c[name].type, "collation", None) in _BYTE_ORDERED for name in partition)


def _slice_table(columns: Sequence[Column[Any]]) -> Table:
    return Table(
        f"{_TOKEN}{_EVENTS}", MetaData(schema=_TOKEN), *(Column(column.name, column.type) for column in columns)
    )
