"""Postgres's own parser, as the package ``postgast`` brings it, and walks through what it returns.

Everything that we use of that package is here. It is loaded by its name rather than imported, because its type stubs
have a syntax error, which would stop mypy for everybody who uses us. So nodes have no static types: ``pg`` has their
classes, named as in Postgres.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from projections.errors import InvalidProjection

try:
    _package: Any = import_module("postgast")
except ImportError as error:
    raise InvalidProjection(
        "reading .sql files needs postgast, the parser of Postgres; install projections-engine[sql]"
    ) from error

pg: Any = _package.pg_query_pb2
"""The classes of nodes, and the numbers of tokens."""

ParserError: type[Exception] = _package.PgQueryError
"""What ``parse`` and ``scan`` raise."""

TOO_DEEP: type[Exception] = DecodeError
"""What ``parse`` raises if a tree is deeper than can be passed on to Python."""

CHANGES: tuple[type[Message], ...] = (pg.InsertStmt, pg.UpdateStmt, pg.DeleteStmt)
"""The statements that a fold may have."""

Node: TypeAlias = Any
"""A node of a parse tree."""


def parse(text: str) -> Iterable[Node]:
    """Return the statements of a text: each has ``stmt``, ``stmt_location`` and ``stmt_len``, which count bytes."""
    statements: Iterable[Node] = _package.parse(text).stmts
    return statements


def scan(text: str) -> Iterable[Node]:
    """Return the tokens of a text, comments included: each has ``token``, ``start`` and ``end``, which count bytes."""
    tokens: Iterable[Node] = _package.scan(text).tokens
    return tokens


def error_position(error: Exception) -> int:
    """Return where a :data:`ParserError` is, in bytes from 1; 0 if that is unknown."""
    return int(getattr(error, "cursorpos", 0))


def unwrap(node: Node) -> Node:
    """Return a node itself, without the ``Node`` that Postgres puts around nodes of any class."""
    return _package.unwrap_node(node)


def expression_text(node: Node) -> str:
    """Return an expression as SQL text."""
    tree = _package.parse("SELECT 1")
    (target,) = tree.stmts[0].stmt.select_stmt.target_list
    target.res_target.val.CopyFrom(node)
    return str(_package.deparse(tree)).removeprefix("SELECT ")


def statement_text(node: Node) -> str:
    """Return a statement, as ``stmt`` of :func:`parse`, as SQL text."""
    tree = _package.parse("SELECT 1")
    tree.stmts[0].stmt.CopyFrom(node)
    return str(_package.deparse(tree))


def children(node: Node) -> Iterator[Node]:
    """Yield the nodes below a node."""
    for field, value in node.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in [value] if isinstance(value, Message) else value:
                yield unwrap(child)


def descendants(node: Node, *, without: type[Message] | None = None) -> Iterator[Node]:
    """Yield a node and all nodes below it, except those of one class with all that is below them."""
    if without is None or not isinstance(node, without):
        yield node
        for child in children(node):
            yield from descendants(child, without=without)


def with_parents(node: Node, parent: Node = None) -> Iterator[tuple[Node, Node]]:
    """Yield a node and all nodes below it, each with the node above it; None for the first."""
    yield node, parent
    for child in children(node):
        yield from with_parents(child, node)


def strings(nodes: Iterable[Node]) -> list[str]:
    """Return the texts in a list of nodes, such as the parts of a qualified name."""
    return [node.string.sval for node in nodes if node.HasField("string")]


def location(node: Node) -> int | None:
    """Return where a node begins; None if it doesn't say."""
    found: int = getattr(node, "location", 0)
    return found if found > 0 else None
