"""A fixture: the cluster in which a test makes primaries and standbys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fault.failover_cluster import Cluster


@pytest.fixture(scope="session")
def _migrated_data() -> Iterator[Path]:
    from tests.fault.failover_cluster import migrated_data  # noqa: PLC0415 - not every run needs it

    with migrated_data() as data:
        yield data


@pytest.fixture
async def servers(_migrated_data: Path) -> AsyncIterator[Cluster]:
    """A cluster without servers; its primaries have a migrated database."""
    from tests.fault.failover_cluster import cluster  # noqa: PLC0415

    async with cluster(_migrated_data) as found:
        yield found
