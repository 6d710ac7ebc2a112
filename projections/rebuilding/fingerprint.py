"""A digest of what decides how a projection's rows come out: a shadow that other code began is not gone on with."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec, resolve_name
from typing import cast

from sqlalchemy.schema import CreateTable

from projections.folding.python_projection import PythonProjection
from projections.folding.sql_text import compile_ddl, compile_fold_statement
from projections.projection import Projection, Window


def fingerprint(projection: Projection, skipped: Sequence[str]) -> str:
    """Return the digest of a projection's tables, of its fold, and of the event_ids that it passes over."""
    parts = [projection.name, str(projection.version), *sorted(skipped)]
    parts += [compile_ddl(CreateTable(table)) for table in projection.tables]
    parts += [repr(compile_fold_statement(statement)) for statement in projection.fold(Window(projection.handles))]
    if isinstance(projection, PythonProjection):
        parts += _sources(type(projection))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _sources(of: type[PythonProjection]) -> list[str]:
    """Return the source of the modules that a fold written in Python is made of, as far as they are of its package."""
    package = of.__module__.partition(".")[0]
    names = [base.__module__ for base in of.__mro__]
    found: dict[str, str] = {}
    while names:
        name = names.pop()
        if name in found or name.partition(".")[0] != package:
            continue
        source = _source(name)
        # Without a source, as in a program that was frozen into one file, there is nothing to follow.
        found[name] = repr(of.handle.__code__.co_code) if source is None else source
        names += _imported(name, source or "")
    return [found[name] for name in sorted(found)]


def _source(module: str) -> str | None:
    """Return a module's source, as its file has it now; the empty text for what is no module."""
    try:
        spec = find_spec(module)
        if spec is None:
            return ""
        return cast("str | None", spec.loader.get_source(module))  # type: ignore[union-attr]
    except (AttributeError, ImportError, ValueError):
        return None if module in sys.modules else ""


def _imported(module: str, source: str) -> Iterator[str]:
    """Name what a module imports, anywhere in it: modules, and names that may be modules.

    What stands in the source counts, not what the module holds: of a constant of another module nothing tells any more
    where it came from.
    """
    loaded = sys.modules.get(module)
    package = getattr(loaded, "__package__", None) or module.rpartition(".")[0] or module
    try:
        tree = ast.parse(source)
    except SyntaxError:  # it was changed since it was loaded, and is no module any more
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                origin = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:
                continue
            yield origin
            yield from (f"{origin}.{one.name}" for one in node.names)
