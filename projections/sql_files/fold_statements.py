"""Checks the statements of a fold that is written in SQL, and divides each into text and the tables in it.

Invariants. A statement is one INSERT, UPDATE or DELETE. It names the tables of its file and ``window``, and nothing
else: the engine fills in the schema of the tables and the events of the window. What it must not contain is in
:mod:`projections.sql_files.fold_checks`, and what makes rows depend on the order of events in
:mod:`projections.sql_files.order_checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from sqlalchemy import Table

from projections.folding.statement_text import Placeholder
from projections.sql_files.column_names import check_columns
from projections.sql_files.fold_checks import check_contents
from projections.sql_files.order_checks import check_independence
from projections.sql_files.postgres_parser import CHANGES, Node, descendants, pg, strings
from projections.sql_files.sql_source import STAND_IN, WINDOW, SqlSource, SqlStatement

Parts: TypeAlias = tuple[str | Table | Placeholder, ...]

_PERCENT = "%("
_WINDOW_NAME = f'"{WINDOW}"'


class FoldStatement(NamedTuple):
    """A checked statement.

    ``parts`` is its text, divided at its tables. ``deciding`` is the table that it writes and the column with the
    event_id that decides a row, if it is an upsert with such a condition.
    """

    parts: Parts
    deciding: tuple[str, str] | None


def read_fold_statement(source: SqlSource, statement: SqlStatement, tables: Mapping[str, Table]) -> FoldStatement:
    """Check a statement and divide it.

    Args:
        source: its file.
        statement: the statement.
        tables: the tables of the file, by name.

    Raises:
        InvalidProjection: a fold can't have this statement; the message says where, and what to do.

    """
    tree = statement.tree
    if not isinstance(tree, CHANGES):
        source.refuse(
            statement.start,
            "a fold has INSERT, UPDATE and DELETE statements only, besides CREATE TABLE, CREATE INDEX, CREATE VIEW and"
            " COMMENT",
        )
    check_contents(source, statement)
    _check_tables(source, tree, tables)
    check_columns(source, tree, tables)
    check_independence(source, tree, tables)
    return FoldStatement(_divide(source, statement, tables), _deciding_column(tree))


def _check_tables(source: SqlSource, tree: Node, tables: Mapping[str, Table]) -> None:
    queries = [one for one in descendants(tree) if isinstance(one, pg.CommonTableExpr)]
    for query in queries:
        if query.ctename in {*tables, STAND_IN, WINDOW} or query.ctename.startswith("pg_"):
            source.refuse(
                query.location, f"WITH names a query as a table, {_shown(query.ctename)}; choose another name"
            )
    common = {query.ctename for query in queries}
    for one in descendants(tree):
        if not isinstance(one, pg.RangeVar):
            continue
        if one.schemaname:
            source.refuse(
                one.location,
                f"{one.schemaname}.{_shown(one.relname)}: a fold reads only window and the tables of its file, without"
                " a schema: the engine adds it",
            )
        if one.relname == WINDOW:
            source.refuse(one.location, "write window without quotes: it is the window's events")
        if one.relname not in {*tables, *common, STAND_IN}:
            source.refuse(
                one.location,
                f"{one.relname} is neither window nor a table that this file creates; a fold reads nothing else",
            )
    if tree.relation.relname not in tables:
        source.refuse(tree.relation.location, f"a fold can't change {_shown(tree.relation.relname)}")


def _divide(source: SqlSource, statement: SqlStatement, tables: Mapping[str, Table]) -> Parts:
    replaced: dict[int, Parts] = {}
    for one in descendants(statement.tree):
        if isinstance(one, pg.RangeVar) and one.relname in tables:
            replaced[one.location] = (tables[one.relname],)
        elif isinstance(one, pg.RangeVar) and one.relname == STAND_IN:
            alias = "" if one.HasField("alias") else f" AS {_WINDOW_NAME}"
            replaced[one.location] = (Placeholder.EVENTS, alias)
        elif isinstance(one, pg.ColumnRef) and strings(one.fields)[:1] == [STAND_IN]:
            replaced[one.location] = (_WINDOW_NAME,)
    parts: list[str | Table | Placeholder] = []
    at = statement.start
    for token in source.tokens:
        if not statement.start <= token.start < statement.end:
            continue
        if _PERCENT in token.text and token.kind not in (pg.SQL_COMMENT, pg.C_COMMENT):
            source.refuse(token.start, f"write '%' || '(' for {_PERCENT!r}: drivers take it for a parameter")
        instead = replaced.get(token.start, (" ",) if token.kind in (pg.SQL_COMMENT, pg.C_COMMENT) else None)
        if instead is not None:
            parts += [source.slice(at, token.start).replace(_PERCENT, "% ("), *instead]
            at = token.end
    parts.append(source.slice(at, statement.end).replace(_PERCENT, "% ("))
    return tuple(part for part in parts if part != "")


def _deciding_column(tree: Node) -> tuple[str, str] | None:
    """Return the table and column of an upsert's condition that a stored event_id is less or greater than the new."""
    if not isinstance(tree, pg.InsertStmt) or not tree.on_conflict_clause.where_clause.HasField("a_expr"):
        return None
    condition = tree.on_conflict_clause.where_clause.a_expr
    if strings(condition.name) not in (["<"], [">"]):
        return None
    sides = [strings(side.column_ref.fields) for side in (condition.lexpr, condition.rexpr)]
    target = tree.relation.alias.aliasname or tree.relation.relname
    owners, names = {side[0] for side in sides if len(side) == 2}, {side[-1] for side in sides if side}
    return (tree.relation.relname, names.pop()) if owners == {target, "excluded"} and len(names) == 1 else None


def _shown(name: str) -> str:
    return WINDOW if name == STAND_IN else name
