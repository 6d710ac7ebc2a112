"""Imports go one way between the packages of the tree, without cycles, and file names are unique.

A package here is a package or a single module of the table below. Every import counts for the order: those inside
functions and those for type checkers only as well. For cycles the imports count that run when a module is loaded.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("eventstore", "projections")

ORDER = (
    "eventstore.lazy_names",
    "eventstore.redaction",
    # What the whole event store uses: errors, settings, small helpers, the tables.
    "eventstore",
    "eventstore.contracts",
    "eventstore.postgres",
    "eventstore.event_search",
    "eventstore.partitions",
    "eventstore.archived_rows",
    "eventstore.whole_window",
    "eventstore.distributed_log",
    "eventstore.erasure",
    "eventstore.event_reader",
    "eventstore.redecode",
    "eventstore.appending",
    "eventstore.consuming",
    "eventstore.ingest",
    # The format of files, which archives of old events have too.
    "eventstore.transfer.new_file",
    "eventstore.transfer.archive",
    "eventstore.archiving",
    "eventstore.transfer",
    "eventstore.quarantined",
    # What all projections use: the base class, errors, settings, logs.
    "projections",
    "projections.folding",
    "projections.blocks",
    "projections.read_models",
    "projections.table_rules",
    "projections.rules",
    "projections.sql_files",
    "projections.registry",
    "projections.scaffolding",
    "projections.granting",
    "projections.migrating",
    "projections.running",
    "projections.rebuilding",
    "projections.archiving",
    "projections.erasing",
    "projections.inspecting",
    "projections.reconciling",
    "projections.http",
    "projections.sandbox.simulator",
    "projections.sandbox.embedded",
    "projections.database",
    "projections.testing",
    "projections.checking",
    "projections.cli",
    "projections.sandbox.demo",
    "projections.__main__",
)
"""A package imports packages above it and itself, and nothing below. A module belongs to its longest entry."""

PUBLIC_ROOTS = ("eventstore", "projections", "projections.blocks", "projections.testing")
"""Their ``__init__`` loads public names on demand, from any module of the package."""

REPEATED_FILE_NAMES = ("__init__", "__main__", "errors")
REPEATED_CLASS_NAMES: tuple[str, ...] = ()
REPEATED_FUNCTION_NAMES = (
    "__dir__",  # the hook by which Python lists a package's public names
)


class Import(NamedTuple):
    """One import of one of our modules by another one."""

    importer: str
    imported: str
    at_load: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_modules() -> dict[str, Path]:
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {module_name(path): path for path in paths if "_generated" not in path.parts}


MODULES = find_modules()


@cache  # not when the tests are collected, which each process does
def trees() -> Mapping[str, ast.Module]:
    """Return each module's syntax tree."""
    return {module: ast.parse(path.read_text()) for module, path in MODULES.items()}


def package_of(module: str) -> str:
    return max((package for package in ORDER if f"{module}.".startswith(f"{package}.")), key=len)


def imports_of(module: str) -> Iterator[Import]:
    """The imports in a module of other modules of ours."""
    for node, at_load in statements(trees()[module], at_load=True):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found = {name if name in MODULES else node.module or "" for name in names}
        elif isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        else:
            continue
        yield from (Import(module, imported, at_load) for imported in sorted(found & MODULES.keys()))


def statements(node: ast.AST, *, at_load: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node of a tree that isn't in an expression, and whether it runs when the module is loaded."""
    yield node, at_load
    only_for_types = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else []
    in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):  # expressions have no statements
            yield from statements(child, at_load=at_load and not in_function and child not in only_for_types)


@cache
def all_imports() -> Sequence[Import]:
    """Return every import of one of our modules by another one."""
    return [each for module in MODULES for each in imports_of(module)]


def test_imports_go_one_way_between_the_packages() -> None:
    wrong = sorted(
        f"{each.importer} imports {each.imported}"
        for each in all_imports()
        if each.importer not in PUBLIC_ROOTS
        and ORDER.index(package_of(each.imported)) > ORDER.index(package_of(each.importer))
    )
    assert wrong == []


def test_the_event_store_imports_nothing_of_the_projections() -> None:
    wrong = [
        each for each in all_imports() if each.importer.startswith("eventstore") and "projections" in each.imported
    ]
    assert wrong == []


def test_modules_import_each_other_without_cycles() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for each in all_imports():
        if each.at_load:
            graph[each.importer].add(each.imported)
    check_acyclic(graph)


def check_acyclic(graph: Mapping[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(reversed(error.args[1]))}")


def test_a_cycle_is_found() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"in a circle: (a -> b -> a|b -> a -> b)$"):
        check_acyclic({"a": {"b"}, "b": {"a"}})


def test_every_package_of_the_table_exists() -> None:
    assert [package for package in ORDER if package not in MODULES] == []


def test_the_built_in_read_models_are_as_short_as_those_of_users_can_be() -> None:
    files = (ROOT / "projections" / "read_models").glob("*.py")
    assert {file.name: lines for file in files if (lines := len(file.read_text().splitlines())) >= 80} == {}


def test_file_names_occur_once() -> None:
    """Except one file for each command in ``cli``, which has the command's name, and ``errors``."""
    names = Counter(
        path.stem
        for path in MODULES.values()
        if path.stem not in REPEATED_FILE_NAMES and path.parent != ROOT / "projections" / "cli"
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_class_names_occur_once() -> None:
    names = Counter(node.name for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1 and name not in REPEATED_CLASS_NAMES] == []


def test_names_of_public_functions_occur_once() -> None:
    """Except a command in ``cli``: its function has the command's name, as may the function that does the work."""
    names = Counter(
        node.name
        for module, tree in trees().items()
        if MODULES[module].parent != ROOT / "projections" / "cli"
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_private(node.name)
    )
    assert [name for name, count in names.items() if count > 1 and name not in REPEATED_FUNCTION_NAMES] == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")
