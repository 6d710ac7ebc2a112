"""Which columns of events the slices of a projection have, and which of them sort by their bytes there.

Sorting texts by bytes takes half as long as by a locale, and most of a slice's time is sorting. Invariants. A column
sorts by bytes only if no value of a row depends on its order or its collation: if the blocks have it as it is in keys
and facts, and elsewhere only compare it with ``=`` or ``<>``. Values that are equal in one collation are in the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import BinaryExpression, Column, ColumnElement, Insert, Subquery, Text
from sqlalchemy.sql import operators, visitors

from eventstore.schema import events
from projections.blocks.block_columns import AggregateColumn, BlockColumn
from projections.blocks.block_projection import BlockProjection
from projections.blocks.row_block import Rows
from projections.folding.slice_window import NAME

_EQUALITY: Final = (
    operators.eq,
    operators.ne,
    operators.in_op,
    operators.not_in_op,
    operators.is_,
    operators.is_not,
    operators.is_distinct_from,
    operators.is_not_distinct_from,
)


def find_columns(projection: BlockProjection, statements: Iterable[Insert]) -> list[Column[Any]]:
    """Return the columns that the statements read, and those of the partition; first those of a fixed length."""
    names = {"event_type", *projection.partition_by}
    for statement in statements:
        names |= _names_read(statement)
    by_bytes = _find_sorted_by_bytes(projection.blocks)
    columns: list[Column[Any]] = [
        Column(one.name, Text(collation="C") if one.name in by_bytes else one.type)
        for one in events.c
        if one.name in names
    ]
    # So that no value is padded.
    return sorted(columns, key=lambda column: isinstance(column.type, Text))


def _names_read(statement: Insert) -> set[str]:
    found: set[str] = set()
    for element in visitors.iterate(statement):
        of: Any = getattr(element, "table", None)
        if isinstance(of, Subquery) and of.name == NAME:
            found.add(str(getattr(element, "name", None)))
    return found


def _find_sorted_by_bytes(blocks: Sequence[object]) -> set[str]:
    """Return the columns of keys whose order and collation no value depends on."""
    of_rows = [block for block in blocks if isinstance(block, Rows)]
    keys = {name for block in of_rows for name in block.named_by_events}
    return keys - {name for block in of_rows for one in _expressions(block) for name in _names_by_value(one)}


def _expressions(block: Rows) -> Iterator[ColumnElement[Any]]:
    """Yield the conditions of a block, and the values that are more than a column of an event."""
    conditions = [block.where, *(source.where for source in block.sources)]
    conditions += [column.where for column in block.columns if isinstance(column, AggregateColumn)]
    values = [column.value for column in block.columns if not _is_copied(column)]
    yield from (one for one in [*conditions, *values] if one is not None)


def _is_copied(column: BlockColumn) -> bool:
    return isinstance(column.value, Column) and not isinstance(column, AggregateColumn)


def _names_by_value(expression: Any) -> Iterator[str]:  # noqa: ANN401 - any part of an expression
    """Yield the columns in an expression, except for those that are only compared with ``=`` or ``<>``."""
    if isinstance(expression, Column):
        yield expression.name
        return
    is_equality = isinstance(expression, BinaryExpression) and expression.operator in _EQUALITY
    for part in expression.get_children():
        if not (is_equality and isinstance(part, Column)):
            yield from _names_by_value(part)
