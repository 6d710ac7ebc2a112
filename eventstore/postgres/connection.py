"""Opens connections to Postgres with our own settings, on which each side notices when the other one is lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from traceback import clear_frames
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection, AsyncCursor, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventstore.postgres.certificate_authorities import find_system_certificates
from eventstore.postgres.session_settings import pin, startup_settings
from eventstore.waits import Waits, load_waits

MAX_NAME_BYTES = 63
"""Postgres cuts a longer application_name."""

BLANK = "\\ "
"""A blank inside a setting in the startup options."""

_NAMES = re.compile(r"(?:^|\s)(?:-c\s*|--)([A-Za-z_][\w.-]*)\s*=")
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


async def connect(
    url: str,
    *,
    name: str = "eventstore",
    waits: Waits | None = None,
    autocommit: bool = True,
    idle_session_timeout: float | None = None,
    lock_timeout: float | None = None,
    settings: Mapping[str, str] = _NO_SETTINGS,
    values_in_text: bool = False,
) -> AsyncConnection:
    """Open a connection.

    Args:
        url: a libpq connection string or URL.
        name: the application_name, by which people find the session in ``pg_stat_activity``.
        waits: the timeouts; None for those that the environment sets.
        autocommit: False begins a transaction with the first statement.
        idle_session_timeout: seconds without a query after which Postgres ends the session; None for never.
        lock_timeout: seconds after which a statement that waits for a lock fails; None for never.
        settings: settings in addition to those of all sessions, such as ``session_settings.FOLDING``.
        values_in_text: whether psycopg writes values into the statements' texts, for sessions that run most statements
            once or twice: that is one message instead of five. Not for personal data: servers log the texts of
            statements that fail.

    Raises:
        UsageError: ``waits`` is None, and a timeout in the environment is not valid.
        psycopg.OperationalError: no connection within ``waits.database_connect``.

    """
    waits = waits or load_waits()
    startup = startup_settings(waits, idle_session_timeout=idle_session_timeout, lock_timeout=lock_timeout)
    given = _given(url)
    with _closing_if_it_fails():
        cursors = AsyncClientCursor if values_in_text else AsyncCursor
        conn = await AsyncConnection.connect(
            _conninfo(given, name, waits, startup), autocommit=True, cursor_factory=cursors
        )
    try:
        await conn.execute(_pinned(given, startup, settings))
        _check_encoding(conn)
        await conn.set_autocommit(autocommit)
    except BaseException:
        await conn.close()
        raise
    return conn


def connect_sync(url: str, *, name: str, waits: Waits, lock_timeout: float | None = None) -> Connection:
    """Open a connection as :func:`connect` does, for code that can't be asynchronous; autocommit is off.

    Raises:
        psycopg.OperationalError: no connection within ``waits.database_connect``.

    """
    startup = startup_settings(waits, lock_timeout=lock_timeout)
    given = _given(url)
    with _closing_if_it_fails():
        conn = Connection.connect(_conninfo(given, name, waits, startup), autocommit=True)
    try:
        conn.execute(_pinned(given, startup, _NO_SETTINGS))
        _check_encoding(conn)
        conn.autocommit = False
    except BaseException:
        conn.close()
        raise
    return conn


@contextmanager
def _closing_if_it_fails() -> Iterator[None]:
    """Close a connection that psycopg doesn't finish to open, because of an error or a cancelled task.

    It is a local variable of psycopg's, so it would live, with its session of the server, as long as the error does.
    """
    try:
        yield
    except BaseException as error:
        clear_frames(error.__traceback__)
        raise


def _given(url: str) -> dict[str, str]:
    """Return libpq's parameters in the URL; ``options`` from the environment if the URL has none."""
    given = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    find_system_certificates(given)
    return {**given, "options": given.get("options") or os.environ.get("PGOPTIONS", "")}


def _conninfo(given: Mapping[str, str], name: str, waits: Waits, startup: Mapping[str, str]) -> str:
    ours = (f"-c {key}={value.replace(' ', BLANK)}" for key, value in startup.items())
    # Defaults first, so that the URL overrides them.
    parameters = {
        "connect_timeout": str(max(2, round(waits.database_connect))),  # libpq takes whole seconds, 2 at the least
        "keepalives": "1",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "30000",
        **given,
        "application_name": name.encode()[:MAX_NAME_BYTES].decode(errors="ignore"),
        # Otherwise a server with encoding SQL_ASCII would answer in bytes.
        "client_encoding": "UTF8",
        "options": " ".join((*ours, given["options"])).strip(),
    }
    return make_conninfo("", **parameters)


def _pinned(given: Mapping[str, str], startup: Mapping[str, str], settings: Mapping[str, str]) -> bytes:
    """Return the statement that sets the session's settings; also those of startup, which a pooler may have dropped.

    Settings in the URL are not changed.
    """
    theirs = {name.replace("-", "_").lower() for name in _NAMES.findall(given["options"])}
    return pin({**{name: value for name, value in startup.items() if name not in theirs}, **settings})


def _check_encoding(conn: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    """Check that texts are neither converted nor refused; a pooler may have ignored the encoding."""
    if conn.info.encoding != "utf-8":
        raise psycopg.OperationalError(f"the session's client_encoding is {conn.info.encoding}, although UTF8 was set")
