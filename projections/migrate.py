"""Brings a database's schema to what this version needs, or says in one sentence why it won't."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from eventstore.connection import connect_sync
from eventstore.errors import DatabaseUnavailable, describe
from eventstore.locks import lock_key
from eventstore.resources import migrations_folder
from eventstore.session_lock import session_name
from eventstore.waits import load_waits
from projections.errors import MigrationRefused, UsageError
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.read_models.tables import VIEWS
from projections.read_models.tables import metadata as read_model_metadata
from projections.registry import registered
from projections.user_tables import migrate_user_tables, missing_table, missing_tables

VERSION_SCHEMA = "projections"
VERSION_TABLE = "alembic_version"
READ_MODELS_SINCE = "0002"
"""The revision that makes our read models; whatever bears one of their names before it isn't ours."""

# Types count: a table makes one of its own name.
_TAKEN = (
    "SELECT relname AS name FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace(:schema)"
    " AND relname = ANY(:names) UNION SELECT typname FROM pg_catalog.pg_type"
    " WHERE typnamespace = to_regnamespace(:schema) AND typname = ANY(:names) ORDER BY name LIMIT 1"
)


def upgrade(
    url: str, revision: str = "head", projections: Iterable[Projection] | None = None
) -> tuple[str | None, str | None]:
    """Migrate a database, users' tables included, in one transaction; several at once wait for each other.

    Args:
        url: the database.
        revision: of our schema; users' tables are made at ``head`` only.
        projections: whose tables to make; None for those registered.

    Returns:
        The revision before and after.

    Raises:
        MigrationRefused: the database can't be ours as it is.
        InvalidProjection: a registered projection breaks the rules.
        ProjectionsError: a projection's own migrations failed.
        DatabaseUnavailable: no session of the database can be had.

    """

    def step(config: Config) -> None:
        connection: Connection = config.attributes["connection"]
        _check_names(connection)
        command.upgrade(config, revision)
        if revision == "head":
            migrate_user_tables(connection, registered().values() if projections is None else projections)

    return _run(url, step)


def downgrade(url: str, revision: str) -> tuple[str | None, str | None]:
    """Take a database back to an earlier revision (``base`` for the empty one); returns as :func:`upgrade` does."""
    return _run(url, lambda config: command.downgrade(config, revision))


def head_revision() -> str | None:
    """Return the revision that this version of the code needs."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def current_revision(connection: Connection) -> str | None:
    """Return the revision a database is at; None before the first migration."""
    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "version_table_schema": VERSION_SCHEMA}
    )
    return context.get_current_revision()


def require_current_schema(url: str, projections: Iterable[Projection] = ()) -> dict[str, str]:
    """Make sure that a database is at the revision that this version needs.

    Returns:
        By name, which of the projections can't fold because a table of theirs is missing, and what to do.

    Raises:
        UsageError: it is at another revision; the message says what to do.
        DatabaseUnavailable: no session of the database can be had.

    """
    with _connected(url) as connection:
        revision = current_revision(connection)
        missing = {projection.name: missing_tables(connection, projection) for projection in projections}
    needed = head_revision()
    _check_known(revision)
    if revision != needed:
        is_at = "has none of our schema yet" if revision is None else f"is at schema revision {revision}"
        raise UsageError(f"the database {is_at}, this version needs {needed}: run projections migrate")
    return {name: missing_table(tables[0].name) for name, tables in missing.items() if tables}


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    engine = engine_of(url)
    try:
        try:
            connected = engine.connect()
        except DBAPIError as error:
            raise DatabaseUnavailable(f"database unavailable: {describe(error)}") from error
        with connected as connection:
            yield connection
    finally:
        engine.dispose()


def _check_known(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise MigrationRefused(
            f"the database is at schema revision {revision}, which this program is too old to know: update it"
        )


def engine_of(url: str) -> Engine:
    """Return an engine whose connections libpq opens from the URL, as those of all other commands are."""
    waits = load_waits()

    def connect() -> psycopg.Connection:
        return connect_sync(url, name=session_name("migrate"), waits=waits)

    return create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config


def _run(url: str, step: Callable[[Config], None]) -> tuple[str | None, str | None]:
    with _connected(url) as connection, connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key("migrate")})
        _check_encoding(connection)
        before = current_revision(connection)
        _check_known(before)
        config = _config()
        config.attributes["connection"] = connection
        step(config)
        return before, current_revision(connection)


def _check_encoding(connection: Connection) -> None:
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        raise MigrationRefused(
            f"database {name!r} is encoded in {encoding}, which can't hold every text that arrives: "
            "create one with ENCODING 'UTF8' (TEMPLATE template0) and name it in DATABASE_URL"
        )


def _check_names(connection: Connection) -> None:
    if (current_revision(connection) or "") >= READ_MODELS_SINCE:
        return
    names = [*(table.name for table in read_model_metadata.tables.values()), *VIEWS]
    taken = connection.execute(text(_TAKEN), {"schema": READ_MODEL_SCHEMA, "names": names}).scalar()
    if taken is not None:
        raise MigrationRefused(
            f"{READ_MODEL_SCHEMA}.{taken} is there already and isn't ours: rename it, or name a database of our own in "
            "DATABASE_URL"
        )
