"""A service manager learns by its socket that a process is ready, alive and stopping."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from projections.cli.shared.service_manager import service_manager_notified, watchdog_interval
from tests.store import GIVE_UP

READY = "READY=1\nSTATUS=folding"
STOPPING = "STOPPING=1\nSTATUS=stopping"


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of a service manager, which is named in the environment."""
    abstract = request.param == "abstract"
    address = f"@projections-test-{os.urandom(8).hex()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{address[1:]}" if abstract else address)
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield listening


async def receive(manager: socket.socket) -> str:
    async with asyncio.timeout(GIVE_UP):
        return (await asyncio.get_running_loop().sock_recv(manager, 4096)).decode()


async def test_ready_is_sent_once_everything_has_begun_and_stopping_when_told_to_stop(manager: socket.socket) -> None:
    stop, begun = asyncio.Event(), []

    async def child() -> None:
        begun.append("child")

    async def parent() -> None:
        begun.append("parent")
        await asyncio.gather(asyncio.create_task(child()))

    async with service_manager_notified(stop, "folding"):
        working = asyncio.create_task(parent())
        assert await receive(manager) == READY
        assert begun == ["parent", "child"]
        await working
        stop.set()
        assert await receive(manager) == STOPPING
    assert await receive(manager) == STOPPING
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


async def test_an_error_is_not_hidden_and_stopping_is_sent(manager: socket.socket) -> None:
    async def fail() -> None:
        async with service_manager_notified(asyncio.Event(), "folding"):
            assert await receive(manager) == READY
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await receive(manager) == STOPPING


async def test_the_loop_sends_watchdog_also_while_it_stops(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    stop = asyncio.Event()
    async with service_manager_notified(stop, "folding"):
        messages = [await receive(manager) for _ in range(3)]
        assert set(messages) == {READY, "WATCHDOG=1"}
        stop.set()
        while await receive(manager) != STOPPING:
            pass
        assert await receive(manager) == "WATCHDOG=1"


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_is_sent_twice_as_often_as_it_must_be(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], seconds: float | None
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert watchdog_interval() == seconds


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/nowhere/notify"])
async def test_without_a_service_manager_the_work_goes_on(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    async with service_manager_notified(asyncio.Event(), "folding"):
        await asyncio.sleep(0)
