"""A process that follows one app, so that a test can freeze or kill it; its timeouts come from the environment.

Run as ``python -m tests.fault.follow_child DATABASE_URL ADDRESS``; it logs to standard output, and SIGTERM ends it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from eventstore.ingest.follow_apps import follow
from eventstore.waits import Waits
from tests.following import follower
from tests.store import GIVE_UP

ROOT = Path(__file__).resolve().parents[2]


class FollowChild:
    """The process, as the test uses it.

    Attributes:
        lines: what it has logged so far.

    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.lines: list[str] = []

    async def wait_for_line(self, words: str) -> None:
        """Read its log up to the next line with these words."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(GIVE_UP):
                async for line in self._process.stdout:
                    self.lines.append(line.decode())
                    if words in self.lines[-1]:
                        return
        except TimeoutError:
            pass
        raise AssertionError(f"never logged {words!r}: {''.join(self.lines)}")

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def wait(self) -> int:
        """Wait for its end; returns its exit code, or minus the signal."""
        assert self._process.stdout is not None
        async with asyncio.timeout(GIVE_UP):
            self.lines += [line.decode() async for line in self._process.stdout]
            return await self._process.wait()


@asynccontextmanager
async def follow_child(url: str, address: str, waits: Waits) -> AsyncIterator[FollowChild]:
    """Run the process; it is killed at the end of the block."""
    environment = {f"PROJECTIONS_{name.upper()}": str(value) for name, value in waits.model_dump().items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "tests.fault.follow_child", url, address),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield FollowChild(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def main() -> None:
    """Follow until SIGTERM."""
    url, address = sys.argv[1:]
    waits = Waits()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await follow([follower(url, address, waits=waits)], stop=stop, waits=waits)


if __name__ == "__main__":
    asyncio.run(main())
