"""Reads from the catalogs what the table of events has beside its columns, as statements that make it again.

Partitioning puts another table in the place of ``eventstore.events``, and so does its way back. Indexes, triggers,
privileges, row security and comments belong to the new table then, and views have to read it.

Invariants. Nothing is left out silently: what can't be made again is refused, with its name, before anything changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from psycopg import sql
from sqlalchemy import Connection

from projections.errors import MigrationRefused

EVENTS = "eventstore.events"
KEEP_EVENT_IDS = "keep_event_ids"
"""The trigger that keeps an id from being stored in two partitions."""

_INDEXES = """
SELECT c.relname, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisunique,
       EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = i.indrelid AND a.attname = 'position'
               AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])),
       k.conname, k.contype::text, pg_get_constraintdef(k.oid), obj_description(i.indexrelid, 'pg_class')
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint AS k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
WHERE i.indrelid = %s::regclass ORDER BY c.relname
"""
_TRIGGERS = """
SELECT tgname, pg_get_triggerdef(oid), tgenabled::text, tgtype & 1 = 1, tgnewtable IS NOT NULL OR tgoldtable IS NOT NULL
FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal ORDER BY tgname
"""
_GRANTS = """
SELECT pg_get_userbyid(x.grantee), x.grantee = 0, x.privilege_type, x.is_grantable, NULL
FROM pg_class AS c, aclexplode(c.relacl) AS x WHERE c.oid = %(table)s::regclass AND x.grantee <> c.relowner
UNION ALL
SELECT pg_get_userbyid(x.grantee), x.grantee = 0, x.privilege_type, x.is_grantable, a.attname
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid, aclexplode(a.attacl) AS x
WHERE c.oid = %(table)s::regclass AND NOT a.attisdropped AND x.grantee <> c.relowner
ORDER BY 1, 3, 5
"""
_TABLE = """
SELECT pg_get_userbyid(relowner), relrowsecurity, relforcerowsecurity, obj_description(oid, 'pg_class')
FROM pg_class WHERE oid = %s::regclass
"""
_POLICIES = """
SELECT policyname, permissive, roles::text[], cmd, qual, with_check
FROM pg_policies WHERE schemaname || '.' || tablename = %s ORDER BY policyname
"""
_VIEWS = """
SELECT DISTINCT v.oid, n.nspname, v.relname, pg_get_viewdef(v.oid), v.reloptions, pg_get_userbyid(v.relowner),
       pg_has_role(v.relowner, 'USAGE')
FROM pg_depend AS d JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
JOIN pg_class AS v ON v.oid = r.ev_class AND v.relkind = 'v' JOIN pg_namespace AS n ON n.oid = v.relnamespace
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %s::regclass ORDER BY v.oid
"""
# Whatever else refers to the table or to the type of its rows: it would go on to refer to what was the table.
_OTHERS = """
WITH events AS (
    SELECT c.oid, c.reltype, t.typarray FROM pg_class AS c JOIN pg_type AS t ON t.oid = c.reltype
    WHERE c.oid = %s::regclass
)
SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid)
FROM events, pg_depend AS d
WHERE ((d.refclassid = 'pg_class'::regclass AND d.refobjid = events.oid)
       OR (d.refclassid = 'pg_type'::regclass AND d.refobjid IN (events.reltype, events.typarray)))
  AND NOT CASE d.classid
      WHEN 'pg_class'::regclass THEN
          d.objid = events.oid
          OR EXISTS (SELECT FROM pg_index WHERE indexrelid = d.objid AND indrelid = events.oid)
          OR EXISTS (SELECT FROM pg_class WHERE oid = d.objid AND (relkind = 't' OR relispartition))
      WHEN 'pg_constraint'::regclass THEN EXISTS (
          SELECT FROM pg_constraint WHERE oid = d.objid AND conrelid = events.oid AND contype <> 'f')
      WHEN 'pg_attrdef'::regclass THEN EXISTS (SELECT FROM pg_attrdef WHERE oid = d.objid AND adrelid = events.oid)
      WHEN 'pg_trigger'::regclass THEN EXISTS (
          SELECT FROM pg_trigger WHERE oid = d.objid AND tgrelid = events.oid AND tgconstrrelid = 0)
      WHEN 'pg_policy'::regclass THEN EXISTS (SELECT FROM pg_policy WHERE oid = d.objid AND polrelid = events.oid)
      WHEN 'pg_statistic_ext'::regclass THEN true
      WHEN 'pg_type'::regclass THEN d.objid IN (events.reltype, events.typarray)
      WHEN 'pg_rewrite'::regclass THEN EXISTS (
          SELECT FROM pg_rewrite AS r JOIN pg_class AS v ON v.oid = r.ev_class
          WHERE r.oid = d.objid AND v.relkind = 'v')
      ELSE false END
ORDER BY 1
"""
_COLUMNS = """
SELECT attname, CASE WHEN attstattarget >= 0 THEN attstattarget END, array_to_string(attoptions, ', ')
FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
  AND (attstattarget >= 0 OR attoptions IS NOT NULL) ORDER BY attnum
"""
_ENABLED = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


class TableIndex(NamedTuple):
    """An index: its name, and the statements that make it and its comment on a table ``eventstore.events``."""

    name: str
    create: str
    comment: str | None
    is_primary_key: bool


class TableTrigger(NamedTuple):
    """A trigger: the statements that make it, and that make it fire when it fired before."""

    name: str
    create: str
    enable: str
    is_for_each_row: bool


class TableView(NamedTuple):
    """A view that reads the table: the statement that makes it read the table which has the name then."""

    name: str
    replace: str


class EventsTable(NamedTuple):
    """What the table of events has: statements that name it ``eventstore.events``."""

    owner: str
    indexes: Sequence[TableIndex]
    triggers: Sequence[TableTrigger]
    properties: Sequence[str]
    views: Sequence[TableView]


def read_events_table(connection: Connection) -> EventsTable:
    """Return what the table of events has.

    Raises:
        MigrationRefused: something can't be made again; the message names it and says what to do.

    """
    _refuse_others(connection)
    owner, *_ = connection.exec_driver_sql(_TABLE, (EVENTS,)).one()
    return EventsTable(
        owner,
        list(_read_indexes(connection)),
        list(_read_triggers(connection)),
        [*_read_columns(connection), *_read_access(connection), *_read_policies(connection)],
        list(_read_views(connection)),
    )


def execute(connection: Connection, statement: sql.Composable | str) -> None:
    """Run a statement without parameters."""
    text = statement if isinstance(statement, str) else statement.as_string()
    connection.exec_driver_sql(text.replace("%", "%%"))


def _refuse_others(connection: Connection) -> None:
    others = [row[0] for row in connection.exec_driver_sql(_OTHERS, (EVENTS,))]
    if others:
        raise MigrationRefused(
            f"{others[0]} refers to {EVENTS}, which gets another table in its place; drop it first, and create it again"
            " afterwards"
        )


def _read_indexes(connection: Connection) -> Iterator[TableIndex]:
    rows: Sequence[Any] = connection.exec_driver_sql(_INDEXES, (EVENTS,)).all()
    for name, text, is_valid, is_unique, has_position, constraint, kind, definition, comment in rows:
        is_primary_key = kind == "p"
        if not is_valid:
            raise MigrationRefused(f"index eventstore.{name} is invalid; drop it first, or run REINDEX INDEX on it")
        if kind == "x" or (is_unique and not has_position and not is_primary_key):
            raise MigrationRefused(
                f"index eventstore.{name} is unique without the position, which a partitioned table can't have; drop it"
                " first"
            )
        create = re.sub(r" ON ONLY ", " ON ", text, count=1)
        if constraint is not None:
            create = (
                sql.SQL("ALTER TABLE eventstore.events ADD CONSTRAINT {} {}")
                .format(sql.Identifier(constraint), sql.SQL(definition))
                .as_string()
            )
        described = sql.SQL("COMMENT ON INDEX {} IS {}").format(
            sql.Identifier("eventstore", name), sql.Literal(comment)
        )
        yield TableIndex(name, create, described.as_string() if comment else None, is_primary_key)


def _read_triggers(connection: Connection) -> Iterator[TableTrigger]:
    for name, create, enabled, is_row, has_tables in connection.exec_driver_sql(_TRIGGERS, (EVENTS,)):
        if is_row and has_tables:
            raise MigrationRefused(
                f"trigger {name} on {EVENTS} is for each row with a transition table, which a partitioned table can't"
                " have; drop it first"
            )
        enable = sql.SQL("ALTER TABLE eventstore.events {} TRIGGER {}").format(
            sql.SQL(_ENABLED[enabled]), sql.Identifier(name)
        )
        yield TableTrigger(name, create, enable.as_string(), is_row)


def _read_columns(connection: Connection) -> Iterator[str]:
    for name, target, options in connection.exec_driver_sql(_COLUMNS, (EVENTS,)):
        column = sql.Identifier(name)
        if target is not None:
            text = sql.SQL("ALTER TABLE eventstore.events ALTER COLUMN {} SET STATISTICS {}").format(column, target)
            yield text.as_string()
        if options:
            text = sql.SQL("ALTER TABLE eventstore.events ALTER COLUMN {} SET ({})").format(column, sql.SQL(options))
            yield text.as_string()


def _read_access(connection: Connection) -> Iterator[str]:
    _, has_security, is_forced, comment = connection.exec_driver_sql(_TABLE, (EVENTS,)).one()
    table = sql.Identifier(*EVENTS.split("."))
    if comment:
        yield sql.SQL("COMMENT ON TABLE {} IS {}").format(table, sql.Literal(comment)).as_string()
    if has_security:
        yield sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table).as_string()
    if is_forced:
        yield sql.SQL("ALTER TABLE {} FORCE ROW LEVEL SECURITY").format(table).as_string()
    for role, is_public, action, is_grantable, column in connection.exec_driver_sql(_GRANTS, {"table": EVENTS}):
        text = sql.SQL("GRANT {}{} ON {} TO {}{}").format(
            sql.SQL(action),
            sql.SQL(" ({})").format(sql.Identifier(column)) if column else sql.SQL(""),
            table,
            sql.SQL("PUBLIC") if is_public else sql.Identifier(role),
            sql.SQL(" WITH GRANT OPTION" if is_grantable else ""),
        )
        yield text.as_string()


def _read_policies(connection: Connection) -> Iterator[str]:
    for name, permissive, roles, command, using, check in connection.exec_driver_sql(_POLICIES, (EVENTS,)):
        listed = sql.SQL(", ").join(sql.SQL("PUBLIC") if one == "public" else sql.Identifier(one) for one in roles)
        text = sql.SQL("CREATE POLICY {} ON {} AS {} FOR {} TO {}{}{}").format(
            sql.Identifier(name),
            sql.Identifier(*EVENTS.split(".")),
            sql.SQL(permissive),
            sql.SQL(command),
            listed,
            sql.SQL(f" USING ({using})" if using else ""),
            sql.SQL(f" WITH CHECK ({check})" if check else ""),
        )
        yield text.as_string()


def _read_views(connection: Connection) -> Iterator[TableView]:
    for _, schema, name, definition, options, owner, is_ours in connection.exec_driver_sql(_VIEWS, (EVENTS,)):
        if not is_ours:
            raise MigrationRefused(
                f"view {schema}.{name} reads {EVENTS} and belongs to role {owner}, as which this role may not act; drop"
                " it first, and create it again afterwards"
            )
        text = sql.SQL("CREATE OR REPLACE VIEW {}{} AS {}").format(
            sql.Identifier(schema, name),
            sql.SQL(f" WITH ({', '.join(options)})" if options else ""),
            sql.SQL(definition.rstrip().rstrip(";")),
        )
        yield TableView(f"{schema}.{name}", text.as_string())
