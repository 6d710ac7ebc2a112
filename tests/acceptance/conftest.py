"""Fixtures: the command, and a look at what lies in the tables afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.acceptance.command import Commands


@pytest.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Commands]:
    """Starts commands; they are gone with the test."""
    folder = tmp_path / "work"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        yield Commands(folder, stack)
