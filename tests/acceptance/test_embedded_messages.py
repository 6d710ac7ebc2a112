"""A command without a given database reports when it starts the embedded one, and how to stop it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator

import pytest

from projections.sandbox.embedded import EmbeddedPostgres
from tests.acceptance.command import Commands

STARTED = "started the embedded PostgreSQL; stop it with: projections db stop"
STOPPED = "stopped the embedded PostgreSQL; its data stays, and the next command starts it again"
STILL_RUNNING = "the embedded PostgreSQL is still running, as before; stop it with: projections db stop"


@pytest.fixture
def server(commands: Commands) -> Iterator[EmbeddedPostgres]:
    embedded = EmbeddedPostgres(commands.folder / ".projections")
    yield embedded
    embedded.destroy()


@pytest.mark.parametrize("arguments", [("status",), ("verify",), ("run", "--no-ingest"), ("export", "events", "log")])
async def test_nothing_is_started_in_a_folder_without_a_database(
    commands: Commands, arguments: tuple[str, ...]
) -> None:
    result = await commands.run(*arguments)
    assert result.code == 2
    assert (
        "has no embedded PostgreSQL yet: change to the folder that has one, or run projections migrate"
        in result.stderr_line
    )
    assert list(commands.folder.iterdir()) == []


async def test_a_command_that_starts_the_server_reports_it_and_how_to_stop_it(
    commands: Commands, server: EmbeddedPostgres
) -> None:
    migrated = await commands.run("migrate")
    assert migrated.code == 0, migrated.transcript
    assert STARTED in migrated.err
    assert server.status().state == "running"
    again = await commands.run("status")
    assert (again.code, again.err) == (0, ""), "the server is already running"
    assert (await commands.run("db", "stop")).err == "stopped\n"
    once_more = await commands.run("status")
    assert STARTED in once_more.err
    assert server.status().state == "running"


async def test_make_run_leaves_the_server_running_or_stopped_as_before(
    commands: Commands, server: EmbeddedPostgres
) -> None:
    assert STOPPED in await run_demo(commands)
    assert server.status().state == "stopped"
    server.start()
    log = await run_demo(commands)
    assert STILL_RUNNING in log
    assert "0 new events" in log
    assert server.status().state == "running"


async def run_demo(commands: Commands) -> str:
    """Run the demo without a given database; returns its stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "projections.sandbox.demo"),
        env={"PATH": os.environ["PATH"], "HOME": str(commands.folder)},
        cwd=commands.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert b"Try next" in out
    return err.decode()
