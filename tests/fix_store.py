"""A store to look into, and to append to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from tests import store


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection to look with."""
    async with store.connection(database_url, "looking") as conn:
        yield conn


@pytest.fixture
async def appender(database_url: str) -> AsyncIterator[Appender]:
    """An appender that expects duplicates, as after a connect."""
    async with store.appender(database_url) as appender:
        yield appender
