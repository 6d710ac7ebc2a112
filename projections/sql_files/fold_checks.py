"""What a fold and a table in SQL must not contain, because rows would then depend on more than the events.

Invariants. Nothing depends on the clock, on chance, on the session, or on what other schemas contain. Queries that may
take any rows (LIMIT or DISTINCT ON without an order) are refused too.
"""

from __future__ import annotations

from functools import singledispatch

from projections.folding.refused_functions import find_moment, is_refused
from projections.sql_files.postgres_parser import Node, location, pg, strings, with_parents
from projections.sql_files.sql_source import SqlSource, SqlStatement

_OURS: tuple[list[str], ...] = ([], ["pg_catalog"])
"""The schemas that a name may have."""
_TEXT_TYPES = ("text", "varchar", "bpchar")
_SAME_ROWS = "a fold must give the same rows at any time and in any session"
_ELSEWHERE = "a fold may only use what is in pg_catalog: what other schemas contain may change"


def check_contents(source: SqlSource, statement: SqlStatement) -> None:
    """Refuse what a fold's statement, and a default, check or index, can't contain.

    Raises:
        InvalidProjection: the statement contains it; the message says where, and what to do.

    """
    at = statement.start
    for node, parent in with_parents(statement.tree):
        at = location(node) or at
        why = _why_not(node, parent)
        if why is not None:
            source.refuse(at, why)


@singledispatch
def _why_not(node: Node, _parent: Node) -> str | None:  # noqa: ARG001 - the cases below use both
    """Return why a fold can't have a node; None if it can."""
    return None


@_why_not.register(pg.InsertStmt)
@_why_not.register(pg.UpdateStmt)
@_why_not.register(pg.DeleteStmt)
@_why_not.register(pg.MergeStmt)
def _(_node: Node, parent: Node) -> str | None:
    return None if parent is None else "WITH may contain queries only; make this a statement of its own"


@_why_not.register(pg.FuncCall)
def _(node: Node, _parent: Node) -> str | None:
    *schema, name = strings(node.funcname)
    if schema not in _OURS:
        return f"function {'.'.join([*schema, name])}: {_ELSEWHERE}"
    if is_refused(name, len(node.args)):
        return f"{name}() depends on the clock, on chance or on the session: {_SAME_ROWS}"
    return None


@_why_not.register(pg.SQLValueFunction)
def _(node: Node, _parent: Node) -> str:
    name = pg.SQLValueFunctionOp.Name(node.op).removeprefix("SVFOP_").removesuffix("_N").lower()
    return f"{name} depends on the clock or on the session: {_SAME_ROWS}"


@_why_not.register(pg.A_Const)
def _(node: Node, parent: Node) -> str | None:
    text = find_moment(node.sval.sval) if node.HasField("sval") else None
    if text is None:
        return None
    if isinstance(parent, pg.TypeCast) and strings(parent.type_name.names)[-1] in _TEXT_TYPES:
        return None
    return f"'{text}' may be read as a time of the clock: {_SAME_ROWS}; if it is a text, write ::text after it"


@_why_not.register(pg.TypeName)
def _(node: Node, _parent: Node) -> str | None:
    *schema, name = strings(node.names) or [""]
    if schema not in _OURS:
        return f"type {'.'.join([*schema, name])}: {_ELSEWHERE}"
    return f"type {name} looks names up in the catalogs: {_SAME_ROWS}" if name.startswith("reg") else None


@_why_not.register(pg.A_Expr)
def _(node: Node, _parent: Node) -> str | None:
    *schema, name = strings(node.name)
    return None if schema in _OURS else f"operator {'.'.join([*schema, name])}: {_ELSEWHERE}"


@_why_not.register(pg.CollateClause)
def _(node: Node, _parent: Node) -> str | None:
    *schema, name = strings(node.collname)
    return None if schema in _OURS else f"collation {'.'.join([*schema, name])}: {_ELSEWHERE}"


@_why_not.register(pg.SelectStmt)
def _(node: Node, _parent: Node) -> str | None:
    if node.HasField("into_clause"):
        return "a fold creates no table; leave out INTO"
    if node.locking_clause:
        return "a fold needs no FOR UPDATE or FOR SHARE: the checkpoint's row is its lock"
    if node.sort_clause:
        return None
    if node.HasField("limit_count") or node.HasField("limit_offset"):
        return "LIMIT or OFFSET without ORDER BY may take any rows; add ORDER BY"
    if any(one.WhichOneof("node") is not None for one in node.distinct_clause):
        return "DISTINCT ON without ORDER BY may keep any row; add ORDER BY, with event_id last"
    return None


@_why_not.register(pg.ReturningClause)
def _(_node: Node, _parent: Node) -> str:
    return "nobody reads the rows of RETURNING; leave it out"


@_why_not.register(pg.ParamRef)
def _(_node: Node, _parent: Node) -> str:
    return "a fold has no parameters; the events are in the table window"


@_why_not.register(pg.RangeTableSample)
def _(_node: Node, _parent: Node) -> str:
    return "TABLESAMPLE takes rows by chance"


@_why_not.register(pg.CurrentOfExpr)
def _(_node: Node, _parent: Node) -> str:
    return "a fold has no cursors"
