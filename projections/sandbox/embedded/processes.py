"""The embedded server's processes: started so that they outlive us, and recognised without trusting a process number.

A postmaster is ours if its command line has our random cluster name and its working directory is our data folder: after
a SIGKILL the number in ``postmaster.pid`` may belong to any process. Every process of a server also inherits a lock on
one file, so while that file is locked, some process of the server is running.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eventstore.errors import EmbeddedError
from projections.sandbox.embedded.os_account import Account

CLEAN_ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
_PROC = Path("/proc")
_READY = ("ready", "standby")
_ENDED = (b"Z", b"X")


@dataclass(frozen=True)
class Postmaster:
    """A running server.

    Attributes:
        pid: its process number.
        port: its TCP port; None while it has none yet.
        ready: whether it accepts connections.

    """

    pid: int
    port: int | None
    ready: bool


def find(data: Path, name: str) -> Postmaster | None:
    """Return the server that runs on a data folder, or None."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    if not is_postmaster(pid, data, name):
        return None
    port = int(lines[3]) if len(lines) > 3 and lines[3].strip().isdigit() else None
    return Postmaster(pid, port, ready=port is not None and len(lines) > 7 and lines[7].strip() in _READY)


def is_postmaster(pid: int, data: Path, name: str) -> bool:
    """Tell whether a process number belongs to the server of that name in that folder."""
    if not (_PROC / "self").exists():
        return is_alive(pid)
    try:
        command = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"cluster_name={name}".encode() in command and _works_in(pid, data)


def is_alive(pid: int) -> bool:
    """Tell whether a process is running; a zombie is not."""
    try:
        os.kill(pid, 0)
        # Not by its command line: that of a process which is executing another program is empty for a moment.
        return not (_PROC / "self").exists() or _state(pid) not in _ENDED
    except PermissionError:
        return True
    except OSError:
        return False


def _state(pid: int) -> bytes:
    """Return the letter by which Linux shows what a process does; its name before may contain anything."""
    return (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[0]


def leftovers(data: Path, name: str) -> list[int]:
    """Return the process numbers of a server's running child processes, without its postmaster."""
    title = f"postgres: {name}: ".encode()
    found = []
    for entry in _PROC.glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(title) and _works_in(int(entry.name), data):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def any_alive(lock: Path) -> bool:
    """Tell whether any process of the server holds its lock."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two processes that check at the same time don't take each other for a server.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def run_program(command: Sequence[str], account: Account, *, timeout: float, keep: int, stdin: str = "") -> str:
    """Run one of PostgreSQL's commands to its end; if interrupted, kill the command and its children.

    Args:
        command: the command and its arguments.
        account: the user to run it as.
        timeout: seconds after which it is killed.
        keep: a locked descriptor that it inherits: if we are killed, the next process waits until it ends.
        stdin: its standard input.

    Returns:
        Its output.

    Raises:
        EmbeddedError: it failed, or took too long.

    """
    what = Path(command[0]).name
    with _spawn(command, account, keep, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        try:
            written, _ = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise EmbeddedError(f"PostgreSQL's {what} took over {timeout:g} s") from None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        last = written.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise EmbeddedError(f"PostgreSQL's {what} failed: {last[0].strip()}")
    return written


_SPAWNS = 3
"""How often the shell is spawned if a signal ends it before it says anything: where gRPC has threads, what it does in a
fork can end the new process before the shell begins."""


def launch(command: Sequence[str], account: Account, *, lock: Path, output: Path) -> int:
    """Start a server that outlives us, and return its process number.

    A shell starts it in the background and exits, so it is not our child and never becomes a zombie of ours.

    Args:
        command: the server and its arguments.
        account: the user to run it as.
        lock: the file that all its processes keep locked.
        output: the file for its output before its own log begins.

    Raises:
        EmbeddedError: it can't be started, or processes of another server hold the lock.

    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
            shell = ["/bin/sh", "-c", '"$0" "$@" >&2 & echo $!', *command]
            for _ in range(_SPAWNS):
                with _spawn(shell, account, descriptor, stdout=subprocess.PIPE, stderr=file.fileno()) as process:
                    number, _ = process.communicate()
                if number or process.returncode >= 0:
                    break
        if process.returncode or not number:
            lines = output.read_text(errors="replace").strip().splitlines()[-1:]
            raise EmbeddedError(
                ": ".join(["PostgreSQL can't be started", *(lines or [f"exit code {process.returncode}"])])
            )
        return int(number)
    except BlockingIOError:
        raise EmbeddedError(f"processes of another machine or container use {lock.parent}") from None
    finally:
        os.close(descriptor)


def _spawn(
    command: Sequence[str],
    account: Account,
    keep: int,
    *,
    stdout: int,
    stdin: int = subprocess.DEVNULL,
    stderr: int = subprocess.STDOUT,
) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(  # noqa: S603 - PostgreSQL's own binaries, with arguments of ours
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            cwd="/",
            env=CLEAN_ENVIRONMENT,
            umask=0o077,
            pass_fds=(keep,),
            start_new_session=True,
            **account.subprocess_arguments,
        )
    except OSError as error:
        raise EmbeddedError(f"{command[0]} can't be run as user {account.uid}: {error.strerror}") from error


def _works_in(pid: int, data: Path) -> bool:
    try:
        return (_PROC / str(pid) / "cwd").readlink() == data
    except PermissionError:
        return True  # root without that permission, as in containers: the name must be enough
    except OSError:
        return False
