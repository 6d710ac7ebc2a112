"""A digest of what a projection's rows depend on besides the log, so that no shadow of other code is resumed."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec, resolve_name
from typing import cast

from sqlalchemy.schema import CreateTable

from projections.folding.compiled_once import compile_once
from projections.folding.decided_rows import which_wins
from projections.folding.python_projection import PythonProjection
from projections.folding.sql_text import compile_ddl, compile_reproducible
from projections.projection import Projection, Window


def compute_fingerprint(projection: Projection, skipped: Sequence[str]) -> str:
    """Return the digest of a projection's tables, its fold, and the event_ids that it skips."""
    parts = [projection.name, str(projection.version), *sorted(skipped)]
    parts += compile_once(projection, "fingerprint", lambda: _compile(projection))
    if isinstance(projection, PythonProjection):
        parts += _sources(type(projection))
        parts += [f"{table.name}: the first wins" for table in projection.tables if which_wins(table) == "first"]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _compile(projection: Projection) -> list[str]:
    """Return the texts of what creates the tables, and of the fold's statements."""
    tables = [compile_ddl(CreateTable(table)) for table in projection.tables]
    window = Window(projection.handles)
    return [*tables, *(repr(compile_reproducible(statement)) for statement in projection.fold(window))]


def _sources(of: type[PythonProjection]) -> list[str]:
    """Return the source of the modules that a Python fold uses, as far as they are in its package."""
    package = of.__module__.partition(".")[0]
    names = [base.__module__ for base in of.__mro__]
    found: dict[str, str] = {}
    while names:
        name = names.pop()
        if name in found or name.partition(".")[0] != package:
            continue
        source = _source(name)
        # Without a source, as in a program that was packed into one file, imports can't be followed.
        found[name] = repr(of.handle.__code__.co_code) if source is None else source
        names += _imported(name, source or "")
    return [found[name] for name in sorted(found)]


def _source(module: str) -> str | None:
    """Return a module's source, as its file is now; empty if it is no module, None if it has no source."""
    try:
        spec = find_spec(module)
        if spec is None:
            return ""
        return cast("str | None", spec.loader.get_source(module))  # type: ignore[union-attr]
    except (AttributeError, ImportError, ValueError):
        return None if module in sys.modules else ""


def _imported(module: str, source: str) -> Iterator[str]:
    """Yield the names that a module imports, anywhere in it: modules, and names that may be modules.

    They are read from the source, not from the loaded module: a constant doesn't show where it was imported from.
    """
    loaded = sys.modules.get(module)
    package = getattr(loaded, "__package__", None) or module.rpartition(".")[0] or module
    for origin, names in _parse_imports(source):
        if origin is None:
            yield from names
            continue
        try:
            resolved = resolve_name(origin, package)
        except ImportError:
            continue
        yield resolved
        yield from (f"{resolved}.{name}" for name in names)


@lru_cache(maxsize=512)  # parsing takes longer than reading the file again; the source itself is the key
def _parse_imports(source: str) -> tuple[tuple[str | None, tuple[str, ...]], ...]:
    """Return the imports in a source: what they import from, with leading dots if it is relative, and the names."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # the file was changed since it was loaded, and is no valid module now
        return ()
    found: list[tuple[str | None, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.append((None, tuple(one.name for one in node.names)))
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            found.append((origin, tuple(one.name for one in node.names)))
    return tuple(found)
