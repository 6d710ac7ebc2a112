"""A signal ends any command with one sentence and the signal's exit code: also while it loads its modules, and in
commands that have nothing to clean up."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from tests import store
from tests.acceptance.command import Commands
from tests.fix_full_matrix import in_turns

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
# Blocks the process when it imports a module, after printing a line for the test.
BLOCK = """
import os, sys
def hook(event, args, done=[]):
    if done:
        return
    if event == "import" and args[0] == {module!r}:
        done.append(1)
        os.write(2, b"blocked\\n")
        import time
        while True:
            time.sleep(0.01)
sys.addaudithook(hook)
"""
WAITING_SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'projections'"
    " AND query LIKE 'SELECT position FROM eventstore.event%%'"
)
IMPORTED = [
    "typer",
    "projections.cli.app",
    "structlog",
    "rich",
    "psycopg",
    "sqlalchemy",
    "grpc",
    "projections.running.worker",
]
OTHER_SIGNAL = (
    "the other signal at this import, and this signal at the imports before and after it: until a command's work"
    " begins, projections.signals handles both in the same way, and differs in the exit code alone"
)
STARTS = in_turns([(module,) for module in IMPORTED], SIGNALS, OTHER_SIGNAL)


def block_at(folder: Path, module: str) -> dict[str, str]:
    """Return variables with which a process blocks when it imports a module."""
    (folder / "sitecustomize.py").write_text(BLOCK.format(module=module))
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize(("module", "number", "code"), STARTS, ids=lambda value: getattr(value, "name", None))
async def test_a_signal_while_a_command_starts(
    commands: Commands, database_url: str, tmp_path: Path, module: str, number: signal.Signals, code: int
) -> None:
    variables = {
        "DATABASE_URL": database_url,
        "PCS_EXTERNAL_API_URL": "http://localhost:1",
        "PROJECTIONS_TOKEN": "token-of-mine",
    }
    running = await commands.start("run", **variables, **block_at(tmp_path, module))
    await running.wait_for_stderr("blocked")
    running.send(number)
    result = await running.wait()
    assert result.code == code, result.transcript
    assert result.err.splitlines() == ["blocked", "projections: interrupted"]


@pytest.mark.parametrize("module", ["typer", "psycopg"])
async def test_the_message_is_json_with_log_format_json(
    commands: Commands, database_url: str, tmp_path: Path, module: str
) -> None:
    variables = {"DATABASE_URL": database_url, **block_at(tmp_path, module)}
    running = await commands.start("status", "--log-format", "json", **variables)
    await running.wait_for_stderr("blocked")
    running.send(signal.SIGINT)
    result = await running.wait()
    _, line = result.err.splitlines()
    found = json.loads(line)
    assert (result.code, found["event"], found["level"]) == (130, "projections: interrupted", "error")
    assert datetime.fromisoformat(found["timestamp"]).tzinfo is UTC


@pytest.mark.parametrize(("number", "code"), SIGNALS, ids=["SIGINT", "SIGTERM"])
async def test_a_signal_while_it_waits_for_an_event(
    commands: Commands, database_url: str, conn: AsyncConnection, number: signal.Signals, code: int
) -> None:
    async def waits() -> bool:
        return bool(await store.value(conn, WAITING_SESSIONS))

    running = await commands.start("wait", "--event-id", "01KE57A22WAXDSJX6FXBCFS5DG", DATABASE_URL=database_url)
    await store.wait_until(waits, "the command to wait")
    running.send(number)
    result = await running.wait()
    assert (result.code, result.stderr_line) == (code, "projections: interrupted")
