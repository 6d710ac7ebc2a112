"""Makes the table of a building block from its columns, or checks a given table against them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Computed,
    Float,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
)
from sqlalchemy.types import NullType, TypeEngine, to_instance

from projections.blocks.block_columns import Aggregate, AggregateColumn, BlockColumn, ComputedColumn, KeyColumn, Type
from projections.errors import InvalidProjection
from projections.projection import READ_MODEL_SCHEMA

_MAX_INDEX_NAME = 63


def make_block_table(
    table: str | Table,
    columns: Sequence[BlockColumn],
    *,
    comment: str | None,
    indexes: Iterable[Index],
    metadata: MetaData | None,
) -> Table:
    """Return the table of a block.

    Args:
        table: its name, or the table itself, which then must have these columns.
        columns: its columns, with values and whether they may be NULL.
        comment: the table's comment.
        indexes: its indexes.
        metadata: where to add it; None for a new one.

    Raises:
        InvalidProjection: a type can't be derived from a value, or a given table has other columns, or is described
            here once more.

    """
    indexes = list(indexes)
    if isinstance(table, Table):
        if comment is not None or metadata is not None or indexes or any(column.comment for column in columns):
            raise InvalidProjection(
                f"table {table.name} is given, so its comments, indexes and metadata belong in its own declaration;"
                " leave them out here"
            )
        _check_given(table, columns)
        for column in columns:
            _check_total(table.name, column, table.c[column.name].type)
        return table
    return Table(
        table,
        metadata if metadata is not None else MetaData(schema=READ_MODEL_SCHEMA),
        *(_make_column(table, column) for column in columns),
        *indexes,
        comment=comment,
    )


def add_index(table: Table, values: Sequence[ColumnElement[Any]]) -> None:
    """Add an index on expressions of a table's columns, unless the primary key or an index begins with them."""
    whole = [index for index in table.indexes if not index.dialect_kwargs.get("postgresql_where")]
    names = {value.name for value in values if isinstance(value, Column)}
    if len(names) == len(values):
        known: list[list[str | None]] = [[column.name for column in table.primary_key.columns]]
        known += [[getattr(one, "name", None) for one in index.expressions] for index in whole]
        if any(set(begins[: len(names)]) == names for begins in known):
            return
    if any(_begins_with(index, values) for index in whole):
        return
    words = [value.name if isinstance(value, Column) else "expression" for value in values]
    taken = {index.name for index in table.indexes}
    Index(next(name for name in _index_names("_".join([table.name, *words])) if name not in taken), *values)


def _begins_with(index: Index, values: Sequence[ColumnElement[Any]]) -> bool:
    """Return whether an index has these expressions, in this order, before others."""
    there = list(index.expressions)[: len(values)]
    return len(there) == len(values) and all(
        isinstance(one, ColumnElement) and one.compare(value) for one, value in zip(there, values, strict=True)
    )


def _index_names(words: str) -> Iterator[str]:
    """Yield names for an index, the best one first; of a name that is too long, a digest tells it from others."""
    for number in count(1):
        name = words if number == 1 else f"{words}_{number}"
        if len(name.encode()) > _MAX_INDEX_NAME - len("_idx"):
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            begin = name.encode()[: _MAX_INDEX_NAME - len(f"_{digest}_idx")].decode(errors="ignore")
            name = f"{begin}_{digest}"
        yield f"{name}_idx"


def _check_given(table: Table, columns: Sequence[BlockColumn]) -> None:
    missing = [column.name for column in columns if column.name not in table.c]
    if missing:
        raise InvalidProjection(f"table {table.name} has no column {', '.join(missing)}; add it, or leave it out here")
    keys = [column.name for column in columns if isinstance(column, KeyColumn)]
    of_table = [column.name for column in table.primary_key.columns]
    if set(keys) != set(of_table):
        raise InvalidProjection(
            f"table {table.name} has the primary key {', '.join(of_table)}, and key(…) names {', '.join(keys)}; make"
            " them the same"
        )


def _make_column(table: str, column: BlockColumn) -> Column[Any]:
    more = [Computed(column.sql, persisted=True)] if isinstance(column, ComputedColumn) else []
    return Column(
        column.name,
        _type_of(table, column),
        *more,
        primary_key=isinstance(column, KeyColumn),
        nullable=column.nullable is not False,
        comment=column.comment,
    )


def _type_of(table: str, column: BlockColumn) -> Type:
    if column.type_ is not None:
        _check_total(table, column, to_instance(column.type_))
        return column.type_
    if isinstance(column, AggregateColumn):
        if column.aggregate is Aggregate.COUNT:
            return Integer()
        if column.aggregate is Aggregate.EVER:
            return Boolean()
    kind = column.value.type if column.value is not None else NullType()
    if isinstance(kind, NullType):
        raise InvalidProjection(f"table {table}: the type of column {column.name} isn't known; name it with type_=…")
    if isinstance(column, AggregateColumn) and column.aggregate is Aggregate.TOTAL:
        return _type_of_total(table, column.name, kind)
    return Text() if isinstance(kind, String) and kind.collation is None else kind


def _check_total(table: str, column: BlockColumn, stored: TypeEngine[Any]) -> None:
    """Check that the sums of a column fit into the type that was given for it."""
    if not isinstance(column, AggregateColumn) or column.aggregate is not Aggregate.TOTAL:
        return
    if column.value is not None and not isinstance(column.value.type, NullType):
        _type_of_total(table, column.name, column.value.type)
    is_small = isinstance(stored, Integer) and not isinstance(stored, BigInteger)
    if is_small or isinstance(stored, Float):
        raise InvalidProjection(
            f"table {table}: column {column.name} is a sum, for which {stored} is too small or inexact; make it"
            " BigInteger or Numeric"
        )


def _type_of_total(table: str, name: str, kind: TypeEngine[Any]) -> TypeEngine[Any]:
    if isinstance(kind, Float):
        raise InvalidProjection(
            f"table {table}: column {name} is a sum of floating-point numbers, which depends on their order; cast them"
            " to Numeric"
        )
    if isinstance(kind, Integer) and not isinstance(kind, BigInteger):
        return BigInteger()
    if isinstance(kind, BigInteger | Numeric):
        return Numeric()
    raise InvalidProjection(f"table {table}: column {name} is a sum, so its values must be integers or Numeric")
