"""Values for the columns of building blocks: the columns of an event, dates in a named zone, prefixes, elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Cast,
    ClauseElement,
    Column,
    ColumnClause,
    ColumnElement,
    Date,
    DateTime,
    FromClause,
    String,
    Table,
    Text,
    cast,
    func,
    literal_column,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.functions import Function
from sqlalchemy.types import NullType, TypeEngine

from eventstore.schema import events
from projections.errors import InvalidProjection

event: Final[ReadOnlyColumnCollection[str, Column[Any]]] = events.c
"""The columns of an event: ``event.app``, ``event.occurred_at`` and so on; the page event-store lists them."""

_NEED_A_ZONE = ("date_trunc", "date_part", "to_char")
_KEEP_NULL = ("timezone", "date_trunc", "left", "lower", "upper")


def day(time: ColumnElement[Any], zone: str) -> ColumnElement[Any]:
    """Return the date of a point in time in a named zone, such as ``Europe/Zurich``."""
    return cast(_local_time("day", time, zone), Date)


def week(time: ColumnElement[Any], zone: str) -> ColumnElement[Any]:
    """Return the date of the Monday of the week of a point in time, in a named zone."""
    return _start_of("week", time, zone)


def month(time: ColumnElement[Any], zone: str) -> ColumnElement[Any]:
    """Return the date of the first day of the month of a point in time, in a named zone."""
    return _start_of("month", time, zone)


def prefix(text: ColumnElement[Any], length: int) -> ColumnElement[Any]:
    """Return the first characters of a text; NULL for an empty one."""
    kind = _expression("prefix", text).type
    if not isinstance(kind, String | NullType):
        raise InvalidProjection(f"prefix(…) takes a text, and {text} is {kind}; write cast(…, Text)")
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise InvalidProjection(f"prefix(…) takes a number of characters, 1 or more, not {length!r}")
    return func.nullif(func.left(text, length), "", type_=Text)


@dataclass(frozen=True, eq=False, slots=True)
class Elements:
    """The elements of an array column; see :func:`each`."""

    array: Column[Any]
    empty: str | None
    type_: TypeEngine[Any]


def each(array: ColumnElement[Any], empty: str | None = None) -> Elements:
    """Return each different element of an array column of the rows that a tally counts.

    A row counts once in the group of each element, also if the array repeats it.

    Args:
        array: a column of the counted block.
        empty: the element that stands for an empty array; None if such a row is in no group.

    """
    if not isinstance(array, Column) or not isinstance(array.type, ARRAY):
        raise InvalidProjection("each(…) takes an array column of the block that the tally counts")
    return Elements(array, empty, array.type.item_type)


def replace_columns(expression: ColumnElement[Any], source: Table, target: FromClause) -> ColumnElement[Any]:
    """Return an expression with the columns of a table replaced by those of the same names of something else."""

    def replace(element: Any, **_: Any) -> ColumnElement[Any] | None:  # noqa: ANN401 - any part of an expression
        if isinstance(element, Column) and element.table is source:
            return target.c[element.key]
        return None

    replaced: ColumnElement[Any] = visitors.replacement_traverse(expression, {}, replace)
    return replaced


def columns_in(expression: ColumnElement[Any]) -> list[Column[Any]]:
    """Return the columns of tables in an expression."""
    return [element for element in visitors.iterate(expression) if isinstance(element, Column)]


def require_expression(what: str, value: object) -> None:
    """Require an expression of columns where Python may have made a truth value of one.

    Raises:
        InvalidProjection: it is none.

    """
    if not isinstance(value, ClauseElement):
        raise InvalidProjection(
            f"{what} has {value!r} where an expression of columns belongs, such as event.error_code.is_not(None);"
            " write is_(None), &, | and ~ for Python's is, and, or and not"
        )


def is_never_null(value: ColumnElement[Any]) -> bool:
    """Return whether an expression is known to be never NULL."""
    match value:
        case Column():
            known = not value.nullable
        case BindParameter():
            known = value.value is not None
        case ColumnClause():
            known = value.is_literal
        case Cast():
            known = is_never_null(value.clause)
        case Function(name="coalesce"):
            known = any(is_never_null(argument) for argument in value.clauses)
        case Function():
            known = value.name in _KEEP_NULL and all(is_never_null(argument) for argument in value.clauses)
        case _:
            known = False
    return known


def needs_session_zone(value: ColumnElement[Any]) -> bool:
    """Return whether an expression turns a point in time into a date or text without naming a zone, as far as known."""
    for part in visitors.iterate(value):
        operands: list[Any] = []
        if isinstance(part, Cast) and not isinstance(part.type, DateTime):
            operands = [part.clause]
        elif isinstance(part, Function) and part.name in _NEED_A_ZONE and len(part.clauses) == 2:
            operands = list(part.clauses)
        if any(isinstance(one.type, DateTime) and one.type.timezone for one in operands):
            return True
    return False


def _start_of(unit: str, time: ColumnElement[Any], zone: str) -> ColumnElement[Any]:
    return cast(func.date_trunc(unit, _local_time(unit, time, zone)), Date)


def _local_time(what: str, time: ColumnElement[Any], zone: str) -> ColumnElement[Any]:
    return func.timezone(_zone(zone), _expression(what, time))


def _expression(what: str, value: ColumnElement[Any]) -> ColumnElement[Any]:
    if not isinstance(value, ColumnElement):
        raise InvalidProjection(f"{what}(…) takes an expression of columns, such as event.occurred_at, not {value!r}")
    return value


def _zone(name: str) -> ColumnElement[str]:
    if not _is_known_zone(name) and _is_known_zone(
        "Europe/London"
    ):  # without a list of zones, Postgres checks the name
        raise InvalidProjection(f"{name!r} is no time zone; write its name in the IANA database, such as Europe/Zurich")
    # As literal text: the index of an expression must have the same text as the query.
    quoted = name.replace("'", "''")
    return literal_column(f"'{quoted}'", Text)


def _is_known_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True
