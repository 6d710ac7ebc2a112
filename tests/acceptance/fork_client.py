"""Starts commands through ``fork_server.py``; a child has the interface of asyncio's subprocesses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from tests.fix_statements import recorder
from tests.statements import VARIABLE
from tests.store import GIVE_UP

SCRIPT = Path(__file__).with_name("fork_server.py")


class Process(Protocol):
    """The interface that tests use of a process, started by asyncio or by the fork server."""

    stdout: asyncio.StreamReader | None
    stderr: asyncio.StreamReader | None

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int: ...

    def send_signal(self, signal: int, /) -> None: ...

    def kill(self) -> None: ...


class ForkedProcess:
    """A child of the fork server.

    Args:
        pid: its process id.
        stdout: its standard output.
        stderr: its standard error.
        report: the stream on which the fork server writes the exit code.

    """

    def __init__(
        self, pid: int, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader, report: asyncio.StreamReader
    ) -> None:
        self.pid = pid
        self.stdout: asyncio.StreamReader | None = stdout
        self.stderr: asyncio.StreamReader | None = stderr
        self.returncode: int | None = None
        self._ended = asyncio.create_task(self._read_exit_code(report))

    async def wait(self) -> int:
        """Wait for its end; returns its exit code, or minus the number of the signal that ended it."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int, /) -> None:
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        self.send_signal(signal.SIGKILL)

    async def _read_exit_code(self, report: asyncio.StreamReader) -> int:
        line = await report.read()
        assert line, "the fork server ended"
        self.returncode = int(line)
        return self.returncode


class ForkServer:
    """The client of the fork server.

    Args:
        requests: our end of its socket.

    """

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests

    async def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, *, limit: int
    ) -> ForkedProcess:
        """Start a command.

        Args:
            arguments: the command's arguments.
            environment: its whole environment.
            folder: its working folder.
            limit: the length of the longest line of its output, in bytes.

        """
        request = {
            "arguments": [*arguments],
            "environment": {**environment},
            "folder": str(folder),
            "statements": str(recorder.file) if recorder.file else None,
        }
        with ExitStack() as descriptors:
            stdin = os.open(os.devnull, os.O_RDONLY)
            descriptors.callback(os.close, stdin)
            pipes = [os.pipe() for _ in ("stdout", "stderr", "report")]
            for _, write_end in pipes:
                descriptors.callback(os.close, write_end)
            stdout, stderr, report = [await _reader(read_end, limit) for read_end, _ in pipes]
            socket.send_fds(self._requests, [json.dumps(request).encode()], [stdin, *(end for _, end in pipes)])
        line = await report.readline()
        assert line, "the fork server ended"
        return ForkedProcess(int(line), stdout, stderr, report)


@contextmanager
def running_fork_server(program: Path) -> Iterator[ForkServer]:
    """Run a fork server of an installed program; its children are killed at the end."""
    own_end, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    recording = {name: os.environ[name] for name in (VARIABLE,) if name in os.environ}
    with own_end:
        with server_end:
            process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(server_end.fileno()), str(program)],
                env={"PATH": os.environ["PATH"], "GRPC_VERBOSITY": "NONE", **recording},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[server_end.fileno()],
                start_new_session=True,
            )
        try:
            yield ForkServer(own_end)
        finally:
            own_end.close()
            process.wait(GIVE_UP)


async def _reader(descriptor: int, limit: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader
