"""Creates the tables of users' projections: by their Alembic folder, or by creating those that are missing.

Nothing is ever altered here: a table that its projection can't use is refused, in one sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Table, inspect, text

from eventstore.resources import migrations_folder
from projections.errors import InvalidProjection, MigrationRefused, ProjectionsError, describe_user_code_error
from projections.migrating.commit_log import CommitLog
from projections.migrating.metadata import READ_MODELS
from projections.migrating.missing_tables import create_tables, find_missing_tables
from projections.projection import Projection


def version_table(projection: Projection) -> str:
    """Return the name of the version table of a projection's Alembic folder, in schema ``projections``."""
    return f"version_{projection.name}"


def migrate_user_tables(connection: Connection, projections: Iterable[Projection], log: CommitLog) -> None:
    """Create the tables that projections need; a built-in one is created only if somebody dropped it.

    Args:
        connection: inside a transaction, with our schema at its head.
        projections: the registered ones.
        log: receives what was done.

    Raises:
        MigrationRefused: a table exists, and its projection can't use it.
        InvalidProjection: a projection's ``migrations`` is no Alembic folder.
        ProjectionsError: a projection's migrations failed.

    """
    for projection in projections:
        if projection.migrations is not None:
            _run_folder(connection, projection, projection.migrations)
        else:
            missing = find_missing_tables(connection, projection)
            create_tables(connection, missing)
            if missing:
                names = ", ".join(table.name for table in missing)
                is_new = not _has_folded(connection, projection)
                then = {"next": f"projections check {projection.name}"} if is_new else {}
                log.info("created tables", projection=projection.name, tables=names, **then)
                _mark_for_rebuild(connection, projection, log)
        if isinstance(projection, READ_MODELS):  # schema_drift compares these
            continue
        for table in projection.tables:
            _check_usable(connection, projection, table)


def _has_folded(connection: Connection, projection: Projection) -> bool:
    known = text("SELECT FROM projections.checkpoints WHERE name = :name AND position > 0")
    return connection.execute(known, {"name": projection.name}).first() is not None


def _mark_for_rebuild(connection: Connection, projection: Projection, log: CommitLog) -> None:
    """Let a projection that has folded wait for a rebuild: its table is new, so the rows folded before are missing.

    Rows of another version wait for a rebuild anyway, and code of that version continues: the new table may not be one
    of its tables.
    """
    error = f"its tables were created again; run projections rebuild {projection.name}"
    # Version 0 belongs to no code, so no code folds into these rows. A paused projection stays paused.
    waiting = text(
        "UPDATE projections.checkpoints SET version = 0, last_error = :error,"
        " state = CASE WHEN state = 'paused' THEN 'paused' ELSE 'waiting' END,"
        " last_error_at = clock_timestamp() WHERE name = :name AND version = :version AND position > 0"
    )
    values = {"error": error, "name": projection.name, "version": projection.version}
    if connection.execute(waiting, values).rowcount:
        log.warning("needs a rebuild", projection=projection.name, error=error)


def _run_folder(connection: Connection, projection: Projection, folder: Path) -> None:
    versions = folder / "versions"
    if not versions.is_dir():
        raise InvalidProjection(f"projection {projection.name!r}: its migrations have no folder 'versions'")
    config = Config()
    # Our env.py runs their revisions; theirs, if there is one, is for writing revisions.
    config.set_main_option("script_location", _option(migrations_folder()))
    config.set_main_option("version_locations", _option(versions))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table(projection)
    try:
        command.upgrade(config, "heads")
    except Exception as error:
        why = f"projection {projection.name!r}: its migrations failed: {describe_user_code_error(error)}"
        raise ProjectionsError(why) from error


def _option(path: Path) -> str:
    return str(path).replace("%", "%%")


def _check_usable(connection: Connection, projection: Projection, table: Table) -> None:
    inspector = inspect(connection)
    of_table = f"table {table.schema}.{table.name} of projection {projection.name!r}"
    if not inspector.has_table(table.name, schema=table.schema):
        raise MigrationRefused(
            f"{of_table} isn't created by the projection's migrations; add a revision that creates it"
        )
    remedy = (
        "add a revision to its migrations"
        if projection.migrations is not None
        else "migrate never alters tables; drop the table (a rebuild fills it again), or give the projection an Alembic"
        " folder"
    )
    found = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
    missing = [column.name for column in table.c if column.name not in found]
    if missing:
        raise MigrationRefused(f"{of_table} is missing {', '.join(missing)}; {remedy}")
    key = inspector.get_pk_constraint(table.name, schema=table.schema)["constrained_columns"]
    needed = [column.name for column in table.primary_key.columns]
    if set(key) != set(needed):
        raise MigrationRefused(f"{of_table} must have the primary key ({', '.join(needed)}); {remedy}")
