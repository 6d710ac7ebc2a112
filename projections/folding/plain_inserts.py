"""Turns the upserts of a fold into one plain insert for each table, for tables that have no rows yet.

An upsert into an empty table inserts all of its rows, and so its select alone does the same. If a later upsert writes
the same table, its rows are joined with those of the first by the key, and a row that both have becomes what
``ON CONFLICT`` would make of it. So each table is written once, and needs no key meanwhile.

Invariants. Each upsert has each key once, as Postgres requires of one that updates. No upsert reads the table that it
writes, except for its stored groups, of which an empty table has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Delete,
    Executable,
    FromClause,
    Insert,
    Label,
    Select,
    Table,
    and_,
    case,
    cast,
    func,
    null,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.dialects.postgresql.dml import OnConflictClause, OnConflictDoUpdate
from sqlalchemy.sql import visitors


class NotPlain(Exception):
    """A statement of the fold is no upsert of selected rows."""


@dataclass(frozen=True, slots=True)
class _Upsert:
    """An upsert: the columns that it writes, the rows, and what it does to a row that exists."""

    table: Table
    names: Sequence[str]
    rows: Select[Any]
    on_conflict: OnConflictClause | None


def make_plain(statements: Sequence[Executable]) -> list[Insert]:
    """Return the inserts that fold into empty tables what these statements fold into any.

    Args:
        statements: a fold's, in order. Deletions are left out: they delete groups that became empty.

    Raises:
        NotPlain: one of them can't be turned into a plain insert.

    """
    found: list[list[_Upsert]] = []
    for statement in statements:
        if isinstance(statement, Delete):
            continue
        upsert = _read(statement)
        if found and found[-1][0].table is upsert.table:
            found[-1].append(upsert)
            continue
        if any(upsert.table is others[0].table for others in found):
            raise NotPlain(f"{upsert.table.name} is written again after another table")
        found.append([upsert])
    return [_insert(upserts) for upserts in found]


def _read(statement: Executable) -> _Upsert:
    if not isinstance(statement, Insert) or not isinstance(statement.table, Table):
        raise NotPlain("a statement is no insert")
    # SQLAlchemy has no public way to read back what from_select() was given.
    names, rows = statement._select_names, statement.select  # noqa: SLF001 - see above
    if names is None or not isinstance(rows, Select):
        raise NotPlain("an insert has no select")
    clauses = [part for part in visitors.iterate(statement) if isinstance(part, OnConflictClause)]
    return _Upsert(statement.table, names, rows, clauses[0] if clauses else None)


def _insert(upserts: Sequence[_Upsert]) -> Insert:
    first, *others = upserts
    names, rows = list(first.names), first.rows
    for upsert in others:
        names, rows = _join(upsert.table, names, rows, upsert)
    return insert(first.table).from_select(names, rows)


def _join(table: Table, names: Sequence[str], rows: Select[Any], upsert: _Upsert) -> tuple[list[str], Select[Any]]:
    """Return the rows after another upsert."""
    old, new = _labelled(names, rows, "stored__"), _labelled(upsert.names, upsert.rows, "excluded__")
    keys = [column.name for column in table.primary_key.columns]
    is_new, is_both = old.c[keys[0]].is_(None), new.c[keys[0]].is_not(None)  # in that order
    every = [*names, *(name for name in upsert.names if name not in names)]
    becomes, wins = _on_conflict(table, upsert.on_conflict, old, new)
    values: dict[str, ColumnElement[Any]] = {}
    for name in every:
        before, after = (one.c[name] if name in one.c else null() for one in (old, new))
        if name in keys:
            values[name] = func.coalesce(before, after)
        elif name in becomes:
            values[name] = case((is_new, after), (and_(is_both, wins), becomes[name]), else_=before)
        else:
            values[name] = case((is_new, after), else_=before)
    same = and_(*(old.c[name] == new.c[name] for name in keys))
    found = select(*(value.label(name) for name, value in values.items()))
    return every, found.select_from(old.join(new, same, full=True))


def _labelled(names: Sequence[str], rows: Select[Any], name: str) -> FromClause:
    """Return the rows under the names of the columns that they are inserted into."""
    values = [one.element if isinstance(one, Label) else one for one in rows.selected_columns]
    return rows.with_only_columns(*(value.label(key) for key, value in zip(names, values, strict=True))).subquery(name)


def _on_conflict(
    table: Table, clause: OnConflictClause | None, old: FromClause, new: FromClause
) -> tuple[dict[str, ColumnElement[Any]], ColumnElement[bool]]:
    """Return what each column becomes if both have a row, and the condition under which anything does."""
    if not isinstance(clause, OnConflictDoUpdate):
        return {}, true()
    replace = _replacing(table, old, new)
    becomes = {
        str(getattr(column, "key", column)): replace(value) for column, value in clause.update_values_to_set.items()
    }
    where = clause.update_whereclause
    wins: ColumnElement[bool] = true() if where is None else replace(where)
    return becomes, wins


def _replacing(table: Table, old: FromClause, new: FromClause) -> Callable[[ColumnElement[Any]], Any]:
    """Return what replaces the columns of the stored row, and of the row that wasn't inserted, in an expression."""

    def column_of(element: Any, **_: Any) -> ColumnElement[Any] | None:  # noqa: ANN401 - any part of an expression
        if not isinstance(element, Column):
            return None
        if element.table is table:
            return _column(old, element)
        return _column(new, element) if getattr(element.table, "name", None) == "excluded" else None

    return lambda expression: visitors.replacement_traverse(expression, {}, column_of)


def _column(rows: FromClause, column: Column[Any]) -> ColumnElement[Any]:
    return rows.c[column.key] if column.key in rows.c else cast(null(), column.type)
