"""Migrates a database's schema to the revision that this version needs, or refuses it in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from projections.errors import MigrationRefused
from projections.granting.database_layout import read_layout
from projections.granting.grant_roles import grant_on_new_relations
from projections.migrating.alembic_scripts import alembic_config
from projections.migrating.commit_log import CommitLog
from projections.migrating.distribute import distribute_new_tables
from projections.migrating.key_collations import sort_keys_by_bytes
from projections.migrating.lock_patience import LockPatience
from projections.migrating.migration_transaction import run_in_transaction
from projections.migrating.schema_repair import repair_schema
from projections.migrating.schema_revision import VERSION_SCHEMA, current_revision, head_revision, refuse_unknown
from projections.migrating.sqlalchemy_connection import one_session
from projections.migrating.user_tables import migrate_user_tables
from projections.migrating.user_views import migrate_views
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.read_models.common_columns import VIEWS
from projections.read_models.common_columns import metadata as read_model_metadata
from projections.registry import find_valid_projections

READ_MODELS_SINCE = "0002"
"""The revision that creates our first read models; before it, whatever has one of their names isn't ours."""

LATER_NAMES = {"event_log": "0015", "people": "0016", "person_requests": "0016"}
"""Tables and views of read models that a later revision creates."""

_OWNER = (
    "SELECT current_user AS user, pg_get_userbyid(nspowner) AS owner, pg_has_role(nspowner, 'USAGE') AS is_owner"
    " FROM pg_namespace WHERE nspname = %s"
)
# Types count too: a table creates a type of its own name.
_TAKEN_NAME = (
    "SELECT relname AS name FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace(:schema)"
    " AND relname = ANY(:names) UNION SELECT typname FROM pg_catalog.pg_type"
    " WHERE typnamespace = to_regnamespace(:schema) AND typname = ANY(:names) ORDER BY name LIMIT 1"
)


def upgrade(
    url: str,
    revision: str = "head",
    projections: Iterable[Projection] | None = None,
    *,
    patience: LockPatience | None = None,
    keep_unfinished: bool = False,
) -> tuple[str | None, str | None]:
    """Migrate a database, tables and views of users included, in one transaction; concurrent ones wait for each other.

    At ``head`` it then lets keys of text sort by bytes, distributes new tables if the log is distributed, and repairs
    what differs from that schema, even if the revision was current before.

    Args:
        url: the database.
        revision: of our schema; users' tables and views are created, and the schema repaired, at ``head`` only.
        projections: whose tables and views to create; None for those registered.
        patience: how long to wait for locks; None for what the environment sets.
        keep_unfinished: whether an unfinished partitioning stays, because the caller goes on with it.

    Returns:
        The revision before and after.

    Raises:
        MigrationRefused: this database can't be migrated as it is.
        MigrationBlocked: other sessions held a lock for too long; nothing of what waited for it was done.
        SchemaBroken: something can't be repaired; the message says what.
        InvalidProjection: a registered projection breaks the rules.
        ProjectionsError: a projection's own migrations failed.
        DatabaseUnavailable: the database can't be reached.

    """
    is_head = revision == "head"
    log = CommitLog()

    @cache
    def chosen() -> list[Projection]:
        return list(find_valid_projections().values() if projections is None else projections)

    def step(config: Config) -> None:
        log.forget()
        connection: Connection = config.attributes["connection"]
        _refuse_taken_names(connection)
        before = {one.oid for one in read_layout(connection).relations}
        if not is_head or current_revision(connection) != head_revision():
            command.upgrade(config, revision)
        if is_head:
            migrate_user_tables(connection, chosen(), log)
            migrate_views(connection, chosen(), log)
            for role in grant_on_new_relations(connection, before, chosen()):
                log.warning(
                    "a role that was granted privileges no longer exists", role=role, remedy="projections revoke"
                )

    with one_session(url):
        before_and_after = run_migration(url, step, patience)
        log.write()
        if is_head:
            sort_keys_by_bytes(url, chosen(), patience)
            distribute_new_tables(url, chosen(), patience)
            repair_schema(url, patience=patience, keep_unfinished=keep_unfinished)
    return before_and_after


def downgrade(url: str, revision: str) -> tuple[str | None, str | None]:
    """Take a database back to an earlier revision (``base`` for the empty one); returns as :func:`upgrade` does."""
    return run_migration(url, lambda config: command.downgrade(config, revision))


def run_migration(
    url: str, step: Callable[[Config], None], patience: LockPatience | None = None
) -> tuple[str | None, str | None]:
    """Run a step that Alembic makes, in one transaction; returns the revision before and after.

    Raises:
        MigrationRefused: the database's encoding isn't UTF8, or its revision is one of a newer version.
        MigrationBlocked: other sessions held a lock for too long; nothing was changed.
        DatabaseUnavailable: the database can't be reached.

    """

    def work(connection: Connection) -> tuple[str | None, str | None]:
        _refuse_encoding(connection)
        _refuse_other_roles(connection)
        before = current_revision(connection)
        refuse_unknown(before)
        config = alembic_config()
        config.attributes["connection"] = connection
        step(config)
        return before, current_revision(connection)

    return run_in_transaction(url, work, patience)


def _refuse_encoding(connection: Connection) -> None:
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        raise MigrationRefused(
            f"database {name!r} has encoding {encoding}, which can't hold every text that is received; create a"
            " database with ENCODING 'UTF8' (TEMPLATE template0) and set DATABASE_URL to it"
        )


def _refuse_other_roles(connection: Connection) -> None:
    """Refuse a role that may not act as the owner of the schema, before Postgres refuses one of its statements."""
    found = connection.exec_driver_sql(_OWNER, (VERSION_SCHEMA,)).one_or_none()
    if found is not None and not found.is_owner:
        raise MigrationRefused(
            f"role {found.user} may not migrate: schema {VERSION_SCHEMA} belongs to role {found.owner}; run projections"
            " migrate as that role"
        )


def _refuse_taken_names(connection: Connection) -> None:
    revision = current_revision(connection) or ""
    every_name = (*(table.name for table in read_model_metadata.tables.values()), *VIEWS)
    names = [name for name in every_name if revision < LATER_NAMES.get(name, READ_MODELS_SINCE)]
    taken = connection.execute(text(_TAKEN_NAME), {"schema": READ_MODEL_SCHEMA, "names": names}).scalar()
    if taken is not None:
        raise MigrationRefused(
            f"{READ_MODEL_SCHEMA}.{taken} already exists and isn't ours; rename it, or set DATABASE_URL to a database"
            " of our own"
        )
