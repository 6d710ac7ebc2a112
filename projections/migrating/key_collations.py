"""Lets keys of text sort by their bytes: COLLATE "C" instead of the database's collation.

Comparing bytes is faster, and an update of the operating system's locales can't change the order, which would damage
the indexes of the keys. The keys of read models, of the engine's tables and of users' tables that ``migrate`` creates
get it. A column that names another collation keeps it, and so do the tables of a projection that brings an Alembic
folder. The columns of ``eventstore.events`` keep the database's collation, except event_id: statements of users compare
them with columns of theirs, which may name a collation, and two that are named can't be compared.

Invariants. No row is written anew; Postgres builds the indexes with such a column again, and locks the table meanwhile.
Each table is a transaction of its own. Where the collation of the database sorts by bytes, nothing is changed. A view
that reads such a column is dropped and created again with its owner, comments, options and privileges, in the same
transaction. If something else depends on the column, the table stays as it is, and a warning says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog
from psycopg import errors, sql
from sqlalchemy import Connection, Table, UniqueConstraint
from sqlalchemy.exc import DBAPIError

from eventstore.errors import describe
from projections.migrating.lock_patience import LockPatience
from projections.migrating.metadata import target_metadata
from projections.migrating.migration_transaction import run_in_transaction
from projections.migrating.sqlalchemy_connection import sqlalchemy_connection
from projections.migrating.view_catalog import compose_grants_again
from projections.projection import Projection

log = structlog.get_logger(__name__)

_EVENTS = "eventstore.events"
# Of a builtin provider (since PostgreSQL 17), every locale sorts by code points, which are in the order of their bytes.
_SORTS_BY_BYTES = """
SELECT datlocprovider = 'b' OR (datlocprovider = 'c' AND datcollate IN ('C', 'POSIX'))
FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
"""
_DEFAULT_COLUMNS = """
SELECT n.nspname || '.' || c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)
FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = ANY(%s) AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attcollation = 'pg_catalog."default"'::pg_catalog.regcollation
ORDER BY 1, a.attnum
"""
_VIEWS = """
WITH RECURSIVE dependent (oid, depth) AS (
    SELECT DISTINCT r.ev_class, 1 FROM pg_catalog.pg_depend AS d
    JOIN pg_catalog.pg_rewrite AS r ON r.oid = d.objid AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.refobjid = pg_catalog.to_regclass(%(table)s) AND a.attname = ANY(%(columns)s) AND r.ev_class <> d.refobjid
    UNION
    SELECT r.ev_class, v.depth + 1 FROM dependent AS v JOIN pg_catalog.pg_depend AS d ON d.refobjid = v.oid
    JOIN pg_catalog.pg_rewrite AS r ON r.oid = d.objid AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
    WHERE r.ev_class <> v.oid
)
SELECT n.nspname, c.relname, c.relkind = 'v', pg_catalog.pg_get_viewdef(c.oid), c.reloptions,
       pg_catalog.pg_get_userbyid(c.relowner), c.relowner = (SELECT oid FROM pg_catalog.pg_roles
                                                             WHERE rolname = current_user),
       EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = c.oid)
       OR (SELECT count(*) > 1 FROM pg_catalog.pg_rewrite WHERE ev_class = c.oid)
       OR EXISTS (SELECT FROM pg_catalog.pg_attrdef WHERE adrelid = c.oid),
       pg_catalog.obj_description(c.oid, 'pg_class'),
       (SELECT pg_catalog.json_object_agg(attname, pg_catalog.col_description(c.oid, attnum))
        FROM pg_catalog.pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 AND pg_catalog.col_description(c.oid, attnum) IS NOT NULL)
FROM (SELECT oid, max(depth) AS depth FROM dependent GROUP BY oid) AS found
JOIN pg_catalog.pg_class AS c USING (oid) JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY found.depth, c.relname
"""
_REFUSALS = (
    errors.DependentObjectsStillExist,
    errors.FeatureNotSupported,
    errors.InsufficientPrivilege,
    errors.InvalidTableDefinition,
)


class _View(NamedTuple):
    """A view that reads the column, directly or through others."""

    schema: str
    name: str
    is_view: bool
    definition: str
    options: Sequence[str] | None
    owner: str
    is_ours: bool
    has_more: bool
    comment: str | None
    column_comments: dict[str, str] | None

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


class CollationKept(Exception):
    """A view can't be dropped and created again."""


def sort_keys_by_bytes(url: str, projections: Iterable[Projection], patience: LockPatience | None = None) -> None:
    """Let all keys of text sort by bytes, as far as they don't yet.

    Args:
        url: the database, at the head of our schema.
        projections: whose tables ``migrate`` creates.
        patience: how long to wait for locks; None for what the environment sets.

    Raises:
        MigrationBlocked: other sessions held a lock for too long.

    """
    keys = {table.fullname: set(_key_columns(table)) for table in _tables(projections)}
    with sqlalchemy_connection(url) as connection:
        if connection.exec_driver_sql(_SORTS_BY_BYTES).scalar_one():
            return
        found = connection.exec_driver_sql(_DEFAULT_COLUMNS, (sorted(keys),)).all()
    changes: dict[str, dict[str, str]] = {}
    for table, column, type_name in found:
        if column in keys[table]:
            changes.setdefault(table, {})[column] = type_name
    for table, columns in changes.items():
        try:
            run_in_transaction(url, partial(change_to_bytes, table=table, columns=columns), patience)
        except CollationKept as error:
            _warn(table, str(error))
        except DBAPIError as error:
            if not isinstance(error.orig, _REFUSALS):
                raise
            detail = "; ".join((error.orig.diag.message_detail or "").splitlines())
            _warn(table, f"{describe(error)}{f' ({detail})' if detail else ''}")


def _warn(table: str, why: str) -> None:
    log.warning(
        "keys still sort by the database's collation, which is slower",
        table=table,
        why=why,
        remedy="drop what depends on the keys, run projections migrate, and create it again",
    )


def _tables(projections: Iterable[Projection]) -> Iterator[Table]:
    for metadata in target_metadata:
        yield from (table for table in metadata.tables.values() if table.fullname != _EVENTS)
    for projection in projections:
        if projection.migrations is None:
            yield from projection.tables


def _key_columns(table: Table) -> Iterator[str]:
    """Yield the columns of the primary key and of unique constraints that don't name a collation."""
    unique = [one for one in table.constraints if isinstance(one, UniqueConstraint)]
    for key in (table.primary_key, *unique):
        yield from (column.name for column in key.columns if getattr(column.type, "collation", None) is None)


def change_to_bytes(connection: Connection, *, table: str, columns: dict[str, str]) -> None:
    """Let columns of a table sort by bytes; ``columns`` has their types by name.

    Raises:
        CollationKept: a view that reads them can't be dropped and created again.

    """
    name = sql.Identifier(*table.split(".", 1))
    # Locked first, so that the views that are found are all.
    _execute(connection, sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(name))
    values = {"table": name.as_string(), "columns": list(columns)}
    rows: Any = connection.exec_driver_sql(_VIEWS, values).all()
    views = [_View(*row) for row in rows]
    for view in views:
        if not view.is_view or view.has_more or not view.is_ours:
            kind = "view" if view.is_view else "materialized view"
            of = "" if view.is_ours else f" of role {view.owner}"
            raise CollationKept(f"{kind} {view.schema}.{view.name}{of} reads them")
    again = [statement for view in views for statement in _compose_view(connection, view)]
    for view in reversed(views):
        _execute(connection, sql.SQL("DROP VIEW {}").format(view.identifier))
    actions = [
        sql.SQL('ALTER COLUMN {} TYPE {} COLLATE pg_catalog."C"').format(sql.Identifier(column), sql.SQL(type_name))
        for column, type_name in columns.items()
    ]
    _execute(connection, sql.SQL("ALTER TABLE {} {}").format(name, sql.SQL(", ").join(actions)))
    for statement in again:
        _execute(connection, statement)


def _compose_view(connection: Connection, view: _View) -> Iterator[sql.Composed]:
    """Yield the statements that create a view again, as it is."""
    options = [sql.SQL("{} = {}").format(sql.Identifier(key), sql.Literal(value)) for key, value in _pairs(view)]
    with_options = sql.SQL(" WITH ({})").format(sql.SQL(", ").join(options)) if options else sql.SQL("")
    yield sql.SQL("CREATE VIEW {}{} AS {}").format(view.identifier, with_options, sql.SQL(view.definition))
    if view.comment is not None:
        yield sql.SQL("COMMENT ON VIEW {} IS {}").format(view.identifier, sql.Literal(view.comment))
    for column, comment in (view.column_comments or {}).items():
        of_column = sql.Identifier(view.schema, view.name, column)
        yield sql.SQL("COMMENT ON COLUMN {} IS {}").format(of_column, sql.Literal(comment))
    yield from compose_grants_again(connection, view.identifier)


def _pairs(view: _View) -> Iterator[tuple[str, str]]:
    for option in view.options or ():
        key, _, value = option.partition("=")
        yield key, value


def _execute(connection: Connection, statement: sql.Composed) -> None:
    connection.exec_driver_sql(statement.as_string().replace("%", "%%"))
