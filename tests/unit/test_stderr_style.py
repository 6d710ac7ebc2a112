"""Commands that run for long write JSON to stderr where it is no terminal; options and variables change that."""

from __future__ import annotations

import pytest

from projections.cli.shared.json_documents import JsonDocuments
from projections.stderr_style import LONG_RUNNING, writes_json_to_stderr
from tools.json_tables import documented_commands

TO_JSON = {"PROJECTIONS_LOG_FORMAT": "json"}
TO_TEXT = {"PROJECTIONS_LOG_FORMAT": "text"}


@pytest.mark.parametrize("command", LONG_RUNNING)
def test_long_running_commands_write_json_unless_on_a_terminal(command: str) -> None:
    for arguments in ([command], ["--log-level", "info", "-v", command], [command, "--config=status", "status"]):
        assert writes_json_to_stderr(arguments, {}, is_terminal=False)
        assert not writes_json_to_stderr(arguments, {}, is_terminal=True)


@pytest.mark.parametrize(
    ("arguments", "environment", "on_a_terminal", "elsewhere"),
    [
        (["status"], {}, False, False),
        (["--wait-for-database", "run", "status"], {}, False, False),
        ([], {}, False, False),
        (["status"], TO_JSON, True, True),
        (["run"], TO_TEXT, False, False),
        (["run"], {"PROJECTIONS_LOG_FORMAT": "auto"}, False, True),
        (["run", "--log-format", "json"], TO_TEXT, True, True),
        (["run", "--log-format=json", "--log-format", "text"], TO_JSON, False, False),
        (["--log-format", "auto", "run"], TO_TEXT, False, True),
        (["run", "--log-format"], {}, False, True),
    ],
)
def test_the_option_decides_and_then_the_variable(
    arguments: list[str],
    environment: dict[str, str],
    on_a_terminal: bool,
    elsewhere: bool,
) -> None:
    assert writes_json_to_stderr(arguments, environment, is_terminal=True) is on_a_terminal
    assert writes_json_to_stderr(arguments, environment, is_terminal=False) is elsewhere


def test_every_command_that_writes_a_log_is_long_running() -> None:
    with_log = [
        command.words[0]
        for command in documented_commands()
        if not isinstance(command.documents, JsonDocuments) and "log" in str(command.documents)
    ]
    assert sorted(with_log) == sorted(LONG_RUNNING)
