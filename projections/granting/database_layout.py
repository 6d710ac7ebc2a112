"""Reads from Postgres's catalogs what a grant has to know: owners, our tables and views, and who holds what.

Invariants. Only catalogs are read, which every role may read, and the table ``projections.granted_roles``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from psycopg import sql
from sqlalchemy import Connection

from projections.granting.role_kinds import UNSAFE_FUNCTIONS, Privilege, RoleKind, Target
from projections.projection import READ_MODEL_SCHEMA, SHADOW_POSITIONS

SCHEMAS = ("eventstore", "projections", "projections_shadow", READ_MODEL_SCHEMA)
TABLE_ACTIONS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
SHADOW_POSITIONS_TABLE = ("projections_shadow", SHADOW_POSITIONS)

_OWNERS = """
SELECT current_user, current_database(), ours.owner, coalesce(ours.is_owner, false),
       (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()),
       (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'public'),
       (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'projections_shadow'),
       (SELECT pg_get_userbyid(relowner) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
        WHERE nspname = %s AND relname = %s)
FROM (SELECT 1) AS always LEFT JOIN (
    SELECT pg_get_userbyid(nspowner), pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'projections'
) AS ours (owner, is_owner) ON true
"""
_RELATIONS = """
SELECT n.nspname, c.relname, c.oid, c.relkind::text, pg_get_userbyid(c.relowner)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
ORDER BY 1, 2
"""
_ROLE = "SELECT rolcanlogin, rolsuper, pg_has_role(oid, %s, 'USAGE') FROM pg_roles WHERE rolname = %s"
_RECORDED = "SELECT role, kind FROM projections.granted_roles ORDER BY role, kind"
# What a role was granted itself, by a role that this session may act as. Names of functions have argument types.
_HELD = """
SELECT target, schema, object, action, column_name, grantee FROM (
    SELECT 'DATABASE' AS target, datname AS schema, '' AS object, x.privilege_type AS action, '' AS column_name, x.*
    FROM pg_database, aclexplode(datacl) AS x WHERE datname = current_database()
    UNION ALL
    SELECT 'SCHEMA', nspname, '', x.privilege_type, '', x.*
    FROM pg_namespace, aclexplode(nspacl) AS x WHERE nspname = ANY(%(schemas)s)
    UNION ALL
    SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, relname, x.privilege_type, '', x.*
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace, aclexplode(relacl) AS x
    WHERE n.nspname = ANY(%(schemas)s)
    UNION ALL
    SELECT 'TABLE', n.nspname, relname, x.privilege_type, attname, x.*
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = attrelid JOIN pg_namespace AS n ON n.oid = relnamespace,
         aclexplode(attacl) AS x
    WHERE n.nspname = ANY(%(schemas)s) AND NOT attisdropped
    UNION ALL
    SELECT 'FUNCTION', n.nspname, proname || '(' || oidvectortypes(proargtypes) || ')', x.privilege_type, '', x.*
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace, aclexplode(proacl) AS x
    WHERE n.nspname = ANY(%(schemas)s)
    UNION ALL
    SELECT 'NEW TABLES', n.nspname, '', x.privilege_type, '', x.*
    FROM pg_default_acl JOIN pg_namespace AS n ON n.oid = defaclnamespace, aclexplode(defaclacl) AS x
    WHERE n.nspname = ANY(%(schemas)s) AND defaclobjtype = 'r' AND pg_get_userbyid(defaclrole) = %(owner)s
) AS held (target, schema, object, action, column_name, grantor, grantee, privilege_type, is_grantable)
WHERE grantee = (SELECT oid FROM pg_roles WHERE rolname = %(role)s) AND pg_has_role(grantor, 'USAGE')
"""
# What a role may do by whatever way: its own privileges, those of everybody, and those of roles that it is a member of.
_MAY = sql.SQL("""
SELECT CASE target
    WHEN 'DATABASE' THEN has_database_privilege({role}, schema, action)
    WHEN 'SCHEMA' THEN has_schema_privilege({role}, namespace.oid, action)
    WHEN 'SEQUENCE' THEN has_sequence_privilege({role}, relation.oid, action)
    WHEN 'FUNCTION' THEN has_function_privilege({role}, (
        SELECT p.oid FROM pg_proc AS p
        WHERE pronamespace = namespace.oid AND proname || '(' || oidvectortypes(proargtypes) || ')' = object), action)
    WHEN 'NEW TABLES' THEN EXISTS (
        SELECT FROM pg_default_acl, aclexplode(defaclacl) AS x
        WHERE defaclnamespace = namespace.oid AND defaclobjtype = 'r'
          AND pg_get_userbyid(defaclrole) = {owner} AND x.privilege_type = action
          AND x.grantee = (SELECT oid FROM pg_roles WHERE rolname = {role}))
    ELSE CASE WHEN column_name = '' THEN has_table_privilege({role}, relation.oid, action)
              ELSE has_column_privilege({role}, relation.oid, column_name, action) END
    END
FROM unnest({targets}::text[], {schemas}::text[], {objects}::text[], {actions}::text[], {columns}::text[])
     WITH ORDINALITY AS asked (target, schema, object, action, column_name, number)
LEFT JOIN pg_namespace AS namespace ON nspname = schema
LEFT JOIN pg_class AS relation ON relnamespace = namespace.oid AND relname = object
ORDER BY number
""")


class Relation(NamedTuple):
    """A table, view or sequence in one of our schemas."""

    schema: str
    name: str
    oid: int
    kind: str
    owner: str


class Layout(NamedTuple):
    """What a grant has to know of a database.

    ``is_owner`` is whether this session may act as the owner of the schema ``projections``. ``shadow_owner`` is None if
    there is no schema of shadows, and ``positions_owner`` if it has no table of positions.
    """

    user: str
    database: str
    owner: str
    is_owner: bool
    database_owner: str
    public_owner: str
    shadow_owner: str | None
    positions_owner: str | None
    relations: tuple[Relation, ...]

    def has(self, schema: str, name: str) -> bool:
        """Return whether there is such a table, view or sequence."""
        return any((one.schema, one.name) == (schema, name) for one in self.relations)

    def readable(self, names: Iterable[str]) -> list[str]:
        """Return the tables and views of ``public`` that are ours: by one of these names, or by their owner."""
        ours = set(names)
        return [
            one.name
            for one in self.relations
            if one.schema == READ_MODEL_SCHEMA and one.kind != "S" and (one.name in ours or one.owner == self.owner)
        ]


class RoleFacts(NamedTuple):
    """A role's attributes; ``is_owner`` is whether it may act as the owner of our schemas."""

    can_login: bool
    is_superuser: bool
    is_owner: bool


def read_layout(connection: Connection) -> Layout:
    """Read the layout of a migrated database."""
    owners: Sequence[Any] = connection.exec_driver_sql(_OWNERS, SHADOW_POSITIONS_TABLE).one()
    relations = tuple(Relation(*row) for row in connection.exec_driver_sql(_RELATIONS, (list(SCHEMAS),)))
    values = [*owners, relations]
    return Layout(*values)


def read_role(connection: Connection, role: str, owner: str) -> RoleFacts | None:
    """Return a role's attributes; None if there is no such role."""
    row = connection.exec_driver_sql(_ROLE, (owner, role)).one_or_none()
    return RoleFacts(*row) if row else None


def read_recorded_roles(connection: Connection) -> dict[str, list[RoleKind]]:
    """Return the kinds of the roles that grants were recorded for."""
    found: dict[str, list[RoleKind]] = {}
    for role, kind in connection.exec_driver_sql(_RECORDED):
        found.setdefault(role, []).append(RoleKind(kind))
    return found


def read_held(connection: Connection, layout: Layout, role: str) -> set[Privilege]:
    """Return the privileges that a role was granted itself, by the owner of the object or by this session's role."""
    values = {"schemas": list(SCHEMAS), "owner": layout.owner, "role": role}
    rows = connection.exec_driver_sql(_HELD, values)
    return {
        Privilege(Target(target), (schema, name) if name else (schema,), action, column)
        for target, schema, name, action, column, _ in rows
    }


def find_permitted(connection: Connection, layout: Layout, role: str, asked: Sequence[Privilege]) -> set[Privilege]:
    """Return which of these privileges a role has, in whatever way; the objects must exist."""
    if not asked:
        return set()
    statement = _MAY.format(
        role=sql.Literal(role),
        owner=sql.Literal(layout.owner),
        targets=sql.Literal([one.target.value for one in asked]),
        schemas=sql.Literal([one.name[0] for one in asked]),
        objects=sql.Literal([one.name[1] if len(one.name) > 1 else "" for one in asked]),
        actions=sql.Literal([one.action for one in asked]),
        columns=sql.Literal([one.column for one in asked]),
    )
    answers = _execute(connection, statement)
    return {one for one, (may,) in zip(asked, answers, strict=True) if may}


def dangerous_privileges(layout: Layout, role: str) -> list[Privilege]:
    """Return every privilege on our objects that matters, for a comparison with what a role should have.

    The role's own objects are left out: its shadows.
    """
    found = [Privilege(Target.DATABASE, (layout.database,), "CREATE")]
    found += [Privilege(Target.SCHEMA, (schema,), action) for schema in SCHEMAS for action in ("USAGE", "CREATE")]
    ours = set(layout.readable(()))
    for one in layout.relations:
        if one.owner == role or (one.schema == READ_MODEL_SCHEMA and one.name not in ours):
            continue
        name = (one.schema, one.name)
        if one.kind == "S":
            found += [Privilege(Target.SEQUENCE, name, action) for action in ("USAGE", "UPDATE")]
        else:
            found += [Privilege(Target.TABLE, name, action) for action in TABLE_ACTIONS]
    for function in UNSAFE_FUNCTIONS:
        schema, _, signature = function.partition(".")
        found.append(Privilege(Target.FUNCTION, (schema, signature), "EXECUTE"))
    return found


def _execute(connection: Connection, statement: sql.Composed) -> Sequence[Any]:
    return connection.exec_driver_sql(statement.as_string().replace("%", "%%")).all()
