"""Makes a table from a dataclass, so that a fold written in Python returns typed rows instead of mappings.

Invariants. The table knows its dataclass, so a row needs no other name for its table, and the types of its values are
those that a type checker sees. Two tables of a projection have different dataclasses.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, ClassVar, Protocol, Union, get_args, get_origin
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Index,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    Time,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from projections.errors import InvalidProjection
from projections.folding.decided_rows import DELETED, EVENT_ID, WINS, Wins
from projections.projection import READ_MODEL_SCHEMA

ROW_TYPE = "row_type"
"""The key of ``Table.info`` that has the dataclass of a table's rows."""

_TYPES: Mapping[type, TypeEngine[Any]] = {
    str: Text(),
    bool: Boolean(),
    int: BigInteger(),
    float: Double(),
    Decimal: Numeric(),
    datetime: DateTime(timezone=True),
    date: Date(),
    time: Time(),
    timedelta: Interval(),
    UUID: Uuid(),
    bytes: LargeBinary(),
    dict: JSONB(),
}


class TypedRow(Protocol):
    """A row as an instance of its table's dataclass; see :func:`table_from`."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def table_from(
    row_type: type[TypedRow],
    *,
    key: Sequence[str],
    name: str | None = None,
    wins: Wins = "latest",
    tombstones: bool = False,
    indexes: Iterable[Sequence[str]] = (),
) -> Table:
    """Make the table whose rows are instances of a dataclass, for a :class:`projections.PythonProjection`.

    Each field is a column: ``str`` and enums of texts are text, ``int`` is bigint, ``float`` double precision,
    ``datetime`` timestamptz, ``list[X]`` and ``tuple[X, ...]`` an array, ``dict`` jsonb; ``bool``, ``date``, ``time``,
    ``timedelta``, ``Decimal``, ``UUID`` and ``bytes`` are what they look like. ``X | None`` is a column that may be
    NULL. In ``Annotated[X, …]`` a text is the column's comment, and a type of SQLAlchemy replaces the column's. The
    first paragraph of the dataclass's docstring is the table's comment. The engine adds ``event_id``.

    Args:
        row_type: the dataclass.
        key: the fields of the primary key.
        name: the table's name; None for the dataclass's, in lower case and with underscores.
        wins: which event decides a row: ``latest`` or ``first``.
        tombstones: whether rows can be deleted; the table then has the column ``deleted``, and every column outside
            the key may be NULL.
        indexes: the fields of each index, besides the primary key's.

    Raises:
        InvalidProjection: it is no dataclass, or a field can't be a column; the message says which.

    """
    of_type = f"row type {row_type.__name__}"
    if not dataclasses.is_dataclass(row_type):
        raise InvalidProjection(f"{of_type} is not a dataclass; decorate it with @dataclass(frozen=True)")
    hints = _read_hints(row_type, of_type)
    fields = [field.name for field in dataclasses.fields(row_type)]
    columns = [_column(of_type, field, hints[field], is_key=field in key, tombstones=tombstones) for field in fields]
    unknown = sorted({*key, *(field for index in indexes for field in index)} - set(fields))
    if unknown or not key:
        raise InvalidProjection(f"{of_type}: key and indexes must name fields of it, not {unknown or 'nothing'}")
    columns.append(
        Column(EVENT_ID, Text(collation="C"), nullable=False, comment=f"The event that decides the row: the {wins}.")
    )
    if tombstones:
        columns.append(Column(DELETED, Boolean, nullable=False, comment="Whether the row is deleted."))
    table_name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", row_type.__name__).lower()
    more = [Index(f"{table_name}_{'_'.join(index)}_idx", *index) for index in indexes]
    info = {ROW_TYPE: row_type, WINS: wins}
    return Table(
        table_name,
        MetaData(schema=READ_MODEL_SCHEMA),
        *sorted(columns, key=lambda column: list(key).index(column.name) if column.name in key else len(key)),
        *more,
        comment=_comment(row_type),
        info=info,
    )


def find_row_types(tables: Iterable[Table]) -> dict[type, Table]:
    """Return the table of each dataclass.

    Raises:
        InvalidProjection: two tables have the same dataclass.

    """
    found: dict[type, Table] = {}
    for table in tables:
        row_type = table.info.get(ROW_TYPE)
        if row_type in found:
            raise InvalidProjection(
                f"tables {found[row_type].name} and {table.name} have the same row type {row_type.__name__}; give each"
                " its own dataclass"
            )
        if row_type is not None:
            found[row_type] = table
    return found


def values_of(row: TypedRow) -> dict[str, Any]:
    """Return a row's values by column name."""
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def _read_hints(row_type: type[TypedRow], of_type: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(row_type, include_extras=True)
    except NameError as error:
        raise InvalidProjection(
            f"{of_type}: the type {error.name!r} of a field is not known at run time; import it outside TYPE_CHECKING"
        ) from error


def _column(of_type: str, field: str, hint: Any, *, is_key: bool, tombstones: bool) -> Column[Any]:  # noqa: ANN401 - a type
    if field in (EVENT_ID, DELETED):
        raise InvalidProjection(f"{of_type}: field {field} is set by the engine; give it another name")
    hint, comment, column_type = _unwrap_annotated(hint)
    hint, is_optional = _unwrap_optional(hint)
    if is_key and is_optional:
        raise InvalidProjection(f"{of_type}: field {field} of the key can't be None")
    if column_type is None:
        column_type = _column_type(hint)
    if column_type is None:
        raise InvalidProjection(
            f"{of_type}: no column type fits field {field}: {hint}; name one with Annotated[…, sqlalchemy.Text()]"
        )
    nullable = not is_key and (is_optional or tombstones)
    return Column(field, column_type, primary_key=is_key, nullable=nullable, autoincrement=False, comment=comment)


def _unwrap_annotated(hint: Any) -> tuple[Any, str | None, TypeEngine[Any] | None]:  # noqa: ANN401 - a type
    """Return the type, and the comment and the column type with which it is annotated."""
    if get_origin(hint) is not Annotated:
        return hint, None, None
    inner, *notes = get_args(hint)
    comment = next((note for note in notes if isinstance(note, str)), None)
    made = [note() if isinstance(note, type) and issubclass(note, TypeEngine) else note for note in notes]
    return inner, comment, next((one for one in made if isinstance(one, TypeEngine)), None)


def _unwrap_optional(hint: Any) -> tuple[Any, bool]:  # noqa: ANN401 - a type
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    others = [one for one in get_args(hint) if one is not types.NoneType]
    return (others[0] if len(others) == 1 else hint), len(others) < len(get_args(hint))


def _column_type(hint: Any) -> TypeEngine[Any] | None:  # noqa: ANN401 - a type
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (list, tuple, Sequence) and arguments and arguments[1:] in ((), (...,)):
        item = _column_type(arguments[0])
        return None if item is None or isinstance(item, ARRAY | JSONB) else ARRAY(item)
    if origin in (dict, Mapping):
        return JSONB()
    if isinstance(hint, type) and issubclass(hint, Enum):
        kinds = {type(member.value) for member in hint}
        return _TYPES.get(kinds.pop()) if len(kinds) == 1 else None
    return _TYPES.get(hint) if isinstance(hint, type) else None


def _comment(row_type: type[TypedRow]) -> str | None:
    text = inspect.cleandoc(row_type.__doc__ or "")
    # A dataclass without a docstring gets its signature as one.
    if not text or text.startswith(f"{row_type.__name__}("):
        return None
    return " ".join(text.split("\n\n", 1)[0].split())
