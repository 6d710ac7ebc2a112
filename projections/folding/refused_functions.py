"""Which functions of Postgres a fold must not call: their results depend on more than their arguments.

Invariants. Every function of ``pg_catalog`` that Postgres declares volatile is refused, and every stable one whose
result depends on the clock, the session, the server or the catalogs. What depends only on settings that our sessions
pin, such as the time zone, is allowed. A test compares this list with the catalogs of the servers.
"""

from __future__ import annotations

import re

_PREFIXES = (
    "binary_upgrade_",
    "brin_",
    "current_",
    "cursor_to_xml",
    "database_to_xml",
    "fmgr_",
    "has_",
    "inet_client_",
    "inet_server_",
    "lo_",
    "pg_",
    "plpgsql_",
    "query_to_xml",
    "schema_to_xml",
    "table_to_xml",
    "to_reg",
    "txid_",
)
_NAMES = frozenset(
    {
        "aclexplode",
        "amvalidate",
        "array_sample",
        "array_shuffle",
        "clock_timestamp",
        "col_description",
        "currtid2",
        "currval",
        "format_type",
        "gen_random_uuid",
        "get_current_ts_config",
        "getdatabaseencoding",
        "getpgusername",
        "gin_clean_pending_list",
        "lastval",
        "loread",
        "lowrite",
        "mxid_age",
        "nextval",
        "now",
        "obj_description",
        "oidvectortypes",
        "random",
        "random_normal",
        "regclass",
        "row_security_active",
        "session_user",
        "set_config",
        "setseed",
        "setval",
        "shobj_description",
        "statement_timestamp",
        "system_user",
        "timeofday",
        "transaction_timestamp",
        "ts_stat",
        "uuidv4",
        "uuidv7",
        "version",
    }
)

_BY_ARGUMENTS = {("age", 1), ("ts_rewrite", 2)}
"""With so many arguments, the first is the time until today, and the second runs a query that it is given as text."""

MOMENTS = frozenset({"now", "today", "tomorrow", "yesterday"})
"""Texts that Postgres reads as a time that depends on the clock, where it expects a date or a time."""


_BESIDE_A_MOMENT = re.compile(r"[\d:.+\-/,]+|allballs|at|[a-z]{1,5}|[a-z]+/[a-z_/]+")
"""What Postgres may read beside such a word: a time of day, and a zone by its name or abbreviation."""


def find_moment(text: str) -> str | None:
    """Return the word by which Postgres could read a text as a time of the clock; None if it couldn't."""
    words = text.lower().split()
    found = next((word for word in words if word in MOMENTS), None)
    others = (word for word in words if word not in MOMENTS)
    return found if all(_BESIDE_A_MOMENT.fullmatch(word) for word in others) else None


def is_refused(function: str, arguments: int) -> bool:
    """Return whether a fold must not call a function, by its name and the number of its arguments."""
    return function in _NAMES or (function, arguments) in _BY_ARGUMENTS or function.startswith(_PREFIXES)
