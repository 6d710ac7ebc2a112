"""The functions that make the columns of building blocks; each takes the column's name, its value and its comment."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement

from projections.blocks.block_columns import (
    Aggregate,
    AggregateColumn,
    ComputedColumn,
    Condition,
    Fact,
    KeyColumn,
    Type,
    Value,
    as_expression,
)
from projections.blocks.block_values import Elements

latest: Final = Fact(is_latest=True)
"""Makes columns of the event with the greatest event_id; in a tally, of the row with the greatest one."""
first: Final = Fact(is_latest=False)
"""Makes columns of the event with the least event_id; in a tally, of the row with the least one."""

least: Final = latest.least
"""Makes a column with the smallest value of all events; in a tally, of the group's rows."""
greatest: Final = latest.greatest
"""Makes a column with the greatest value of all events; in a tally, of the group's rows."""
ever: Final = latest.ever
"""Makes a column that is true once any event satisfies a condition; in a tally, if a row of the group does."""


def key(
    name: str, value: Value | Elements | None = None, comment: str | None = None, *, type_: Type | None = None
) -> KeyColumn:
    """Return a column of the primary key.

    Args:
        name: its name in the table.
        value: an expression of the source's columns; None for the column of the same name. An event or row for which
            it is NULL has no row, and neither has an event whose request or phone number it is and is empty.
        comment: what it means.
        type_: its type; None for the value's.

    """
    if isinstance(value, Elements):
        type_ = type_ or value.type_
        return KeyColumn(name=name, comment=comment, nullable=False, type_=type_, elements=value)
    return KeyColumn(name=name, value=as_expression(value), comment=comment, nullable=False, type_=type_)


def count(
    name: str, where: Condition | None = None, comment: str | None = None, *, type_: Type | None = None
) -> AggregateColumn:
    """Return a column that counts rows: all of the group, or those that satisfy a condition on their columns."""
    return AggregateColumn(
        name=name,
        comment=comment,
        nullable=False,
        type_=type_,
        aggregate=Aggregate.COUNT,
        where=where,
    )


def total(
    name: str,
    value: ColumnElement[Any] | None = None,
    comment: str | None = None,
    *,
    where: Condition | None = None,
    type_: Type | None = None,
) -> AggregateColumn:
    """Return a column with the sum of a value of the group's rows; 0 if there is none."""
    return AggregateColumn(
        name=name,
        value=value,
        comment=comment,
        nullable=False,
        type_=type_,
        aggregate=Aggregate.TOTAL,
        where=where,
    )


def computed(
    name: str, type_: Type, sql: str, comment: str | None = None, *, nullable: bool | None = None
) -> ComputedColumn:
    """Return a column that Postgres computes from the other columns of its row.

    Args:
        name: its name.
        type_: its type.
        sql: the expression, in SQL.
        comment: what it means.
        nullable: whether it may be NULL; None for yes.

    """
    return ComputedColumn(name=name, comment=comment, nullable=nullable, type_=type_, sql=sql)
