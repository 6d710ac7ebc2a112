"""Which revision of our schema a database has, and which one this version of the code needs."""

from __future__ import annotations

from collections.abc import Iterable

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from eventstore.resources import migrations_folder
from projections.errors import MigrationRefused, SchemaNotCurrent
from projections.migrating.sqlalchemy_connection import sqlalchemy_connection
from projections.migrating.user_tables import describe_missing_table, find_missing_tables
from projections.projection import Projection

VERSION_SCHEMA = "projections"
VERSION_TABLE = "alembic_version"


def alembic_config() -> Config:
    """Return Alembic's configuration for our migrations."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config


def head_revision() -> str | None:
    """Return the revision that this version of the code needs."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def current_revision(connection: Connection) -> str | None:
    """Return the revision of a database; None before the first migration."""
    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "version_table_schema": VERSION_SCHEMA}
    )
    return context.get_current_revision()


def require_current_schema(url: str, projections: Iterable[Projection] = ()) -> dict[str, str]:
    """Make sure that a database has the revision that this version needs.

    Returns:
        By name, which of the projections can't fold because a table of theirs is missing, and what to do.

    Raises:
        SchemaNotCurrent: it has an older revision, or none; the message says what to do.
        MigrationRefused: it has a revision of a newer version.
        DatabaseUnavailable: the database can't be reached.

    """
    with sqlalchemy_connection(url) as connection:
        revision = current_revision(connection)
        missing = {projection.name: find_missing_tables(connection, projection) for projection in projections}
    needed = head_revision()
    refuse_unknown(revision)
    if revision != needed:
        has = "has no schema yet" if revision is None else f"has schema revision {revision}"
        raise SchemaNotCurrent(f"the database {has}, this version needs {needed}; run projections migrate")
    return {name: describe_missing_table(tables[0].name) for name, tables in missing.items() if tables}


def refuse_unknown(revision: str | None) -> None:
    """Refuse a revision that a newer version made.

    Raises:
        MigrationRefused: this version doesn't know it.

    """
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise MigrationRefused(
            f"the database has schema revision {revision}, which this version doesn't know; upgrade this program"
        )
