"""All output of commands goes through the module that escapes unsafe characters."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import projections

ROOT = Path(projections.__file__).parent
MODULES = sorted(
    path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] in {"cli", "sandbox", "logs.py"}
)
DIRECTLY = {"print", "typer.echo", "typer.secho", "Console", "rich.print", "sys.stdout.write", "sys.stderr.write"}
ALLOWED = {
    ("cli/shared/console.py", "Console"),
    ("cli/shared/output.py", "sys.stdout.write"),
    ("cli/shared/output.py", "sys.stderr.write"),
    ("cli/app.py", "typer.echo"),  # a help text, which has several lines
    ("logs.py", "sys.stderr.write"),
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_bypasses_the_output_module(path: Path) -> None:
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    written = {(path.relative_to(ROOT).as_posix(), call) for call in calls & DIRECTLY}
    assert written <= ALLOWED, "use cli/shared/output.py or cli/shared/console.py"
