"""SQLAlchemy connections for Alembic, opened by libpq from the URL, like those of all other commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from eventstore.errors import DatabaseUnavailable, describe
from eventstore.postgres.connection import connect_sync
from eventstore.postgres.session_lock import session_name
from eventstore.waits import load_waits

_engine_in_use: ContextVar[tuple[str, Engine] | None] = ContextVar("_engine_in_use", default=None)


@contextmanager
def one_session(url: str) -> Iterator[None]:
    """Let the connections that the block opens to a database, one after the other, be one session.

    A migration has a transaction for each table that it changes; a session for each would take longer than the change.
    A session that was lost is replaced by a new one. Within another such block, this one changes nothing.
    """
    in_use = _engine_in_use.get()
    if in_use is not None and in_use[0] == url:
        yield
        return
    engine = _create_engine(url, QueuePool)
    token = _engine_in_use.set((url, engine))
    try:
        yield
    finally:
        _engine_in_use.reset(token)
        engine.dispose()


@contextmanager
def sqlalchemy_connection(url: str) -> Iterator[Connection]:
    """Open a connection to a database, or continue the session of :func:`one_session`.

    Raises:
        DatabaseUnavailable: the database can't be reached.

    """
    in_use = _engine_in_use.get()
    if in_use is not None and in_use[0] == url:
        with _connected(in_use[1]) as connection:
            yield connection
        return
    engine = _create_engine(url, NullPool)
    try:
        with _connected(engine) as connection:
            yield connection
    finally:
        engine.dispose()


def _create_engine(url: str, pool: type[NullPool | QueuePool]) -> Engine:
    waits = load_waits()

    def connect() -> psycopg.Connection:
        return connect_sync(url, name=session_name("migrate"), waits=waits)

    # We don't use hstore; to look for it takes each session another query.
    return create_engine(
        "postgresql+psycopg://", creator=connect, poolclass=pool, pool_pre_ping=True, use_native_hstore=False
    )


def _connected(engine: Engine) -> Connection:
    try:
        return engine.connect()
    except DBAPIError as error:
        raise DatabaseUnavailable(f"database unavailable: {describe(error)}") from error
