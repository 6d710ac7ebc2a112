"""A database without Citus is not distributed, and stays as it is; tests/integration/test_citus.py distributes one."""

from __future__ import annotations

import pytest

from projections.errors import MigrationRefused
from projections.migrating.distribute import distribute
from tests import store


async def test_a_database_without_citus_is_refused_and_stays_as_it_is(database_url: str) -> None:
    with pytest.raises(MigrationRefused, match="this database has no Citus: let a superuser run CREATE EXTENSION"):
        distribute(database_url, projections=[])
    async with store.connection(database_url) as conn:
        assert await store.value(conn, "SELECT count(*) FROM eventstore.distributed_head") == 0
