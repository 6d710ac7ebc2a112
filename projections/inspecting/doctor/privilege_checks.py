"""Checks of privileges: those of roles that store or fold events, and those of roles that read the read models.

Which roles store and fold is taken from their sessions; the current role counts if it may write at all. A reader is a
role that was granted SELECT on at least one of the read models, and may write none. Who took a read model away from a
reader may have meant it, so that is a note.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from types import MappingProxyType

from psycopg import sql

from eventstore.postgres.queries import fetch_all
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding
from projections.read_models.common_columns import VIEWS

_STORES = {
    "eventstore.events": ("SELECT", "INSERT"),
    "eventstore.head": ("SELECT",),
    "eventstore.distributed_head": ("SELECT", "UPDATE"),
    "eventstore.cursors": ("SELECT", "INSERT", "UPDATE"),
    "eventstore.quarantine": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "eventstore.quarantine_counts": ("SELECT", "INSERT", "UPDATE"),
    "eventstore.quarantine_usage": ("SELECT", "INSERT", "UPDATE"),
    "eventstore.retried_events": ("SELECT",),  # where a stream resumes
}
_FOLDS = {
    "eventstore.events": ("SELECT",),
    "eventstore.head": ("SELECT",),
    "eventstore.distributed_head": ("SELECT",),
    "projections.checkpoints": ("SELECT", "INSERT", "UPDATE"),
    "projections.skips": ("SELECT",),
}
_EVERY_ROW: tuple[str, ...] = ("SELECT", "INSERT", "UPDATE", "DELETE")
_NONE: Mapping[str, tuple[str, ...]] = MappingProxyType({})

_ROLES = """
SELECT usename, 'stores' FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'projections ingest %'
UNION SELECT usename, 'folds' FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'projections run %'
UNION SELECT current_user, CASE n.nspname WHEN 'eventstore' THEN 'stores' ELSE 'folds' END
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (('eventstore', 'events'), ('projections', 'checkpoints')) AND c.relkind IN ('r', 'p')
AND has_table_privilege(c.oid, CASE n.nspname WHEN 'eventstore' THEN 'INSERT' ELSE 'UPDATE' END)
ORDER BY 1, 2
"""
_MISSING = """
SELECT n.nspname, c.relname, asked.privilege
FROM unnest(%(tables)s::text[], %(privileges)s::text[]) WITH ORDINALITY AS asked (name, privilege, number)
JOIN pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace ON n.nspname || '.' || c.relname = asked.name
WHERE NOT has_table_privilege(%(role)s::name, c.oid, asked.privilege)
UNION ALL
SELECT nspname, NULL, 'USAGE' FROM pg_namespace
WHERE nspname = ANY(%(schemas)s) AND NOT has_schema_privilege(%(role)s::name, oid, 'USAGE')
ORDER BY 1, 2 NULLS FIRST, 3
"""
_READERS = """
WITH ours AS (
    SELECT c.oid, c.relname, c.relacl, c.relowner FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'v') AND c.relname = ANY(%s)
), readers AS (
    SELECT DISTINCT r.oid, r.rolname
    FROM ours, aclexplode(ours.relacl) AS granted JOIN pg_roles AS r ON r.oid = granted.grantee
    WHERE granted.privilege_type = 'SELECT' AND granted.grantee <> ours.relowner
    AND ours.relname <> 'read_model_freshness'  -- which ingest reads for its status
    AND NOT EXISTS (SELECT FROM ours AS written WHERE has_table_privilege(r.oid, written.oid, 'INSERT'))
)
SELECT readers.rolname, array_agg(ours.relname::text ORDER BY ours.relname) FROM readers, ours
WHERE NOT has_table_privilege(readers.oid, ours.oid, 'SELECT') GROUP BY 1 ORDER BY 1
"""


async def check_role_privileges(exam: Examination) -> AsyncIterator[Finding]:
    """Find privileges that roles lack which store or fold events."""
    read_models = {f"public.{name}": _EVERY_ROW for name in exam.read_model_tables}
    needed = {"stores": _STORES, "folds": _FOLDS | read_models}
    for role, what in await fetch_all(exam.conn, _ROLES):
        asked = needed.get(what, _NONE)
        pairs = [(table, privilege) for table, privileges in asked.items() for privilege in privileges]
        values = {
            "tables": [table for table, _ in pairs],
            "privileges": [privilege for _, privilege in pairs],
            "schemas": sorted({table.partition(".")[0] for table in asked}),
            "role": role,
        }
        missing = await fetch_all(exam.conn, _MISSING, values)
        if missing:
            listed = ", ".join(f"{privilege} on {_full_name(schema, table)}" for schema, table, privilege in missing)
            yield Finding("role_privilege", f"role {role}, which {what} events, lacks {listed}", _grant(role, missing))


async def check_reader_privileges(exam: Examination) -> AsyncIterator[Finding]:
    """Find roles that may read some of the read models, but not all."""
    names = [*exam.read_model_tables, *sorted(VIEWS)]
    for role, tables in await fetch_all(exam.conn, _READERS, [names]):
        sentence = f"role {role} reads read models, but may not read {', '.join(tables)}"
        grants = _grant(role, [("public", table, "SELECT") for table in tables])
        yield Finding("reader_privilege", sentence, grants, "if that was not meant, run in psql")


def _grant(role: str, missing: Iterable[tuple[str, str | None, str]]) -> str:
    """Return the statements that grant privileges; a table of None means the schema."""
    by_object: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for schema, table, privilege in missing:
        by_object[schema, table].append(privilege)
    statements = []
    for (schema, table), privileges in by_object.items():
        what = sql.SQL("SCHEMA {}").format(sql.Identifier(schema)) if table is None else sql.Identifier(schema, table)
        actions = sql.SQL(", ").join(map(sql.SQL, privileges))
        statements.append(sql.SQL("GRANT {} ON {} TO {};").format(actions, what, sql.Identifier(role)).as_string())
    return " ".join(statements)


def _full_name(schema: str, table: str | None) -> str:
    return f"schema {schema}" if table is None else f"{schema}.{table}"
