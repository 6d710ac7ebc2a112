"""The statements that count the rows of a block in groups, and delete the groups that became empty.

If the key has a request or a person, a row can't leave the groups of that request or person, and all of these groups
are counted anew after the rows are folded. Otherwise a row may move from any group to any other, and only the
statement that writes the row knows both: it returns the rows that it changed, and finds in its snapshot what they were
before. The touched groups are those of both. They are counted from the snapshot's rows, less the old rows, plus the new
ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    Column,
    Delete,
    Executable,
    FromClause,
    Integer,
    Table,
    any_,
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
from sqlalchemy.dialects.postgresql import ARRAY, Insert, insert

from projections.blocks.block_columns import Aggregate, AggregateColumn, FactColumn
from projections.blocks.block_values import columns_in
from projections.blocks.row_aggregates import COUNTED, GroupValues
from projections.blocks.row_checks import value_of
from projections.blocks.tally_block import NARROW, Tally
from projections.blocks.tally_members import select_members
from projections.projection import Window

_ONE = literal_column("1", Integer)
_ZERO = literal_column("0", Integer)
_MINUS_ONE = literal_column("-1", Integer)
_MEMBERS = "members__"
_STORED = "stored__"


def count_fixed_groups(block: Tally, window: Window) -> Sequence[Executable]:
    """Return the statements that count all groups of the requests or persons that a window's events name.

    Rows and stored groups go through one aggregation: a join could get a bad plan that compares each with all others.
    If the tally counts all rows of a group, a group without rows gets the count 0 and is deleted then, so that no
    statement changes data in a CTE, which a distributed Postgres would refuse.
    """
    fixed, source, table = block.fixed_columns, block.of.table, block.table
    window = window.of_types(block.handles)
    group = GroupValues(block.counted, block.of)
    rows = select_members(block, group, source, _ONE).where(window.touched(source, fixed))
    parts = [null() for _ in group.parts]
    stored = select(*(table.c[column.name] for column in block.keys), *parts, null()).where(
        window.touched(table, fixed)
    )
    size, needed = _size_of_group(block), _values_of_empty_groups(block)
    if size is None or needed is None:
        return (_write(block, group, union_all(rows, stored).subquery("rows_and_groups__"), 1),)
    both = union_all(
        rows.add_columns(*(cast(null(), column.type).label(f"{_STORED}{name}") for name, column in needed.items())),
        stored.add_columns(*needed.values()),
    ).subquery("rows_and_groups__")
    return (
        _write_with_empty(block, group, both, needed),
        delete(table).where(window.touched(table, fixed), table.c[size] == _ZERO),
    )


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
        select_members(block, group, changed, _ONE), select_members(block, group, before, _MINUS_ONE)
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
    rows = (
        select_members(block, group, source, _ONE).where(*same).correlate(touched).offset(_ZERO).lateral("of_group__")
    )
    known = select(*rows.c).select_from(touched.join(rows, true()))
    members = union_all(select(*changes.c), known).subquery("members__")
    columns = [members.c[one] for one in (*keys, *group.parts)]
    weighted = select(*columns, func.sum(members.c[COUNTED]).label(COUNTED)).group_by(*columns).subquery("weighted__")
    return _write(block, group, weighted, number)


def _size_of_group(block: Tally) -> str | None:
    """Return the column that counts all rows of a group; None if there is none."""
    counts = (one for one in block.counted if isinstance(one, AggregateColumn) and one.aggregate is Aggregate.COUNT)
    return next((one.name for one in counts if one.where is None), None)


def _values_of_empty_groups(block: Tally) -> dict[str, Column[Any]] | None:
    """Return the columns that must have a value in a group without rows, too; None if one has no value to keep."""
    needed: dict[str, Column[Any]] = {}
    for one in block.counted:
        if isinstance(one, FactColumn):
            if not block.c[one.name].nullable:
                return None
        elif one.aggregate in (Aggregate.LEAST, Aggregate.GREATEST) and not block.c[one.name].nullable:
            needed[one.name] = block.c[one.name]
    return needed


def _write_with_empty(block: Tally, group: GroupValues, rows: FromClause, needed: Mapping[str, Column[Any]]) -> Insert:
    """Return the statement that aggregates rows by group and writes all groups; empty ones keep what they need."""
    table, keys = block.table, [column.name for column in block.keys]
    values = [column.name for column in block.counted]
    stored = {f"{_STORED}{name}": func.max(rows.c[f"{_STORED}{name}"]) for name in needed}
    counted = group.select_groups(keys, rows, stored).subquery("groups__")
    found = [
        func.coalesce(counted.c[name], counted.c[f"{_STORED}{name}"]) if name in needed else counted.c[name]
        for name in values
    ]
    new = insert(table).from_select([*keys, *values], select(*(counted.c[name] for name in keys), *found))
    return _update_changed(block, new)


def _write(block: Tally, group: GroupValues, rows: FromClause, number: int) -> Insert:
    """Return the statement that aggregates rows by group, deletes the empty groups, and writes the others."""
    table, keys = block.table, [column.name for column in block.keys]
    values = [column.name for column in block.counted]
    counted = group.select_groups(keys, rows, {_MEMBERS: group.members(rows)}).cte(f"groups__{number}")
    emptied = _delete_empty(table, keys, counted, number).cte(f"emptied__{number}")
    there = select(*(counted.c[name] for name in (*keys, *values))).where(counted.c[_MEMBERS] > _ZERO)
    return _update_changed(block, insert(table).from_select([*keys, *values], there).add_cte(emptied))


def _update_changed(block: Tally, new: Insert) -> Insert:
    values = [column.name for column in block.counted]
    return new.on_conflict_do_update(
        index_elements=[column.name for column in block.keys],
        set_={name: new.excluded[name] for name in values},
        where=or_(*(block.c[name].is_distinct_from(new.excluded[name]) for name in values)),
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
