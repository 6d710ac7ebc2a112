"""The statement that counts another block's rows into a block of rows, for the keys that a window's events name.

The key can't change, because it consists of columns of the counted rows' own key. So the touched keys are those that
the window's events name, and an index finds their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Integer,
    case,
    cast,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import Insert, insert

from eventstore.schema import events
from projections.blocks.block_columns import EVERY_EVENT, Aggregate, AggregateColumn, Condition, FactColumn
from projections.blocks.block_values import replace_columns
from projections.blocks.row_aggregates import COUNTED, GroupValues, add_part, aggregate_values
from projections.blocks.row_block import Rows
from projections.blocks.row_checks import value_of
from projections.blocks.row_fold import has_row, initial_value, key_values, merge_aggregate
from projections.projection import Window

_EVENT = "event__"
_ONE = literal_column("1", Integer)


def count_rows(block: Rows, counted: Rows, window: Window) -> Insert:
    """Return the statement that counts the rows of the keys that a window touches."""
    of_events = block.folded_from(EVERY_EVENT)
    if of_events:
        aggregates = [column for column in of_events if isinstance(column, AggregateColumn)]
        return _count_with_events(block, counted, window, aggregates)
    names = [column.name for column in block.keys]
    group = GroupValues(block.counted, counted)
    r = counted.table
    rows = (
        select(*(r.c[name] for name in names), *group.parts_from(r, counted), _ONE.label(COUNTED))
        .where(window.touched(r, names))
        .subquery("touched__")
    )
    groups = group.select_groups(names, rows)
    new = _insert(block, groups.subquery("counted__"))
    counts = {column.name: new.excluded[column.name] for column in block.counted}
    changed = [block.c[name].is_distinct_from(value) for name, value in counts.items()]
    return new.on_conflict_do_update(index_elements=names, set_=counts, where=or_(*changed))


def _count_with_events(block: Rows, counted: Rows, window: Window, of_events: Sequence[AggregateColumn]) -> Insert:
    """Aggregate events and rows at once, because a join could get a bad plan."""
    e, r = window.only(*sorted(block.handles)), counted.table
    names = [column.name for column in block.keys]
    group = GroupValues(block.counted, counted)
    values: dict[str, ColumnElement[Any]] = {}
    labels = {one.name: add_part(values, _where(one.where, value_of(one)), "value__") for one in of_events}
    event_id = add_part(values, events.c.event_id, "value__")
    from_events = select(
        *key_values(block, e),
        *(replace_columns(value, events, e).label(name) for name, value in values.items()),
        *(cast(null(), part.type).label(name) for name, part in group.parts.items()),
        cast(null(), Integer).label(COUNTED),
    ).where(*has_row(block, EVERY_EVENT, e))
    nothing = [null() for _ in values]
    from_rows = select(*(r.c[name] for name in names), *nothing, *group.parts_from(r, counted), _ONE).where(
        window.touched(r, names)
    )
    both = union_all(from_events, from_rows).subquery("events_and_rows__")
    aggregates = {one.name: aggregate_values(one, both.c[labels[one.name]], None) for one in of_events}
    groups = group.select_groups(names, both, {**aggregates, _EVENT: func.max(both.c[event_id])}).subquery("counted__")
    new = _insert(block, groups, groups.c[_EVENT].is_not(None))  # rows alone touch nothing
    counts = {column.name: new.excluded[column.name] for column in block.counted}
    merged = {one.name: merge_aggregate(one, block.c[one.name], new.excluded[one.name]) for one in of_events}
    return new.on_conflict_do_update(index_elements=names, set_={**counts, **merged})


def _insert(block: Rows, groups: FromClause, *conditions: Condition) -> Insert:
    """Return the insert of groups, with initial values in the columns that other statements fold."""
    values: dict[str, ColumnElement[Any]] = {}
    for column in block.columns:
        if column.name in groups.c:
            value: ColumnElement[Any] | None = groups.c[column.name]
            if isinstance(column, AggregateColumn) and column.aggregate is Aggregate.EVER:
                value = func.coalesce(value, false())
        else:
            value = initial_value(column) if isinstance(column, FactColumn | AggregateColumn) else None
        if value is not None:
            values[column.name] = value
    return insert(block.table).from_select(list(values), select(*values.values()).where(*conditions))


def _where(condition: Condition | None, value: ColumnElement[Any]) -> ColumnElement[Any]:
    return value if condition is None else case((condition, value))
