"""A PostgreSQL server for one test run: not durable, in memory if there is room, and removed at the end.

Its data need not survive a crash of the machine, so nothing is synced to disk; commits still survive a crash of the
server. If the tests run as root, the server runs as the system user that the embedded server uses.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql

from projections.sandbox.embedded.folders import SYSTEM_ROOT
from projections.sandbox.embedded.os_account import Account, caller, system_account
from tests.store import GIVE_UP

FOLDER_PREFIX = "projections-tests-"
MEMORY = Path("/dev/shm")  # noqa: S108 - we create a folder in it that nobody else can write to
ROOM = 4 * 2**30
"""Bytes that must be free, in the folder and in memory, to keep servers in memory."""
PORT_ATTEMPTS = 5
"""Attempts to start, because another process may take a free port before the server does."""
SUPERUSER = "postgres"

FAST: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    # Autovacuum would take locks and gather statistics at any moment.
    "autovacuum": "off",
}
"""Settings of every server that tests start, including embedded ones."""

_SETTINGS: Mapping[str, str] = {
    **FAST,
    # Each copy of a database makes a checkpoint, so little write-ahead log is needed; it uses memory here.
    "max_wal_size": "1GB",
    "shared_buffers": "64MB",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "fatal",
    "search_path": "public",
}
_HBA = "host all all 127.0.0.1/32 scram-sha-256\n"


class TemporaryServer:
    """A server in its own folder.

    Args:
        folder: contains its data and its log; it exists and belongs to the account.
        bin_dir: PostgreSQL's binaries, which the account can execute.
        account: the user that the server runs as.
        settings: server settings in addition to those of every temporary server.

    """

    def __init__(self, folder: Path, bin_dir: Path, account: Account, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._bin_dir = bin_dir
        self._account = account
        self._settings = {**_SETTINGS, **settings}
        self._password = secrets.token_hex(12)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._folder / "log"

    @property
    def superuser_url(self) -> str:
        """A superuser's URL of the maintenance database."""
        return f"postgresql://{SUPERUSER}:{self._password}@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Create the data folder, start the server and wait until it accepts connections."""
        self._make_cluster()
        self._run()
        # With the password that initdb stored, each connection takes 4,096 rounds of hashing.
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            set_password = sql.SQL("ALTER ROLE {} PASSWORD {}")
            verifier = sql.Literal(quick_verifier(self._password))
            connection.execute(set_password.format(sql.Identifier(SUPERUSER), verifier))

    def restart_as_standby(self) -> None:
        """Stop the server as a crash does, and start it as a standby that streams from nobody."""
        self.stop()
        signal_file = self._data / "standby.signal"
        signal_file.touch()
        if self._account.switched:
            os.chown(signal_file, self._account.uid, self._account.gid)
        self._run()

    def _run(self) -> None:
        for _ in range(PORT_ATTEMPTS):
            with socket.socket() as found:
                found.bind(("127.0.0.1", 0))
                self._port = found.getsockname()[1]
            options = [f"-c{name}={value}" for name, value in {**self._settings, "port": str(self._port)}.items()]
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [*as_account(self._account), str(self._bin_dir / "postgres"), "-D", str(self._data), *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # so that Ctrl+C ends the tests before the server
                )
            if self._answers():
                return
        raise AssertionError(f"the server in {self._folder} did not start: {self.log.read_text(errors='replace')}")

    def stop(self) -> None:
        """End the server without a checkpoint, because its data isn't needed any more."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(GIVE_UP)

    def _make_cluster(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(f"{self._password}\n")
        if self._account.switched:
            os.chown(password_file, self._account.uid, self._account.gid)
        initdb = [
            str(self._bin_dir / "initdb"),
            f"--pgdata={self._data}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"),
        ]
        done = subprocess.run(
            [*as_account(self._account), *initdb],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"initdb: exit code {done.returncode}: {done.stderr}"
        (self._data / "pg_hba.conf").write_text(_HBA)
        # The server does without these maps of catalogs. With them, each copy of a database has a fifth more files.
        for path in self._data.glob("base/*/*_*"):
            if path.name.endswith(("_fsm", "_vm")):
                path.unlink()

    def _answers(self) -> bool:
        """Wait until the server accepts connections; returns False if it ended."""
        assert self._process is not None
        deadline = time.monotonic() + GIVE_UP
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(psycopg.OperationalError), psycopg.connect(self.superuser_url):
                return True
            time.sleep(0.02)
        return False


@contextmanager
def temporary_server(bin_dir: Path, settings: Mapping[str, str] | None = None) -> Iterator[TemporaryServer]:
    """Run a server that is removed at the end of the block."""
    account = account_of_servers()
    with temporary_folder(fast_folder(), account) as folder:
        server = TemporaryServer(folder, bin_dir, account, settings or {})
        try:
            server.start()
            yield server
        finally:
            server.stop()


def account_of_servers() -> Account:
    """Return the user that servers run as, because PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return caller()
    SYSTEM_ROOT.mkdir(mode=0o755, exist_ok=True)
    return system_account()


def as_account(account: Account) -> list[str]:
    """Return the start of a command line that runs a command as another user.

    Python's own way to change the user forks, and a process with gRPC's threads sometimes crashes when it forks.
    """
    if not account.switched:
        return []
    become = f"os.setgroups([]); os.setgid({account.gid}); os.setuid({account.uid})"
    return [sys.executable, "-ISc", f"import os, sys; {become}; os.execv(sys.argv[1], sys.argv[1:])"]


def fast_folder() -> Path:
    """Return a folder in memory if the machine has room, else the folder for temporary files."""
    temporary = Path(tempfile.gettempdir())
    try:
        free = shutil.disk_usage(MEMORY).free
        meminfo = Path("/proc/meminfo").read_text()
    except OSError:
        return temporary
    lines = (line.split() for line in meminfo.splitlines())
    available = next((int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:"), 0)
    return MEMORY if min(free, available) >= ROOM and os.access(MEMORY, os.W_OK) else temporary


@contextmanager
def temporary_folder(parent: Path, account: Account) -> Iterator[Path]:
    """Yield a new folder for servers of an account; if this run is killed, the next one removes it."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
    (folder / "owner").write_text(str(os.getpid()))
    if account.switched:
        folder.chmod(0o711)
        os.chown(folder, account.uid, account.gid)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def dead_folders() -> list[Path]:
    """Return the folders of test runs that have ended without removing them."""
    found = []
    for parent in {Path(tempfile.gettempdir()), MEMORY}:
        for owner in parent.glob(f"{FOLDER_PREFIX}*/owner"):
            with suppress(PermissionError, FileNotFoundError, ValueError):
                try:
                    os.kill(int(owner.read_text()), 0)
                except ProcessLookupError:
                    found.append(owner.parent)
    return found


def servers_below(folder: Path) -> list[int]:
    """Return the process ids of running servers whose data is in this folder."""
    found = []
    for file in folder.glob("*/postmaster.pid"):
        with suppress(OSError, ValueError):
            pid = int(file.read_text().split()[0])
            if str(file.parent).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def quick_verifier(password: str) -> str:
    """Return a password's SCRAM verifier with one round of hashing, so that a login takes almost no CPU time."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored, server_key = hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (b64encode(part).decode() for part in (salt, stored, server_key))
    return f"SCRAM-SHA-256$1:{salt_text}${stored_text}:{server_text}"
