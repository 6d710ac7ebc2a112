"""Servers for failover tests: a primary, standbys that stream from it, and base backups; each is a real server."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg

from projections.migrating.migrate import upgrade
from projections.sandbox.embedded.os_account import Account
from tests.servers import wheel_binaries
from tests.store import GIVE_UP, wait_until
from tests.temporary_server import account_of_servers, as_account, fast_folder, servers_below, temporary_folder

DATABASE = "projections"
SETTINGS = {
    # The tests crash servers, not the machine.
    "fsync": "off",
    "autovacuum": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "wal_keep_size": "512MB",
    "max_wal_senders": "8",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    # Asynchronous commits stay in memory, so that a crash loses them.
    "wal_writer_delay": "10s",
    "restart_after_crash": "off",
    "log_min_messages": "fatal",
}
HBA = "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n"
PORTS = 5
"""Attempts to start on a free port: another process may take the port first."""


class Server:
    """One server on one data folder.

    Attributes:
        data: its folder.
        port: its port on 127.0.0.1; 0 before the first start.

    """

    def __init__(self, binaries: Path, account: Account, data: Path) -> None:
        self.data = data
        self.port = 0
        self._binaries = binaries
        self._account = account
        self._process: asyncio.subprocess.Process | None = None

    @property
    def superuser_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{DATABASE}"

    async def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        for left in reversed(range(PORTS)):
            with socket.socket() as found:
                found.bind(("127.0.0.1", 0))
                self.port = found.getsockname()[1]
            options = [f"-c{name}={value}" for name, value in (SETTINGS | {"port": str(self.port)}).items()]
            self._process = await asyncio.create_subprocess_exec(
                *as_account(self._account),
                *(str(self._binaries / "postgres"), "-D", str(self.data), *options),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            await wait_until(self._accepts_or_ended, f"the server on {self.data}")
            if self._process.returncode is None:
                return
            assert left, f"the server on {self.data} does not start"

    async def stop(self, number: signal.Signals) -> None:
        """Stop it with a signal: SIGQUIT is a crash, SIGINT an orderly shutdown."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            async with asyncio.timeout(GIVE_UP):
                await self._process.wait()

    async def promote(self) -> None:
        """Make a standby the primary."""
        async with await psycopg.AsyncConnection.connect(self.superuser_url, autocommit=True) as conn:
            await conn.execute("SELECT pg_promote()")

    async def backup(self, data: Path, *, standby_of: int | None = None) -> Server:
        """Copy it while it runs; the copy is not started.

        Args:
            data: the copy's folder.
            standby_of: the port of the server that the copy streams from; None for a plain backup.

        """
        arguments = ["-D", str(data), "-X", "stream", "-c", "fast", "--no-sync"]
        await run(
            [str(self._binaries / "pg_basebackup"), *arguments, "-d", f"host=127.0.0.1 port={self.port} user=postgres"],
            self._account,
        )
        if standby_of is not None:
            conninfo = f"host=127.0.0.1 port={standby_of} user=postgres"
            with (data / "postgresql.auto.conf").open("a") as file:
                file.write(f"primary_conninfo = '{conninfo}'\nwal_retrieve_retry_interval = '100ms'\n")
            (data / "standby.signal").touch()
            if self._account.switched:
                os.chown(data / "standby.signal", self._account.uid, self._account.gid)
        return Server(self._binaries, self._account, data)

    async def _accepts_or_ended(self) -> bool:
        if self._process is not None and self._process.returncode is not None:
            return True
        try:
            async with await psycopg.AsyncConnection.connect(self.superuser_url.replace(DATABASE, "postgres")):
                return True
        except psycopg.OperationalError:
            return False


class Cluster:
    """Servers in one folder; all are stopped at the end of the test."""

    def __init__(self, folder: Path, migrated: Path, account: Account) -> None:
        self.folder = folder
        self._migrated = migrated
        self._account = account
        self._folders = 0

    def new_folder(self) -> Path:
        """Return the path of a new data folder."""
        self._folders += 1
        return self.folder / f"data{self._folders}"

    async def primary(self) -> Server:
        """Create a server with a migrated database, and start it."""
        data = self.new_folder()
        # By its whole path, as the account's processes are started.
        await run([shutil.which("cp") or "/bin/cp", "-a", str(self._migrated), str(data)], self._account)
        server = Server(_binaries(), self._account, data)
        await server.start()
        return server


@contextmanager
def migrated_data() -> Iterator[Path]:
    """Yield the data folder of a server with a migrated database; the server isn't running."""
    account = account_of_servers()
    with temporary_folder(fast_folder(), account) as folder:
        asyncio.run(_make_migrated(folder / "data", account))
        yield folder / "data"


async def _make_migrated(data: Path, account: Account) -> None:
    await run(
        [
            str(_binaries() / "initdb"),
            f"--pgdata={data}",
            *("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"),
        ],
        account,
    )
    (data / "pg_hba.conf").write_text(HBA)
    server = Server(_binaries(), account, data)
    await server.start()
    try:
        url = server.superuser_url.replace(DATABASE, "postgres")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
            await conn.execute(f"CREATE DATABASE {DATABASE}".encode())
        await asyncio.to_thread(upgrade, server.superuser_url, projections=())
    finally:
        await server.stop(signal.SIGINT)


def _binaries() -> Path:
    return wheel_binaries(18)


@asynccontextmanager
async def cluster(migrated: Path) -> AsyncIterator[Cluster]:
    """Yield a cluster without servers; those that still run at the end are crashed.

    Args:
        migrated: the folder of :func:`migrated_data`, which each primary gets a copy of.

    """
    account = account_of_servers()
    with temporary_folder(fast_folder(), account) as folder:
        try:
            yield Cluster(folder, migrated, account)
        finally:
            for pid in servers_below(folder):
                os.kill(pid, signal.SIGQUIT)
                await wait_until(lambda: _has_ended(pid), f"the end of server {pid}")  # noqa: B023 - called in this round only


async def _has_ended(pid: int) -> bool:
    try:
        stat = await asyncio.to_thread(Path(f"/proc/{pid}/stat").read_text)
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


async def run(command: list[str], account: Account) -> None:
    """Run one of PostgreSQL's programs to its end; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *as_account(account),
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    assert process.returncode == 0, f"exit code {process.returncode}: {stderr.decode()}"
