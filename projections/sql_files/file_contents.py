"""Reads a whole ``.sql`` file: its header, the tables and views that it declares, and the statements of its fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from sqlalchemy import Table

from projections.projection import READ_MODEL_SCHEMA
from projections.sql_files.declared_tables import read_index, read_name, read_table
from projections.sql_files.file_header import FileHeader, read_header
from projections.sql_files.fold_checks import check_contents
from projections.sql_files.fold_statements import Parts, read_fold_statement
from projections.sql_files.postgres_parser import descendants, pg, strings
from projections.sql_files.sql_source import STAND_IN, SqlSource, SqlStatement
from projections.views import View


@dataclass(frozen=True, slots=True)
class FileContents:
    """What a file declares.

    Attributes:
        source: the file.
        header: its header.
        tables: its tables, by name, in the order of the file.
        views: its views, likewise.
        fold: the statements of its fold, each divided at its tables.
        decided_by: as :class:`projections.projection.Projection` has it.
        at: where each table is declared, by name.

    """

    source: SqlSource
    header: FileHeader
    tables: dict[str, Table] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    fold: list[Parts] = field(default_factory=list)
    decided_by: dict[str, str] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)


def read_contents(source: SqlSource) -> FileContents:
    """Read a file.

    Raises:
        InvalidProjection: something in it is wrong; the message has the file and the line, and says what to do.

    """
    contents = FileContents(source, read_header(source))
    for statement in source.statements:
        _READERS.get(type(statement.tree), _read_fold_statement)(contents, statement)
    if not contents.tables:
        source.refuse(0, "the file declares no table; write CREATE TABLE … (…, PRIMARY KEY (…))")
    if not contents.fold:
        source.refuse(0, "the file folds nothing; write INSERT INTO … SELECT … FROM window …")
    if contents.header.decided_by is not None:
        contents.decided_by.clear()
        contents.decided_by.update(contents.header.decided_by)
    return contents


def _read_table(contents: FileContents, statement: SqlStatement) -> None:
    check_contents(contents.source, statement)
    table = read_table(contents.source, statement)
    _refuse_second(contents, statement, table.name)
    contents.tables[table.name] = table
    contents.at[table.name] = statement.start


def _read_index(contents: FileContents, statement: SqlStatement) -> None:
    check_contents(contents.source, statement)
    read_index(contents.source, statement, contents.tables)


def _read_view(contents: FileContents, statement: SqlStatement) -> None:
    source, tree = contents.source, statement.tree
    name = read_name(source, statement, tree.view)
    _refuse_second(contents, statement, name)
    if tree.view.relpersistence != "p" or tree.aliases or tree.options or tree.with_check_option > pg.NO_CHECK_OPTION:
        source.refuse(
            statement.start,
            f"view {name}: write CREATE VIEW {name} AS SELECT …, with names of columns by AS and without options",
        )
    query = next(token for token in source.code if token.start > statement.start and token.kind == pg.AS)
    contents.views[name] = View(name, _qualified(contents, statement, query.end))


def _qualified(contents: FileContents, statement: SqlStatement, start: int) -> str:
    """Return a view's query with the schema of the file's tables and views."""
    source, ours = contents.source, {*contents.tables, *contents.views}
    common = {one.ctename for one in descendants(statement.tree) if isinstance(one, pg.CommonTableExpr)}
    before: dict[int, str] = {}
    for one in descendants(statement.tree.query):
        if isinstance(one, pg.RangeVar) and not one.schemaname:
            if one.relname == STAND_IN:
                source.refuse(one.location, "a view reads tables; only a fold has the window")
            if one.relname not in common | ours:
                source.refuse(
                    one.location,
                    f"this file creates no {one.relname} above; name a table of another with its schema, such as"
                    f" public.{one.relname}",
                )
            if one.relname not in common:
                before[one.location] = f"{READ_MODEL_SCHEMA}."
    texts, at = [], start
    for place in sorted(before):
        texts += [source.slice(at, place), before[place]]
        at = place
    return "".join([*texts, source.slice(at, statement.end)]).strip()


def _read_comment(contents: FileContents, statement: SqlStatement) -> None:
    source, tree = contents.source, statement.tree
    names = strings(tree.object.list.items)
    kinds: Mapping[int, int] = {pg.OBJECT_TABLE: 1, pg.OBJECT_VIEW: 1, pg.OBJECT_COLUMN: 2}
    if tree.objtype not in kinds:
        source.refuse(statement.start, "only tables, views and their columns have comments here")
    name = names[0]
    if len(names) != kinds[tree.objtype]:
        source.refuse(statement.start, f"write {'.'.join(names)} without a schema; it is created in public")
    table, view = contents.tables.get(name), contents.views.get(name)
    if view is not None and tree.objtype == pg.OBJECT_VIEW:
        contents.views[name] = replace(view, comment=tree.comment or None)
    elif view is not None and tree.objtype == pg.OBJECT_COLUMN:
        columns = {**view.columns, names[1]: tree.comment}
        contents.views[name] = replace(view, columns=MappingProxyType(columns))
    elif table is not None and tree.objtype == pg.OBJECT_TABLE:
        table.comment = tree.comment or None
    elif table is not None and tree.objtype == pg.OBJECT_COLUMN and names[1] in table.c:
        table.c[names[1]].comment = tree.comment or None
    else:
        source.refuse(statement.start, f"this file creates no {'.'.join(names)} above")


def _read_fold_statement(contents: FileContents, statement: SqlStatement) -> None:
    found = read_fold_statement(contents.source, statement, contents.tables)
    contents.fold.append(found.parts)
    if found.deciding is not None:
        table, column = found.deciding
        if getattr(contents.tables[table].c[column].type, "collation", None) == "C":
            contents.decided_by[table] = column


def _refuse_second(contents: FileContents, statement: SqlStatement, name: str) -> None:
    if name in contents.tables or name in contents.views:
        contents.source.refuse(statement.start, f"{name} is created twice; rename one")


_READERS = {
    pg.CreateStmt: _read_table,
    pg.IndexStmt: _read_index,
    pg.ViewStmt: _read_view,
    pg.CommentStmt: _read_comment,
}
