"""A role and a database in which every setting has the value that does the most harm."""

from __future__ import annotations

import psycopg
from psycopg import sql

from eventstore.postgres.session_settings import EVERY_SESSION, startup_settings
from eventstore.waits import Waits

PINNED = (*EVERY_SESSION, "synchronous_commit", *startup_settings(Waits()))
"""The settings that our sessions set."""

_SPECIAL = {
    "search_path": "public, pg_catalog",
    "client_encoding": "LATIN1",
    "DateStyle": "German",
    "TimeZone": "Asia/Kathmandu",
    "timezone_abbreviations": "India",
    "default_text_search_config": "pg_catalog.english",
    "default_table_access_method": "nowhere",
    "default_transaction_isolation": "serializable",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
    "plpgsql.extra_errors": "all",
    "plpgsql.extra_warnings": "all",
    "lc_monetary": "POSIX",
    "lc_numeric": "POSIX",
    "lc_time": "POSIX",
    # The role's value also applies to the statement with which a session changes it.
    "transaction_timeout": "20s",
}
_SETTINGS = (
    "SELECT name, vartype, setting, min_val, max_val, enumvals FROM pg_catalog.pg_settings"
    " WHERE name = ANY(%s) AND context = 'user'"
)


def hostile_settings(conn: psycopg.Connection) -> dict[str, str]:
    """Return a value that differs from ours for each of our settings that a role without privileges can change."""
    found = {name: value for name, value in _SPECIAL.items() if name.startswith("plpgsql.")}
    for name, kind, now, least, greatest, values in conn.execute(_SETTINGS, [list(PINNED)]).fetchall():
        ours = EVERY_SESSION.get(name, now)
        if name in _SPECIAL:
            found[name] = _SPECIAL[name]
        elif kind == "bool":
            found[name] = "off" if ours == "on" else "on"
        elif kind == "enum":
            found[name] = next(value for value in values if value != ours)
        else:
            found[name] = greatest if ours == least else least
    # Zero means no limit; the lowest limit is one millisecond.
    found |= dict.fromkeys((name for name in found if name.endswith("_timeout") and found[name] == "0"), "1")
    return found


def make_hostile(url: str, *also: tuple[str, str]) -> dict[str, str]:
    """Give the URL's role hostile settings in the URL's database; returns them."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DO 'BEGIN END'")  # a role without privileges can set plpgsql's settings only once it is loaded
        settings = {**hostile_settings(conn), **dict(also)}
        database = sql.Identifier(conn.info.dbname)
        for name, value in settings.items():
            # A quoted list would be a single name.
            written = sql.SQL(value) if name == "search_path" else sql.Literal(value)
            command = sql.SQL("ALTER ROLE CURRENT_USER IN DATABASE {} SET {} = {}")
            conn.execute(command.format(database, sql.SQL(name), written))
    return settings


_TRAPS = """
DO $do$
DECLARE
    one record;
    body constant text := $$ LANGUAGE plpgsql
        AS 'BEGIN RAISE EXCEPTION ''a trap in schema public was called: {}''; END'$$;
BEGIN
    -- Postgres prefers a function or operator with the exact types of a call to one of pg_catalog that takes any type.
    FOR one IN SELECT * FROM (VALUES
        ('cardinality', 'text[]', 'integer'), ('unnest', 'text[]', 'SETOF text'),
        ('array_position', 'text[], text', 'int'),
        ('array_agg', 'text', 'text[]'), ('count', 'text', 'bigint'), ('format', 'text, text, text', 'text'),
        ('row', 'text, text', 'text'), ('coalesce', 'text, text', 'text'),
        ('jsonb_build_object', 'text, bigint', 'jsonb'), ('projections_fold', 'bigint', 'bigint')
    ) AS made (name, takes, gives)
    LOOP
        EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s %s', one.name, one.takes, one.gives,
                       replace(body, '{}', one.name));
    END LOOP;
    -- If the search path has public before pg_catalog, it also prefers those with the same types.
    FOR one IN
        SELECT p.proname AS name, pg_get_function_identity_arguments(p.oid) AS takes,
               pg_get_function_result(p.oid) AS gives
        FROM pg_proc AS p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.provariadic = 0
        AND p.proname = ANY(%(functions)s) AND NOT EXISTS (
            SELECT FROM unnest(array_append(p.proargtypes, p.prorettype)) AS used (type)
            JOIN pg_type AS t ON t.oid = used.type WHERE t.typtype = 'p' AND t.typname <> 'void'
        )
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION public.%I(%s) RETURNS %s %s', one.name, one.takes, one.gives,
                       replace(body, '{}', one.name));
    END LOOP;
    FOR one IN
        SELECT o.oprname AS name, l.oid::regtype AS left_type, r.oid::regtype AS right_type
        FROM pg_operator AS o JOIN pg_type AS l ON l.oid = o.oprleft JOIN pg_type AS r ON r.oid = o.oprright
        WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprname = ANY(%(operators)s)
        AND l.typname = ANY(%(types)s) AND r.typname = ANY(%(types)s)
        UNION VALUES ('||', 'text'::regtype, 'integer'::regtype), ('/', 'float8', 'integer'),
                     ('=', 'bigint', 'integer'), ('-', 'bigint', 'integer'), ('<>', 'bigint', 'integer')
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION public.trap(%1$s, %2$s) RETURNS boolean %3$s', one.left_type,
                       one.right_type, replace(body, '{}', 'an operator'));
        EXECUTE format('CREATE OPERATOR public.%1$s (FUNCTION = public.trap, LEFTARG = %2$s, RIGHTARG = %3$s)',
                       one.name, one.left_type, one.right_type);
    END LOOP;
    FOR one IN SELECT unnest(%(types)s) AS name
    LOOP
        EXECUTE format('CREATE DOMAIN public.%I AS pg_catalog.text CHECK (VALUE IS NULL)', one.name);
    END LOOP;
END
$do$
"""
_TRAPPED_FUNCTIONS = (
    *("set_config", "current_setting", "to_regclass", "to_regnamespace", "clock_timestamp", "transaction_timestamp"),
    *("pg_advisory_xact_lock", "pg_try_advisory_lock", "pg_try_advisory_xact_lock", "pg_advisory_unlock_all"),
    *("pg_try_advisory_lock_shared", "has_database_privilege", "has_function_privilege", "octet_length"),
    *("current_schema", "version", "pg_get_userbyid", "timezone", "format_type", "starts_with", "current_database"),
    "obj_description",
)
_TRAPPED_OPERATORS = (*"=<>+-*/~&", "<>", "<=", ">=", "||", "->", "->>", "!~", "@>", ">>")
_TRAPPED_TYPES = (
    *("text", "int4", "int8", "int2", "oid", "name"),
    *("bytea", "timestamptz", "jsonb", "bool", "float8", "regclass"),
)


def set_traps(url: str) -> None:
    """Create functions, operators and types in schema public that fail, and that Postgres prefers to its own.

    Args:
        url: a database, for a role that may create objects in its schema public.

    """
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SET search_path = pg_catalog")
        given = {"functions": _TRAPPED_FUNCTIONS, "operators": _TRAPPED_OPERATORS, "types": _TRAPPED_TYPES}
        literals = {name: sql.SQL("{}::text[]").format(list(values)) for name, values in given.items()}
        statement = _TRAPS.replace("{", "{{").replace("}", "}}")
        for name in given:
            statement = statement.replace(f"%({name})s", f"{{{name}}}")
        conn.execute(sql.SQL(statement).format(**literals))
