"""``projections docs`` finds every page and deployment file, and every page that a message names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eventstore.errors import UsageError
from projections.cli.app import app
from projections.doc_pages import find_page, list_pages
from tests.unit.test_layout import trees

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"projections docs ([\w./-]*\w)")


def texts(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """The texts among a module's nodes, without docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        node.body[0].value
        for node in nodes
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.value


def test_every_page_and_deployment_file_is_listed_with_a_sentence() -> None:
    pages = {page.path.resolve(): page for page in list_pages()}
    files = [*(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").iterdir(), ROOT / "README.md", ROOT / "CHANGELOG.md"]
    assert set(pages) == set(files)
    assert [page.name for page in pages.values() if not re.fullmatch(r"\S.*\S\.", page.first_sentence())] == []
    assert next(iter(pages.values())).name == "readme"


@pytest.mark.parametrize("wanted", ["configuration", "Configuration.md", "docs/configuration.md"])
def test_a_page_is_found_by_its_name_and_by_its_path(wanted: str) -> None:
    assert find_page(wanted).path == ROOT / "docs" / "configuration.md"
    assert find_page("deploy/containerfile").name == "deploy/Containerfile"


def test_an_unknown_page_is_refused_with_names_that_are_near() -> None:
    with pytest.raises(UsageError, match="no page 'configration'; did you mean configuration"):
        find_page("configration")
    with pytest.raises(UsageError, match=re.escape("no page '../../etc/passwd'; list them with: projections docs")):
        find_page("../../etc/passwd")


def test_messages_name_pages_that_exist_and_how_to_read_them() -> None:
    modules = [[*ast.walk(tree)] for tree in trees().values()]
    found = [text for nodes in modules for text in texts(nodes)]
    assert [text for text in found if re.search(r"docs/[\w-]+\.md", text)] == []
    helps = [ast.get_docstring(node) or "" for nodes in modules for node in nodes if isinstance(node, ast.FunctionDef)]
    named = {name for text in [*found, *helps] for name in NAMED.findall(text)}
    assert len(named) >= 3
    for name in named:
        find_page(name)


def test_without_a_terminal_a_page_and_a_file_are_printed_as_they_are() -> None:
    for name, path in {"rebuilding": "docs/rebuilding.md", "deploy/compose.yaml": "deploy/compose.yaml"}.items():
        result = CliRunner().invoke(app, ["docs", name])
        assert (result.exit_code, result.stdout) == (0, (ROOT / path).read_text())


def test_json_is_for_the_list() -> None:
    assert CliRunner().invoke(app, ["docs", "api", "--json"]).exit_code == 2
