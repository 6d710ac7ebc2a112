"""Whoever gives no database is told of the embedded one: when it is started, that it stays, and how to stop it."""

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
STAYS = "the embedded PostgreSQL is still running, as before; stop it with: projections db stop"


@pytest.fixture
def server(commands: Commands) -> Iterator[EmbeddedPostgres]:
    one = EmbeddedPostgres(commands.folder / ".projections")
    yield one
    one.destroy()


@pytest.mark.parametrize("arguments", [("status",), ("verify",), ("run", "--no-ingest"), ("export", "events", "log")])
async def test_in_a_folder_without_a_database_nothing_is_started(
    commands: Commands, arguments: tuple[str, ...]
) -> None:
    ended = await commands.run(*arguments)
    assert ended.code == 2
    assert (
        "has no embedded PostgreSQL yet: change to the folder that has one, or run projections migrate"
        in ended.sentence
    )
    assert list(commands.folder.iterdir()) == []


async def test_a_command_that_starts_it_says_so_and_how_to_stop_it(
    commands: Commands, server: EmbeddedPostgres
) -> None:
    migrated = await commands.run("migrate")
    assert migrated.code == 0, migrated.said
    assert STARTED in migrated.err
    assert server.status().state == "running"
    again = await commands.run("status")
    assert (again.code, again.err) == (0, ""), "it ran already"
    assert (await commands.run("db", "stop")).err == "stopped\n"
    once_more = await commands.run("status")
    assert STARTED in once_more.err
    assert server.status().state == "running"


async def test_make_run_leaves_it_as_it_was(commands: Commands, server: EmbeddedPostgres) -> None:
    assert STOPPED in await demo(commands)
    assert server.status().state == "stopped"
    server.start()
    said = await demo(commands)
    assert STAYS in said
    assert "0 new events" in said
    assert server.status().state == "running"


async def demo(commands: Commands) -> str:
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
