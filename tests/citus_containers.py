"""A Citus cluster in containers: a coordinator and two workers from the image ``citusdata/citus``, on one network.

The servers reach each other by their names on that network, and this process reaches them by ports of this machine.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import psycopg

VERSION = "14.0"
"""The tag of the image."""
NAMES = ("coordinator", "worker-1", "worker-2")
PORT = 5432
GIVE_UP = 120.0
COMMAND = (
    "postgres -c fsync=off -c full_page_writes=off -c wal_level=logical -c max_connections=300"
    " -c max_prepared_transactions=600 -c citus.shard_count=8 -c citus.recover_2pc_interval=5s"
)


class ClusterServer(NamedTuple):
    """A server of a cluster.

    Attributes:
        name: by which the cluster's servers reach it.
        port: likewise.
        url: a superuser's, of its maintenance database, from this machine.

    """

    name: str
    port: int
    url: str


@contextmanager
def container_cluster(version: str) -> Iterator[tuple[ClusterServer, ...]]:
    """Run the servers; yields them once all of them answer, the coordinator first."""
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # testcontainers' own warnings
            servers = tuple(_start(stack, version or VERSION))
        for server in servers:
            _wait_until_it_answers(server)
        yield servers


def _start(stack: ExitStack, version: str) -> Iterator[ClusterServer]:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - only this kind needs it
    from testcontainers.core.network import Network  # noqa: PLC0415 - only this kind needs it

    network = stack.enter_context(Network())
    for name in NAMES:
        container = (
            DockerContainer(f"citusdata/citus:{version}")
            .with_network(network)
            .with_network_aliases(name)
            .with_env("POSTGRES_HOST_AUTH_METHOD", "trust")
            .with_exposed_ports(PORT)
            .with_command(COMMAND)
        )
        stack.enter_context(container)
        host, port = container.get_container_host_ip(), container.get_exposed_port(PORT)
        yield ClusterServer(name, PORT, f"postgresql://postgres@{host}:{port}/postgres")


def _wait_until_it_answers(server: ClusterServer) -> None:
    """Wait until a server takes connections over the network, as it does once its database is initialized."""
    deadline = time.monotonic() + GIVE_UP
    while True:
        try:
            with psycopg.connect(server.url, connect_timeout=2):
                return
        except psycopg.OperationalError as error:
            if time.monotonic() >= deadline:
                raise AssertionError(f"server {server.name} did not start: {error}") from error
            time.sleep(0.05)
