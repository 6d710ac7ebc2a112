"""Runs the command as a process: in a clean environment, with its output read line by line; tests can send signals.

Most processes are children of a fork server, which saves the start of Python. The installed program itself is started
where a test uses ``commands.installed``, where the interpreter reads one of the given variables when it starts, and for
each command in ``test_installed_command.py``, which compares the two.
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

from tests.acceptance.fork_client import ForkServer, Process
from tests.store import GIVE_UP

INSTALLED = Path(sys.executable).parent / "projections"
COMMAND = [str(INSTALLED)] if INSTALLED.exists() else [sys.executable, "-m", "projections"]
MAX_LINE_BYTES = 2**22

QUICK = {
    "PROJECTIONS_OVERLAP": "0.5",
    "PROJECTIONS_SETTLE": "0.05",
    "PROJECTIONS_BACKOFF_FIRST": "0.02",
    "PROJECTIONS_BACKOFF_CAP": "0.2",
    "PROJECTIONS_NORMAL_END_CAP": "0.2",
    "PROJECTIONS_DATABASE_BACKOFF_CAP": "0.1",
    "PROJECTIONS_STANDBY": "0.05",
}
"""Short timeouts and intervals, for tests."""

PATIENT = {
    "PROJECTIONS_DATABASE_CONNECT": "600",
    "PROJECTIONS_LEADER_TIMEOUT": "600",
    "PROJECTIONS_APPEND_LOCK": "600",
    "PROJECTIONS_LOCK": "600",
    "PROJECTIONS_IDLE_IN_TRANSACTION": "600",
}
"""Timeouts that are longer than a test waits for the end of a process: a process that waits for one fails the test."""


class CommandResult(NamedTuple):
    """The result of a process: its exit code, or minus the signal's number, and its whole output."""

    code: int
    out: str
    err: str

    @property
    def transcript(self) -> str:
        """The exit code and the whole output, for messages of failed assertions."""
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    @property
    def stderr_line(self) -> str:
        """The only line on stderr; fails unless stderr has exactly one line and stdout is empty."""
        assert self.out == "", self.transcript
        lines = self.err.splitlines()
        assert len(lines) == 1, self.transcript
        return lines[0]


class RunningCommand:
    """A running command; its output is collected while it runs."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.stderr_lines: list[str] = []
        self._stdout_lines: list[str] = []
        self._changed = asyncio.Condition()
        self._open = 2
        self._reading = [
            asyncio.create_task(self._read(process.stdout, self._stdout_lines)),
            asyncio.create_task(self._read(process.stderr, self.stderr_lines)),
        ]

    @property
    def pid(self) -> int:
        return self.process.pid

    async def wait_for_stderr(self, *words: str) -> str:
        """Wait for a line on stderr that contains all these words; returns the line."""
        return await self._line(self.stderr_lines, words)

    async def wait_for_stdout(self, *words: str) -> str:
        """Wait for a line on stdout that contains all these words; returns the line."""
        return await self._line(self._stdout_lines, words)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait(self) -> CommandResult:
        """Wait for its end; returns its result."""
        try:
            async with asyncio.timeout(GIVE_UP):
                code = await self.process.wait()
                await asyncio.gather(*self._reading)
        except TimeoutError:
            raise AssertionError(
                f"it did not end within {GIVE_UP:g} s; its stderr:\n" + "\n".join(self.stderr_lines)
            ) from None
        return CommandResult(
            code,
            "".join(f"{line}\n" for line in self._stdout_lines),
            "".join(f"{line}\n" for line in self.stderr_lines),
        )

    async def kill(self) -> CommandResult:
        """Send SIGKILL unless it has ended, and wait for its end; returns its result."""
        if self.process.returncode is None:
            self.process.kill()
        return await self.wait()

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
        assert line is not None, f"no line with {words}; its stderr:\n" + "\n".join(self.stderr_lines)
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
    """Starts commands in a folder of the test's own; those that still run at the end of the test are killed.

    Attributes:
        folder: the working folder and the home of the commands.
        stack: kills them at the end.
        fork_server: forks them; None starts a program instead.
        program: that program and its first arguments: the installed command.

    """

    folder: Path
    stack: AsyncExitStack
    fork_server: ForkServer | None = None
    program: tuple[str, ...] = tuple(COMMAND)

    @property
    def installed(self) -> Commands:
        """The same, but each command is started as the installed program."""
        return replace(self, fork_server=None)

    async def start(self, *arguments: str, **variables: str) -> RunningCommand:
        """Start a command; of this process's environment it gets PATH only. It logs text unless a variable differs."""
        base = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PROJECTIONS_LOG_FORMAT": "text"}
        environment = {**base, **variables}
        process: Process
        if self.fork_server is None or affects_interpreter_start(variables):
            process = await asyncio.create_subprocess_exec(
                *self.program,
                *arguments,
                env=environment,
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_LINE_BYTES,
            )
        else:
            process = await self.fork_server.start(arguments, environment, self.folder, limit=MAX_LINE_BYTES)
        running = RunningCommand(process)
        self.stack.push_async_callback(running.kill)
        return running

    async def run(self, *arguments: str, **variables: str) -> CommandResult:
        """Run a command to its end; returns its result."""
        return await (await self.start(*arguments, **variables)).wait()


def affects_interpreter_start(variables: Mapping[str, str]) -> bool:
    """Return whether Python or gRPC reads one of these variables at its start, before a fork could change it."""
    for name, value in variables.items():
        if name == "PYTHONPATH":
            if any((Path(folder) / "sitecustomize.py").exists() for folder in value.split(os.pathsep)):
                return True
        elif name.startswith(("PYTHON", "GRPC_", "LC_", "LANG", "LD_")) and name != "PYTHONIOENCODING":
            return True
    return False
