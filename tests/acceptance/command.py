"""The command as a process of its own: started in a clean environment, read line by line, given signals.

Most processes are children of a fork server, which saves the start of Python. The installed program itself is started
where a test asks for it (``commands.installed``), where the interpreter reads a variable when it starts, and for each
command in ``test_installed_command.py``, which compares the two.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tests.acceptance.forking import ForkServer, Process

INSTALLED = Path(sys.executable).parent / "projections"
COMMAND = [str(INSTALLED)] if INSTALLED.exists() else [sys.executable, "-m", "projections"]
LONGEST_LINE = 2**22
GIVE_UP = 40.0
"""Seconds after which what does not come about fails the test."""

QUICK = {
    "PROJECTIONS_OVERLAP": "0.5",
    "PROJECTIONS_SETTLE": "0.05",
    "PROJECTIONS_BACKOFF_FIRST": "0.02",
    "PROJECTIONS_BACKOFF_CAP": "0.2",
    "PROJECTIONS_NORMAL_END_CAP": "0.2",
    "PROJECTIONS_DATABASE_BACKOFF_CAP": "0.1",
    "PROJECTIONS_STANDBY": "0.05",
}
"""Waits that suit a test."""


class Ended(NamedTuple):
    """How a process ended: its exit code, or the negative number of a signal, and all that it said."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything, for messages of failed tests."""
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    @property
    def sentence(self) -> str:
        """What stands on stderr, when that is one line and stdout is empty."""
        assert self.out == "", self.said
        lines = self.err.splitlines()
        assert len(lines) == 1, self.said
        return lines[0]


class Running:
    """A process whose output is collected as it comes."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._out: list[str] = []
        self._changed = asyncio.Condition()
        self._open = 2
        self._reading = [
            asyncio.create_task(self._read(process.stdout, self._out)),
            asyncio.create_task(self._read(process.stderr, self.lines)),
        ]

    @property
    def pid(self) -> int:
        return self.process.pid

    async def says(self, *words: str) -> str:
        """Wait for a line on stderr that has all these words."""
        return await self._line(self.lines, words)

    async def prints(self, *words: str) -> str:
        """Wait for a line on stdout that has all these words."""
        return await self._line(self._out, words)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, within: float = GIVE_UP) -> Ended:
        """Wait for its end."""
        try:
            async with asyncio.timeout(within):
                code = await self.process.wait()
                await asyncio.gather(*self._reading)
        except TimeoutError:
            raise AssertionError(f"it did not end within {within:g} s, and said:\n" + "\n".join(self.lines)) from None
        return Ended(code, "".join(f"{line}\n" for line in self._out), "".join(f"{line}\n" for line in self.lines))

    async def kill(self) -> Ended:
        """End it with SIGKILL, unless it is over, and wait until it is gone."""
        if self.process.returncode is None:
            self.process.kill()
        return await self.ended()

    async def _line(self, lines: list[str], words: Iterable[str]) -> str:
        def found() -> str | None:
            return next((line for line in lines if all(word in line for word in words)), None)

        async with self._changed:
            try:
                async with asyncio.timeout(GIVE_UP):
                    await self._changed.wait_for(lambda: found() or not self._open)
            except TimeoutError:
                pass
        line = found()
        assert line is not None, f"it never said {words}, but:\n" + "\n".join(self.lines)
        return line

    async def _read(self, stream: asyncio.StreamReader | None, lines: list[str]) -> None:
        assert stream is not None
        async for line in stream:
            async with self._changed:
                lines.append(line.decode(errors="replace").removesuffix("\n"))
                self._changed.notify_all()
        async with self._changed:
            self._open -= 1
            self._changed.notify_all()


@dataclass
class Commands:
    """Starts commands in a folder of the test's own; what still runs at its end is killed.

    Attributes:
        folder: the working folder and the home of the commands.
        stack: ends them.
        fork_server: forks them; without one, the installed program is started.

    """

    folder: Path
    stack: AsyncExitStack
    fork_server: ForkServer | None = None

    @property
    def installed(self) -> Commands:
        """The same, but without the fork server."""
        return replace(self, fork_server=None)

    async def start(self, *arguments: str, **variables: str) -> Running:
        """Start a command; nothing of this process's environment but PATH reaches it."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **variables}
        process: Process
        if self.fork_server is None or concerns_the_interpreter(variables):
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                *arguments,
                env=environment,
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LONGEST_LINE,
            )
        else:
            process = await self.fork_server.start(arguments, environment, self.folder, limit=LONGEST_LINE)
        running = Running(process)
        self.stack.push_async_callback(running.kill)
        return running

    async def run(self, *arguments: str, **variables: str) -> Ended:
        """Run a command to its end."""
        return await (await self.start(*arguments, **variables)).ended()


def concerns_the_interpreter(variables: Mapping[str, str]) -> bool:
    """Say whether Python or gRPC's library reads one of these variables before a fork could change it."""
    for name, value in variables.items():
        if name == "PYTHONPATH":
            if any((Path(folder) / "sitecustomize.py").exists() for folder in value.split(os.pathsep)):
                return True
        elif name.startswith(("PYTHON", "GRPC_", "LC_", "LANG", "LD_")):
            return True
    return False
