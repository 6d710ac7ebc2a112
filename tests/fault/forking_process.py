"""Starts a process that forks one child for each line it reads; used by tests that kill a child before each message."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def forking_process(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module that forks a child for each line on its standard input; at the end its input is closed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    except BaseException:
        process.kill()  # a failed test may leave a child that never ends
        raise
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def start_child(process: asyncio.subprocess.Process, line: str = "") -> int:
    """Write the line that starts one child; returns the child's pid."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n".encode())
    return await _read_number(process)


async def exit_code_of_child(process: asyncio.subprocess.Process) -> int:
    """Wait for the end of the child; returns its exit code, or minus the signal."""
    return await _read_number(process)


async def _read_number(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    return int(await process.stdout.readline())
