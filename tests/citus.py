"""A Citus cluster for tests: databases on all of its servers.

``PROJECTIONS_TEST_CITUS`` is a superuser's URL of a database on the coordinator in which the cluster's servers are
registered, the coordinator included; the superuser reaches all of them with the same password. Without it, the tests
that need a cluster are skipped, with the reason.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

SETTING = "PROJECTIONS_TEST_CITUS"
_NODES = (
    "SELECT groupid = 0, nodename, nodeport FROM pg_catalog.pg_dist_node WHERE noderole = 'primary' ORDER BY groupid"
)


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
    return None if os.environ.get(SETTING) else f"set {SETTING} to a superuser's URL of a Citus coordinator"


@contextmanager
def citus_database() -> Iterator[CitusDatabase]:
    """Make a database on all servers of the cluster, with Citus, and drop it at the end."""
    coordinator = os.environ[SETTING]
    with psycopg.connect(coordinator) as connection:
        nodes: list[tuple[bool, str, int]] = connection.execute(_NODES).fetchall()
    servers = [_at(coordinator, host, port) for _, host, port in nodes]
    name = f"test_{secrets.token_hex(6)}"
    database = sql.Identifier(name)
    for server in servers:
        _execute(server, sql.SQL("CREATE DATABASE {}").format(database))
    urls = [_in(server, name) for server in servers]
    try:
        for url in urls:
            _execute(url, sql.SQL("CREATE EXTENSION citus"))
        _register(urls[0], nodes)
        yield CitusDatabase(urls[0], tuple(urls[1:]))
    finally:
        for server in servers:
            _execute(server, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))


def _register(url: str, nodes: Sequence[tuple[bool, str, int]]) -> None:
    for is_coordinator, host, port in nodes:
        function = "citus_set_coordinator_host" if is_coordinator else "citus_add_node"
        command = sql.SQL("SELECT {}({}, {})").format(sql.Identifier(function), host, port)
        _execute(url, command)


def _execute(url: str, command: sql.SQL | sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(command)


def _at(url: str, host: str, port: int) -> str:
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{host}:{port}" if user else f"{host}:{port}"))


def _in(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))
