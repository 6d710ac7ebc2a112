"""Where tests' servers come from: the wheel, Debian's packages, a Docker engine, or whoever runs them."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from eventstore.errors import EmbeddedError
from projections.sandbox.embedded import EmbeddedPostgres

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
HOMES = "projections-tests-"
CONTAINER_VERSION = "18"
# Nothing here must survive the machine; what is committed survives the server's death all the same.
FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    # It would take locks, and make statistics, whenever it likes.
    "autovacuum": "off",
}


@dataclass(frozen=True)
class Source:
    """Where a server comes from.

    Attributes:
        kind: what sort of place that is.
        name: the server's major version, as test ids show it.
        label: what pytest's header says.
        bin_dir: the binaries of an embedded server, None for the wheel's.
        url: a superuser's URL of a given server.

    """

    kind: Literal["embedded", "container", "given"]
    name: str
    label: str
    bin_dir: Path | None = None
    url: str = ""

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run the server; yields a superuser's URL of its maintenance database."""
        if self.kind == "given":
            yield self.url
        elif self.kind == "container":
            with _container(self.name) as url:
                yield url
        else:
            with temporary_home() as home:
                server = embedded(home, self.name, self.bin_dir)
                server.start()
                yield server.superuser_url() or ""


def newest_source(asked: str) -> Source:
    """Return the source that PROJECTIONS_TEST_POSTGRES asks for."""
    kind, _, version = asked.partition(":")
    if kind == "embedded":
        return _embedded_source(version or "18", None)
    if kind == "container":
        version = version or CONTAINER_VERSION
        return Source("container", version.partition(".")[0], f"{version} (container)")
    with psycopg.connect(asked) as connection:
        number = connection.info.server_version
    return Source("given", str(number // 10_000), f"{number // 10_000}.{number % 10_000} (given)", url=asked)


def oldest_source() -> Source:
    """Return Debian's PostgreSQL 15 where it is installed, else the wheel's 16."""
    if (DEBIAN_15 / "postgres").exists():
        return _embedded_source("15", DEBIAN_15)
    return _embedded_source("16", None)


def embedded(home: Path, name: str = "18", bin_dir: Path | None = None) -> EmbeddedPostgres:
    """Return a fast server of a home, not started yet."""
    return EmbeddedPostgres(home, major=16 if name == "16" else 18, settings=FAST, bin_dir=bin_dir)


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Yield a folder for an embedded server; the server is gone with it at the end, or when the next run begins."""
    _clear_dead_runs()
    folder = Path(tempfile.mkdtemp(prefix=HOMES))
    (folder / "owner").write_text(str(os.getpid()))
    try:
        yield folder / "home"
    finally:
        EmbeddedPostgres(folder / "home").destroy()
        shutil.rmtree(folder, ignore_errors=True)


def _embedded_source(name: str, bin_dir: Path | None) -> Source:
    version = embedded(Path("absent"), name, bin_dir).server_version
    return Source("embedded", name, f"{version} ({bin_dir or 'embedded'})", bin_dir)


def _clear_dead_runs() -> None:
    for owner in Path(tempfile.gettempdir()).glob(f"{HOMES}*/owner"):
        with suppress(OSError, ValueError, EmbeddedError):
            try:
                os.kill(int(owner.read_text()), 0)
            except ProcessLookupError:
                EmbeddedPostgres(owner.parent / "home").destroy()
                shutil.rmtree(owner.parent, ignore_errors=True)


@contextmanager
def _container(version: str) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testcontainers' own
        if silence := _silence_of_docker():
            pytest.skip(f"no Docker engine answers: {silence}")
        from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - only for those who ask

        with PostgresContainer(f"postgres:{version}", driver=None) as container:
            yield container.get_connection_url()


def _silence_of_docker() -> str | None:
    """Return why no Docker engine answers, or None when one does."""
    try:
        from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415

        DockerClient().client.ping()
    except Exception as error:  # noqa: BLE001 - whatever is wrong, no engine answers
        reason = type(error).__name__
    else:
        return None
    gc.collect()  # the client forgets to close its socket, which would be the next test's warning
    return reason
