"""Reads from the catalogs what a migration of views has to know: definitions, dependents, comments, privileges."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from psycopg import sql
from sqlalchemy import Connection

from projections.projection import READ_MODEL_SCHEMA

_RELATION = """
SELECT c.oid, c.relkind = 'v', CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END,
       obj_description(c.oid, 'pg_class'),
       ARRAY(SELECT attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attcollation FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum),
       (SELECT json_object_agg(attname, col_description(c.oid, attnum)) FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0)
FROM pg_class AS c WHERE c.oid = to_regclass(%s)
"""
_DEPENDENT = """
WITH RECURSIVE dependent (oid) AS (
    SELECT %s::oid
    UNION
    SELECT r.ev_class FROM dependent AS d
    JOIN pg_depend AS p ON p.refclassid = 'pg_class'::regclass AND p.refobjid = d.oid
         AND p.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite AS r ON r.oid = p.objid
)
SELECT c.relname FROM dependent JOIN pg_class AS c USING (oid)
WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'v' AND c.relname = ANY(%s)
"""
_GRANTS = """
SELECT r.rolname, x.privilege_type, x.is_grantable, attname
FROM (SELECT relacl, relowner, NULL FROM pg_class WHERE oid = to_regclass(%(view)s)
      UNION ALL
      SELECT attacl, relowner, attname FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid
      WHERE attrelid = to_regclass(%(view)s)) AS a (acl, owner, attname),
     aclexplode(a.acl) AS x LEFT JOIN pg_roles AS r ON r.oid = x.grantee
WHERE x.grantee <> a.owner
"""


class CatalogRelation(NamedTuple):
    """A relation as the catalogs have it.

    Attributes:
        oid: its oid.
        is_view: whether it is a view; else the definition is None.
        definition: the query, as Postgres writes it.
        comment: its comment.
        columns: name, type and collation of each column, in order.
        column_comments: the comment of each column, by name; None for none.

    """

    oid: int
    is_view: bool
    definition: str | None
    comment: str | None
    columns: list[str]
    column_comments: dict[str, str | None]


def read_relation(connection: Connection, name: sql.Identifier) -> CatalogRelation | None:
    """Return a relation by its name; None if there is none."""
    row: Any = connection.exec_driver_sql(_RELATION, (name.as_string(),)).one_or_none()
    return CatalogRelation(*row) if row else None


def find_dependent_views(connection: Connection, oid: int, among: Collection[str]) -> list[str]:
    """Return the views of these names that depend on a view in any way, itself among them."""
    values = (oid, READ_MODEL_SCHEMA, sorted(among))
    return [str(row[0]) for row in connection.exec_driver_sql(_DEPENDENT, values)]


def compose_grants_again(connection: Connection, name: sql.Identifier) -> list[sql.Composed]:
    """Return the statements that grant again what is granted on a view to others than its owner."""
    found = connection.exec_driver_sql(_GRANTS, {"view": name.as_string()})
    return [
        sql.SQL("GRANT {}{} ON {} TO {}{}").format(
            sql.SQL(action),
            sql.SQL(" ({})").format(sql.Identifier(column)) if column else sql.SQL(""),
            name,
            sql.SQL("PUBLIC") if role is None else sql.Identifier(role),
            sql.SQL(" WITH GRANT OPTION" if is_grantable else ""),
        )
        for role, action, is_grantable, column in found
    ]
