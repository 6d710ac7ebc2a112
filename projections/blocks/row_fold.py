"""The statements that fold a window's events into a block of rows.

Columns that are folded from the same events share a statement: one sort finds the events that decide, and all
aggregates go over its order. A stored row is written only if that changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, Subquery, Text, case, false, func, literal_column, or_, select
from sqlalchemy.dialects.postgresql import Insert, distinct_on, insert

from eventstore.schema import events
from projections.blocks.block_columns import (
    EVERY_EVENT,
    Aggregate,
    AggregateColumn,
    BlockColumn,
    Condition,
    EventSource,
    Fact,
    FactColumn,
)
from projections.blocks.block_values import is_never_null, replace_columns
from projections.blocks.column_functions import latest
from projections.blocks.row_aggregates import aggregate_values
from projections.blocks.row_block import Rows
from projections.blocks.row_checks import value_of
from projections.blocks.row_columns import Folded
from projections.projection import Window


def fold_events(block: Rows, source: EventSource, window: Window) -> Insert:
    """Return the statement that folds the columns of one source."""
    columns = block.folded_from(source)
    if block.counting is not None and source.is_same(EVERY_EVENT):  # the statement that counts folds the aggregates
        columns = [column for column in columns if isinstance(column, FactColumn)]
    e = window.only(*sorted(block.types_of(source)))
    facts = list(dict.fromkeys(column.fact for column in columns if isinstance(column, FactColumn)))
    needs_event = facts or any(_value_elsewhere(block, column, e) is not None for column in _elsewhere(block, columns))
    values, rows = _select_deciding(block, columns, e, facts) if needs_event else _select_aggregates(block, columns, e)
    new = insert(block.table).from_select(values, rows.where(*has_row(block, source, e)))
    aggregates = [column for column in columns if isinstance(column, AggregateColumn)]
    return _merge(block, new, facts, aggregates)


def key_values(block: Rows, e: Subquery) -> list[ColumnElement[Any]]:
    """Return the values of the key of an event."""
    values = {column.name: replace_columns(value_of(column), events, e) for column in block.keys}
    return [value if isinstance(value, Column) else value.label(name) for name, value in values.items()]


def has_row(block: Rows, source: EventSource, e: Subquery) -> list[Condition]:
    """Return the conditions under which an event of a source is folded."""
    found: list[Condition] = []
    for column in block.keys:
        value = value_of(column)
        here = replace_columns(value, events, e)
        if isinstance(value, Column) and value.nullable and isinstance(value.type, Text):
            found.append(here != "")  # neither NULL nor empty
        elif not is_never_null(value):
            found.append(here.is_not(None))
    return [*found, *(replace_columns(one, events, e) for one in (block.where, source.where) if one is not None)]


def initial_value(column: Folded) -> ColumnElement[Any] | None:
    """Return what a new row has in a column that another statement folds; None for NULL."""
    if isinstance(column, FactColumn):
        return column.default
    if column.aggregate is Aggregate.EVER:
        return false()
    return literal_column("0") if column.aggregate in (Aggregate.COUNT, Aggregate.TOTAL) else None


def merge_aggregate(column: AggregateColumn, old: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return what a stored aggregate becomes together with the window's."""
    if column.aggregate is Aggregate.EVER:
        return or_(old, new)
    return func.least(old, new) if column.aggregate is Aggregate.LEAST else func.greatest(old, new)


def _select_deciding(
    block: Rows, columns: Sequence[Folded], e: Subquery, facts: Sequence[Fact]
) -> tuple[list[str], Select[Any]]:
    """Select one row for each key: the values of the deciding events, and the aggregates over all."""
    key = key_values(block, e)
    leads = next((fact for fact in (*facts, latest) if fact.is_latest or len(facts) == 1), latest)
    order = e.c.event_id.desc() if leads.is_latest else e.c.event_id
    # Over the order of DISTINCT ON, so that one sort serves both.
    by_key = _sort_key(key)
    of_key: dict[str, Any] = {"partition_by": by_key, "order_by": order, "rows": (None, None)}
    values: dict[str, Any] = dict(zip((column.name for column in block.keys), key, strict=True))
    for column in block.columns:
        if column not in columns:
            value: Any = _value_elsewhere(block, column, e)
        elif isinstance(column, FactColumn):
            value = replace_columns(value_of(column), events, e)
            value = value if column.fact.is_latest is leads.is_latest else func.last_value(value).over(**of_key)
        elif isinstance(column, AggregateColumn):
            value = _aggregate_events(column, e).over(**of_key)
            value = func.coalesce(value, false()) if column.aggregate is Aggregate.EVER else value
        if value is not None:
            values[column.name] = value
    return list(values), select(*values.values()).ext(distinct_on(*by_key)).order_by(*by_key, order)


def _sort_key(key: Sequence[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
    """Return a key as it is sorted fastest: the app last, since most events have the same."""
    return sorted(key, key=lambda one: getattr(one, "name", None) == "app")


def _select_aggregates(block: Rows, columns: Sequence[Folded], e: Subquery) -> tuple[list[str], Select[Any]]:
    """Select one row for each key with the aggregates over its events."""
    key = key_values(block, e)
    values: dict[str, Any] = dict(zip((column.name for column in block.keys), key, strict=True))
    for column in columns:
        if isinstance(column, AggregateColumn):
            value = _aggregate_events(column, e)
            values[column.name] = func.coalesce(value, false()) if column.aggregate is Aggregate.EVER else value
    return list(values), select(*values.values()).group_by(*key)


def _elsewhere(block: Rows, columns: Sequence[Folded]) -> list[Folded]:
    """Return the columns of a block that other statements fold."""
    return [column for column in (*block.folded_from_events, *block.counted) if column not in columns]


def _aggregate_events(column: AggregateColumn, e: Subquery) -> Any:  # noqa: ANN401 - SQLAlchemy's types of aggregates name their values
    where = None if column.where is None else replace_columns(column.where, events, e)
    return aggregate_values(column, replace_columns(value_of(column), events, e), where)


def _value_elsewhere(block: Rows, column: BlockColumn, e: Subquery) -> ColumnElement[Any] | None:
    """Return what a new row has in a column that another statement folds; it must not be NULL until then."""
    if not isinstance(column, FactColumn | AggregateColumn) or column.nullable is not False:
        return None
    initial = initial_value(column)
    if initial is None and not block.is_counted(column):
        return replace_columns(value_of(column), events, e)  # one of the values that the other statement aggregates
    return initial


def _merge(block: Rows, new: Insert, facts: Sequence[Fact], aggregates: Sequence[AggregateColumn]) -> Insert:
    """Return the insert with what it does to a row that is stored already."""
    old = block.c
    wins = {fact: _wins(old[block.guards[fact]], new.excluded[block.guards[fact]], fact) for fact in facts}
    is_alone = len(facts) == 1 and not aggregates
    values: dict[str, ColumnElement[Any]] = {}
    for column in block.columns:
        if isinstance(column, FactColumn) and column.fact in wins:
            value = new.excluded[column.name]
            values[column.name] = value if is_alone else case((wins[column.fact], value), else_=old[column.name])
    merged = {one.name: merge_aggregate(one, old[one.name], new.excluded[one.name]) for one in aggregates}
    changed = [*wins.values(), *(old[name].is_distinct_from(value) for name, value in merged.items())]
    key = [column.name for column in block.keys]
    if not changed:
        return new.on_conflict_do_nothing(index_elements=key)
    return new.on_conflict_do_update(index_elements=key, set_={**values, **merged}, where=or_(*changed))


def _wins(old: Column[Any], new: ColumnElement[Any], fact: Fact) -> ColumnElement[bool]:
    wins = old < new if fact.is_latest else old > new
    return or_(old.is_(None), wins) if old.nullable else wins
