"""The columns of a building block: each says by itself how its value is folded.

Invariants. A value depends only on the set of events, never on their order: the event with the greatest (or least)
event_id decides, or the smallest or greatest value counts, or a group is counted anew. Nothing adds to a stored value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

from sqlalchemy import ColumnElement, literal
from sqlalchemy.types import TypeEngine

from projections.blocks.block_values import Elements, require_expression
from projections.errors import InvalidProjection

Constant: TypeAlias = str | int | bool
Value: TypeAlias = ColumnElement[Any] | Constant
Type: TypeAlias = TypeEngine[Any] | type[TypeEngine[Any]]
Condition: TypeAlias = ColumnElement[bool]


class Aggregate(StrEnum):
    """How the values of several events or rows become one."""

    LEAST = "least"
    GREATEST = "greatest"
    EVER = "ever"
    COUNT = "count"
    TOTAL = "total"

    @property
    def has_value(self) -> bool:
        """Whether it aggregates values, not only rows."""
        return self is not Aggregate.COUNT


@dataclass(frozen=True, eq=False, slots=True)
class EventSource:
    """Which events a column is folded from.

    Attributes:
        types: the event types; None for all that the block handles.
        where: a condition on the event's columns; None for none.

    """

    types: frozenset[int] | None = None
    where: Condition | None = None

    def is_same(self, other: EventSource) -> bool:
        """Return whether the other has the same events, as far as can be told without comparing conditions."""
        return self.types == other.types and self.where is other.where


EVERY_EVENT: Final = EventSource()


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class BlockColumn:
    """What all columns of a block have.

    Attributes:
        name: its name in the table.
        value: an expression of the source's columns; None for the column of the same name.
        comment: what it means, for the people who read the table.
        nullable: whether it may be NULL; None if that follows from the value.
        type_: its type; None for the type of the value.

    """

    name: str
    value: ColumnElement[Any] | None = None
    comment: str | None = None
    nullable: bool | None = None
    type_: Type | None = None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class KeyColumn(BlockColumn):
    """A column of the primary key; ``elements`` if its values are the elements of an array."""

    elements: Elements | None = None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class FactColumn(BlockColumn):
    """A value of the event that decides a fact; ``default`` is the value of rows without such an event."""

    fact: Fact
    default: ColumnElement[Any] | None = None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class AggregateColumn(BlockColumn):
    """A value of all events or rows that satisfy ``where``."""

    aggregate: Aggregate
    source: EventSource = EVERY_EVENT
    where: Condition | None = None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ComputedColumn(BlockColumn):
    """A value that Postgres computes from the row's other columns."""

    sql: str


class Fact:
    """Columns that one event decides, the one with the greatest event_id or the least; calling it makes a column.

    One of its columns holds ``event.event_id``, and guards the others: they are written only with a greater (or
    smaller) event_id than the stored one.
    """

    def __init__(self, *, is_latest: bool, source: EventSource = EVERY_EVENT) -> None:
        self.is_latest = is_latest
        self.source = source

    def of(self, *types: int, where: Condition | None = None) -> Fact:
        """Return another fact of the same row, which only some events decide.

        Args:
            types: the event types; none for all that the block handles.
            where: a condition on the event's columns.

        """
        return Fact(is_latest=self.is_latest, source=EventSource(event_types(types) or None, where))

    def __call__(
        self,
        name: str,
        value: Value | None = None,
        comment: str | None = None,
        *,
        nullable: bool | None = None,
        type_: Type | None = None,
        default: Constant | None = None,
    ) -> FactColumn:
        """Return a column with a value of the deciding event.

        Args:
            name: its name in the table.
            value: an expression of the event's columns; None for the event's column of the same name.
            comment: what it means.
            nullable: whether it may be NULL; None if that follows from the value.
            type_: its type; None for the value's.
            default: its value in rows without such an event; None for NULL.

        """
        return FactColumn(
            name=name,
            value=as_expression(value),
            comment=comment,
            nullable=nullable,
            type_=type_,
            fact=self,
            default=as_expression(default),
        )

    def least(
        self,
        name: str,
        value: Value | None = None,
        comment: str | None = None,
        *,
        where: Condition | None = None,
        nullable: bool | None = None,
        type_: Type | None = None,
    ) -> AggregateColumn:
        """Return a column with the smallest value of this fact's events."""
        return self._aggregate(Aggregate.LEAST, name, value, comment, where, nullable, type_)

    def greatest(
        self,
        name: str,
        value: Value | None = None,
        comment: str | None = None,
        *,
        where: Condition | None = None,
        nullable: bool | None = None,
        type_: Type | None = None,
    ) -> AggregateColumn:
        """Return a column with the greatest value of this fact's events."""
        return self._aggregate(Aggregate.GREATEST, name, value, comment, where, nullable, type_)

    def ever(self, name: str, condition: Condition, comment: str | None = None) -> AggregateColumn:
        """Return a column that is true once one of this fact's events satisfies the condition."""
        require_expression(name, condition)
        return self._aggregate(Aggregate.EVER, name, condition, comment, None, False, None)  # noqa: FBT003 - nullable

    def _aggregate(
        self,
        aggregate: Aggregate,
        name: str,
        value: Value | None,
        comment: str | None,
        where: Condition | None,
        nullable: bool | None,  # noqa: FBT001 - passed on
        type_: Type | None,
    ) -> AggregateColumn:
        return AggregateColumn(
            name=name,
            value=as_expression(value),
            comment=comment,
            nullable=nullable,
            type_=type_,
            aggregate=aggregate,
            source=self.source,
            where=where,
        )


def as_expression(value: Value | None) -> ColumnElement[Any] | None:
    """Return a value as an SQL expression."""
    if value is None or isinstance(value, ColumnElement):
        return value
    if isinstance(value, str | int):
        return literal(value)
    raise InvalidProjection(f"a value is an expression of columns or a constant, not {type(value).__name__}")


def event_types(of: int | Iterable[int]) -> frozenset[int]:
    """Return one event type or several as a set of numbers.

    Raises:
        InvalidProjection: one is no number.

    """
    types = [of] if isinstance(of, int | str) else [*of]
    for one in types:
        if not isinstance(one, int):
            raise InvalidProjection(f"{one!r} is no event type; write EventType.RECIPIENT_DELIVERED, for example")
    return frozenset(types)
