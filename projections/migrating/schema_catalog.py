"""Reads from Postgres's catalogs what our schemas contain: tables, columns, constraints, triggers, functions, views."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from psycopg import AsyncConnection, sql
from sqlalchemy import Connection

from eventstore.postgres.queries import fetch_all, fetch_value
from projections.migrating.metadata import OUR_SCHEMAS

_CATALOG = sql.SQL("""
SELECT 'relation' AS kind, n.nspname || '.' || c.relname AS object, c.relkind::text AS name,
       c.relpersistence::text AS definition, true AS holds
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY({schemas}) AND c.relkind IN ('r', 'p', 'v')
UNION ALL
SELECT 'not null', n.nspname || '.' || c.relname, a.attname::text, '', a.attnotnull
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY({schemas}) AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT CASE k.contype WHEN 'c' THEN 'check' WHEN 'p' THEN 'primary key' ELSE 'unique' END,
       n.nspname || '.' || c.relname, k.conname::text,
       coalesce((SELECT string_agg(a.attname::text, ', ' ORDER BY key.place)
                 FROM unnest(k.conkey) WITH ORDINALITY AS key (number, place)
                 JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = key.number), ''),
       k.convalidated
FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY({schemas}) AND k.contype IN ('c', 'p', 'u')
UNION ALL
SELECT 'distributed', n.nspname || '.' || c.relname, '', '', true
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE n.nspname = 'eventstore' AND c.relname = 'events' AND p.proname = 'citus_truncate_trigger'
UNION ALL
SELECT 'trigger', n.nspname || '.' || c.relname, t.tgname::text, pg_get_triggerdef(t.oid), t.tgenabled = 'A'
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY({schemas}) AND NOT t.tgisinternal
UNION ALL
SELECT 'function', n.nspname || '.' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')',
       coalesce(p.proconfig::text, '') || CASE WHEN p.prosecdef THEN ' security definer' ELSE '' END, p.prosrc,
       NOT EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner)))
                   WHERE grantee = 0 AND privilege_type = 'EXECUTE')
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = ANY({schemas})
""").format(schemas=sql.Literal(list(OUR_SCHEMAS)))

SEQUENCES = (
    ("eventstore.erasures", "eventstore.erasures_id_seq"),
    ("eventstore.quarantine", "eventstore.quarantine_id_seq"),
    ("projections.rebuilds", "projections.rebuilds_id_seq"),
    ("projections.reconciliations", "projections.reconciliations_id_seq"),
)
"""Tables whose ids come from a sequence, and the sequence."""

# Rows that were copied without their sequence leave it behind, so that its next number is taken already.
_IS_AHEAD = sql.SQL(
    "SELECT CASE WHEN has_sequence_privilege({sequence}, 'SELECT')"
    " THEN coalesce((SELECT max(id) FROM {table}) <= pg_sequence_last_value({sequence}::regclass),"
    " NOT EXISTS (SELECT FROM {table})) ELSE true END"
)

_MAY_READ_PARTITIONS = "SELECT has_table_privilege('eventstore.partitions', 'SELECT')"
_KEYLESS_PARTITIONS = """
SELECT 'keyless partition', 'eventstore.' || p.name, '', '', false FROM eventstore.partitions AS p
WHERE p.has_key AND NOT EXISTS (
    SELECT FROM pg_index AS i WHERE i.indrelid = to_regclass(format('eventstore.%I', p.name)) AND i.indisprimary)
ORDER BY p.first_position
"""


class CatalogEntry(NamedTuple):
    """Something that a schema contains.

    Attributes:
        kind: relation, not null, check, primary key, unique, trigger or function; distributed for a table that
            Citus distributes; keyless partition for one that has lost its key on event_id.
        object: the table, view or function, with its schema.
        name: the column, constraint or trigger; a relation's kind; a function's settings.
        definition: a relation's persistence, a constraint's columns, a trigger's
            statement, a function's body.
        holds: whether the column is NOT NULL, the constraint validated, the trigger ALWAYS, the function private.

    """

    kind: str
    object: str
    name: str
    definition: str
    holds: bool


BehindSequences: TypeAlias = list[tuple[str, str]]


async def read_catalog(conn: AsyncConnection[Any]) -> tuple[list[CatalogEntry], BehindSequences]:
    """Return what our schemas contain, and the tables and sequences of :data:`SEQUENCES` whose sequence is behind."""
    entries = [CatalogEntry(*row) for row in await fetch_all(conn, _CATALOG)]
    if _has_keys(entries) and await fetch_value(conn, _MAY_READ_PARTITIONS):
        entries += [CatalogEntry(*row) for row in await fetch_all(conn, _KEYLESS_PARTITIONS)]
    behind = [
        (table, sequence)
        for table, sequence in _existing(entries)
        if not await fetch_value(conn, _is_ahead(table, sequence))
    ]
    return entries, behind


def read_catalog_sync(connection: Connection) -> tuple[list[CatalogEntry], BehindSequences]:
    """Return the same as :func:`read_catalog`, for migrations."""
    entries = [CatalogEntry(*row) for row in connection.exec_driver_sql(_CATALOG.as_string())]
    if _has_keys(entries) and connection.exec_driver_sql(_MAY_READ_PARTITIONS).scalar():
        keyless = connection.exec_driver_sql(_KEYLESS_PARTITIONS.replace("%", "%%"))
        entries += [CatalogEntry(*row) for row in keyless]
    behind = [
        (table, sequence)
        for table, sequence in _existing(entries)
        if not connection.exec_driver_sql(_is_ahead(table, sequence).as_string()).scalar()
    ]
    return entries, behind


def _has_keys(entries: Iterable[CatalogEntry]) -> bool:
    """Return whether partitions of this schema can have keys of their own."""
    return any((one.kind, one.object, one.name) == ("not null", "eventstore.partitions", "has_key") for one in entries)


def _existing(entries: Iterable[CatalogEntry]) -> Sequence[tuple[str, str]]:
    tables = {entry.object for entry in entries if entry.kind == "relation"}
    return [(table, sequence) for table, sequence in SEQUENCES if table in tables]


def _is_ahead(table: str, sequence: str) -> sql.Composed:
    return _IS_AHEAD.format(table=sql.Identifier(*table.split(".")), sequence=sql.Literal(sequence))
