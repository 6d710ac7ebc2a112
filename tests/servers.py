"""Where the tests' servers come from: the wheel, Debian's packages, Docker, or a running server."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from eventstore.errors import EmbeddedError
from projections.sandbox.embedded import EmbeddedPostgres, EmbeddedTimeouts, locate
from projections.sandbox.embedded.binaries import Major, published, version_of
from projections.sandbox.embedded.folders import SYSTEM_ROOT
from projections.sandbox.embedded.os_account import caller
from tests.temporary_server import (
    FAST,
    account_of_servers,
    dead_folders,
    servers_below,
    temporary_folder,
    temporary_server,
)

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
CONTAINER_VERSION = "18"


@dataclass(frozen=True)
class Source:
    """Where a server comes from.

    Attributes:
        kind: a temporary server that the run starts, a container, or a running server that was given.
        name: the server's major version, as test ids show it.
        label: its entry in pytest's header.
        bin_dir: the binaries of a temporary server; None means the wheel's.
        url: a superuser's URL of a given server.

    """

    kind: Literal["embedded", "container", "given"]
    name: str
    label: str
    bin_dir: Path | None = None
    url: str = ""

    @contextmanager
    def running(self, settings: Mapping[str, str] | None = None) -> Iterator[str]:
        """Run the server; yields a superuser's URL of its maintenance database.

        Args:
            settings: server settings to add; only for a temporary server.

        """
        if self.kind == "given":
            yield self.url
        elif self.kind == "container":
            with _container(self.name) as url:
                yield url
        else:
            clear_dead_runs()
            bin_dir = self.bin_dir or wheel_binaries(_wheel_major(self.name))
            with temporary_server(bin_dir, settings) as server:
                yield server.superuser_url


def newest_source(setting: str) -> Source:
    """Return the source that a value of PROJECTIONS_TEST_POSTGRES means."""
    kind, _, version = setting.partition(":")
    if kind == "embedded":
        return _embedded_source(version or "18", None)
    if kind == "container":
        version = version or CONTAINER_VERSION
        return Source("container", version.partition(".")[0], f"{version} (container)")
    with psycopg.connect(setting) as connection:
        number = connection.info.server_version
    return Source("given", str(number // 10_000), f"{number // 10_000}.{number % 10_000} (given)", url=setting)


def oldest_source() -> Source:
    """Return Debian's PostgreSQL 15 where it is installed, else the wheel's 16."""
    if (DEBIAN_15 / "postgres").exists():
        return _embedded_source("15", DEBIAN_15)
    return _embedded_source("16", None)


def wheel_binaries(major: Major) -> Path:
    """Return the folder with the wheel's binaries that the account of the servers can execute."""
    binaries = locate(major)
    if not account_of_servers().switched:
        return binaries
    timeouts = EmbeddedTimeouts()
    return published(binaries, major, SYSTEM_ROOT, wait=timeouts.lock, poll=timeouts.poll)


def client_programs(server: str) -> Path:
    """Return the folder with ``pg_dump`` and the like that are as old as the server of this name."""
    return DEBIAN_15 if server == "15" else wheel_binaries(_wheel_major(server))


def embedded(home: Path, name: str = "18", bin_dir: Path | None = None) -> EmbeddedPostgres:
    """Return a fast embedded server for a home; it isn't started yet."""
    return EmbeddedPostgres(home, major=_wheel_major(name), settings=FAST, bin_dir=bin_dir)


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Yield a home for an embedded server; it is removed at the end, or by the next test run if this one is killed."""
    clear_dead_runs()
    with temporary_folder(Path(tempfile.gettempdir()), caller()) as folder:
        try:
            yield folder / "home"
        finally:
            EmbeddedPostgres(folder / "home").destroy()


def clear_dead_runs() -> None:
    """End the servers of test runs that were killed, and remove their folders."""
    for folder in dead_folders():
        with suppress(OSError, EmbeddedError):
            EmbeddedPostgres(folder / "home").destroy()
            for pid in servers_below(folder):
                os.kill(pid, signal.SIGQUIT)
            shutil.rmtree(folder, ignore_errors=True)


def _wheel_major(name: str) -> Major:
    return 16 if name == "16" else 18


def _embedded_source(name: str, bin_dir: Path | None) -> Source:
    version = version_of(bin_dir or locate(_wheel_major(name)))
    return Source("embedded", name, f"{version} ({bin_dir or 'embedded'})", bin_dir)


@contextmanager
def _container(version: str) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testcontainers' own warnings
        if problem := docker_problem():
            pytest.skip(f"Docker can't be used: {problem}")
        from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - only this kind needs it

        with PostgresContainer(f"postgres:{version}", driver=None) as container:
            yield container.get_connection_url()


def docker_problem() -> str | None:
    """Return why Docker can't be used, or None if it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testcontainers' own warnings
        try:
            from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415 - only this kind needs it

            DockerClient().client.ping()
        except Exception as error:  # noqa: BLE001 - any error means that Docker can't be used
            reason = type(error).__name__
        else:
            return None
        gc.collect()  # the client doesn't close its socket, which would be a warning in the next test
    return reason
