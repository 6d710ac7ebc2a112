"""A process that has loaded the whole command, and forks a child for each command that a test starts.

Starting Python and loading the command takes about a second of CPU time, a fork a few milliseconds. The child is set up
like a new process: its own arguments, environment, folder, standard streams, process group and default signal handlers.
What each process makes once, the built-in folds and the parsers of arguments, is made before the fork. The child runs
``projections.cli.main``, waits for its threads, flushes its output, and ends with the command's exit code.

Invariants. This process never starts a thread, an event loop or gRPC, so a fork is safe; it checks its threads before
each fork. The command reads its environment after the fork; PYTHONIOENCODING holds for the streams that the child gets.
What else the interpreter reads when it starts (``PYTHON…``, locale) can't be changed after the fork: commands with such
variables start an interpreter, see ``command.py``.

Run as a script: ``python fork_server.py SOCKET PROGRAM``, a descriptor of a SOCK_SEQPACKET socket and the path of the
command. A request is one JSON message with four descriptors: standard input, output and error of the child, and a pipe
to which the server writes the child's pid at once, and its exit code when it ends.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib
import importlib.metadata
import io
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer.main

import eventstore
import projections
from eventstore.postgres.session_settings import pin
from projections.cli import lazy_commands, main
from projections.cli.app import app
from projections.folding.window_fold import build_fold
from projections.inspecting.group_events import TEMPORARY
from projections.migrating.metadata import READ_MODELS
from projections.migrating.revision_files import read_text
from projections.migrating.schema_drift import _FUNCTIONS
from projections.projection import READ_MODEL_SCHEMA
from projections.rebuilding.fingerprint import compute_fingerprint
from projections.rebuilding.shadow_tables import SHADOW_SCHEMA
from projections.registry import find_projections
from projections.running.fold_function import FoldFunction

if TYPE_CHECKING:
    from tests.statements import Recorder

MAX_REQUEST_BYTES = 2**17
NOT_LOADED = (
    "eventstore.contracts._generated",
    "projections.testing",
    "projections.__main__",
    "projections._migrations",
)
"""Modules that other modules load, or that no command needs."""
LAZILY_LOADED = (
    "alembic.command",
    "encodings.idna",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.ext.asyncio",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.h11_impl",
)
"""Modules that libraries load only on first use."""

MADV_COLLAPSE = 25
HUGE_PAGE = 2**21

NEW_OBJECTS = 20_000
"""A child's garbage collector runs when so many more objects exist than before; few commands make as many."""


class ChildStarts(BaseException):
    """Raised in a child, to leave the server's loop and run the command."""


def load_everything() -> None:
    """Load all modules that any command needs."""
    for package in (eventstore, projections):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(NOT_LOADED):
                importlib.import_module(module.name)
    for name in LAZILY_LOADED:
        importlib.import_module(name)


def compile_folds() -> None:
    """Compile what a process compiles once for each projection, or session: it takes longer than most commands."""
    pin({})
    for projection in [read_model() for read_model in READ_MODELS]:
        for schemas in (None, {READ_MODEL_SCHEMA: SHADOW_SCHEMA}, {READ_MODEL_SCHEMA: TEMPORARY}):
            build_fold(projection, schemas)
        compute_fingerprint(projection, [])
        FoldFunction(projection)
    for revision, name in _FUNCTIONS.values():
        read_text(revision, name)


def build_commands() -> None:
    """Build the parsers of all commands, which are the same in each process, and remember them."""
    for module in (typer.main, lazy_commands):
        module.get_command = functools.cache(module.get_command)  # type: ignore[attr-defined]
    _build_parser(typer.main.get_command(app), None)


def _build_parser(command: Any, parent: Any) -> None:  # noqa: ANN401 - private classes of Typer's
    # The parent decides how the option for help is named.
    context = command.context_class(command, info_name=command.name, parent=parent, **command.context_settings)
    for parameter in command.get_params(context):
        parameter.get_runtime_param()
    for each in getattr(command, "commands", {}).values():
        _build_parser(each, context)


class RememberedDistribution(importlib.metadata.PathDistribution):
    """An installed package whose files are read once: packages are installed before the tests start."""

    @functools.cached_property
    def _normalized_name(self) -> str:
        return super()._normalized_name  # type: ignore[misc, no-any-return]

    @functools.cached_property
    def entry_points(self) -> importlib.metadata.EntryPoints:
        return super().entry_points


def remember_packages() -> None:
    """Read what the installed packages offer; a child then reads only what is in folders of its own."""
    importlib.metadata.PathDistribution = functools.cache(RememberedDistribution)  # type: ignore[assignment, misc]
    find_projections()


def use_huge_pages() -> None:
    """Move this process's memory into huge pages: a fork copies an entry for each page, and its end frees each.

    Where the system can't do that, forks take longer.
    """
    if not sys.platform.startswith("linux"):
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, _, _, file_number, *name = line.split()
        if permissions.startswith("rw") and file_number == "0" and name in ([], ["[heap]"]):
            first, end = (int(address, 16) for address in addresses.split("-"))
            first += -first % HUGE_PAGE
            end -= end % HUGE_PAGE
            if first < end:
                madvise(first, end - first, MADV_COLLAPSE)


def make_recorder() -> Recorder | None:
    """Return a recorder of the children's SQL statements, if this test run records them."""
    if "TESTS_RECORD_STATEMENTS" not in os.environ:
        return None
    root = str(Path(__file__).resolve().parents[2])
    sys.path.insert(0, root)
    from tests.statements import Recorder  # noqa: PLC0415 - only needed for recording

    sys.path.remove(root)
    recorder = Recorder()
    recorder.install()
    return recorder


class Server:
    """The loop of the parent process."""

    def __init__(self, requests: socket.socket, program: str) -> None:
        self._requests = requests
        self._program = program
        self._recorder = make_recorder()
        self._reports: dict[int, int] = {}
        # A signal that arrives wakes the selector.
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector = selectors.DefaultSelector()
        for each in (self._requests, self._woken):
            self._selector.register(each, selectors.EVENT_READ)

    def serve(self) -> None:
        """Answer requests until the tests close their end; then kill the children that still run."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    self._woken.recv(4096)
                    self._report_ended()
                elif not self._answer():
                    for pid in self._reports:
                        os.kill(pid, signal.SIGKILL)
                    return

    def _answer(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._requests, MAX_REQUEST_BYTES, 4)
        if not message:
            return False
        refuse_threads()
        *streams, report = descriptors
        pid = os.fork()
        if pid == 0:
            self._leave(report)
            request = json.loads(message)
            if self._recorder is not None and request["statements"] is not None:
                self._recorder.file = Path(request["statements"])
            set_up_child(request, streams, self._program)
        self._reports[pid] = report
        _write(report, pid)
        for stream in streams:
            os.close(stream)
        return True

    def _report_ended(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                report = self._reports.pop(pid)
                _write(report, os.waitstatus_to_exitcode(status))
                os.close(report)

    def _leave(self, report: int) -> None:
        """Close, in a child, everything that belongs to the parent."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for each in (self._requests, self._woken, self._wake):
            each.close()
        for other in (report, *self._reports.values()):
            os.close(other)


def _write(report: int, number: int) -> None:
    with suppress(BrokenPipeError):  # the test has ended
        os.write(report, f"{number}\n".encode())


def refuse_threads() -> None:
    """Exit if this process has more than one thread: a fork would not be safe."""
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and (threads := len(list(tasks.iterdir()))) != 1:
        sys.exit(f"the fork server runs {threads} threads")


def set_up_child(request: Mapping[str, Any], streams: list[int], program: str) -> NoReturn:
    """Set up a child like a new process."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["folder"])
    sys.argv = [program, *request["arguments"]]
    path = request["environment"].get("PYTHONPATH", "")
    sys.path[:1] = [str(Path(program).parent), *(part for part in path.split(os.pathsep) if part)]
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        set_stream(name, number)
    raise ChildStarts


def set_stream(name: str, number: int) -> None:
    """Replace a standard stream by one on the child's descriptor, made as the interpreter makes it."""
    former: TextIO = getattr(sys, name)
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    errors = errors or ("strict" if encoding else former.errors or "strict")
    raw = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
    stream = io.TextIOWrapper(
        io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw),
        encoding=encoding or former.encoding,
        errors="backslashreplace" if number == 2 else errors,
        newline="\n",
        line_buffering=number == 2 or raw.isatty(),
    )
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def serve_or_run_command() -> None:
    """Serve until the tests end, or, in a child, run the command."""
    descriptor, program = sys.argv[1:]
    load_everything()
    compile_folds()
    build_commands()
    remember_packages()
    gc.collect()
    gc.freeze()  # so that children share these objects' memory
    use_huge_pages()
    gc.set_threshold(NEW_OBJECTS)
    try:
        Server(socket.socket(fileno=int(descriptor)), program).serve()
    except ChildStarts:
        pass
    else:
        return
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            end_quickly(end.code or 0)
        raise
    end_quickly(0)


def end_quickly(code: int) -> None:
    """Do what an interpreter does at its end, except freeing all objects, which takes as long as the rest.

    If the output can't be written, this returns: the interpreter then ends normally and reports the error.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code & 0xFF)


if __name__ == "__main__":
    serve_or_run_command()
