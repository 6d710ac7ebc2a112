"""Erases persons where neither events nor read models are: answers of upstreams, shadows of replays, as-of schemas.

Invariant. Everything here can be repeated, and is done before and after the events are changed: a process that is
killed in between has left the numbers where the same command finds them again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.appending.quarantine_limits import QuarantineLimits
from eventstore.erasure.erasure_key import ErasureKey
from eventstore.erasure.number_finder import NumberFinder
from eventstore.postgres.lock_retry import retry_on_lock
from eventstore.postgres.queries import fetch_all, fetch_column, fetch_value
from eventstore.quarantined.erase_messages import erase_messages
from projections.erasing.erase_request import AsOfInTheWay, ErasedPersons
from projections.errors import ProjectionsError
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.rebuilding.shadow_position import delete_all_positions
from projections.rebuilding.shadow_tables import SHADOW_SCHEMA, drop_tables_of_shadows

_CONSUMERS = "SELECT name FROM eventstore.consumers ORDER BY name"
_ERASED_BY = "SELECT session_user"
_REPLACE_IN_ANSWERS = """
UPDATE projections.reconciliations AS r
SET differing_recipients = (
    SELECT coalesce(jsonb_agg(CASE WHEN p.token IS NULL THEN one ELSE jsonb_set(one, '{ppnum}', to_jsonb(p.token)) END
                              ORDER BY place), '[]'::jsonb)
    FROM jsonb_array_elements(r.differing_recipients) WITH ORDINALITY AS d (one, place)
    LEFT JOIN LATERAL (SELECT token FROM pg_temp.erasing_persons WHERE ppnum = one ->> 'ppnum' LIMIT 1) AS p ON true)
WHERE (%(app)s::text IS NULL OR r.app = %(app)s) AND EXISTS (
    SELECT FROM jsonb_array_elements(r.differing_recipients) AS d (one)
    JOIN pg_temp.erasing_persons AS p ON p.ppnum = one ->> 'ppnum')
"""
_COUNT_ANSWERS = """
SELECT count(*) FROM projections.reconciliations AS r
WHERE (%(app)s::text IS NULL OR r.app = %(app)s) AND EXISTS (
    SELECT FROM jsonb_array_elements(r.differing_recipients) AS d (one)
    JOIN pg_temp.erasing_persons AS p ON p.ppnum = one ->> 'ppnum')
"""
_SHADOWS = (
    "SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('r', 'p')"
    " AND obj_description(oid, 'pg_class') LIKE 'projections: shadow of %%' ORDER BY relname"
)
_MAY_ERASE = "SELECT has_function_privilege('eventstore.erase_events(bigint[], text[], bytea[])', 'EXECUTE')"
# Only the owner of a table or of its schema may drop it; others need the function that workers use.
_UNDROPPABLE = (
    "SELECT c.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT pg_has_role(c.relowner, 'USAGE')"
    " AND NOT pg_has_role(n.nspowner, 'USAGE')"
    " AND NOT has_function_privilege('projections.drop_shadow_tables(text[])', 'EXECUTE') ORDER BY c.relname"
)
_AS_OF_TABLES = """
SELECT n.nspname, c.relname,
       array_agg(a.attname ORDER BY a.attnum) FILTER (WHERE t.oid = 'text'::regtype),
       array_agg(a.attname ORDER BY a.attnum) FILTER (
           WHERE t.oid <> 'text'::regtype AND coalesce(e.typcategory, t.typcategory) IN ('S', 'U', 'C'))
FROM projections.rebuilds AS r
JOIN pg_catalog.pg_namespace AS n ON n.oid = r.into_schema_oid
JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.oid = ANY(r.into_table_oids) AND c.relkind = 'r'
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type AS e ON e.oid = t.typelem AND t.typcategory = 'A'
WHERE r.state = 'done'
GROUP BY n.nspname, c.relname ORDER BY n.nspname, c.relname
"""
_HAS_PERSON = sql.SQL("SELECT EXISTS (SELECT 1 FROM {} AS t WHERE {})")
_IS_PERSON = sql.SQL("t.{} IN (SELECT ppnum FROM pg_temp.erasing_persons)")
# Arrays, JSON and the like, which only projections have that don't declare their personal columns.
_HAS_NAME = sql.SQL("SELECT EXISTS (SELECT 1 FROM {} AS t JOIN pg_temp.erasing_persons AS p ON {})")
_NAMES_PERSON = sql.SQL("position(p.ppnum IN t.{}::pg_catalog.text) > 0")


EVENTS_TABLE = "eventstore.events"
QUARANTINE_TABLE, ANSWERS_TABLE = "eventstore.quarantine", "projections.reconciliations"


def tables_with_numbers(projections: Mapping[str, Projection]) -> list[str]:
    """Return the tables that an erasure may change."""
    declared = [f"{READ_MODEL_SCHEMA}.{table}" for one in projections.values() for table in one.personal_columns or {}]
    return [EVENTS_TABLE, QUARANTINE_TABLE, ANSWERS_TABLE, *declared]


async def replace_in_answers(conn: AsyncConnection[Any], app: str | None, *, dry_run: bool) -> int:
    """Put tokens in place of numbers into what reconcile saved; returns how many rows have such a number."""
    if dry_run:
        return int(await fetch_value(conn, _COUNT_ANSWERS, {"app": app}))
    return (await conn.execute(_REPLACE_IN_ANSWERS, {"app": app})).rowcount


async def refuse_other_roles(conn: AsyncConnection[Any]) -> None:
    """Make sure that this role may erase persons, before the log is read.

    Raises:
        ProjectionsError: it may not.

    """
    if not await fetch_value(conn, _MAY_ERASE):
        raise ProjectionsError(
            "this role may not erase persons; only the owner of the tables may, see projections docs operations"
        )


async def make_way(conn: AsyncConnection[Any], result: ErasedPersons, *, drop_as_of: bool) -> None:
    """See to it that no as-of schema and no shadow can keep the prepared persons, and note who may have read them.

    Args:
        conn: the session with the prepared persons.
        result: gets the consumers, and the as-of schemas that are dropped.
        drop_as_of: drop as-of schemas that have rows of the persons, instead of refusing.

    Raises:
        AsOfInTheWay: there are such schemas; nothing was changed.
        ProjectionsError: shadows of another role can't be dropped; nothing was changed.

    """
    result.consumers = await fetch_column(conn, _CONSUMERS)
    result.dropped_as_of = await find_as_of_schemas(conn)
    if result.dropped_as_of and not drop_as_of:
        raise AsOfInTheWay(result.dropped_as_of)
    await _refuse_shadows_that_stay(conn)
    await _drop_as_of_schemas(conn, result.dropped_as_of)


async def _refuse_shadows_that_stay(conn: AsyncConnection[Any]) -> None:
    """Make sure that this role may drop all shadows, before anything is changed.

    Raises:
        ProjectionsError: it may not.

    """
    names = await fetch_column(conn, _UNDROPPABLE, [SHADOW_SCHEMA])
    if names:
        tables = ", ".join(f"{SHADOW_SCHEMA}.{name}" for name in names)
        raise ProjectionsError(
            f"tables of a rebuild belong to another role and may have these persons: {tables}; run the command as their"
            f" owner, or drop the schema {SHADOW_SCHEMA} while no rebuild runs"
        )


async def drop_all_shadows(conn: AsyncConnection[Any]) -> None:
    """Drop the tables of all shadows; a replay that is running notices it and starts over.

    Waits for the window or the comparison that such a replay is in the middle of.
    """

    async def attempt() -> None:
        async with conn.transaction():
            await delete_all_positions(conn)
            await drop_tables_of_shadows(conn, await fetch_column(conn, _SHADOWS, [SHADOW_SCHEMA]))

    async def nothing() -> None:
        """Try again at once: ``lock_timeout`` was the pause."""

    await retry_on_lock(attempt, before_retry=nothing)


async def find_as_of_schemas(conn: AsyncConnection[Any]) -> list[str]:
    """Return the schemas of as-ofs that have a row of one of the prepared persons."""
    found: set[str] = set()
    for schema, table, texts, others in await fetch_all(conn, _AS_OF_TABLES):
        name = sql.Identifier(schema, table)
        for statement, condition, columns in ((_HAS_PERSON, _IS_PERSON, texts), (_HAS_NAME, _NAMES_PERSON, others)):
            if schema not in found and columns:
                conditions = sql.SQL(" OR ").join(condition.format(sql.Identifier(column)) for column in columns)
                if await fetch_value(conn, statement.format(name, conditions)):
                    found.add(schema)
    return sorted(found)


async def _drop_as_of_schemas(conn: AsyncConnection[Any], schemas: Sequence[str]) -> None:
    """Drop schemas that as-ofs created.

    Raises:
        psycopg.errors.DependentObjectsStillExist: somebody put something else into one.

    """
    tables: dict[str, list[str]] = {schema: [] for schema in schemas}
    for schema, table, *_ in await fetch_all(conn, _AS_OF_TABLES):
        if schema in tables:
            tables[schema].append(table)
    for schema, names in tables.items():
        async with conn.transaction():
            dropped = sql.SQL(", ").join(sql.Identifier(schema, name) for name in names)
            await conn.execute(sql.SQL("DROP TABLE {}").format(dropped))
            await conn.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(schema)))


async def read_erased_by(conn: AsyncConnection[Any], system_user: str) -> str:
    """Return who erases: the database role, and the user of this machine."""
    return f"{await fetch_value(conn, _ERASED_BY)} ({system_user})"


async def erase_elsewhere(
    conn: AsyncConnection[Any],
    result: ErasedPersons,
    app: str | None,
    limits: QuarantineLimits,
    key: ErasureKey | None = None,
    *,
    dry_run: bool,
) -> None:
    """Erase prepared persons from quarantined messages and saved answers, and count both in the result."""
    finder = NumberFinder(result.numbers, varints=True)
    messages = await erase_messages(conn, finder, limits, key, app=app, dry_run=dry_run)
    answers = await replace_in_answers(conn, app, dry_run=dry_run)
    result.others += Counter({QUARANTINE_TABLE: messages, ANSWERS_TABLE: answers})
