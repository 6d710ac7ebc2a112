"""Which database commands use: the one that the environment configures, or else the embedded one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict

from eventstore.errors import UsageError
from projections.sandbox.embedded import EmbeddedPostgres

log = structlog.get_logger(__name__)

_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
# Libpq's variables that say where the database is. Its others (passwords, TLS) say how to connect and configure none.
_VARIABLES = {
    "PGHOST": "host",
    "PGHOSTADDR": "hostaddr",
    "PGPORT": "port",
    "PGDATABASE": "dbname",
    "PGUSER": "user",
    "PGSERVICE": "service",
}
_MALFORMED = "DATABASE_URL is not a Postgres URL such as postgresql://user@host:5432/database: {}"


def projections_home() -> Path:
    """Return the folder of the embedded database and other local files: PROJECTIONS_HOME, or ``.projections``."""
    return Path(os.environ.get("PROJECTIONS_HOME") or ".projections").absolute()


def embedded() -> EmbeddedPostgres:
    """Return the embedded database of this folder, running or not."""
    return EmbeddedPostgres(projections_home())


def given_database_url() -> str | None:
    """Return the database that the environment configures, as a URL for libpq, or None.

    DATABASE_URL comes first, then libpq's variables; a password in PGPASSWORD or a password file stays there.

    Raises:
        UsageError: DATABASE_URL is malformed; the message contains nothing of it except its scheme.

    """
    url = os.environ.get("DATABASE_URL")
    if url:
        return _normalised(url.strip())
    given = {name: os.environ[variable] for variable, name in _VARIABLES.items() if os.environ.get(variable)}
    return _as_url(given) if given else None


def resolve_database_url(*, start: bool, create: bool = False) -> str:
    """Return the URL of the database that commands use.

    Args:
        start: whether to start the embedded database, if no other is configured; this is logged.
        create: whether to create one, if this folder has none yet.

    Raises:
        UsageError: DATABASE_URL is malformed, or no database is configured and none may be started.
        EmbeddedError: the embedded database can't be started.

    """
    if (given := given_database_url()) is not None:
        return given
    server = embedded()
    if (url := server.url()) is not None:
        return url
    if start and not create and server.status().state == "absent":
        raise UsageError(
            f"no database is configured (DATABASE_URL), and {server.home} has no embedded PostgreSQL yet: change to the"
            " folder that has one, or run projections migrate to create one here"
        )
    if start:
        url = server.start()
        log.info("started the embedded PostgreSQL; stop it with: projections db stop", data=str(server.home))
        return url
    raise UsageError(
        "no database is configured and the embedded PostgreSQL isn't running: run projections db start, or set"
        " DATABASE_URL"
    )


def _normalised(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if separator:
        if scheme not in _SCHEMES:
            # In a malformed URL the text before "://" may be part of a password.
            known = scheme if scheme.replace("+", "").isalnum() and len(scheme) < 24 else "?"
            raise UsageError(_MALFORMED.format(f"its scheme is {known!r}"))
        url = f"postgresql://{rest}"
    try:
        parts = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    except psycopg.ProgrammingError:
        raise UsageError(_MALFORMED.format("it can't be read")) from None
    # In a URL libpq takes the first @ for the end of the password; written %40, one may begin the name of a socket.
    if separator and "@" in parts.get("host", "") and "@" in url.partition("@")[2].partition("/")[0]:
        raise UsageError(_MALFORMED.format("an @ in its password must be written %40"))
    if not all(port.isdigit() for port in parts.get("port", "").split(",") if port):
        raise UsageError(_MALFORMED.format("its port isn't a number"))
    return url if separator else _as_url(parts)


def _as_url(parts: Mapping[str, str]) -> str:
    return f"postgresql:///?{urlencode(parts, quote_via=quote, safe='')}"
