"""Checks of what our own sessions get: settings that can't be pinned, options of the URL, and free connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.postgres.queries import fetch_all, fetch_row, fetch_value
from eventstore.postgres.session_settings import EVERY_SESSION
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding

_WRONG_IN_URL = {
    "statement_timeout": ("0", "a fold, an append or a rebuild that takes longer fails"),
    "lock_timeout": ("0", "a statement that waits longer for a lock fails"),
    "idle_session_timeout": ("0", "Postgres ends sessions that wait for events"),
    "default_transaction_read_only": ("off", "nothing can be stored or folded"),
}
_READ = "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)"
_COMMIT = "SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'"
_DURABLE = ("on", "remote_apply")
_SET_FOR = """
SELECT s.setrole <> 0, s.setdatabase <> 0
FROM pg_db_role_setting AS s, unnest(s.setconfig) AS set (entry)
WHERE s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = current_user))
AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
AND lower(split_part(set.entry, '=', 1)) = lower(%s)
ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1
"""
# Superusers are not limited by their role or the database.
_CONNECTIONS = """
SELECT 'server', current_setting('max_connections')::integer
       - current_setting('superuser_reserved_connections')::integer
       - coalesce(current_setting('reserved_connections', true)::integer, 0),
       count(*) FILTER (WHERE backend_type = 'client backend')
FROM pg_stat_activity
UNION ALL
SELECT r.rolname, r.rolconnlimit, count(a.pid) FROM pg_roles AS r LEFT JOIN pg_stat_activity AS a ON a.usesysid = r.oid
WHERE r.rolconnlimit >= 0 AND NOT r.rolsuper AND (r.rolname = current_user OR r.oid = ANY(
    SELECT usesysid FROM pg_stat_activity
    WHERE application_name LIKE 'projections %' AND datname = current_database()))
GROUP BY r.rolname, r.rolconnlimit
UNION ALL
SELECT NULL, d.datconnlimit, count(a.pid)
FROM pg_database AS d LEFT JOIN pg_stat_activity AS a ON a.datid = d.oid AND a.backend_type = 'client backend'
WHERE d.datname = current_database() AND d.datconnlimit >= 0 GROUP BY d.datconnlimit
"""


async def read_session_settings(conn: AsyncConnection[Any]) -> dict[str, str]:
    """Return the settings of a session, as it was opened, that our sessions set or rely on."""
    return dict(await fetch_all(conn, _READ, [[*EVERY_SESSION, *_WRONG_IN_URL]]))


async def check_session_settings(exam: Examination) -> AsyncIterator[Finding]:
    """Find settings that our sessions may not change back, and options of the URL that harm them."""
    for name, wanted in EVERY_SESSION.items():
        value = exam.settings.get(name, wanted)
        if value != wanted:
            sentence = f"{name} is {value} in our sessions, which may not change it to {wanted}"
            yield Finding("setting_not_ours", sentence, await _reset(exam.conn, name))
    for name, (wanted, effect) in _WRONG_IN_URL.items():
        value = exam.settings.get(name, wanted)
        if value != wanted:
            sentence = f"the options in DATABASE_URL or PGOPTIONS set {name} = {value}: {effect}"
            yield Finding("url_options", sentence, advice=f"remove {name} from them")


async def check_synchronous_commit(exam: Examination) -> AsyncIterator[Finding]:
    """Find a default that lets other programs' commits be lost."""
    value = await fetch_value(exam.conn, _COMMIT)
    if value not in _DURABLE:
        sentence = f"synchronous_commit is {value}: our appends set it to on, but other programs' commits can be lost"
        yield Finding("commit_not_durable", sentence, await _reset(exam.conn, "synchronous_commit"))


async def check_connections(exam: Examination) -> AsyncIterator[Finding]:
    """Find out whether few connections are left."""
    least = exam.options.limits.connections
    for of, limit, used in await fetch_all(exam.conn, _CONNECTIONS):
        left = max(limit - used, 0)
        if left >= least:
            continue
        if of == "server":
            sentence = f"{left} of the server's {limit} connections are left"
            yield Finding(
                "connections_few", sentence, advice="end idle sessions, or raise max_connections and restart it"
            )
            continue
        if of is None:
            what, command = "the database", sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {};")
            name = exam.conn.info.dbname
        else:
            what, command, name = f"role {of}", sql.SQL("ALTER ROLE {} CONNECTION LIMIT {};"), of
        sentence = f"{left} of the {limit} connections of {what} are left"
        text = command.format(sql.Identifier(name), sql.Literal(used + 4 * max(least, 1))).as_string()
        yield Finding("connections_few", sentence, text)


async def _reset(conn: AsyncConnection[Any], setting: str) -> str:
    """Return the statement that resets a setting where it is set."""
    row = await fetch_row(conn, _SET_FOR, [setting])
    role = sql.SQL("ROLE {}").format(sql.Identifier(conn.info.user))
    database = sql.SQL("DATABASE {}").format(sql.Identifier(conn.info.dbname))
    if row is None:
        return (
            sql.SQL("ALTER SYSTEM RESET {}; SELECT pg_reload_conf();")
            .format(sql.Identifier(*setting.split(".")))
            .as_string()
        )
    of_role, of_database = row
    where = role if of_role else database
    if of_role and of_database:
        where = sql.SQL("{} IN {}").format(role, database)
    return sql.SQL("ALTER {} RESET {};").format(where, sql.Identifier(*setting.split("."))).as_string()
