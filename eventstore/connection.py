"""Connections to Postgres with settings of their own, on which each side notices when the other is gone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventstore.session_settings import pin, startup_options
from eventstore.trust import find_system_certificates
from eventstore.waits import Waits

MAX_NAME_BYTES = 63
"""Where Postgres cuts an application_name."""

_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


async def connect(
    url: str,
    *,
    name: str,
    waits: Waits,
    autocommit: bool = True,
    idle_session_timeout: float | None = None,
    lock_timeout: float | None = None,
    settings: Mapping[str, str] = _NO_SETTINGS,
) -> AsyncConnection:
    """Open a connection.

    Args:
        url: a libpq connection string or URL.
        name: the application_name, by which people find the session in ``pg_stat_activity``.
        waits: the timeouts.
        autocommit: False begins a transaction with the first statement.
        idle_session_timeout: seconds without a query after which Postgres ends the session; None for never.
        lock_timeout: seconds after which a statement that waits for a lock fails; None for never.
        settings: what this session needs besides the settings of all sessions, as ``session_settings.FOLDING``.

    Raises:
        psycopg.OperationalError: no connection within ``waits.database_connect``.

    """
    parameters = connection_parameters(
        url, name=name, waits=waits, idle_session_timeout=idle_session_timeout, lock_timeout=lock_timeout
    )
    conn = await AsyncConnection.connect(make_conninfo("", **parameters), autocommit=True)
    try:
        await conn.execute(pin(settings))
        _check_encoding(conn)
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
    conn = Connection.connect(make_conninfo("", **parameters), autocommit=True)
    try:
        conn.execute(pin(_NO_SETTINGS))
        _check_encoding(conn)
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
    settings = startup_options(waits, idle_session_timeout=idle_session_timeout, lock_timeout=lock_timeout)
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
        # A server in SQL_ASCII would otherwise answer in bytes.
        "client_encoding": "UTF8",
        "options": f"{options} {given.get('options') or os.environ.get('PGOPTIONS', '')}".strip(),
    }


def _check_encoding(conn: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    """Make sure that texts are neither changed nor refused on their way; a pooler in between may decide otherwise."""
    if conn.info.encoding != "utf-8":
        raise psycopg.OperationalError(f"the session's client_encoding is {conn.info.encoding}, although UTF8 was set")
