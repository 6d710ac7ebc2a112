"""A process that forks one child for each line it reads, for tests that kill a child before each of its messages.

The process writes 0 when it is ready. For each line it writes the child's pid at once, and the child's exit code, or
minus the signal, when the child ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def forking_process(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module that calls :func:`fork_for_each_line`, until it is ready; at the end its input is closed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert await _read_number(process) == 0
        yield process
    except BaseException:
        process.kill()  # a failed test may leave a child that never ends
        raise
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def fork_for_each_line(work: Callable[[str], Coroutine[Any, Any, object]]) -> None:
    """Fork a child for each line on standard input, which does the work for that line and ends.

    This process runs no thread and no event loop then, so a fork is safe. What it has loaded, compiled and cached
    before, no child does again.
    """
    gc.collect()
    gc.freeze()
    gc.disable()  # a child doesn't live long
    print(0, flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            asyncio.run(work(line.strip()))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


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
