"""``run`` and ``ingest`` tell a service manager, over its socket, that they are ready, alive and stopping."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.acceptance.command import QUICK, Commands
from tests.scripted import scripted_server, stays_open
from tests.store import GIVE_UP


@pytest.fixture
def manager(commands: Commands) -> Iterator[socket.socket]:
    """The socket of a service manager, in the commands' folder."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(commands.folder / "notify"))
        listening.setblocking(False)
        yield listening


async def receive(manager: socket.socket) -> str:
    async with asyncio.timeout(GIVE_UP):
        return (await asyncio.get_running_loop().sock_recv(manager, 4096)).decode()


@pytest.mark.parametrize(
    ("command", "doing"),
    [("run", "following 1 app, folding "), ("ingest", "following 1 app")],
)
async def test_it_is_ready_once_it_works_then_alive_and_stopping_at_the_end(
    commands: Commands, manager: socket.socket, database_url: str, command: str, doing: str
) -> None:
    async with scripted_server(stays_open()) as upstream:
        variables = {
            **QUICK,
            "DATABASE_URL": database_url,
            "PCS_EXTERNAL_API_URL": upstream.address,
            "PROJECTIONS_TOKEN": "token-of-mine",
            "NOTIFY_SOCKET": str(commands.folder / "notify"),
            "WATCHDOG_USEC": "50000",
        }
        running = await commands.start(command, **variables)
        message = await receive(manager)
        while message == "WATCHDOG=1":
            message = await receive(manager)
        assert message.startswith(f"READY=1\nSTATUS={doing}")
        assert await receive(manager) == "WATCHDOG=1"
        running.send(signal.SIGTERM)
        while (message := await receive(manager)) == "WATCHDOG=1":
            pass
        assert message == "STOPPING=1\nSTATUS=stopping"
        result = await running.wait()
    assert result.code == 0, result.transcript
    assert "service manager" not in result.err


async def test_it_is_not_ready_on_a_database_that_is_not_migrated(
    commands: Commands, manager: socket.socket, empty_database_url: str
) -> None:
    variables = {"DATABASE_URL": empty_database_url, "NOTIFY_SOCKET": str(commands.folder / "notify")}
    result = await commands.run("run", "--no-ingest", **variables)
    assert result.code == 2
    assert "run projections migrate" in result.stderr_line
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
