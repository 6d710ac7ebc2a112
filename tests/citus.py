"""A Citus cluster for tests: where its servers come from, and databases on all of them.

``PROJECTIONS_TEST_CITUS`` is a superuser's URL of a database on the coordinator in which the cluster's servers are
registered, the coordinator included; the superuser reaches all of them with the same password. With ``container`` or
``container:VERSION``, a coordinator and two workers run in Docker. Without the variable, or without Docker, the tests
that need a cluster are skipped, with the reason.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from tests import store
from tests.citus_containers import ClusterServer, container_cluster
from tests.servers import docker_problem

SETTING = "PROJECTIONS_TEST_CITUS"
CONTAINER = "container"
_NODES = "SELECT nodename, nodeport FROM pg_catalog.pg_dist_node WHERE noderole = 'primary' ORDER BY groupid"


class CitusDatabase(NamedTuple):
    """A database on every server of a cluster.

    Attributes:
        url: on the coordinator.
        workers: the same database on each worker.

    """

    url: str
    workers: tuple[str, ...]


def why_no_citus() -> str | None:
    """Return why tests with Citus are skipped; None if there is a cluster."""
    kind = os.environ.get(SETTING, "").partition(":")[0]
    if not kind:
        return f"set {SETTING} to a superuser's URL of a Citus coordinator, or to {CONTAINER} to run one in Docker"
    if kind == CONTAINER and (problem := docker_problem()):
        return f"Docker can't be used: {problem}"
    return None


NO_CITUS = why_no_citus()
needs_citus = pytest.mark.skipif(NO_CITUS is not None, reason=NO_CITUS or "")
"""Marks a test that needs a cluster."""


@asynccontextmanager
async def unfinished_commit(citus: CitusDatabase, conn: AsyncConnection) -> AsyncIterator[None]:
    """Let a worker owe a commit during the block, which Citus doesn't finish."""
    async with (
        store.connection(citus.url, "keeps Citus from finishing it") as keeping,
        store.connection(citus.workers[0]) as there,
    ):
        await keeping.execute("BEGIN")
        await keeping.execute("LOCK TABLE pg_catalog.pg_dist_transaction IN ROW SHARE MODE")
        await there.execute("BEGIN")
        await there.execute("PREPARE TRANSACTION 'unfinished'")
        try:
            await conn.execute("INSERT INTO pg_catalog.pg_dist_transaction (groupid, gid) VALUES (1, 'unfinished')")
            # The lock of the table holds up Citus for some seconds only; that of the row, as long as it is held.
            await keeping.execute("SELECT FROM pg_catalog.pg_dist_transaction WHERE gid = 'unfinished' FOR UPDATE")
            yield
        finally:
            await there.execute("COMMIT PREPARED 'unfinished'")


@contextmanager
def running_cluster() -> Iterator[tuple[ClusterServer, ...]]:
    """Yield the servers of the cluster, the coordinator first; those in containers run meanwhile."""
    kind, _, version = os.environ[SETTING].partition(":")
    if kind == CONTAINER:
        with container_cluster(version) as servers:
            yield servers
        return
    coordinator = os.environ[SETTING]
    with psycopg.connect(coordinator) as connection:
        nodes = connection.execute(_NODES).fetchall()
    yield tuple(ClusterServer(host, port, _at(coordinator, host, port)) for host, port in nodes)


@contextmanager
def citus_database(servers: Sequence[ClusterServer], *, locale: str | None = None) -> Iterator[CitusDatabase]:
    """Make a database on all servers of a cluster, with Citus, and drop it at the end.

    Args:
        servers: the cluster.
        locale: the databases' locale; None for the cluster's.

    """
    name = f"test_{secrets.token_hex(6)}"
    database = sql.Identifier(name)
    create = sql.SQL("CREATE DATABASE {}").format(database)
    if locale is not None:
        create += sql.SQL(" LOCALE {} TEMPLATE template0").format(sql.Literal(locale))
    for server in servers:
        _execute(server.url, create)
    urls = [_in(server.url, name) for server in servers]
    try:
        for url in urls:
            _execute(url, sql.SQL("CREATE EXTENSION citus"))
        for number, server in enumerate(servers):
            function = sql.Identifier("citus_add_node" if number else "citus_set_coordinator_host")
            _execute(urls[0], sql.SQL("SELECT {}({}, {})").format(function, server.name, server.port))
        yield CitusDatabase(urls[0], tuple(urls[1:]))
    finally:
        for server in servers:
            _execute(server.url, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))


def _execute(url: str, command: sql.SQL | sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(command)


def _at(url: str, host: str, port: int) -> str:
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{host}:{port}" if user else f"{host}:{port}"))


def _in(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))
