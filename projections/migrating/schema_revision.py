"""Which revision of our schema a database has, and which one this version of the code needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection
from sqlalchemy.exc import ProgrammingError

from eventstore.postgres.queries import fetch_row, fetch_value
from projections.errors import MigrationRefused, RoleMayNot, SchemaNotCurrent
from projections.granting.role_kinds import RoleKind
from projections.migrating.missing_tables import describe_missing_table, find_missing_table, find_missing_tables
from projections.migrating.revision_files import read_revisions
from projections.migrating.role_check import check_privileges
from projections.migrating.sqlalchemy_connection import sqlalchemy_connection
from projections.projection import Projection

VERSION_SCHEMA = "projections"
VERSION_TABLE = "alembic_version"

_HAS_VERSION_TABLE = (
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE n.nspname = 'projections' AND c.relname = 'alembic_version')"
)
_REVISION = "SELECT version_num FROM projections.alembic_version"
_ROLE_AND_OWNER = "SELECT current_user, pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = %s"


def head_revision() -> str:
    """Return the revision that this version of the code needs: the only one that no other follows."""
    revisions = read_revisions()
    (head,) = revisions.keys() - revisions.values()
    return head


def current_revision(connection: Connection) -> str | None:
    """Return the revision of a database; None before the first migration.

    Raises:
        RoleMayNot: this role may not read it; the message says which roles may.

    """
    # As Alembic does it, which takes long to load.
    if not connection.exec_driver_sql(_HAS_VERSION_TABLE).scalar_one():
        return None
    try:
        revision: str | None = connection.exec_driver_sql(_REVISION).scalar_one_or_none()
    except ProgrammingError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            connection.rollback()
            user, owner = connection.exec_driver_sql(_ROLE_AND_OWNER, (VERSION_SCHEMA,)).one()
            raise RoleMayNot(_describe_role(user, owner)) from error
        raise
    return revision


async def check_schema(conn: AsyncConnection[Any], projections: Iterable[Projection] = ()) -> dict[str, str]:
    """Do the same as :func:`require_current_schema`, in a session in autocommit.

    Raises:
        SchemaNotCurrent, RoleMayNot, MigrationRefused: as :func:`require_current_schema` raises them.

    """
    revision: str | None = None
    if await fetch_value(conn, _HAS_VERSION_TABLE):
        try:
            revision = await fetch_value(conn, _REVISION)
        except InsufficientPrivilege as error:
            user, owner = await fetch_row(conn, _ROLE_AND_OWNER, [VERSION_SCHEMA]) or ("", "")
            raise RoleMayNot(_describe_role(user, owner)) from error
    _require_head(revision)
    missing = {projection.name: await find_missing_table(conn, projection) for projection in projections}
    return {name: describe_missing_table(table) for name, table in missing.items() if table is not None}


def _describe_role(user: str, owner: str) -> str:
    return (
        f"role {user} may not run this command, because it may not use schema {VERSION_SCHEMA}; connect as its owner"
        f" {owner}, or as a role that projections grant made a worker, an ingest, a serve or a consumer role"
    )


def require_current_schema(
    url: str, projections: Iterable[Projection] = (), *, kinds: Sequence[RoleKind] = ()
) -> dict[str, str]:
    """Make sure that a database has the revision that this version needs.

    Args:
        url: the database.
        projections: those whose tables must exist.
        kinds: what the role must be allowed to do, as far as a command can't work without it.

    Returns:
        By name, which of the projections can't fold because a table of theirs is missing, and what to do.

    Raises:
        SchemaNotCurrent: it has an older revision, or none; the message says what to do.
        RoleMayNot: this role may not read the revision, or not do what the command does.
        MigrationRefused: it has a revision of a newer version.
        DatabaseUnavailable: the database can't be reached.

    """
    with sqlalchemy_connection(url) as connection:
        _require_head(current_revision(connection))
        check_privileges(connection, kinds)
        missing = {projection.name: find_missing_tables(connection, projection) for projection in projections}
    return {name: describe_missing_table(tables[0].name) for name, tables in missing.items() if tables}


def _require_head(revision: str | None) -> None:
    needed = head_revision()
    refuse_unknown(revision)
    if revision != needed:
        has = "has no schema yet" if revision is None else f"has schema revision {revision}"
        raise SchemaNotCurrent(f"the database {has}, this version needs {needed}; run projections migrate")


def refuse_unknown(revision: str | None) -> None:
    """Refuse a revision that a newer version made.

    Raises:
        MigrationRefused: this version doesn't know it.

    """
    if revision is not None and revision not in read_revisions():
        raise MigrationRefused(
            f"the database has schema revision {revision}, which this version doesn't know; upgrade this program, or"
            f" take the schema back with the newer one: projections migrate --down-to {head_revision()}"
        )
