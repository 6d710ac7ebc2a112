"""A signal ends any command with one sentence and the signal's exit code, from its first moment on: also while it
loads its modules, and in commands without work of their own to tidy up."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from tests import store
from tests.acceptance.command import Commands

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
# Stops the process when it loads a module or begins something, and lets the test go on when it is there.
POINT = """
import os, sys
def hook(event, args, done=[]):
    if done:
        return
    if event == "import" and args[0] == {point!r}:
        done.append(1)
        os.write(2, b"there\\n")
        import time
        while True:
            time.sleep(0.01)
sys.addaudithook(hook)
"""
LOOKING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'projections'"
    " AND query LIKE 'SELECT position FROM eventstore.events%%'"
)
LOADING = [
    "typer",
    "projections.cli.app",
    "structlog",
    "rich",
    "psycopg",
    "sqlalchemy",
    "grpc",
    "projections.running.worker",
]


def stop_at(folder: Path, point: str) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(POINT.format(point=point))
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("point", LOADING)
@pytest.mark.parametrize(("number", "code"), SIGNALS, ids=["SIGINT", "SIGTERM"])
async def test_while_a_command_begins(
    commands: Commands, database_url: str, tmp_path: Path, point: str, number: signal.Signals, code: int
) -> None:
    variables = {
        "DATABASE_URL": database_url,
        "PCS_EXTERNAL_API_URL": "http://localhost:1",
        "PROJECTIONS_TOKEN": "token-of-mine",
    }
    running = await commands.start("run", **variables, **stop_at(tmp_path, point))
    await running.says("there")
    running.send(number)
    ended = await running.ended()
    assert ended.code == code, ended.said
    assert ended.err.splitlines() == ["there", "projections: interrupted"]


@pytest.mark.parametrize("point", ["typer", "psycopg"])
async def test_with_json_it_is_said_in_json(commands: Commands, database_url: str, tmp_path: Path, point: str) -> None:
    variables = {"DATABASE_URL": database_url, **stop_at(tmp_path, point)}
    running = await commands.start("status", "--log-format", "json", **variables)
    await running.says("there")
    running.send(signal.SIGINT)
    ended = await running.ended()
    _, line = ended.err.splitlines()
    assert (ended.code, json.loads(line)["event"]) == (130, "projections: interrupted")


@pytest.mark.parametrize(("number", "code"), SIGNALS, ids=["SIGINT", "SIGTERM"])
async def test_while_it_waits_for_an_event(
    commands: Commands, database_url: str, conn: AsyncConnection, number: signal.Signals, code: int
) -> None:
    async def looks() -> bool:
        row = await (await conn.execute(LOOKING)).fetchone()
        return bool(row and row[0])

    running = await commands.start("wait", "--event-id", "01KE57A22WAXDSJX6FXBCFS5DG", DATABASE_URL=database_url)
    await store.wait_until(looks, "a command that waits")
    running.send(number)
    ended = await running.ended()
    assert (ended.code, ended.sentence) == (code, "projections: interrupted")
