"""Selects the rows that a tally counts, each with its group and the values that its aggregates need."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    case,
    cast,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, array

from projections.blocks.block_columns import KeyColumn
from projections.blocks.block_values import Elements, is_never_null, replace_columns
from projections.blocks.row_aggregates import COUNTED, GroupValues
from projections.blocks.row_checks import value_of
from projections.blocks.tally_block import Tally

FEW = 16
"""Up to so many elements of one array, repetitions are found by comparing all of them."""
_ZERO = literal_column("0", Integer)


def select_members(block: Tally, group: GroupValues, rows: FromClause, weight: ColumnElement[Any]) -> Select[Any]:
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
