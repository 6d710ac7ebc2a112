"""The checks of a block's columns; each refusal says what to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table

from eventstore.schema import events
from projections.blocks.block_columns import AggregateColumn, BlockColumn, Fact, FactColumn, KeyColumn
from projections.blocks.block_values import OF_THIS_LOG_ONLY, columns_in
from projections.errors import InvalidProjection


def wrong_block(name: str, why: str) -> InvalidProjection:
    """Return the error that a block breaks a rule."""
    return InvalidProjection(f"block {name}: {why}")


def value_of(column: BlockColumn) -> ColumnElement[Any]:
    """Return the value of a column that has one."""
    if column.value is None:
        raise InvalidProjection(f"column {column.name} has no value")
    return column.value


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
    used = [one for value in values if value is not None for one in columns_in(value)]
    others = sorted({str(one) for one in used if one.table not in (events, counted)})
    if others:
        raise wrong_block(block, f"{column.name} uses {', '.join(others)}; its value may use columns of event only")
    if len({one.table for one in used}) > 1:
        raise wrong_block(block, f"{column.name} mixes columns of events and of rows; use one or the other")
    if isinstance(column, KeyColumn) and any(one.table is not events for one in used):
        raise wrong_block(
            block, f"key {column.name} must be an expression of event columns; a tally may have other keys"
        )
    for one in used:
        if one.table is events and one.name in OF_THIS_LOG_ONLY:
            raise wrong_block(
                block,
                f"{column.name} uses event.{one.name}, which differs in another log of the same events; rows may not"
                " depend on it",
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
