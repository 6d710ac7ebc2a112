"""The public names are those that docs/api.md lists, they are cheap to import, and the docs use no others."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PUBLIC_PACKAGES = ("eventstore", "projections", "projections.blocks", "projections.testing")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DRIVERS = ("psycopg", "sqlalchemy", "grpc", "google", "pydantic", "alembic", "httpx2", "typer")


def root_of(package: str) -> Path:
    return ROOT.joinpath(*package.split("."), "__init__.py")


def names_for_mypy(package: str) -> dict[str, str]:
    """Return the names that a package root imports for type checkers, each with its module."""
    tree = ast.parse(root_of(package).read_text())
    return {
        alias.asname or alias.name: f"{statement.module}.{alias.name}"
        for statement in ast.walk(tree)
        if isinstance(statement, ast.ImportFrom) and statement.module not in ("typing", "eventstore.lazy_names")
        for alias in statement.names
    }


def documented_names(package: str) -> list[str]:
    """Return the names in the first column of a package's table in docs/api.md."""
    page = (ROOT / "docs" / "api.md").read_text()
    table = page.partition(f"<!-- public: {package} -->\n")[2].partition("\n\n")[0]
    _title, _line, *rows = table.splitlines()
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


@pytest.mark.parametrize("package", PUBLIC_PACKAGES)
def test_every_public_name_can_be_imported(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        home, _, original = names_for_mypy(package)[name].rpartition(".")
        assert getattr(module, name) is getattr(importlib.import_module(home), original)
        assert name in dir(module)


@pytest.mark.parametrize("package", PUBLIC_PACKAGES)
def test_the_public_names_are_sorted_and_are_those_that_type_checkers_see(package: str) -> None:
    names = list(importlib.import_module(package).__all__)
    assert names == sorted(names)
    assert set(names) == set(names_for_mypy(package))


@pytest.mark.parametrize("package", PUBLIC_PACKAGES)
def test_the_page_on_the_api_lists_exactly_the_public_names(package: str) -> None:
    documented = documented_names(package)
    assert sorted(documented) == sorted(importlib.import_module(package).__all__)


@pytest.mark.parametrize("package", PUBLIC_PACKAGES)
def test_an_unknown_name_raises_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = importlib.import_module(package).nothing


@pytest.mark.parametrize("package", ["eventstore", "projections"])
def test_no_public_name_is_the_name_of_a_submodule(package: str) -> None:
    submodules = {path.stem for path in root_of(package).parent.iterdir()}
    assert not submodules & set(importlib.import_module(package).__all__)


def test_importing_the_packages_loads_no_driver() -> None:
    code = f"import json, sys; import {', '.join(PUBLIC_PACKAGES)}; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in json.loads(ran.stdout)}
    assert not loaded & set(DRIVERS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_a_page_imports_public_names_only(page: Path) -> None:
    blocks = re.findall(r"^```(?:python|py)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    internal = []
    for block in blocks:
        for statement in ast.walk(ast.parse(block, type_comments=False)):
            if isinstance(statement, ast.ImportFrom):
                found = [(statement.module or "", alias.name) for alias in statement.names]
            elif isinstance(statement, ast.Import):
                found = [(alias.name, "") for alias in statement.names]
            else:
                continue
            for module, name in found:
                if module.partition(".")[0] not in ("eventstore", "projections"):
                    continue
                if module not in PUBLIC_PACKAGES or name not in importlib.import_module(module).__all__:
                    internal.append(f"{module}.{name}")
    assert internal == []
