"""Checks the names of columns in a fold's statement, as far as the file alone shows which table they belong to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from sqlalchemy import Table

from eventstore.schema import events
from projections.sql_files.postgres_parser import Node, descendants, pg, strings
from projections.sql_files.sql_source import STAND_IN, WINDOW, SqlSource


def check_columns(source: SqlSource, tree: Node, tables: Mapping[str, Table]) -> None:
    """Refuse a column that its table doesn't have, and a name that is no table of the statement.

    Raises:
        InvalidProjection: there is no such column or table; the message says where.

    """
    columns = {name: {column.name for column in table.c} for name, table in tables.items()}
    columns[STAND_IN] = {column.name for column in events.c}
    owned = columns[tree.relation.relname]
    for node in _written(tree):
        if node.name not in owned:
            source.refuse(node.location, f"table {tree.relation.relname} has no column {node.name}")
    known = _known_names(tree, columns)
    for one in descendants(tree):
        if not isinstance(one, pg.ColumnRef):
            continue
        names = strings(one.fields)
        if len(names) > 2:
            source.refuse(one.location, f"{'.'.join(names)}: name the table without its schema: the engine adds it")
        if len(names) + sum(field.HasField("a_star") for field in one.fields) < 2:
            continue
        shown = WINDOW if names[0] == STAND_IN else names[0]
        if names[0] not in known:
            source.refuse(one.location, f"{shown} is no table or alias of this statement")
        among = known[names[0]]
        if among is not None and names[1:] and names[1] not in among:
            source.refuse(one.location, f"{shown} has no column {names[1]}")


def _written(tree: Node) -> Iterator[Node]:
    if isinstance(tree, pg.InsertStmt):
        yield from (node.res_target for node in tree.cols)
        yield from (node.res_target for node in tree.on_conflict_clause.target_list)
    elif isinstance(tree, pg.UpdateStmt):
        yield from (node.res_target for node in tree.target_list)


def _known_names(tree: Node, columns: Mapping[str, Collection[str]]) -> dict[str, Collection[str] | None]:
    """Return the names by which a statement's columns can be qualified, each with its columns, or None if unknown."""
    known: dict[str, Collection[str] | None] = {}
    if isinstance(tree, pg.InsertStmt):
        known["excluded"] = columns[tree.relation.relname]
    for one in descendants(tree):
        if isinstance(one, pg.RangeVar):
            name = one.alias.aliasname or one.relname
            # Renamed columns, and a name that stands for different tables in different queries, are not checked.
            same = name not in known or known[name] == columns.get(one.relname)
            known[name] = columns.get(one.relname) if same and not one.alias.colnames else None
        elif isinstance(one, pg.CommonTableExpr):
            known[one.ctename] = None
        elif isinstance(one, pg.RangeFunction) and not one.HasField("alias"):
            calls = (call for call in descendants(one) if isinstance(call, pg.FuncCall))
            known.update(dict.fromkeys(strings(call.funcname)[-1] for call in calls))
        elif hasattr(one, "alias") and one.HasField("alias"):
            known[one.alias.aliasname] = None
    return known
