"""A running server and its databases: a migrated template, copies made in advance, and drops done in batches.

On a server in memory a copy takes about 20 ms and a drop 10 ms, which is as long as many tests take. So a thread does
both while tests run. Nothing connects to the template, or to a copy that no test has taken yet.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.errors import ObjectInUse

from tests.temporary_server import quick_verifier

COPIES_AHEAD = 3
DROPPED_TOGETHER = 16
ATTEMPTS = 5
"""How often to try to copy or drop a database while sessions in it are still ending."""


class Server:
    """A running server for tests, which may change anything on it.

    Attributes:
        name: its major version, as test ids show it.
        superuser_url: a superuser on its maintenance database.
        owner: the role that owns the databases of all tests; it isn't a superuser.

    """

    def __init__(self, name: str, superuser_url: str) -> None:
        self.name = name
        self.superuser_url = superuser_url
        self.owner = f"owner_{secrets.token_hex(4)}"
        self._password = secrets.token_hex(12)
        self._template: str | None = None
        self._thread = ThreadPoolExecutor(1)
        self._connection: psycopg.Connection | None = None  # only the thread uses it
        self._copies: deque[Future[str]] = deque()
        self._used: list[str] = []
        self._drops: list[Future[None]] = []

    def prepare(self) -> None:
        """Make the owner's role."""
        verifier = sql.Literal(quick_verifier(self._password))
        self.execute("CREATE ROLE {} LOGIN PASSWORD {}", sql.Identifier(self.owner), verifier)

    def tidy(self) -> None:
        """Drop the template, unused copies, databases that are still to be dropped, and the owner."""
        self._used += [copy.result() for copy in self._copies]
        self._drop_used()
        self._thread.shutdown()
        for drop in self._drops:
            drop.result()
        if self._connection is not None:
            self._connection.close()
        if self._template is not None:
            self.drop(self._template)
        self.execute("DROP ROLE {}", sql.Identifier(self.owner))

    def url(self, database: str) -> str:
        """Return the URL with which the owner connects to a database."""
        parts = urlsplit(self.superuser_url)
        place = parts.netloc.rpartition("@")[2]
        netloc = f"{self.owner}:{self._password}@{place}"
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))

    def create(self) -> str:
        """Create an empty database that belongs to the owner, and return its name."""
        return self._thread.submit(self._create, None).result()

    def drop(self, database: str) -> None:
        """Drop a database, and end all connections to it."""
        self.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(database))

    def template(self) -> str:
        """Return the name of a migrated database, which the first call creates."""
        if self._template is None:
            from projections.migrating.migrate import upgrade  # noqa: PLC0415 - not every run needs it

            name = self.create()
            upgrade(self.url(name), projections=())  # ignores projections that a test has installed
            self._template = name
        return self._template

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """Yield the URL of a new database for its owner; some time later it is dropped and its connections ended."""
        name = self._take_copy() if migrated else self.create()
        try:
            yield self.url(name)
        finally:
            self._drop_later(name)

    @contextmanager
    def copy(self, url: str) -> Iterator[str]:
        """Yield the URL of a copy of a database to which nothing is connected; it is dropped like the others."""
        name = self._thread.submit(self._create, urlsplit(url).path.removeprefix("/")).result()
        try:
            yield self.url(name)
        finally:
            self._drop_later(name)

    def execute(self, command: LiteralString, *parts: sql.Composable) -> None:
        """Run one statement as superuser, outside any transaction."""
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            _execute_patiently(connection, sql.SQL(command).format(*parts))

    def _take_copy(self) -> str:
        template = self.template()
        while len(self._copies) <= COPIES_AHEAD:
            self._copies.append(self._thread.submit(self._create, template))
        return self._copies.popleft().result()

    def _drop_later(self, database: str) -> None:
        self._used.append(database)
        if len(self._used) >= DROPPED_TOGETHER:
            self._drop_used()

    def _drop_used(self) -> None:
        used, self._used = self._used, []
        self._drops.append(self._thread.submit(self._drop_all, used))

    # These methods run in the thread.

    def _create(self, template: str | None) -> str:
        name = f"test_{secrets.token_hex(6)}"
        command = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(self.owner))
        if template is not None:
            # For a small database in memory, file_copy is twice as fast as wal_log.
            command += sql.SQL(" TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(template))
        _execute_patiently(self._connected(), command)
        return name

    def _drop_all(self, databases: list[str]) -> None:
        for database in databases:
            command = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
            _execute_patiently(self._connected(), command)

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self.superuser_url, autocommit=True, application_name="tests")
        return self._connection


def _execute_patiently(connection: psycopg.Connection, command: sql.Composed) -> None:
    for attempts_left in reversed(range(ATTEMPTS)):
        try:
            connection.execute(command)
        except ObjectInUse:  # after PostgreSQL has waited 5 s for the database's sessions to end
            if not attempts_left:
                raise
        else:
            return
