"""SQLAlchemy connections for Alembic, opened by libpq from the URL, like those of all other commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from eventstore.errors import DatabaseUnavailable, describe
from eventstore.postgres.connection import connect_sync
from eventstore.postgres.session_lock import session_name
from eventstore.waits import load_waits


def _create_engine(url: str) -> Engine:
    waits = load_waits()

    def connect() -> psycopg.Connection:
        return connect_sync(url, name=session_name("migrate"), waits=waits)

    return create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)


@contextmanager
def sqlalchemy_connection(url: str) -> Iterator[Connection]:
    """Open a connection to a database.

    Raises:
        DatabaseUnavailable: the database can't be reached.

    """
    engine = _create_engine(url)
    try:
        try:
            connection = engine.connect()
        except DBAPIError as error:
            raise DatabaseUnavailable(f"database unavailable: {describe(error)}") from error
        with connection:
            yield connection
    finally:
        engine.dispose()
