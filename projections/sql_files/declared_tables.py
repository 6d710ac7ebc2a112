"""Reads the tables and indexes that a ``.sql`` file declares, as SQLAlchemy's.

Invariants. What Postgres would create from the file is what we create from the tables, or the file is refused: nothing
of a declaration is left out silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    TextClause,
    UniqueConstraint,
    text,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import SchemaItem

from projections.projection import READ_MODEL_SCHEMA
from projections.sql_files.column_types import is_event_id_without_collation, read_column_type
from projections.sql_files.postgres_parser import Node, expression_text, pg, statement_text, strings
from projections.sql_files.sql_source import SqlSource, SqlStatement

_OF_A_PLAIN_TABLE = ("relation", "table_elts", "oncommit", "if_not_exists")
_OF_A_PLAIN_INDEX = ("relation", "idxname", "access_method", "index_params", "where_clause", "unique", "if_not_exists")
_OF_A_PLAIN_CONSTRAINT = ("contype", "conname", "keys", "raw_expr", "location", "initially_valid", "is_enforced")


def read_table(source: SqlSource, statement: SqlStatement) -> Table:
    """Return the table that a CREATE TABLE declares.

    Raises:
        InvalidProjection: no read model can have such a table; the message says what to change.

    """
    tree = statement.tree
    name = read_name(source, statement, tree.relation)
    if tree.relation.relpersistence != "p":
        source.refuse(statement.start, f"table {name}: leave out UNLOGGED or TEMPORARY; a crash would empty it")
    _refuse_others(source, statement.start, f"table {name}", tree, _OF_A_PLAIN_TABLE)
    items: list[SchemaItem] = []
    for element in tree.table_elts:
        if element.HasField("column_def"):
            items += _read_column(source, element.column_def)
        elif element.HasField("constraint"):
            items += _read_constraint(source, element.constraint, strings(element.constraint.keys))
        else:
            source.refuse(statement.start, f"table {name}: write its columns; LIKE can't be used here")
    items.sort(key=lambda item: not isinstance(item, Column))  # constraints after what they name
    if not any(isinstance(item, PrimaryKeyConstraint) for item in items):
        source.refuse(statement.start, f"table {name} needs a PRIMARY KEY: the columns that are the key of a row")
    try:
        return Table(name, MetaData(schema=READ_MODEL_SCHEMA), *items)
    except SQLAlchemyError as error:  # a column that occurs twice, or a key that names no column
        source.refuse(statement.start, f"table {name}: {error}")


def read_index(source: SqlSource, statement: SqlStatement, tables: Mapping[str, Table]) -> None:
    """Add the index that a CREATE INDEX declares to its table.

    Raises:
        InvalidProjection: its table isn't one of the file's, or no read model can have such an index.

    """
    tree = statement.tree
    name = read_name(source, statement, tree.relation)
    if name not in tables:
        source.refuse(statement.start, f"{name} is no table that this file creates above")
    _refuse_others(source, statement.start, f"index {tree.idxname}", tree, _OF_A_PLAIN_INDEX)
    if not tree.idxname:
        source.refuse(statement.start, f"give the index a name: CREATE INDEX {name}_…_idx ON {name}")
    options: dict[str, Any] = {"unique": tree.unique}
    if tree.access_method != "btree":
        options["postgresql_using"] = tree.access_method
    if tree.HasField("where_clause"):
        options["postgresql_where"] = _clause(tree.where_clause)
    elements = [_read_element(source, statement, tables[name], node) for node in tree.index_params]
    Index(tree.idxname, *elements, _table=tables[name], **options)


def read_name(source: SqlSource, statement: SqlStatement, relation: Node) -> str:
    """Return the name of a table or view, which is written without a schema.

    Raises:
        InvalidProjection: it has a schema.

    """
    if relation.schemaname:
        source.refuse(statement.start, f"write {relation.relname} without a schema; it is created in public")
    return str(relation.relname)


def _read_column(source: SqlSource, node: Node) -> Iterator[SchemaItem]:
    column_type = read_column_type(source, node)
    if is_event_id_without_collation(node.colname, column_type):
        source.refuse(node.location, f'column {node.colname}: write COLLATE "C", so that event_ids compare by bytes')
    options: dict[str, Any] = {}
    more: list[SchemaItem] = []
    for constraint in (one.constraint for one in node.constraints):
        if constraint.contype == pg.CONSTR_NOTNULL:
            options["nullable"] = False
        elif constraint.contype == pg.CONSTR_DEFAULT:
            options["server_default"] = _clause(constraint.raw_expr)
        elif constraint.contype == pg.CONSTR_GENERATED and constraint.generated_kind in ("s", ""):
            more.append(Computed(_clause(constraint.raw_expr), persisted=True))
        elif constraint.contype != pg.CONSTR_NULL:
            yield from _read_constraint(source, constraint, [node.colname])
    yield Column(node.colname, column_type, *more, autoincrement=False, **options)


def _read_constraint(source: SqlSource, node: Node, columns: list[str]) -> Iterator[SchemaItem]:
    kind = pg.ConstrType.Name(node.contype).removeprefix("CONSTR_")
    _refuse_others(source, node.location, f"{kind} constraint", node, _OF_A_PLAIN_CONSTRAINT)
    name = node.conname or None
    if node.contype == pg.CONSTR_PRIMARY:
        yield PrimaryKeyConstraint(*columns, name=name)
    elif node.contype == pg.CONSTR_UNIQUE:
        yield UniqueConstraint(*columns, name=name)
    elif node.contype == pg.CONSTR_CHECK:
        yield CheckConstraint(_clause(node.raw_expr), name=name)
    else:
        source.refuse(
            node.location,
            f"a {kind} constraint can't be used here; a table has NOT NULL, DEFAULT, PRIMARY KEY, UNIQUE, CHECK and"
            " GENERATED … STORED",
        )


def _read_element(source: SqlSource, statement: SqlStatement, table: Table, node: Node) -> Column[Any] | TextClause:
    element = node.index_elem
    if element.name and element.name not in table.c:
        source.refuse(statement.start, f"table {table.name} has no column {element.name}")
    is_plain = element.ordering == pg.SORTBY_DEFAULT and element.nulls_ordering == pg.SORTBY_NULLS_DEFAULT
    if element.name and is_plain and not element.collation and not element.opclass:
        column: Column[Any] = table.c[element.name]
        return column
    alone = pg.IndexStmt()
    alone.CopyFrom(statement.tree)
    del alone.index_params[:]
    alone.index_params.add().CopyFrom(node)
    alone.ClearField("where_clause")
    wrapped = pg.Node()
    wrapped.index_stmt.CopyFrom(alone)
    return _text(statement_text(wrapped).partition("(")[2].removesuffix(")"))


def _refuse_others(source: SqlSource, at: int, what: str, node: Node, allowed: tuple[str, ...]) -> None:
    """Refuse what a node has besides what a read model's table can have."""
    others = [field.name for field, _ in node.ListFields() if field.name not in allowed]
    if others:
        source.refuse(at, f"{what}: {', '.join(others)} can't be used in a .sql file")


def _clause(node: Node) -> TextClause:
    return _text(expression_text(node))


def _text(written: str) -> TextClause:
    # SQLAlchemy takes a colon before a word for a parameter, also inside a literal.
    return text(re.sub(r"(?<!:):(?!:)", r"\\:", written))
