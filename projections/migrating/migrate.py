"""Brings a database's schema to what this version needs, or says in one sentence why it won't."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from eventstore.errors import describe
from eventstore.locks import MIGRATE_LOCK, WAIT_FOR_TRANSACTION_LOCK
from eventstore.resources import migrations_folder
from eventstore.waits import load_waits
from projections.errors import MigrationRefused, SchemaBroken, UsageError
from projections.migrating.lock_attempts import Patience, patiently
from projections.migrating.schema_drift import Drift, find_drift_sync
from projections.migrating.sqlalchemy_connection import sqlalchemy_connection
from projections.migrating.user_tables import migrate_user_tables, missing_table, missing_tables
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.read_models.common_columns import VIEWS
from projections.read_models.common_columns import metadata as read_model_metadata
from projections.registry import find_valid_projections

log = structlog.get_logger(__name__)

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
    url: str,
    revision: str = "head",
    projections: Iterable[Projection] | None = None,
    *,
    patience: Patience | None = None,
) -> tuple[str | None, str | None]:
    """Migrate a database, users' tables included, in one transaction; several at once wait for each other.

    At ``head`` it then restores what the schema promises, also where the revision was current already: each promise in
    a transaction of its own, so that none locks a table for longer than it must.

    Args:
        url: the database.
        revision: of our schema; users' tables are made, and promises restored, at ``head`` only.
        projections: whose tables to make; None for those registered.
        patience: how long to wait for locks; None for what the environment sets.

    Returns:
        The revision before and after.

    Raises:
        MigrationRefused: the database can't be ours as it is.
        MigrationBlocked: others held a lock for too long; nothing of what waited for it was done.
        SchemaBroken: a promise can't be restored; the message says which.
        InvalidProjection: a registered projection breaks the rules.
        ProjectionsError: a projection's own migrations failed.
        DatabaseUnavailable: no session of the database can be had.

    """
    is_head = revision == "head"
    chosen = None if projections is None else list(projections)

    def step(config: Config) -> None:
        connection: Connection = config.attributes["connection"]
        _check_names(connection)
        command.upgrade(config, revision)
        if is_head:
            migrate_user_tables(connection, find_valid_projections().values() if chosen is None else chosen)

    done = _run(url, step, patience)
    if is_head:
        restore(url, patience=patience)
    return done


def restore(url: str, *, patience: Patience | None = None) -> None:
    """Restore what the schema at its head promises, and was undone.

    Raises:
        SchemaBroken: a promise can't be restored; the others are.
        MigrationBlocked: others held a lock for too long.

    """
    with sqlalchemy_connection(url) as connection:
        drifts = find_drift_sync(connection)
    failed = [why for drift in drifts if (why := _restore(url, drift, patience)) is not None]
    if failed:
        raise SchemaBroken("; ".join(failed))


def _restore(url: str, drift: Drift, patience: Patience | None) -> str | None:
    """Restore one promise; returns what is wrong when that can't be."""
    if not drift.repair:
        return drift.sentence
    for statement in drift.repair:
        work = partial(_execute, statement=statement)
        try:
            patiently(url, work, waits=load_waits(), patience=_or_usual(patience))
        except DBAPIError as error:
            return f"{drift.what}, and restoring it failed: {describe(error)}"
    if not drift.is_new:
        log.warning("restored what the schema promises", what=drift.what)
    return None


def _execute(connection: Connection, *, statement: str) -> None:
    connection.exec_driver_sql(WAIT_FOR_TRANSACTION_LOCK, (MIGRATE_LOCK,))
    connection.exec_driver_sql(statement.replace("%", "%%"))


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
    with sqlalchemy_connection(url) as connection:
        revision = current_revision(connection)
        missing = {projection.name: missing_tables(connection, projection) for projection in projections}
    needed = head_revision()
    _check_known(revision)
    if revision != needed:
        is_at = "has none of our schema yet" if revision is None else f"is at schema revision {revision}"
        raise UsageError(f"the database {is_at}, this version needs {needed}: run projections migrate")
    return {name: missing_table(tables[0].name) for name, tables in missing.items() if tables}


def _check_known(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise MigrationRefused(
            f"the database is at schema revision {revision}, which this program is too old to know: update it"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config


def _or_usual(patience: Patience | None) -> Patience:
    return patience or Patience(load_waits().migrate_lock)


def _run(url: str, step: Callable[[Config], None], patience: Patience | None = None) -> tuple[str | None, str | None]:
    def work(connection: Connection) -> tuple[str | None, str | None]:
        connection.exec_driver_sql(WAIT_FOR_TRANSACTION_LOCK, (MIGRATE_LOCK,))
        _check_encoding(connection)
        before = current_revision(connection)
        _check_known(before)
        config = _config()
        config.attributes["connection"] = connection
        step(config)
        return before, current_revision(connection)

    return patiently(url, work, waits=load_waits(), patience=_or_usual(patience))


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
