"""A role and a database in which every setting has the value that would do the most harm."""

from __future__ import annotations

import psycopg
from psycopg import sql

from eventstore.session_settings import OURS, startup_options
from eventstore.waits import Waits

PINNED = (*OURS, "synchronous_commit", *startup_options(Waits()))
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
    # Of a role, it also holds for the statement that sets it to another value.
    "transaction_timeout": "20s",
}
_SETTINGS = (
    "SELECT name, vartype, setting, min_val, max_val, enumvals FROM pg_catalog.pg_settings"
    " WHERE name = ANY(%s) AND context = 'user'"
)


def hostile_settings(conn: psycopg.Connection) -> dict[str, str]:
    """Return, for each setting of ours that a plain role can set on this server, another value than ours."""
    found = {name: value for name, value in _SPECIAL.items() if name.startswith("plpgsql.")}
    for name, kind, now, least, greatest, values in conn.execute(_SETTINGS, [list(PINNED)]).fetchall():
        ours = OURS.get(name, now)
        if name in _SPECIAL:
            found[name] = _SPECIAL[name]
        elif kind == "bool":
            found[name] = "off" if ours == "on" else "on"
        elif kind == "enum":
            found[name] = next(value for value in values if value != ours)
        else:
            found[name] = greatest if ours == least else least
    # Zero is no limit; one millisecond is the least that is one.
    found |= dict.fromkeys((name for name in found if name.endswith("_timeout") and found[name] == "0"), "1")
    return found


def make_hostile(url: str, *also: tuple[str, str]) -> dict[str, str]:
    """Give the URL's role these settings, for every session in the URL's database; returns them."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DO 'BEGIN END'")  # only with the language loaded may a plain role change its settings
        settings = {**hostile_settings(conn), **dict(also)}
        database = sql.Identifier(conn.info.dbname)
        for name, value in settings.items():
            # A list is written as one; quoted, it would be a single name.
            written = sql.SQL(value) if name == "search_path" else sql.Literal(value)
            command = sql.SQL("ALTER ROLE CURRENT_USER IN DATABASE {} SET {} = {}")
            conn.execute(command.format(database, sql.SQL(name), written))
    return settings
