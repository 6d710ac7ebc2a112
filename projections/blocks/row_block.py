"""The block that keeps one row for each key: facts, accumulators, and counts of another block's rows.

Invariants. A row comes into being with the first event that names its key, and is never deleted. Each of its values
depends on the set of these events alone: see :mod:`projections.blocks.block_columns`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from sqlalchemy import Column, Index, MetaData, Table, Text
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from eventstore.schema import events
from projections.blocks.block_columns import (
    EVERY_EVENT,
    Aggregate,
    AggregateColumn,
    BlockColumn,
    ComputedColumn,
    Condition,
    EventSource,
    FactColumn,
    KeyColumn,
    event_types,
)
from projections.blocks.block_tables import add_index, make_block_table
from projections.blocks.block_values import columns_in, is_never_null
from projections.blocks.row_checks import (
    check_columns_used,
    check_names,
    check_no_name,
    check_row_value,
    condition_of,
    find_guards,
    split_columns,
    wrong_block,
)
from projections.errors import InvalidProjection

Folded: TypeAlias = FactColumn | AggregateColumn
_COUNTING = (Aggregate.COUNT, Aggregate.TOTAL)


class Rows:
    """One row for each key; made by :func:`rows`.

    Attributes:
        table: its table.
        keys: the columns of its primary key, each with its expression of event columns.
        columns: all its columns, each with its expression.
        handles: the event types that it is folded from.
        where: the condition on events; None for none.
        counting: the block whose rows it counts; None for none.
        guards: for each fact, the column that holds the deciding event_id.

    """

    def __init__(
        self,
        table: str | Table,
        columns: Sequence[BlockColumn | Index],
        *,
        of: int | Iterable[int],
        where: Condition | None,
        counting: Rows | None,
        comment: str | None,
        metadata: MetaData | None,
    ) -> None:
        self._name = table if isinstance(table, str) else table.name
        self.where = where
        self.counting = counting
        self.handles = event_types(of)
        self.columns, indexes = split_columns(self._name, columns)
        for column in self.columns:
            if isinstance(column, FactColumn | AggregateColumn):
                self.handles |= _source_of(column).types or frozenset()
        if not self.handles and counting is None:
            raise self._wrong("say which event types it is folded from: of=EventType.…")
        self.columns = [self._resolve(column) for column in self.columns]
        self._check_condition("where=", where)
        self.keys = [column for column in self.columns if isinstance(column, KeyColumn)]
        if not self.keys:
            raise self._wrong("it has no key; add key(…)")
        check_names(self._name, self.columns)
        self.guards = find_guards(self._name, self.folded_from_events)
        self.columns = [self._with_nullable(column) for column in self.columns]
        self._check_defaults()
        self.keys = [column for column in self.columns if isinstance(column, KeyColumn)]
        self.table = make_block_table(table, self.columns, comment=comment, indexes=indexes, metadata=metadata)
        for name in self.guards.values():
            if getattr(self.table.c[name].type, "collation", None) != "C":
                raise self._wrong(f'{name} must compare by bytes, as event_ids do: Text(collation="C")')
        if counting is not None:
            self._check_counting(counting)
            self.handles |= counting.handles

    @property
    def c(self) -> ReadOnlyColumnCollection[str, Column[Any]]:
        """The columns of its table."""
        return self.table.c

    @property
    def deciding_column(self) -> str | None:
        """The column with the event that decides a row; None where no single event does."""
        return next(iter(self.guards.values())) if len(self.guards) == 1 else None

    @property
    def named_by_events(self) -> list[str]:
        """The columns of the key that have the names and values of text columns of events."""
        return [
            column.name
            for column in self.keys
            if column.value is events.c.get(column.name) and isinstance(events.c[column.name].type, Text)
        ]

    @property
    def sources(self) -> list[EventSource]:
        """What its columns are folded from, each once; that of all events comes last."""
        found: list[EventSource] = []
        for column in self.folded_from_events:
            source = _source_of(column)
            if not any(source.is_same(other) for other in found):
                found.append(source)
        return sorted(found, key=lambda source: source.is_same(EVERY_EVENT))

    @property
    def folded_from_events(self) -> list[Folded]:
        """The columns whose values come from events."""
        return [
            column
            for column in self.columns
            if isinstance(column, FactColumn | AggregateColumn) and not self.is_counted(column)
        ]

    @property
    def counted(self) -> list[Folded]:
        """The columns whose values come from the rows of :attr:`counting`."""
        return [
            column
            for column in self.columns
            if isinstance(column, FactColumn | AggregateColumn) and self.is_counted(column)
        ]

    def folded_from(self, source: EventSource) -> list[Folded]:
        """Return the columns that are folded from a source."""
        return [column for column in self.folded_from_events if _source_of(column).is_same(source)]

    def is_counted(self, column: BlockColumn) -> bool:
        """Return whether a column's value comes from the rows of :attr:`counting`."""
        if isinstance(column, AggregateColumn) and column.aggregate in _COUNTING:
            return True
        used = [] if column.value is None else columns_in(column.value)
        return self.counting is not None and any(one.table is self.counting.table for one in used)

    def types_of(self, source: EventSource) -> frozenset[int]:
        """Return the event types of a source."""
        return self.handles if source.types is None else source.types

    def _resolve(self, column: BlockColumn) -> BlockColumn:
        if isinstance(column, ComputedColumn):
            return column
        if isinstance(column, KeyColumn) and column.elements is not None:
            raise self._wrong(f"key {column.name} is each(…), which only a tally may have")
        if isinstance(column, AggregateColumn) and column.aggregate in _COUNTING:
            if self.counting is None:
                raise self._wrong(f"{column.name} counts rows; name the block that has them: rows(…, counting=block)")
            if column.aggregate is Aggregate.TOTAL and column.value is None and column.name in self.counting.c:
                column = replace(column, value=self.counting.c[column.name])
            self._check_count(column, self.counting)
            return column
        if column.value is None:
            if column.name not in events.c:
                raise self._wrong(
                    f"{column.name} is not a column of events; give its value: …({column.name!r}, event.…)"
                )
            column = replace(column, value=events.c[column.name])
        check_no_name(self._name, column, events.c.keys(), "event")
        check_row_value(self._name, column, None if self.counting is None else self.counting.table)
        self._check_condition(column.name, condition_of(column))
        return column

    def _check_condition(self, what: str, condition: Condition | None) -> None:
        """Check a condition on events."""
        check_columns_used(self._name, what, [condition], (events,), "a condition may use columns of event only")

    def _check_count(self, column: AggregateColumn, counting: Rows) -> None:
        """Check a column that counts the rows of another block."""
        values, only = (column.value, column.where), "it may use columns of the rows that it counts only"
        check_columns_used(self._name, column.name, values, (counting.table,), only)

    def _with_nullable(self, column: BlockColumn) -> BlockColumn:
        if column.nullable is not None or isinstance(column, ComputedColumn):
            return column
        if isinstance(column, FactColumn) and column.default is not None:
            return replace(column, nullable=False)
        if self.is_counted(column):
            return column
        covers_all = isinstance(column, FactColumn | AggregateColumn) and _source_of(column).is_same(EVERY_EVENT)
        is_partial = isinstance(column, AggregateColumn) and column.where is not None
        never_null = column.value is not None and is_never_null(column.value)
        return replace(column, nullable=not (covers_all and never_null and not is_partial))

    def _check_defaults(self) -> None:
        for column in self.folded_from_events:
            source = _source_of(column)
            may_lack = len(self.sources) > 1 or self.counting is not None
            has_value = column.nullable is not False or source.is_same(EVERY_EVENT)
            if isinstance(column, FactColumn) and may_lack and not has_value and column.default is None:
                raise self._wrong(
                    f"a row may exist without an event that decides {column.name}; give it a default=, or let it be"
                    " NULL"
                )

    def _check_counting(self, counting: Rows) -> None:
        names = [column.name for column in self.keys]
        if [*self.named_by_events] != names or not set(names) <= set(counting.named_by_events):
            raise self._wrong(
                f"it counts rows of {counting.table.name}, so its key must be columns of events that are also in the"
                " key of that table, under the same names; for other groups use tally(…)",
            )
        if self.folded_from(EVERY_EVENT):
            missing = sorted(counting.handles - self.handles)
            if missing or self.where is not None:
                what = f"events of types {', '.join(map(str, missing))}" if missing else "all events of their types"
                raise self._wrong(
                    f"rows of {counting.table.name} change with {what}; add them to of=, without where=, or take the"
                    " values of events from facts: latest.of(…)"
                )
        facts = [column for column in self.counted if isinstance(column, FactColumn)]
        if any(not column.fact.source.is_same(EVERY_EVENT) for column in facts):
            raise self._wrong("latest.of(…) and first.of(…) take values of events; of rows, use latest(…) or first(…)")
        if facts and counting.deciding_column is None:
            raise self._wrong(f"no single event decides a row of {counting.table.name}, so no row of it is the latest")
        add_index(counting.table, [counting.c[name] for name in names])

    def _wrong(self, why: str) -> InvalidProjection:
        return wrong_block(self._name, why)


def rows(
    table: str | Table,
    *columns: BlockColumn | Index,
    of: int | Iterable[int] = (),
    where: Condition | None = None,
    counting: Rows | None = None,
    comment: str | None = None,
    metadata: MetaData | None = None,
) -> Rows:
    """Return a block that keeps one row for each key.

    Args:
        table: the table's name, or a table that has these columns.
        columns: its columns: ``key``, ``latest``, ``first``, ``least``, ``greatest``, ``ever``, ``computed``; with
            ``counting`` also ``count`` and ``total``. Indexes may stand among them, besides those that a tally needs.
        of: the event types that it is folded from; may be left out if each column's fact names its own.
        where: a condition on the columns of events; None for none.
        counting: the block whose rows it counts; the columns whose values are expressions of that block's columns are
            taken from the rows that begin with this key.
        comment: the table's comment.
        metadata: the metadata to add the table to; None for new metadata.

    Raises:
        InvalidProjection: the columns don't fit together; the message says what to change.

    """
    return Rows(
        table,
        columns,
        of=of,
        where=where,
        counting=counting,
        comment=comment,
        metadata=metadata,
    )


def _source_of(column: Folded) -> EventSource:
    return column.fact.source if isinstance(column, FactColumn) else column.source
