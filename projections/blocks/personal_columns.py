"""Finds which columns of blocks are plain copies of the number or message_id, so that persons are erased by key.

Invariants. What is found holds for every event: nothing else in the rows depends on the two. A block that looks into
them (a prefix, a length), orders by them, decides by them or has a message_id in its key gives None: then nobody knows
what its rows are without them, and a rebuild has to find out. A condition may ask whether there is a number, because a
token is one too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import BinaryExpression, BindParameter, Column, ColumnElement, Null, Text
from sqlalchemy.sql import operators, visitors

from eventstore.schema import events
from projections.blocks.block_columns import AggregateColumn, BlockColumn, ComputedColumn, FactColumn, KeyColumn
from projections.blocks.row_block import Rows
from projections.blocks.row_checks import condition_of
from projections.blocks.tally_block import Tally
from projections.projection import number_keys

NUMBER, MESSAGE = "ppnum", "message_id"

_Copies: TypeAlias = dict[Column[Any], str]
_ASKING = (operators.eq, operators.ne, operators.is_, operators.is_not)


class _LooksInside(Exception):
    """A block depends on the number or the message_id in another way than by copying it."""


def derive_personal_columns(blocks: Sequence[Rows | Tally]) -> dict[str, dict[str, str]] | None:
    """Return the personal columns of blocks, by table; None if they do more with them than copying."""
    copies: _Copies = {events.c[name]: name for name in (NUMBER, MESSAGE)}
    found: dict[str, dict[str, str]] = {}
    try:
        for block in blocks:
            of_table = dict(_copied_columns(block, copies))
            if of_table:
                found[block.table.name] = of_table
                copies |= {block.table.c[name]: copied for name, copied in of_table.items()}
                if NUMBER not in of_table.values():  # its rows can't be found by the number
                    return None
                if MESSAGE in of_table.values() and len(number_keys(block.table, of_table)) != 1:
                    return None  # nor can the message_ids: the row may have the one of another person
    except _LooksInside:
        return None
    return found


def _copied_columns(block: Rows | Tally, copies: Mapping[Column[Any], str]) -> Iterator[tuple[str, str]]:
    _check_expression(block.where, copies)
    for column in block.columns:
        copied = copies.get(column.value) if isinstance(column.value, Column) else None
        for condition in _conditions(column):
            _check_expression(condition, copies)
        if copied is not None:
            if not _is_plain_copy(column, block.table.c[column.name], copied):
                raise _LooksInside
            yield column.name, copied
        elif column.value is not None:
            _check_expression(column.value, copies)
    texts = [column.sql for column in block.columns if isinstance(column, ComputedColumn)]
    names = [column.name for column in block.columns if isinstance(column.value, Column) and column.value in copies]
    if any(name in text for name in names for text in texts):
        raise _LooksInside


def _is_plain_copy(column: BlockColumn, stored: Column[Any], copied: str) -> bool:
    if not isinstance(stored.type, Text):
        return False
    if isinstance(column, KeyColumn):
        return copied == NUMBER and column.elements is None
    return isinstance(column, FactColumn) and column.default is None and (copied == NUMBER or bool(stored.nullable))


def _conditions(column: BlockColumn) -> Iterable[ColumnElement[Any] | None]:
    yield condition_of(column)
    if isinstance(column, AggregateColumn):
        yield column.where


def _check_expression(expression: ColumnElement[Any] | None, copies: Mapping[Column[Any], str]) -> None:
    """Allow a condition or a value to ask whether there is a number, and nothing else about it."""
    if expression is None:
        return
    elements = list(visitors.iterate(expression))
    used = sum(isinstance(one, Column) and one in copies for one in elements)
    asked = sum(isinstance(one, BinaryExpression) and _asks_for_number(one, copies) for one in elements)
    if used != asked:
        raise _LooksInside


def _asks_for_number(one: BinaryExpression[Any], copies: Mapping[Column[Any], str]) -> bool:
    is_empty = isinstance(one.right, Null) or (isinstance(one.right, BindParameter) and one.right.value == "")
    is_number = isinstance(one.left, Column) and copies.get(one.left) == NUMBER
    return is_number and is_empty and one.operator in _ASKING
