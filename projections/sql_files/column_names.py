"""Checks the names of columns in a fold's statement, as far as the file alone shows which table they belong to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

from sqlalchemy import Table

from eventstore.schema import events
from projections.projection import OF_THIS_LOG_ONLY
from projections.sql_files.postgres_parser import Node, descendants, pg, strings
from projections.sql_files.sql_source import STAND_IN, WINDOW, SqlSource

_WITH_OWN_COLUMNS = (pg.RangeFunction, pg.RangeTableFunc, pg.JsonTable)
"""What gives columns whose names the text doesn't show, unless it has an alias with names."""
_KEYWORDS = ("array", "case", "coalesce", "exists", "greatest", "least", "nullif", "row", "xmlelement")
"""Names that Postgres gives to columns of these expressions."""


def check_columns(source: SqlSource, tree: Node, tables: Mapping[str, Table]) -> None:
    """Refuse a column that its table doesn't have, and a name that is no table of the statement.

    Raises:
        InvalidProjection: there is no such column or table; the message says where.

    """
    columns = {name: {column.name for column in table.c} for name, table in tables.items()}
    columns[STAND_IN] = {column.name for column in events.c} - set(OF_THIS_LOG_ONLY)
    owned = columns[tree.relation.relname]
    for name, at in _written(tree):
        if name and name not in owned:
            source.refuse(at, f"table {tree.relation.relname} has no column {name}{_hint(name, owned)}")
    known = _known_names(tree, columns)
    alone = _unqualified_names(tree, columns, known)
    for one in descendants(tree):
        if not isinstance(one, pg.ColumnRef):
            continue
        names = strings(one.fields)
        if len(names) > 2:
            source.refuse(one.location, f"{'.'.join(names)}: name the table without its schema: the engine adds it")
        _refuse_what_differs_in_another_log(source, one, known, alone, columns[STAND_IN])
        if len(one.fields) == 1:
            if names and alone is not None and names[0] not in alone:
                source.refuse(
                    one.location, f"no table of this statement has a column {names[0]}{_hint(names[0], alone)}"
                )
            continue
        shown = WINDOW if names[0] == STAND_IN else names[0]
        if names[0] not in known:
            source.refuse(one.location, f"{shown} is no table or alias of this statement")
        among = known[names[0]]
        if among is not None and names[1:] and names[1] not in among:
            source.refuse(one.location, f"{shown} has no column {names[1]}{_hint(names[1], among)}")


def _refuse_what_differs_in_another_log(
    source: SqlSource,
    node: Node,
    known: Mapping[str, Collection[str] | None],
    alone: Collection[str] | None,
    of_window: Collection[str],
) -> None:
    names = strings(node.fields)
    if names[-1:] and names[-1] in OF_THIS_LOG_ONLY:
        is_qualified = len(names) > 1
        if known.get(names[0]) == of_window if is_qualified else alone is not None and names[0] not in alone:
            source.refuse(
                node.location,
                f"window has no {names[-1]}: it differs in another log of the same events, and rows may not depend on"
                " it",
            )


def _hint(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _written(tree: Node) -> Iterator[tuple[str, int]]:
    """Yield the columns of the table that a statement changes, as far as it names them as such, and where."""
    targets = [*tree.target_list] if isinstance(tree, pg.UpdateStmt) else []
    if isinstance(tree, pg.InsertStmt):
        conflict = tree.on_conflict_clause
        targets += [*tree.cols, *conflict.target_list]
        yield from ((node.index_elem.name, conflict.infer.location) for node in conflict.infer.index_elems)
    yield from ((node.res_target.name, node.res_target.location) for node in targets)


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


def _unqualified_names(
    tree: Node, columns: Mapping[str, Collection[str]], known: Mapping[str, Collection[str] | None]
) -> set[str] | None:
    """Return every name that may stand alone in a statement; None if a function in FROM has columns of its own.

    These are the columns of its tables, its aliases, and the names that Postgres gives to what has no alias.
    """
    found = {*known, *_KEYWORDS}
    for one in descendants(tree):
        if isinstance(one, _WITH_OWN_COLUMNS) and not (one.alias.colnames or getattr(one, "coldeflist", ())):
            return None
        if isinstance(one, pg.RangeVar):
            found |= set(columns.get(one.relname, ()))
        elif isinstance(one, pg.ResTarget):
            found.add(one.name)
        elif isinstance(one, pg.ColumnDef):
            found.add(one.colname)
        elif isinstance(one, pg.Alias):
            found |= set(strings(one.colnames))
        elif isinstance(one, pg.FuncCall | pg.TypeName):
            found |= set(strings(one.funcname if isinstance(one, pg.FuncCall) else one.names)[-1:])
    return found
