"""Refuses the usual ways in which rows come to depend on the order of events, or on how often an event is folded.

Invariants. What is refused here is always a mistake: a stored value that grows with each fold, and a row that keeps the
values of the event that happened to arrive first. What can't be seen in a statement is found by the test kit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import Table

from projections.sql_files.postgres_parser import Node, descendants, pg, strings
from projections.sql_files.sql_source import SqlSource

_ADDING = ("+", "-", "*", "/", "||")


def check_independence(source: SqlSource, tree: Node, tables: Mapping[str, Table]) -> None:
    """Refuse a statement whose rows depend on order or repetition.

    Raises:
        InvalidProjection: they do; the message says where, and what to do.

    """
    if isinstance(tree, pg.UpdateStmt):
        _check_sums(source, tree.relation, tree.target_list)
    if isinstance(tree, pg.InsertStmt) and tree.HasField("on_conflict_clause"):
        conflict = tree.on_conflict_clause
        if conflict.action == pg.ONCONFLICT_NOTHING:
            _check_nothing(source, tree, tables[tree.relation.relname])
        _check_sums(source, tree.relation, conflict.target_list)


def _check_sums(source: SqlSource, relation: Node, targets: Iterable[Node]) -> None:
    owner = relation.alias.aliasname or relation.relname
    for target in (node.res_target for node in targets):
        stored = ([target.name], [owner, target.name])
        # A subquery may count the stored rows anew, which is right.
        for one in descendants(target, without=pg.SubLink):
            if isinstance(one, pg.A_Expr) and strings(one.name)[-1] in _ADDING and _reads(one, stored):
                source.refuse(
                    target.location,
                    f"{target.name} is computed from its own stored value, so an event that is folded again counts"
                    " again; keep a row for each thing, and count these rows anew",
                )


def _reads(node: Node, names: Iterable[list[str]]) -> bool:
    columns = (one for one in descendants(node, without=pg.SubLink) if isinstance(one, pg.ColumnRef))
    return any(strings(column.fields) in names for column in columns)


def _check_nothing(source: SqlSource, tree: Node, table: Table) -> None:
    key = [node.index_elem.name for node in tree.on_conflict_clause.infer.index_elems]
    key = key or [column.name for column in table.primary_key.columns]
    columns = [node.res_target.name for node in tree.cols] or [column.name for column in table.c]
    others = [column for column in columns if column not in key]
    if others:
        source.refuse(
            tree.on_conflict_clause.location,
            f"DO NOTHING keeps the {', '.join(others)} of the event that arrived first; write DO UPDATE SET … WHERE"
            f" {table.name}.event_id < excluded.event_id for the latest event, or > for the first",
        )
