"""Help reads well at any width, in a pipe and on a terminal: nothing is cut, and paragraphs fill their lines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from projections.cli.app import app
from projections.cli.lazy_commands import SUMMARIES, LazyCommands


def subcommands(command: object, *names: str) -> list[tuple[str, ...]]:
    """Yield a command and its subcommands, each by its words."""
    found = [names]
    if isinstance(command, TyperGroup):
        for name, one in command.commands.items():
            found += subcommands(one, *names, name)
    return found


@pytest.mark.parametrize(
    "command", subcommands(get_command(app)), ids=lambda command: " ".join(["projections", *command])
)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_reads_well(command: tuple[str, ...], columns: int) -> None:
    page = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": str(columns)}).stdout
    assert page.isascii()
    assert "..." not in page.replace("]...", "").replace("}...", "").replace("key...", ""), "a summary is cut"
    lines = page.splitlines()
    assert [line for line in lines if len(line) > columns] == []
    head = page.partition("\nOptions:")[0].partition("\nArguments:")[0].split("\n\n")[1:]
    for paragraph in head:
        first, *rest = paragraph.splitlines()
        for line in rest:
            assert len(first) + 1 + len(line.split()[0]) > 77, "a line break of the source is kept"
            first = line


def test_the_table_of_commands_has_the_first_sentence_of_each_help() -> None:
    commands = LazyCommands()
    assert {name: commands[name].get_short_help_str(200) for name in commands} == SUMMARIES


def test_garbage_is_collected_once_a_command_is_loaded() -> None:
    code = (
        "import gc; from projections.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(gc.isenabled(), gc.get_freeze_count() > 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code, "docs"], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "True True"


def test_help_version_and_completion_load_no_command_and_no_driver() -> None:
    code = (
        "import sys; from projections.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules, file=sys.stderr)"
    )
    completion = {"_PROJECTIONS_COMPLETE": "", "_PROJECTIONS_COMPLETE_WORD": "ver"}
    for option, variables in (("--help", {}), ("--version", {}), ("", completion)):
        environment = {**os.environ, **variables}
        command = [sys.executable, "-c", code, *([option] if option else [])]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert ended.stdout.startswith(("Usage", "projections", "verify\t"))
        loaded = {*ended.stderr.split()}
        heavy = {"psycopg", "sqlalchemy", "pydantic", "rich.table", "grpc", "structlog", "alembic", "asyncio"}
        assert loaded & heavy == set()
        assert {f"projections.cli.{name}" for name in SUMMARIES} & loaded == set()
        assert "projections.cli.app" in loaded
