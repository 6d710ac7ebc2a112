"""Fixtures: real servers, one a run and version, a migrated template on each, and a database of its own per test.

``PROJECTIONS_TEST_POSTGRES`` says which: ``embedded`` (PostgreSQL 18 of the wheel, the default), ``embedded:16``,
``container`` or ``container:VERSION`` (a Docker engine's), or the URL of a superuser on a server of yours.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import ObjectInUse

from tests.servers import Source, newest_source, oldest_source

KEY = pytest.StashKey[list[Source]]()
ATTEMPTS = 5
"""To copy or drop a database that somebody is about to leave."""


@dataclass
class Server:
    """A running server on which tests may do as they like.

    Attributes:
        name: its major version, as test ids show it.
        superuser_url: a superuser on its maintenance database.
        owner: the role that owns each test's database, and is no superuser.

    """

    name: str
    superuser_url: str
    owner: str = field(default_factory=lambda: f"owner_{secrets.token_hex(4)}")
    _password: str = field(default_factory=lambda: secrets.token_hex(12), repr=False)
    _template: str | None = None
    _beside: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), repr=False)
    _ready: Future[str] | None = field(default=None, repr=False)
    _dropped: list[Future[None]] = field(default_factory=list, repr=False)

    def prepare(self) -> None:
        """Make the owner's role."""
        self.execute("CREATE ROLE {} LOGIN PASSWORD {}", sql.Identifier(self.owner), sql.Literal(self._password))

    def tidy(self) -> None:
        """Remove what tests shared, and what was made ahead."""
        self._beside.shutdown()
        if self._ready is not None:
            self.drop(self._ready.result())
        for dropped in self._dropped:
            dropped.result()
        if self._template is not None:
            self.drop(self._template)
        self.execute("DROP ROLE {}", sql.Identifier(self.owner))

    def url(self, database: str) -> str:
        """Return the URL of a database for its owner."""
        parts = urlsplit(self.superuser_url)
        place = parts.netloc.rpartition("@")[2]
        netloc = f"{self.owner}:{self._password}@{place}"
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))

    def create(self, *, template: str | None = None) -> str:
        """Create a database of the owner's, and return its name."""
        name = f"test_{secrets.token_hex(6)}"
        command = "CREATE DATABASE {} OWNER {}" + (" TEMPLATE {}" if template else "")
        names = [name, self.owner, *([template] if template else [])]
        self._execute_patiently(command, *map(sql.Identifier, names))
        return name

    def drop(self, database: str) -> None:
        """Drop a database, whoever is connected to it."""
        self._execute_patiently("DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(database))

    def template(self) -> str:
        """Return the name of a migrated database, made by the first who asks."""
        if self._template is None:
            from projections.migrating.migrate import upgrade  # noqa: PLC0415 - tests of less than that don't need it

            name = self.create()
            upgrade(self.url(name), projections=())  # whatever a test has installed just now
            self._template = name
        return self._template

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """Yield the URL of a new database for its owner; it is dropped afterwards, whoever is connected.

        A copy of the template takes as long as many a test: so the next one is made while this one is used.
        """
        name = self._migrated() if migrated else self.create()
        try:
            yield self.url(name)
        finally:
            self._dropped.append(self._beside.submit(self.drop, name))

    def _migrated(self) -> str:
        template = self.template()
        name = self._ready.result() if self._ready is not None else self.create(template=template)
        self._ready = self._beside.submit(lambda: self.create(template=template))
        return name

    def _execute_patiently(self, command: LiteralString, *parts: sql.Composable) -> None:
        for left in reversed(range(ATTEMPTS)):
            try:
                self.execute(command, *parts)
            except ObjectInUse:  # Postgres waits 5 s for those who are to leave a database, and they may be slower
                if not left:
                    raise
            else:
                return

    def execute(self, command: LiteralString, *parts: sql.Composable) -> None:
        """Run one statement as superuser, outside any transaction."""
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            connection.execute(sql.SQL(command).format(*parts))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "oldest: run on the oldest PostgreSQL too, as tests/integration does")
    newest = newest_source(os.environ.get("PROJECTIONS_TEST_POSTGRES") or "embedded")
    oldest = oldest_source() if newest.name == "18" and newest.kind == "embedded" else None
    config.stash[KEY] = [newest, *([oldest] if oldest else [])]


def pytest_report_header(config: pytest.Config) -> str:
    return "PostgreSQL: " + ", ".join(source.label for source in config.stash[KEY])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres" not in metafunc.fixturenames:
        return
    sources = metafunc.config.stash[KEY]
    folder = Path(__file__).parent / "integration"
    both = metafunc.definition.path.is_relative_to(folder) or metafunc.definition.get_closest_marker("oldest")
    chosen = sources if both else sources[:1]
    metafunc.parametrize("postgres", chosen, indirect=True, ids=[source.name for source in chosen], scope="session")


@pytest.fixture(scope="session")
def _servers() -> Iterator[Callable[[Source], Server]]:
    """Start each server when it is first asked for; they run until the last test is over."""
    servers: dict[str, Server] = {}
    with ExitStack() as stack:

        def running(source: Source) -> Server:
            if source.name not in servers:
                server = Server(source.name, stack.enter_context(source.running()))
                server.prepare()
                stack.callback(server.tidy)
                servers[source.name] = server
            return servers[source.name]

        yield running


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest, _servers: Callable[[Source], Server]) -> Server:
    """A server; in tests/integration each test runs once on the newest and once on the oldest."""
    return _servers(request.param)


@pytest.fixture
def database_url(postgres: Server) -> Iterator[str]:
    """The URL of a migrated, empty database of the test's own, for its owner (no superuser)."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def elsewhere(postgres: Server) -> Iterator[str]:
    """The URL of another such database."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def empty_database_url(postgres: Server) -> Iterator[str]:
    """The URL of a database of the test's own with nothing in it, for its owner (no superuser)."""
    with postgres.database(migrated=False) as url:
        yield url
