"""Fixtures that start commands, by a fork server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.acceptance.command import INSTALLED, Commands
from tests.acceptance.fork_client import ForkServer, running_fork_server


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer | None]:
    """The process that forks commands; None if the command isn't installed: then each starts an interpreter."""
    if not INSTALLED.exists():
        yield None
        return
    with running_fork_server(INSTALLED) as server:
        yield server


@pytest.fixture
async def commands(tmp_path: Path, fork_server: ForkServer | None) -> AsyncIterator[Commands]:
    """Starts commands; they are killed at the end of the test."""
    folder = tmp_path / "work"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        yield Commands(folder, stack, fork_server)
