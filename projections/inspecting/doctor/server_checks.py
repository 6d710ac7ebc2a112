"""Checks of the server as a whole: its version, whether it takes writes, and whether it keeps what it acknowledges."""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import sql

from eventstore.postgres.queries import fetch_all, fetch_row, fetch_value
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding

OLDEST, NEWEST = 15, 18
"""The major versions of PostgreSQL that the tests run on."""

_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
_RELOAD = "SELECT pg_reload_conf();"
_STANDBYS = (
    "SELECT count(*), count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')),"
    " pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') FROM pg_stat_replication"
)
_TABLES_WITHOUT_AUTOVACUUM = """
SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace,
       LATERAL pg_options_to_table(c.reloptions) AS set
WHERE set.option_name = 'autovacuum_enabled' AND NOT set.option_value::boolean
AND (n.nspname IN ('eventstore', 'projections') OR (n.nspname = 'public' AND c.relname = ANY(%s))) ORDER BY 1, 2
"""


async def check_version(exam: Examination) -> AsyncIterator[Finding]:
    """Find a server that is too old, or newer than the tests."""
    number = exam.conn.info.server_version
    major = number // 10_000
    if major < OLDEST:
        sentence = f"the server is PostgreSQL {major}, and the oldest supported one is {OLDEST}"
        yield Finding("server_unsupported", sentence, advice="upgrade the server")
    elif major > NEWEST:
        sentence = f"the server is PostgreSQL {major}, and this version was tested up to {NEWEST}"
        yield Finding("server_untested", sentence, advice="upgrade this installation")


async def check_standby(exam: Examination) -> AsyncIterator[Finding]:
    """Find a server that takes no writes."""
    if await fetch_value(exam.conn, "SELECT pg_is_in_recovery()"):
        sentence = "the server is a standby: events can be neither stored nor folded here"
        yield Finding("standby", sentence, advice="for projections run, use the primary's URL")


async def check_durability(exam: Examination) -> AsyncIterator[Finding]:
    """Find settings under which a crash loses what was acknowledged, or damages the database."""
    names = ["fsync", "full_page_writes", "synchronous_standby_names"]
    found: dict[str, str] = dict(await fetch_all(exam.conn, _SETTINGS, [names]))
    for name in ("fsync", "full_page_writes"):
        if found.get(name) == "off":
            sentence = f"{name} is off: a crash of the machine can damage the whole database"
            yield Finding("not_durable", sentence, f"ALTER SYSTEM SET {name} = on; {_RELOAD}")
    standbys = found.get("synchronous_standby_names")
    if standbys and await _no_standby_is_connected(exam):
        sentence = f"commits wait for a synchronous standby ({standbys}), and none is connected: appends hang"
        command = f"ALTER SYSTEM SET synchronous_standby_names = ''; {_RELOAD}"
        yield Finding("standby_missing", sentence, command, "start the standby, or in psql")


async def _no_standby_is_connected(exam: Examination) -> bool:
    row = await fetch_row(exam.conn, _STANDBYS)
    connected, synchronous, may_see = row or (0, 0, False)
    return connected == 0 or (may_see and synchronous == 0)


async def check_autovacuum(exam: Examination) -> AsyncIterator[Finding]:
    """Find out whether autovacuum is off, for the server or for a table of ours."""
    found: dict[str, str] = dict(await fetch_all(exam.conn, _SETTINGS, [["autovacuum", "track_counts"]]))
    for name, value in found.items():
        if value == "off":
            sentence = f"{name} is off: dead rows are never removed, and plans get worse"
            yield Finding("autovacuum_off", sentence, f"ALTER SYSTEM SET {name} = on; {_RELOAD}")
    for schema, table in await fetch_all(exam.conn, _TABLES_WITHOUT_AUTOVACUUM, [exam.read_model_tables]):
        reset = sql.SQL("ALTER TABLE {} RESET (autovacuum_enabled);").format(sql.Identifier(schema, table))
        yield Finding("autovacuum_off", f"autovacuum is off for {schema}.{table}", reset.as_string())
