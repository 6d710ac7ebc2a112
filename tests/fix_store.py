"""Fixtures: a connection to the test's database, and an appender."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from tests import store


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection with which a test reads the database."""
    async with store.connection(database_url, "reading") as conn:
        yield conn


@pytest.fixture
async def appender(database_url: str) -> AsyncIterator[Appender]:
    """An appender that expects duplicates, as it does after each connect."""
    async with store.appender(database_url) as appender:
        yield appender
