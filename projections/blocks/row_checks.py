"""The checks of a block's columns; each refusal says what to change."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import JSON, BindParameter, Column, ColumnClause, ColumnElement, Index, Table, TextClause
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql import visitors
from sqlalchemy.sql.functions import FunctionElement

from eventstore.schema import events
from projections.blocks.block_columns import AggregateColumn, BlockColumn, Fact, FactColumn, KeyColumn
from projections.blocks.block_values import columns_in, require_expression
from projections.errors import InvalidProjection
from projections.folding.refused_functions import is_refused
from projections.projection import OF_THIS_LOG_ONLY

_QUOTED = re.compile(r"'(?:[^']|'')*'")
_WORDS = re.compile(r"\b[a-z_]+\b(?:\s*\()?")


def wrong_block(name: str, why: str) -> InvalidProjection:
    """Return the error that a block breaks a rule."""
    return InvalidProjection(f"block {name}: {why}")


def value_of(column: BlockColumn) -> ColumnElement[Any]:
    """Return the value of a column that has one."""
    if column.value is None:
        raise InvalidProjection(f"column {column.name} has no value")
    return column.value


def split_columns(block: str, columns: Iterable[object]) -> tuple[list[BlockColumn], list[Index]]:
    """Return the columns and the indexes among what a block was given.

    Raises:
        InvalidProjection: something is neither.

    """
    given = [*columns]
    for one in given:
        if not isinstance(one, BlockColumn | Index):
            raise wrong_block(block, f"{one!r} is no column of a block; write key(…), latest(…), count(…) and so on")
    return [one for one in given if isinstance(one, BlockColumn)], [one for one in given if isinstance(one, Index)]


def check_no_name(block: str, column: BlockColumn, names: Iterable[str], source: str) -> None:
    """Check that a value is not the name of a column as a text, which would be stored in each row.

    Raises:
        InvalidProjection: it is.

    """
    text = column.value.value if isinstance(column.value, BindParameter) else None
    if isinstance(text, str) and text in names:
        raise wrong_block(block, f"{column.name} has the text {text!r} as its value; write {source}.{text}")


def check_names(block: str, columns: Sequence[BlockColumn]) -> None:
    """Check that each column has its own name.

    Raises:
        InvalidProjection: two have the same.

    """
    names = [column.name for column in columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise wrong_block(block, f"it has column {', '.join(repeated)} more than once")


def check_row_value(block: str, column: BlockColumn, counted: Table | None) -> None:
    """Check the value of a column of a block of rows.

    Args:
        block: the block's name.
        column: the column.
        counted: the table whose rows the block counts; None for none.

    Raises:
        InvalidProjection: it uses what it may not use.

    """
    values = [column.value, column.where if isinstance(column, AggregateColumn) else None]
    check_columns_used(block, column.name, values, (events, counted), "its value may use columns of event only")
    used = [one for value in values if value is not None for one in columns_in(value)]
    if len({one.table for one in used}) > 1:
        raise wrong_block(block, f"{column.name} mixes columns of events and of rows; use one or the other")
    if isinstance(column, KeyColumn) and any(one.table is not events for one in used):
        raise wrong_block(
            block, f"key {column.name} must be an expression of event columns; a tally may have other keys"
        )


def condition_of(column: BlockColumn) -> ColumnElement[bool] | None:
    """Return the condition under which an event decides or changes a column, as its fact has it; None for none."""
    if isinstance(column, FactColumn):
        return column.fact.source.where
    return column.source.where if isinstance(column, AggregateColumn) else None


def check_columns_used(
    block: str, what: str, expressions: Iterable[ColumnElement[Any] | None], tables: Collection[object], rule: str
) -> None:
    """Check that expressions depend on nothing but columns of some tables.

    Args:
        block: the block's name.
        what: what they are of, for the message.
        expressions: the expressions.
        tables: the tables.
        rule: what they may use, for the message.

    Raises:
        InvalidProjection: one depends on something else.

    """
    there = [one for one in expressions if one is not None]
    check_expressions(block, what, there)
    others = sorted({str(one) for value in there for one in columns_in(value) if one.table not in tables})
    if others:
        raise wrong_block(block, f"{what} uses {', '.join(others)}; {rule}")


def check_expressions(block: str, what: str, expressions: Iterable[ColumnElement[Any] | None]) -> None:
    """Check that expressions depend on nothing but the columns that they name.

    Args:
        block: the block's name.
        what: what they are of, for the message.
        expressions: the expressions.

    Raises:
        InvalidProjection: one depends on the clock, on chance, on the session, or on this log.

    """
    for expression in (one for one in expressions if one is not None):
        require_expression(f"block {block}: {what}", expression)
        for part in visitors.iterate(expression):
            column, function = _used_by(part)
            if column is not None:
                raise wrong_block(
                    block,
                    f"{what} uses event.{column}, which differs in another log of the same events; rows may not depend"
                    " on it",
                )
            if function is not None:
                raise wrong_block(
                    block,
                    f"{what} uses {function}, which depends on the clock, on chance or on the session; rows may depend"
                    " on events only",
                )


def _used_by(part: object) -> tuple[str | None, str | None]:
    """Return the column and the function that a part of an expression uses and may not use, as far as can be seen."""
    if isinstance(part, Column):
        return (part.name if part.table is events and part.name in OF_THIS_LOG_ONLY else None), None
    if isinstance(part, FunctionElement):
        name = str(getattr(part, "name", ""))
        return None, (name if is_refused(name, len(part.clauses)) or name.startswith("localtime") else None)
    if isinstance(part, TextClause) or (isinstance(part, ColumnClause) and part.is_literal):
        text = _QUOTED.sub("''", part.text if isinstance(part, TextClause) else part.name).lower()
        column = next((name for name in OF_THIS_LOG_ONLY if re.search(rf"\b{name}\b(?!\s*\()", text)), None)
        return column, next((word.rstrip("( ") for word in _WORDS.findall(text) if _is_refused_word(word)), None)
    return None, None


def _is_refused_word(word: str) -> bool:
    name = word.rstrip("( ")
    return is_refused(name, 0) if word.endswith("(") else name.startswith(("current_", "localtime"))


def check_comparable(block: str, columns: Iterable[BlockColumn], table: Table) -> None:
    """Check that Postgres can compare what is counted from rows, since it groups by it and writes only what changed.

    Args:
        block: the block's name.
        columns: the columns that are counted.
        table: the block's table.

    Raises:
        InvalidProjection: a value or its column in the table is ``json``.

    """
    for column in columns:
        kinds = [table.c[column.name].type, *([] if column.value is None else [column.value.type])]
        if any(isinstance(kind, JSON) and not isinstance(kind, JSONB) for kind in kinds):
            raise wrong_block(
                block,
                f"{column.name} is json, of which Postgres can't tell whether two values are equal; make it JSONB, here"
                " and in the rows that are counted",
            )


def find_guards(block: str, columns: Sequence[BlockColumn]) -> dict[Fact, str]:
    """Return the column of each fact that holds the event_id of the deciding event.

    Raises:
        InvalidProjection: a fact has none.

    """
    guards: dict[Fact, str] = {}
    facts = [column for column in columns if isinstance(column, FactColumn)]
    for column in facts:
        if column.value is events.c.event_id:
            guards.setdefault(column.fact, column.name)
    for column in facts:
        if column.fact not in guards:
            how = "latest" if column.fact.is_latest else "first"
            raise wrong_block(
                block,
                f"no column holds the event_id of the event that decides {column.name}; add {how}('event_id'), or one"
                " of the same fact with the value event.event_id",
            )
    return guards
