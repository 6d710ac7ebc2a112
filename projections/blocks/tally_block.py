"""The block that counts another block's rows in groups; groups that became empty are deleted.

Invariants. A tally equals what a query that groups the other block's rows would return. Each window counts the groups
that it touches anew; nothing is added to a stored count. If a row leaves a group for another, both are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import Column, Index, MetaData, Table
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from projections.blocks.block_columns import (
    EVERY_EVENT,
    AggregateColumn,
    BlockColumn,
    ComputedColumn,
    Condition,
    FactColumn,
    KeyColumn,
)
from projections.blocks.block_tables import add_index, make_block_table
from projections.blocks.block_values import is_never_null, needs_session_zone
from projections.blocks.row_block import Rows
from projections.blocks.row_checks import (
    check_columns_used,
    check_comparable,
    check_names,
    check_no_name,
    split_columns,
    value_of,
    wrong_block,
)
from projections.blocks.row_columns import Folded
from projections.errors import InvalidProjection

NARROW: Final = frozenset({"send_request_id", "ppnum", "message_id", "poll_id", "event_id"})
"""The columns of events of which one value has few rows, so that a tally may count all its groups anew."""


class Tally:
    """Groups of another block's rows; made by :func:`tally`.

    Attributes:
        table: its table.
        of: the block whose rows it counts.
        keys: the columns of its primary key, each with its expression of that block's columns.
        columns: all its columns, each with its expression.
        where: which rows count; None for all.

    """

    def __init__(
        self,
        table: str | Table,
        of: Rows,
        columns: Sequence[BlockColumn | Index],
        *,
        where: Condition | None,
        comment: str | None,
        metadata: MetaData | None,
    ) -> None:
        self._name = table if isinstance(table, str) else table.name
        self.of = of
        self.where = where
        if not isinstance(of, Rows):
            raise self._wrong("after its name comes the block whose rows it counts, which rows(…) made")
        declared, indexes = split_columns(self._name, columns)
        self.columns = [self._resolve(column) for column in declared]
        self.keys = [column for column in self.columns if isinstance(column, KeyColumn)]
        self._check()
        self.table = make_block_table(table, self.columns, comment=comment, indexes=indexes, metadata=metadata)
        check_comparable(self._name, [*self.keys, *self.counted], self.table)
        fixed = self.fixed_columns
        if fixed:
            add_index(of.table, [of.c[name] for name in fixed])
            add_index(self.table, [self.c[name] for name in fixed])
        else:
            add_index(of.table, [value_of(column) for column in self.keys])

    @property
    def c(self) -> ReadOnlyColumnCollection[str, Column[object]]:
        """The columns of its table."""
        return self.table.c

    @property
    def handles(self) -> frozenset[int]:
        """The event types that may change it."""
        return self.of.handles

    @property
    def deciding_column(self) -> str | None:
        """No single event decides a row."""
        return None

    @property
    def named_by_events(self) -> list[str]:
        """The columns of the key that have the names and values of text columns of events."""
        of_rows = self.of.named_by_events
        return [
            column.name for column in self.keys if column.name in of_rows and column.value is self.of.c.get(column.name)
        ]

    @property
    def fixed_columns(self) -> list[str]:
        """The columns of the key that an event names and a row can't leave; empty if they would select too many rows.

        If there are any, all groups with the values that a window's events name are counted anew.
        """
        fixed = self.named_by_events
        return fixed if NARROW.intersection(fixed) else []

    @property
    def counted(self) -> list[Folded]:
        """The columns that are aggregated from rows."""
        return [column for column in self.columns if isinstance(column, FactColumn | AggregateColumn)]

    @property
    def elements(self) -> KeyColumn | None:
        """The column of the key that has the elements of an array; None if there is none."""
        return next((column for column in self.keys if column.elements is not None), None)

    def _resolve(self, column: BlockColumn) -> BlockColumn:
        if isinstance(column, ComputedColumn) or (isinstance(column, KeyColumn) and column.elements is not None):
            return column
        if isinstance(column, FactColumn) and not column.fact.source.is_same(EVERY_EVENT):
            raise self._wrong(f"{column.name} is of certain events, and a tally has rows; use latest(…) or first(…)")
        needs_value = isinstance(column, KeyColumn | FactColumn) or (
            isinstance(column, AggregateColumn) and column.aggregate.has_value
        )
        if needs_value and column.value is None:
            if column.name not in self.of.c:
                raise self._wrong(f"{column.name} is not a column of {self.of.table.name}; give its value")
            column = replace(column, value=self.of.c[column.name])
        check_no_name(self._name, column, self.of.c.keys(), "….c")
        if column.nullable is None and column.value is not None:
            is_partial = isinstance(column, AggregateColumn) and column.where is not None
            column = replace(column, nullable=is_partial or not is_never_null(column.value))
        return column

    def _check(self) -> None:
        name, source = self._name, self.of.table
        if not self.keys or not self.counted:
            raise self._wrong("a tally has at least one key(…) and one of count(…), total(…), least(…) or greatest(…)")
        check_names(name, self.columns)
        values = [column.value for column in self.columns]
        values += [column.where for column in self.columns if isinstance(column, AggregateColumn)]
        rule = f"the values of a tally are expressions of columns of {source.name}"
        check_columns_used(name, "it", (*values, self.where), (source,), rule)
        zoneless = [
            column.name for column in self.keys if column.value is not None and needs_session_zone(column.value)
        ]
        if zoneless and not self.fixed_columns:  # of these keys there is an index
            raise self._wrong(
                f"key {zoneless[0]} depends on the time zone of the session; name the zone: day(…, 'Europe/Zurich'),"
                " week(…) or month(…)"
            )
        if any(isinstance(column, FactColumn) for column in self.counted) and self.of.deciding_column is None:
            raise self._wrong(f"no single event decides a row of {source.name}, so no row is the latest or the first")
        if sum(column.elements is not None for column in self.keys) > 1:
            raise self._wrong("only one key may be each(…)")
        if self.elements is not None and not self.fixed_columns:
            raise self._wrong(
                f"{name} counts elements of an array, so its key must have the request or the person of the row, such"
                " as key('send_request_id')",
            )

    def _wrong(self, why: str) -> InvalidProjection:
        return wrong_block(self._name, why)


def tally(
    table: str | Table,
    of: Rows,
    *columns: BlockColumn | Index,
    where: Condition | None = None,
    comment: str | None = None,
    metadata: MetaData | None = None,
) -> Tally:
    """Return a block that counts the rows of another block in groups.

    Args:
        table: the table's name, or a table that has these columns.
        of: the block whose rows are counted; it must be in the same projection.
        columns: its columns: ``key`` for each column of the group; ``count``, ``total``, ``least``, ``greatest``,
            ``ever``, ``latest``, ``first``. Their values are expressions of columns of the other block. Indexes may
            stand among them.
        where: which rows count, as a condition on their columns; None for all. A row for which a key is NULL is in no
            group.
        comment: the table's comment.
        metadata: the metadata to add the table to; None for new metadata.

    Raises:
        InvalidProjection: the columns don't fit together; the message says what to change.

    """
    return Tally(table, of, columns, where=where, comment=comment, metadata=metadata)
