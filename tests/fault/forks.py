"""Fork servers, as the tests that kill a process before each of its messages start them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from projections.projection import Projection

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def forking(module: str, projection: type[Projection], url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a process that forks one child of a test's work for each line it reads."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, projection.name, url),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def answer(process: asyncio.subprocess.Process) -> int:
    """Read the next number that it says: a child's pid, or how one ended."""
    assert process.stdout is not None
    return int(await process.stdout.readline())


async def started(process: asyncio.subprocess.Process, how: str = "") -> int:
    """Start one child, telling it how to work; returns its pid."""
    assert process.stdin is not None
    process.stdin.write(f"{how}\n".encode())
    return await answer(process)
