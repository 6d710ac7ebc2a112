"""The columns of a block of rows: where their values come from, and what follows from that.

Invariant. The value of a column comes either from events or from the rows that the block counts, never from both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from sqlalchemy import Table

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
)
from projections.blocks.block_values import columns_in, is_never_null
from projections.blocks.row_checks import (
    check_columns_used,
    check_no_name,
    check_row_value,
    condition_of,
    wrong_block,
)

Folded: TypeAlias = FactColumn | AggregateColumn
_COUNTING = (Aggregate.COUNT, Aggregate.TOTAL)


def source_of(column: Folded) -> EventSource:
    """Return what a column is folded from."""
    return column.fact.source if isinstance(column, FactColumn) else column.source


def is_counted(column: BlockColumn, counted: Table | None) -> bool:
    """Return whether a column's value comes from the rows of a counted table; None for a block that counts none."""
    if isinstance(column, AggregateColumn) and column.aggregate in _COUNTING:
        return True
    used = [] if column.value is None else columns_in(column.value)
    return counted is not None and any(one.table is counted for one in used)


def resolve_column(block: str, column: BlockColumn, counted: Table | None) -> BlockColumn:
    """Return a declared column with its value, which is checked.

    Args:
        block: the block's name.
        column: the column as it was declared.
        counted: the table whose rows the block counts; None for none.

    Raises:
        InvalidProjection: the column can't be in a block of rows, or its value uses what it may not use.

    """
    if isinstance(column, ComputedColumn):
        return column
    if isinstance(column, KeyColumn) and column.elements is not None:
        raise wrong_block(block, f"key {column.name} is each(…), which only a tally may have")
    if isinstance(column, AggregateColumn) and column.aggregate in _COUNTING:
        return _resolve_count(block, column, counted)
    if column.value is None:
        if column.name not in events.c:
            raise wrong_block(
                block, f"{column.name} is not a column of events; give its value: …({column.name!r}, event.…)"
            )
        column = replace(column, value=events.c[column.name])
    check_no_name(block, column, events.c.keys(), "event")
    check_row_value(block, column, counted)
    check_condition(block, column.name, condition_of(column))
    return column


def check_condition(block: str, what: str, condition: Condition | None) -> None:
    """Check a condition on events.

    Raises:
        InvalidProjection: it uses what it may not use.

    """
    check_columns_used(block, what, [condition], (events,), "a condition may use columns of event only")


def with_nullable(column: BlockColumn, counted: Table | None) -> BlockColumn:
    """Return a column that says whether it may be NULL, as far as that follows from its value."""
    if column.nullable is not None or isinstance(column, ComputedColumn):
        return column
    if isinstance(column, FactColumn) and column.default is not None:
        return replace(column, nullable=False)
    if is_counted(column, counted):
        return column
    covers_all = isinstance(column, FactColumn | AggregateColumn) and source_of(column).is_same(EVERY_EVENT)
    is_partial = isinstance(column, AggregateColumn) and column.where is not None
    never_null = column.value is not None and is_never_null(column.value)
    return replace(column, nullable=not (covers_all and never_null and not is_partial))


def _resolve_count(block: str, column: AggregateColumn, counted: Table | None) -> AggregateColumn:
    if counted is None:
        raise wrong_block(block, f"{column.name} counts rows; name the block that has them: rows(…, counting=block)")
    if column.aggregate is Aggregate.TOTAL and column.value is None and column.name in counted.c:
        column = replace(column, value=counted.c[column.name])
    values, only = (column.value, column.where), "it may use columns of the rows that it counts only"
    check_columns_used(block, column.name, values, (counted,), only)
    return column
