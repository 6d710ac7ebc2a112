"""The statements that count the rows of a block in groups, and delete the groups that became empty.

If the key has a request or a person, a row can't leave the groups of that request or person, and all of these groups
are counted anew after the rows are folded. Otherwise a row may move from any group to any other, and only the
statement that writes the row knows both: it returns the rows that it changed, and finds in its snapshot what they were
before. The touched groups are those of both. They are counted from the snapshot's rows, less the old rows, plus the new
ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    Delete,
    FromClause,
    Integer,
    Select,
    Table,
    Text,
    any_,
    case,
    cast,
    delete,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, Insert, array, insert

from projections.blocks.block_columns import KeyColumn
from projections.blocks.block_values import Elements, columns_in, is_never_null, replace_columns
from projections.blocks.row_aggregates import COUNTED, GroupValues
from projections.blocks.row_checks import value_of
from projections.blocks.tally_block import NARROW, Tally
from projections.projection import Window

FEW = 16
"""Up to so many elements of one array, repetitions are found by comparing all of them."""

_ONE = literal_column("1", Integer)
_ZERO = literal_column("0", Integer)
_MINUS_ONE = literal_column("-1", Integer)
_MEMBERS = "members__"


def count_fixed_groups(block: Tally) -> Insert:
    """Return the statement that counts all groups of the requests or persons that a window's events name.

    Rows and stored groups go through one aggregation: a join could get a bad plan that compares each with all others.
    """
    fixed, source, table = block.fixed_columns, block.of.table, block.table
    window = Window(block.handles)
    group = GroupValues(block.counted, block.of)
    rows = _select_rows(block, group, source, _ONE).where(window.touched(source, fixed))
    parts = [null() for _ in group.parts]
    stored = select(*(table.c[column.name] for column in block.keys), *parts, null()).where(
        window.touched(table, fixed)
    )
    both = union_all(rows, stored).subquery("rows_and_groups__")
    return _write(block, group, both, 1)


def count_moved_groups(blocks: Sequence[Tally], write_rows: Insert) -> Insert:
    """Return the statement that writes rows, and counts in each tally the groups that they were or are in.

    Args:
        blocks: the tallies, all of one block.
        write_rows: the statement that writes this block's rows.

    """
    source = blocks[0].of.table
    changed = write_rows.returning(*_needed(blocks)).cte("changed__")
    # A join could read the whole table; LIMIT makes the planner look up each row by its key.
    stored = (
        select(*_needed(blocks))
        .where(*(column == changed.c[column.name] for column in source.primary_key.columns))
        .correlate(changed)
        .limit(_ONE)
        .lateral("stored__")
    )
    before = select(*stored.c).select_from(changed.join(stored, true())).cte("before__")
    statements = [_count_moved(block, changed, before, number) for number, block in enumerate(blocks, 1)]
    *others, last = statements
    return last.add_cte(*(statement.cte(f"written__{number}") for number, statement in enumerate(others, 1)))


def _count_moved(block: Tally, changed: CTE, before: CTE, number: int) -> Insert:
    source = block.of.table
    group = GroupValues(block.counted, block.of, weighted=True)
    keys = [column.name for column in block.keys]
    both = union_all(
        _select_rows(block, group, changed, _ONE), _select_rows(block, group, before, _MINUS_ONE)
    ).subquery("changes__")
    columns = [both.c[one] for one in (*keys, *group.parts)]
    weight = func.sum(both.c[COUNTED])
    # A row that changed in nothing that counts here cancels itself out, and touches no group.
    changes = (
        select(*columns, weight.label(COUNTED)).group_by(*columns).having(weight != _ZERO).cte(f"changes__{number}")
    )
    touched = select(*(changes.c[one] for one in keys)).distinct().subquery("touched__")
    same = [value_of(column) == touched.c[column.name] for column in block.keys]
    # Without OFFSET the planner could join the whole table.
    rows = _select_rows(block, group, source, _ONE).where(*same).correlate(touched).offset(_ZERO).lateral("of_group__")
    known = select(*rows.c).select_from(touched.join(rows, true()))
    members = union_all(select(*changes.c), known).subquery("members__")
    columns = [members.c[one] for one in (*keys, *group.parts)]
    weighted = select(*columns, func.sum(members.c[COUNTED]).label(COUNTED)).group_by(*columns).subquery("weighted__")
    return _write(block, group, weighted, number)


def _write(block: Tally, group: GroupValues, rows: FromClause, number: int) -> Insert:
    """Return the statement that aggregates rows by group, deletes the empty groups, and writes the others."""
    table, keys = block.table, [column.name for column in block.keys]
    values = [column.name for column in block.counted]
    counted = group.select_groups(keys, rows, {_MEMBERS: group.members(rows)}).cte(f"groups__{number}")
    emptied = _delete_empty(table, keys, counted, number).cte(f"emptied__{number}")
    there = select(*(counted.c[name] for name in (*keys, *values))).where(counted.c[_MEMBERS] > _ZERO)
    new = insert(table).from_select([*keys, *values], there).add_cte(emptied)
    return new.on_conflict_do_update(
        index_elements=keys,
        set_={name: new.excluded[name] for name in values},
        where=or_(*(table.c[name].is_distinct_from(new.excluded[name]) for name in values)),
    )


def _delete_empty(table: Table, keys: Sequence[str], counted: CTE, number: int) -> Delete:
    """Return the statement that deletes the stored groups without rows.

    As in :meth:`~projections.projection.Window.touched`, an index finds them by arrays of values. Of the columns whose
    values have few rows each, the first is enough: a lookup for each combination of two of them could take long.
    """
    narrow = [name for name in keys if name in NARROW]
    empty = counted.alias(f"empty__{number}")
    found = [
        table.c[name]
        == any_(
            func.array(
                select(empty.c[name]).where(empty.c[_MEMBERS] == _ZERO).distinct().scalar_subquery(),
                type_=ARRAY(table.c[name].type),
            )
        )
        for name in keys
        if name not in narrow[1:]
    ]
    same = [table.c[name] == counted.c[name] for name in keys]
    return delete(table).where(*found, *same, counted.c[_MEMBERS] == _ZERO)


def _select_rows(block: Tally, group: GroupValues, rows: FromClause, weight: ColumnElement[Any]) -> Select[Any]:
    """Select each row's group and parts; a row that is in no group is left out."""
    source = block.of.table
    parts = group.parts_from(rows, block.of)
    conditions = [] if block.where is None else [replace_columns(block.where, source, rows)]
    keys: list[ColumnElement[Any]] = []
    elements: list[FromClause] = []
    for column in block.keys:
        if column.elements is not None:
            named, is_first = _each_once(column, column.elements, rows)
            keys.append(named.c.element.label(column.name))
            conditions += [named.c.element.is_not(None), is_first]
            elements.append(named)
            continue
        value = replace_columns(value_of(column), source, rows)
        keys.append(value.label(column.name))
        if not is_never_null(value_of(column)):
            conditions.append(value.is_not(None))
    found = select(*keys, *parts, weight.label(COUNTED)).where(*conditions)
    return found.select_from(rows.join(elements[0], true())) if elements else found.select_from(rows)


def _each_once(column: KeyColumn, elements: Elements, rows: FromClause) -> tuple[FromClause, ColumnElement[bool]]:
    """Return the elements of an array, and the condition that one isn't a repetition.

    Every step takes time in proportion to the number of elements. Among few elements, one counts at its first place:
    that needs no sorting or hashing, which would cost more than all the rest. Among many, searching for the first place
    is slow, so they are made different first.
    """
    values = rows.c[elements.array.key]
    size = func.cardinality(values) if is_never_null(elements.array) else func.coalesce(func.cardinality(values), _ZERO)
    stated: ColumnElement[Any] = values
    if elements.empty is not None:
        stated = case((size == _ZERO, cast(array([elements.empty]), ARRAY(Text))), else_=values)
    few = size <= FEW
    once = select(func.unnest(values).label("element")).distinct().correlate(rows).subquery("once")
    different = func.array(select(once.c.element).scalar_subquery(), type_=elements.array.type)
    named = (
        func.unnest(case((few, stated), else_=different))
        .table_valued(Column("element", column.type_ or Text), with_ordinality="place", name=f"each__{column.name}")
        .render_derived()
    )
    # The place is compared first, because each access to a long array reads all of it from storage.
    place = named.c.place
    is_first = case((place > FEW, true()), (few, func.array_position(stated, named.c.element) == place), else_=true())
    return named, is_first


def _needed(blocks: Sequence[Tally]) -> list[Column[Any]]:
    """Return the columns of the counted rows that tallies use, and the primary key."""
    source = blocks[0].of.table
    used = {column.name: column for column in source.primary_key.columns}
    for block in blocks:
        group = GroupValues(block.counted, block.of, weighted=True)
        values = [value_of(column) for column in block.keys] + list(group.parts.values())
        for value in (*values, *([] if block.where is None else [block.where])):
            used.update({column.name: column for column in columns_in(value)})
    return list(used.values())
