"""Creates and replaces the views of users' projections, and drops those that a projection no longer has.

Invariants. A view is replaced or dropped only if ``projections.views`` records it as ours, or if it shows already what
ours would. That of a projection which isn't installed is not replaced by another one's. A view of others that depends
on ours is never dropped. A view that is as declared is not touched, so it locks nobody. Privileges that anybody granted
on a view stay when it is created again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, NoReturn

from psycopg import errors, sql
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from eventstore.redaction.redact import redact
from projections.engine_tables import SCHEMA
from projections.errors import InvalidProjection, MigrationRefused, describe_user_code_error
from projections.folding.view_text import compose_view_query
from projections.migrating.commit_log import CommitLog
from projections.migrating.view_catalog import (
    CatalogRelation,
    compose_grants_again,
    find_dependent_views,
    read_relation,
)
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.views import View

_DECLARED = sql.Identifier(SCHEMA, "view_as_declared")
"""The name under which a declared view is created for comparison; it never outlives its transaction."""

_RECORDED = "SELECT name, projection FROM projections.views"
_RECORD = (
    "INSERT INTO projections.views (name, projection) VALUES (%s, %s)"
    " ON CONFLICT (name) DO UPDATE SET projection = excluded.projection"
)
_FORGET = "DELETE FROM projections.views WHERE name = %s"


class _Declaration(NamedTuple):
    projection: str
    view: View
    query: sql.SQL


def migrate_views(connection: Connection, projections: Iterable[Projection], log: CommitLog) -> None:
    """Create the views that projections have, replace those that changed, and drop those that they no longer have.

    Args:
        connection: inside a transaction, with our schema at its head and the projections' tables created.
        projections: the registered ones; views of others stay.
        log: receives what was done.

    Raises:
        MigrationRefused: something else has the name of a view, or a projection that isn't installed has a view of that
            name; or something that isn't ours depends on a view whose
            columns change, or that is to be dropped.
        InvalidProjection: Postgres refuses the query of a view, or a comment names no column of it.

    """
    installed = list(projections)
    declared = [
        _Declaration(one.name, view, sql.SQL(compose_view_query(view))) for one in installed for view in one.views
    ]
    _Migration(connection, installed, declared, log).run()


class _Migration:
    """One run over all views; a view may depend on another one, whatever their order."""

    def __init__(
        self, connection: Connection, installed: list[Projection], declared: list[_Declaration], log: CommitLog
    ) -> None:
        self._connection = connection
        self._log = log
        self._installed = {one.name for one in installed}
        self._declared = {one.view.name: one for one in declared}
        self._recorded: dict[str, str] = {row[0]: row[1] for row in connection.exec_driver_sql(_RECORDED)}
        self._done: set[str] = set()
        self._grants: list[sql.Composed] = []

    def run(self) -> None:
        self._drop_undeclared()
        while left := [one for name, one in self._declared.items() if name not in self._done]:
            done, first_error = len(left), None
            for one in left:
                try:
                    self._migrate(one)
                except InvalidProjection as error:
                    if not _is_undefined(error):
                        raise
                    first_error = first_error or error
                    done -= 1
            if first_error is not None and not done:
                raise first_error
        for statement in self._grants:
            self._execute(statement)

    def _migrate(self, one: _Declaration) -> None:
        name, view = _public(one.view.name), one.view
        wanted = self._read_declared(one)
        current = read_relation(self._connection, name)
        is_same = current is not None and (current.definition, current.columns) == (
            wanted.definition,
            wanted.columns,
        )
        if current is not None and not (current.is_view and (view.name in self._recorded or is_same)):
            raise MigrationRefused(
                f"{READ_MODEL_SCHEMA}.{view.name} already exists and isn't the view of projection {one.projection!r};"
                " rename one of the two"
            )
        owner = self._recorded.get(view.name, one.projection)
        if current is not None and owner not in {one.projection, *self._installed}:
            if not is_same:
                raise MigrationRefused(
                    f"view {READ_MODEL_SCHEMA}.{view.name} of projection {one.projection!r} would replace that of"
                    f" projection {owner!r}, which isn't installed here; rename one of the two, or drop the view if"
                    " nobody needs the old one"
                )
            self._log.info("took over a view", projection=one.projection, view=view.name, previous=owner)
        if not is_same:
            if current is not None and wanted.columns[: len(current.columns)] != current.columns:
                self._drop_to_create_again(current.oid, view.name)
            self._execute(sql.SQL("CREATE OR REPLACE VIEW {} AS {}").format(name, one.query))
            what = "replaced a view" if current else "created a view"
            self._log.info(what, projection=one.projection, view=view.name)
        if self._recorded.get(view.name) != one.projection:
            self._connection.exec_driver_sql(_RECORD, (view.name, one.projection))
            self._recorded[view.name] = one.projection
        self._set_comments(view)
        self._done.add(view.name)

    def _read_declared(self, one: _Declaration) -> CatalogRelation:
        """Return the view as Postgres would create it, and leave nothing behind."""
        attempt = self._connection.begin_nested()
        try:
            self._execute(sql.SQL("CREATE VIEW {} AS {}").format(_DECLARED, one.query))
            made = read_relation(self._connection, _DECLARED)
        except DBAPIError as error:
            if not isinstance(error.orig, errors.ProgrammingError | errors.NotSupportedError | errors.DataError):
                raise
            _refuse(one, redact(describe_user_code_error(error)), error)
        finally:
            attempt.rollback()
        if made is None:
            _refuse(one, "its query creates no view", None)
        unknown = sorted(set(one.view.columns) - set(made.column_comments))
        if unknown:
            _refuse(one, f"it has comments on {', '.join(unknown)}, which are not among its columns", None)
        return made

    def _drop_to_create_again(self, oid: int, name: str) -> None:
        """Drop a view whose columns change, with those of ours that depend on it."""
        ours = {one for one in self._declared if one in self._recorded}
        names = find_dependent_views(self._connection, oid, ours | {name})
        for one in names:
            self._grants += compose_grants_again(self._connection, _public(one))
        self._drop(names, f"view {READ_MODEL_SCHEMA}.{name} can't get its new columns")
        self._done -= set(names)

    def _drop_undeclared(self) -> None:
        names = [name for name, of in self._recorded.items() if of in self._installed and name not in self._declared]
        existing = [
            name for name in names if (found := read_relation(self._connection, _public(name))) and found.is_view
        ]
        if existing:
            listed = ", ".join(existing)
            self._drop(existing, f"the projections no longer have the views {listed}, and they can't be dropped")
            self._log.info("dropped views", views=listed)
        for name in names:
            self._connection.exec_driver_sql(_FORGET, (name,))

    def _drop(self, names: list[str], problem: str) -> None:
        try:
            self._execute(sql.SQL("DROP VIEW {}").format(sql.SQL(", ").join(map(_public, names))))
        except DBAPIError as error:
            if not isinstance(error.orig, errors.DependentObjectsStillExist):
                raise
            # The detail has names of views, functions and the like.
            detail = "; ".join((error.orig.diag.message_detail or "").splitlines())
            raise MigrationRefused(
                f"{problem} while others depend on them: {detail}. Drop these, run projections migrate, and create them"
                " again"
            ) from error

    def _set_comments(self, view: View) -> None:
        """Set the comments that differ; setting one locks the view."""
        current = read_relation(self._connection, _public(view.name))
        if current is None:  # nobody else can drop it meanwhile
            return
        if current.comment != view.comment:
            on = sql.SQL("COMMENT ON VIEW {} IS {}")
            self._execute(on.format(_public(view.name), sql.Literal(view.comment)))
        for column, comment in current.column_comments.items():
            if comment != view.columns.get(column):
                name = sql.Identifier(READ_MODEL_SCHEMA, view.name, column)
                on = sql.SQL("COMMENT ON COLUMN {} IS {}")
                self._execute(on.format(name, sql.Literal(view.columns.get(column))))

    def _execute(self, statement: sql.Composed) -> None:
        self._connection.exec_driver_sql(statement.as_string().replace("%", "%%"))


def _public(name: str) -> sql.Identifier:
    return sql.Identifier(READ_MODEL_SCHEMA, name)


def _refuse(one: _Declaration, why: str, cause: BaseException | None) -> NoReturn:
    raise InvalidProjection(f"projection {one.projection!r}: view {one.view.name}: {why}") from cause


def _is_undefined(error: InvalidProjection) -> bool:
    """Return whether a view reads a relation that doesn't exist, or not yet."""
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and isinstance(cause.orig, errors.UndefinedTable)
