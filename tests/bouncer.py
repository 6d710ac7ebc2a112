"""A real PgBouncer in front of a server, where the machine has one (Debian's package ``pgbouncer``)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit

import pytest

from projections.sandbox.embedded.os_account import caller, system_account
from tests.store import GIVE_UP


def program() -> str | None:
    """Return the path of the PgBouncer program, or None."""
    return shutil.which("pgbouncer", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))


needed = pytest.mark.skipif(program() is None, reason="pgbouncer isn't installed (apt-get install pgbouncer)")


@contextmanager
def bouncer(url: str, **settings: str | Path) -> Iterator[str]:
    """Run PgBouncer in front of a database; yields the URL that connects through it.

    If the tests run as root, it runs as the embedded server's user. A setting that is a path is copied to where it can
    be read.
    """
    found = program()
    assert found is not None
    parts = urlsplit(url)
    account = system_account() if os.geteuid() == 0 else caller()
    with TemporaryDirectory(prefix="pgbouncer-") as name:
        folder, port = Path(name), _free_port()
        for path in (value for value in settings.values() if isinstance(value, Path)):
            shutil.copy(path, folder)
        files = {key: str(folder / value.name) for key, value in settings.items() if isinstance(value, Path)}
        (folder / "users").write_text(f'"{parts.username}" "{parts.password}"\n')
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(folder / "users"),
            "logfile": str(folder / "log"),
            "ignore_startup_parameters": "extra_float_digits",
            **settings,
            **files,
        }
        config = f"[databases]\n* = host={parts.hostname} port={parts.port}\n[pgbouncer]\n"
        (folder / "ini").write_text(config + "".join(f"{key} = {value}\n" for key, value in lines.items()))
        if account.switched:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, account.uid, account.gid)
        process = subprocess.Popen(
            [found, "-q", str(folder / "ini")], **account.subprocess_arguments, stderr=subprocess.DEVNULL
        )
        try:
            _wait_until_it_listens(port, process, folder / "log")
            yield urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}"))
        finally:
            process.terminate()
            process.wait(GIVE_UP)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + GIVE_UP
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"pgbouncer did not start listening: {log.read_text() if log.exists() else 'no log'}")
