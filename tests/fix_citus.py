"""Fixtures: a Citus cluster, and databases on all of its servers whose log is distributed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from projections.migrating.distribute import distribute
from projections.migrating.migrate import upgrade
from tests.citus import CitusDatabase, citus_database, running_cluster
from tests.citus_containers import ClusterServer


@pytest.fixture(scope="session")
def citus_cluster() -> Iterator[tuple[ClusterServer, ...]]:
    """The servers of a cluster, the coordinator first; only for tests that are marked with ``needs_citus``."""
    with running_cluster() as servers:
        yield servers


@pytest.fixture
def distributed(citus_cluster: tuple[ClusterServer, ...]) -> Iterator[CitusDatabase]:
    """A migrated database on every server of a cluster, whose log is distributed."""
    with citus_database(citus_cluster) as database:
        upgrade(database.url, projections=[])
        distribute(database.url, projections=[])
        yield database
