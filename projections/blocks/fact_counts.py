"""The statement that counts another block's rows into a block of rows which also keeps a fact, in one aggregation.

Two statements would write each row twice. So the window's events and the touched rows go through one sort, and the
fact is an aggregate: the greatest of texts that begin with the event_id, and contain a value after it. All event_ids
have the same length, so the greatest text is that of the greatest event_id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Text,
    and_,
    case,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import Insert, insert

from eventstore.schema import events
from projections.blocks.block_columns import Fact, FactColumn
from projections.blocks.block_values import is_never_null, replace_columns
from projections.blocks.row_aggregates import COUNTED, GroupValues
from projections.blocks.row_block import Rows
from projections.blocks.row_checks import value_of
from projections.blocks.row_fold import has_row, key_values
from projections.projection import Window

_ONE = literal_column("1", Integer)
_ULID_LENGTH = literal_column("26", Integer)
_BEHIND = literal_column("28", Integer)
_FACT = "fact__"


def single_fact(block: Rows) -> Fact | None:
    """Return the fact of a block that has nothing else from events, if this statement can fold it; None if not."""
    columns = block.folded_from_events
    facts = {column.fact for column in columns if isinstance(column, FactColumn) and column.default is None}
    if len(facts) != 1 or not all(isinstance(column, FactColumn) and column.fact in facts for column in columns):
        return None
    (fact,) = facts
    return fact if fact.is_latest and len(columns) > 1 else None


def count_with_fact(block: Rows, counted: Rows, fact: Fact, window: Window) -> Insert:
    """Return the statement that folds the fact and counts the rows of the keys that a window touches."""
    names = [column.name for column in block.keys]
    guard = block.guards[fact]
    values = [column for column in block.folded_from_events if column.name != guard]
    group = GroupValues(block.counted, counted)
    e, r = window.only(*sorted(block.types_of(fact.source))), counted.table
    from_rows = select(
        *(r.c[name] for name in names),
        *group.parts_from(r, counted),
        _ONE.label(COUNTED),
        *(cast(null(), Text).label(f"{_FACT}{column.name}") for column in values),
    ).where(window.touched(r, names))
    from_events = select(
        *key_values(block, e),
        *(cast(null(), part.type) for part in group.parts.values()),
        null(),
        *(_pack(replace_columns(value_of(column), events, e), e.c.event_id) for column in values),
    ).where(*has_row(block, fact.source, e))
    both = union_all(from_rows, from_events).subquery("rows_and_events__")
    packed = {f"{_FACT}{column.name}": func.max(both.c[f"{_FACT}{column.name}"].collate("C")) for column in values}
    groups = group.select_groups(names, both, packed).subquery("counted__")
    selected: dict[str, ColumnElement[Any]] = {name: groups.c[name] for name in names}
    selected |= {column.name: groups.c[column.name] for column in block.counted}
    selected |= {column.name: _unpack(groups.c[f"{_FACT}{column.name}"], block, column.name) for column in values}
    selected[guard] = func.left(groups.c[f"{_FACT}{values[0].name}"], _ULID_LENGTH)
    new = insert(block.table).from_select(list(selected), select(*selected.values()))
    return _merge_fact(block, new, guard, [column.name for column in values])


def _merge_fact(block: Rows, new: Insert, guard: str, values: Sequence[str]) -> Insert:
    old = block.c
    newer = and_(new.excluded[guard].is_not(None), or_(old[guard].is_(None), old[guard] < new.excluded[guard]))
    counts = {column.name: new.excluded[column.name] for column in block.counted}
    fact = {name: case((newer, new.excluded[name]), else_=old[name]) for name in (*values, guard)}
    changed = [old[name].is_distinct_from(value) for name, value in counts.items()]
    return new.on_conflict_do_update(
        index_elements=[column.name for column in block.keys], set_={**counts, **fact}, where=or_(newer, *changed)
    )


def _pack(value: ColumnElement[Any], event_id: ColumnElement[str]) -> ColumnElement[str]:
    """Return the event_id, and behind it the value, if it isn't NULL."""
    text = value if isinstance(value.type, Text) else cast(value, Text)
    packed: ColumnElement[str] = event_id.concat("=").concat(text)
    return packed if is_never_null(value) else func.coalesce(packed, event_id)


def _unpack(packed: ColumnElement[str], block: Rows, name: str) -> ColumnElement[Any]:
    column = block.c[name]
    text = case((func.length(packed) > _ULID_LENGTH, func.substr(packed, _BEHIND)))
    return text if isinstance(column.type, Text) else cast(text, column.type)
