"""docs/configuration.md and docs/simulator.md list every setting, as the code has it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from projections.cli.app import app
from tests.unit.test_layout import trees
from tools import settings_tables
from tools.settings_tables import MODELS, PAGES, variable

ROOT = Path(__file__).resolve().parents[2]
TEXT = "\n".join(page.read_text() for page in PAGES)
OURS = re.compile(r"(?<![.\w])(?:PROJECTIONS|PCS_EXTERNAL|PAS)_[A-Z0-9_]*[A-Z]\b")
OUTSIDE = re.compile(r"DATABASE_URL|PG[A-Z]+|SSL_CERT_[A-Z]+")


def test_the_tables_match_the_code() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "settings_tables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_a_table_that_differs_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGES[0].read_text().replace("| `PROJECTIONS_OVERLAP` | `5` |", "| `PROJECTIONS_OVERLAP` | `6` |"))
    monkeypatch.setattr(settings_tables, "PAGES", (page,))
    monkeypatch.setattr(settings_tables, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["settings_tables.py", "--check"])
    assert settings_tables.main() == 1
    monkeypatch.setattr(sys, "argv", ["settings_tables.py"])
    assert settings_tables.main() == 0
    assert page.read_text() == PAGES[0].read_text()


def test_every_class_of_settings_has_a_table() -> None:
    defined = {
        node.name
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any("BaseSettings" in ast.unparse(base) for base in node.bases)
    }
    assert defined == {model.__name__ for model in MODELS}


def test_every_setting_is_on_a_page() -> None:
    variables = [variable(model, name, field) for model in MODELS for name, field in model.model_fields.items()]
    assert len(variables) >= 50
    assert [name for name in variables if f"| `{name}` |" not in TEXT] == []


def test_every_variable_that_the_code_names_is_on_a_page() -> None:
    named = {
        found
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for found in (OURS.fullmatch(node.value), OUTSIDE.fullmatch(node.value))
        if found is not None
    }
    names = {found[0] for found in named}
    assert len(names) >= 20
    assert sorted(name for name in names if name not in TEXT) == []


def test_no_page_names_a_variable_that_does_not_exist() -> None:
    command = get_command(app)
    known = {variable(model, name, field) for model in MODELS for name, field in model.model_fields.items()}
    known |= {str(option.envvar) for _words, option in settings_tables.options(command)}
    known |= {"PROJECTIONS_HOME"}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    mentioned = {name for page in pages for name in OURS.findall(page.read_text())}
    assert sorted(mentioned - known) == []
