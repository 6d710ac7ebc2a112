"""Connections to Postgres that notice when the other side is gone, and are noticed when this side is."""

from __future__ import annotations

import os

from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventstore.trust import find_system_certificates
from eventstore.waits import Waits

MAX_NAME_BYTES = 63
"""Where Postgres cuts an application_name."""

# How values are cast and written as text, by folds too, hangs on no role, database, URL or environment: libpq sends
# PGTZ and PGDATESTYLE past all options. The last setting is unknown to older servers.
_PINNED = """
SELECT set_config('timezone', 'UTC', false), set_config('datestyle', 'ISO, MDY', false),
       set_config('intervalstyle', 'postgres', false), set_config('extra_float_digits', '1', false),
       set_config('bytea_output', 'hex', false), CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL
       THEN set_config('transaction_timeout', '0', false) END
"""


async def connect(
    url: str,
    *,
    name: str,
    waits: Waits,
    autocommit: bool = True,
    idle_session_timeout: float | None = None,
    lock_timeout: float | None = None,
) -> AsyncConnection:
    """Open a connection.

    Args:
        url: a libpq connection string or URL.
        name: the application_name, by which people find the session in ``pg_stat_activity``.
        waits: the timeouts.
        autocommit: False begins a transaction with the first statement.
        idle_session_timeout: seconds without a query after which Postgres ends the session; None for never.
        lock_timeout: seconds after which a statement that waits for a lock fails; None for never.

    Raises:
        psycopg.OperationalError: no connection within ``waits.database_connect``.

    """
    parameters = connection_parameters(
        url, name=name, waits=waits, idle_session_timeout=idle_session_timeout, lock_timeout=lock_timeout
    )
    conn = await AsyncConnection.connect(make_conninfo("", **parameters), autocommit=True)
    try:
        await conn.execute(_PINNED)
        await conn.set_autocommit(autocommit)
    except BaseException:
        await conn.close()
        raise
    return conn


def connect_sync(url: str, *, name: str, waits: Waits, lock_timeout: float | None = None) -> Connection:
    """Open a connection as :func:`connect` does, for code that can't be asynchronous; it isn't in autocommit.

    Raises:
        psycopg.OperationalError: no connection within ``waits.database_connect``.

    """
    parameters = connection_parameters(url, name=name, waits=waits, lock_timeout=lock_timeout)
    # A server in SQL_ASCII would otherwise answer in bytes, which SQLAlchemy can't read.
    conn = Connection.connect(make_conninfo("", **{**parameters, "client_encoding": "utf8"}), autocommit=True)
    try:
        conn.execute(_PINNED)
        conn.autocommit = False
    except BaseException:
        conn.close()
        raise
    return conn


def connection_parameters(
    url: str, *, name: str, waits: Waits, idle_session_timeout: float | None = None, lock_timeout: float | None = None
) -> dict[str, str]:
    """Return libpq's parameters for a session of ours; the arguments are those of :func:`connect`.

    Raises:
        psycopg.ProgrammingError: libpq can't read the URL.

    """
    given = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    find_system_certificates(given)
    settings = {
        # The server's own, besides the client's below: it is the server that holds locks for a machine that is gone.
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "client_connection_check_interval": f"{int(waits.leader_heartbeat * 1000)}ms",
        "idle_in_transaction_session_timeout": f"{int(waits.idle_in_transaction * 1000)}ms",
        # Appends read the head anew after the lock; a database may prefer another level for others.
        "default_transaction_isolation": r"read\ committed",
        # Zero is never, whatever a role or a database has as its own.
        "idle_session_timeout": f"{int((idle_session_timeout or 0) * 1000)}ms",
        "lock_timeout": f"{int((lock_timeout or 0) * 1000)}ms",
        "statement_timeout": "0",
    }
    options = " ".join(f"-c {key}={value}" for key, value in settings.items())
    # Defaults first: what the URL says wins.
    return {
        "connect_timeout": str(max(2, round(waits.database_connect))),  # libpq takes whole seconds, 2 at the least
        "keepalives": "1",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "30000",
        **given,
        "application_name": name.encode()[:MAX_NAME_BYTES].decode(errors="ignore"),
        "options": f"{options} {given.get('options') or os.environ.get('PGOPTIONS', '')}".strip(),
    }
