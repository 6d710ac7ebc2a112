"""Starts and stops a server on a complete cluster; the caller holds the lock of its home."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from eventstore.errors import EmbeddedError
from projections.sandbox.embedded import processes
from projections.sandbox.embedded.cluster import server_command, write_settings
from projections.sandbox.embedded.folders import Place
from projections.sandbox.embedded.os_account import Account
from projections.sandbox.embedded.state_file import SavedServer, save_server
from projections.sandbox.embedded.timeouts import EmbeddedTimeouts

HOST = "127.0.0.1"
StopMode = Literal["smart", "fast", "immediate"]
_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_ERROR_LINE = r"(FATAL|PANIC): |LOG:  (invalid|could not|unrecognized)"
_AFTER_KILL_SECONDS = 5.0  # a killed process ends immediately, unless the machine is slow
_ATTEMPTS = 5  # another process may take the port between our check and the server's start


def start(
    place: Place,
    state: SavedServer,
    account: Account,
    binaries: Path,
    *,
    settings: Mapping[str, str],
    timeouts: EmbeddedTimeouts,
) -> None:
    """Start the server, or wait until the one that a killed process started is ready.

    The port of the last start is kept when it is free.

    Raises:
        EmbeddedError: it does not start in time.

    """
    for _ in range(_ATTEMPTS):
        clear_leftovers(place, state, timeouts=timeouts)
        server = processes.find(place.data, state.name)
        if server is not None:
            pid = server.pid
        else:
            state = replace(state, port=_free_port(state.port))
            save_server(place.home, state)
            write_settings(place, account, port=state.port or 0, settings=settings)
            command = server_command(place, state, binaries)
            pid = processes.launch(command, account, lock=place.running_lock, output=place.output)
        if _becomes_ready(place, state, pid, timeouts=timeouts):
            return
        if processes.find(place.data, state.name) is None and _is_free(state.port):
            break
    raise EmbeddedError(f"the embedded PostgreSQL does not start: {_last_log_errors(place)}")


def stop(place: Place, state: SavedServer, mode: StopMode, *, timeouts: EmbeddedTimeouts) -> None:
    """Stop the server if it runs, and wait until its last process has ended.

    Raises:
        EmbeddedError: it did not stop in time.

    """
    server = processes.find(place.data, state.name)
    if server is None:
        return
    with suppress(ProcessLookupError):
        os.kill(server.pid, _SIGNALS[mode])
    deadline = time.monotonic() + timeouts.stop
    while processes.find(place.data, state.name) is not None or processes.any_alive(place.running_lock):
        if time.monotonic() >= deadline:
            raise EmbeddedError(
                f"the embedded PostgreSQL (process {server.pid}) did not stop within {timeouts.stop:g} s"
            )
        time.sleep(timeouts.poll)


def clear_leftovers(place: Place, state: SavedServer, *, timeouts: EmbeddedTimeouts) -> None:
    """End the remaining processes of a killed server and remove its postmaster.pid; a running server is left alone.

    Raises:
        EmbeddedError: a process that we can't see still uses the data.

    """
    if _all_gone(place, state, timeouts=timeouts, within=timeouts.leftovers):
        # Another process may have that number by now, and Postgres would take it for a server.
        (place.data / "postmaster.pid").unlink(missing_ok=True)
        return
    if processes.find(place.data, state.name) is not None:
        return
    for pid in processes.leftovers(place.data, state.name):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if _all_gone(place, state, timeouts=timeouts, within=max(timeouts.leftovers, _AFTER_KILL_SECONDS)):
        (place.data / "postmaster.pid").unlink(missing_ok=True)
    elif processes.find(place.data, state.name) is None:
        raise EmbeddedError(f"processes of another server or container still use {place.data}")


def _all_gone(place: Place, state: SavedServer, *, timeouts: EmbeddedTimeouts, within: float) -> bool:
    """Wait until all processes of a server without a postmaster end; False if they don't, or a postmaster appears."""
    deadline = time.monotonic() + within
    while processes.find(place.data, state.name) is None:
        if not processes.any_alive(place.running_lock):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(timeouts.poll)
    return False


def _becomes_ready(place: Place, state: SavedServer, pid: int, *, timeouts: EmbeddedTimeouts) -> bool:
    deadline = time.monotonic() + timeouts.start
    while time.monotonic() < deadline:
        server = processes.find(place.data, state.name)
        if server is not None and server.ready:
            return True
        if server is None and not processes.is_alive(pid):
            return False
        time.sleep(timeouts.poll)
    raise EmbeddedError(
        f"the embedded PostgreSQL is still starting after {timeouts.start:g} s; see {place.log}, or try again"
    )


def _last_log_errors(place: Place) -> str:
    """Return the last two errors of a start: a FATAL line often only sums up the LOG line before it.

    The log has those of earlier starts too, so what the server wrote before its log began counts first.
    """
    logs = sorted(place.log.glob("*.log"), key=lambda path: path.lstat().st_mtime)
    for path in [place.output, *logs[-1:]]:
        with suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()
            errors = [re.split(r"(?:LOG|FATAL|PANIC): +", line)[-1] for line in lines if re.search(_ERROR_LINE, line)]
            if errors:
                return "; ".join(errors[-2:])
    return f"see {place.log} and {place.output}"


def _free_port(last: int | None) -> int:
    if last is not None and _is_free(last):
        return last
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int | None) -> bool:
    if port is None:
        return True
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Postgres does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
