"""A running server and its databases: a migrated template, copies of it made ahead, and drops done in batches.

A copy takes about 20 ms on a server in memory, a drop 10 ms, as much as many a test. So both are done by one thread
beside the test that runs. Nobody connects to the template or to a copy that no test has taken yet.
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
"""To copy or drop a database that somebody is about to leave."""


class Server:
    """A running server on which tests may do as they like.

    Attributes:
        name: its major version, as test ids show it.
        superuser_url: a superuser on its maintenance database.
        owner: the role that owns each test's database, and is no superuser.

    """

    def __init__(self, name: str, superuser_url: str) -> None:
        self.name = name
        self.superuser_url = superuser_url
        self.owner = f"owner_{secrets.token_hex(4)}"
        self._password = secrets.token_hex(12)
        self._template: str | None = None
        self._thread = ThreadPoolExecutor(1)
        self._connection: psycopg.Connection | None = None  # the thread's
        self._copies: deque[Future[str]] = deque()
        self._left: list[str] = []
        self._drops: list[Future[None]] = []

    def prepare(self) -> None:
        """Make the owner's role."""
        verifier = sql.Literal(quick_verifier(self._password))
        self.execute("CREATE ROLE {} LOGIN PASSWORD {}", sql.Identifier(self.owner), verifier)

    def tidy(self) -> None:
        """Remove what tests shared, what was made ahead and what was not dropped yet."""
        self._left += [copy.result() for copy in self._copies]
        self._drop_left()
        self._thread.shutdown()
        for drop in self._drops:
            drop.result()
        if self._connection is not None:
            self._connection.close()
        if self._template is not None:
            self.drop(self._template)
        self.execute("DROP ROLE {}", sql.Identifier(self.owner))

    def url(self, database: str) -> str:
        """Return the URL of a database for its owner."""
        parts = urlsplit(self.superuser_url)
        place = parts.netloc.rpartition("@")[2]
        netloc = f"{self.owner}:{self._password}@{place}"
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))

    def create(self) -> str:
        """Create an empty database of the owner's, and return its name."""
        return self._thread.submit(self._create, None).result()

    def drop(self, database: str) -> None:
        """Drop a database, whoever is connected to it."""
        self.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(database))

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
        """Yield the URL of a new database for its owner; it is dropped some time later, whoever is connected."""
        name = self._take_copy() if migrated else self.create()
        try:
            yield self.url(name)
        finally:
            self._left.append(name)
            if len(self._left) >= DROPPED_TOGETHER:
                self._drop_left()

    def execute(self, command: LiteralString, *parts: sql.Composable) -> None:
        """Run one statement as superuser, outside any transaction."""
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            _execute_patiently(connection, sql.SQL(command).format(*parts))

    def _take_copy(self) -> str:
        template = self.template()
        while len(self._copies) <= COPIES_AHEAD:
            self._copies.append(self._thread.submit(self._create, template))
        return self._copies.popleft().result()

    def _drop_left(self) -> None:
        left, self._left = self._left, []
        self._drops.append(self._thread.submit(self._drop_all, left))

    # What the thread does.

    def _create(self, template: str | None) -> str:
        name = f"test_{secrets.token_hex(6)}"
        command = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(self.owner))
        if template is not None:
            # Files are copied twice as fast as they are logged page by page, in memory and for so small a database.
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
    for left in reversed(range(ATTEMPTS)):
        try:
            connection.execute(command)
        except ObjectInUse:  # PostgreSQL waits 5 s for the sessions that are to leave a database
            if not left:
                raise
        else:
            return
