"""The block that keeps one row for each key: facts, accumulators, and counts of another block's rows.

Invariants. A row comes into being with the first event that names its key, and is never deleted. Each of its values
depends on the set of these events alone: see :mod:`projections.blocks.block_columns`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Column, Index, MetaData, Table, Text
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from eventstore.schema import events
from projections.blocks.block_columns import (
    EVERY_EVENT,
    AggregateColumn,
    BlockColumn,
    Condition,
    EventSource,
    FactColumn,
    KeyColumn,
    event_types,
)
from projections.blocks.block_tables import add_index, make_block_table
from projections.blocks.row_checks import (
    check_comparable,
    check_names,
    find_guards,
    split_columns,
    wrong_block,
)
from projections.blocks.row_columns import (
    Folded,
    check_condition,
    is_counted,
    resolve_column,
    source_of,
    with_nullable,
)
from projections.errors import InvalidProjection


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
        if counting is not None and not isinstance(counting, Rows):
            raise self._wrong("counting= takes the block whose rows it counts, which rows(…) made")
        self.columns, indexes = split_columns(self._name, columns)
        for column in self.columns:
            if isinstance(column, FactColumn | AggregateColumn):
                self.handles |= source_of(column).types or frozenset()
        if not self.handles and counting is None:
            raise self._wrong("say which event types it is folded from: of=EventType.…")
        self.columns = [resolve_column(self._name, column, self._counted) for column in self.columns]
        check_condition(self._name, "where=", where)
        self.keys = [column for column in self.columns if isinstance(column, KeyColumn)]
        if not self.keys:
            raise self._wrong("it has no key; add key(…)")
        check_names(self._name, self.columns)
        self.guards = find_guards(self._name, self.folded_from_events)
        self.columns = [with_nullable(column, self._counted) for column in self.columns]
        self._check_defaults()
        self.keys = [column for column in self.columns if isinstance(column, KeyColumn)]
        self.table = make_block_table(table, self.columns, comment=comment, indexes=indexes, metadata=metadata)
        for name in self.guards.values():
            if getattr(self.table.c[name].type, "collation", None) != "C":
                raise self._wrong(f'{name} must compare by bytes, as event_ids do: Text(collation="C")')
        if counting is not None:
            self._check_counting(counting)
            check_comparable(self._name, self.counted, self.table)
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
            source = source_of(column)
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
        return [column for column in self.folded_from_events if source_of(column).is_same(source)]

    def is_counted(self, column: BlockColumn) -> bool:
        """Return whether a column's value comes from the rows of :attr:`counting`."""
        return is_counted(column, self._counted)

    @property
    def _counted(self) -> Table | None:
        return None if self.counting is None else self.counting.table

    def types_of(self, source: EventSource) -> frozenset[int]:
        """Return the event types of a source."""
        return self.handles if source.types is None else source.types

    def _check_defaults(self) -> None:
        for column in self.folded_from_events:
            source = source_of(column)
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
