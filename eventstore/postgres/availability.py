"""Waits at a command's start for a database that is not available yet; fails at once if waiting can't help.

Invariants. Nothing depends on the text of a message, because servers translate messages. libpq doesn't pass on the
SQLSTATE of a refused login, so it is read from libpq's trace of another login. If a login without startup options
succeeds where ours fails, something in between refuses the options, as PgBouncer does by default.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from time import monotonic
from typing import NamedTuple

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventstore.errors import DatabaseUnavailable, UsageError, describe
from eventstore.postgres.connection import connect
from eventstore.postgres.outage import Outage, Report
from eventstore.postgres.pooler import check_session_is_ours
from eventstore.postgres.queries import fetch_value
from eventstore.waits import Waits

REPORT_SECONDS = 10.0
"""Seconds between two sentences about a database that is still unavailable."""
LOGIN_SECONDS = 3.0
NAME = "projections start"

# Class 28: the password, the role, pg_hba.conf. 3D: no such database. 42501: no right to connect to it.
_FINAL = re.compile(r"28...|3D...|42501")
_ERROR_RESPONSE = re.compile(rb'\tB\t\d+\tErrorResponse\t .*? C "([0-9A-Z]{5})"')


class Login(NamedTuple):
    """How a login without startup options ended.

    ``refused_by_libpq`` is True when a parameter is invalid, or a password is needed and none was given; ``sqlstates``
    are those that the servers sent.
    """

    succeeded: bool
    refused_by_libpq: bool = False
    sqlstates: tuple[str, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether the next attempt would be refused too."""
        if self.succeeded:
            return False
        return self.refused_by_libpq or (bool(self.sqlstates) and all(map(_FINAL.fullmatch, self.sqlstates)))


async def wait_for_database(
    url: str, *, waits: Waits, seconds: float, writes: bool, report: Callable[[str], None]
) -> AsyncConnection:
    """Wait until the database accepts our sessions; return the first one, in autocommit, which the caller closes.

    Args:
        url: the database.
        waits: ``database_connect`` and ``database_backoff_cap`` count.
        seconds: how long to wait; 0 for one attempt.
        writes: whether the session must accept writes, so that a standby has to be promoted first.
        report: is called with a sentence when the wait begins, every 10 s while it lasts, and when it ends.

    Raises:
        UsageError: waiting can't help; the message says why.
        DatabaseUnavailable: the database was not available in time.

    """
    began = monotonic()
    outage = Outage(_Sentences(report, seconds), cap=waits.database_backoff_cap, repeat_after=REPORT_SECONDS)
    while isinstance(found := await _attempt(url, waits, writes=writes), str):
        now = monotonic()
        if now - began >= seconds:
            after = f" after {seconds:g} s" if seconds else ""
            raise DatabaseUnavailable(f"database unavailable{after}: {found}")
        await asyncio.sleep(min(outage.failed(found), began + seconds - now))
    outage.ended()
    return found


class _Sentences(Report):
    """Reports the wait of a command for its database, in sentences."""

    def __init__(self, report: Callable[[str], None], limit: float) -> None:
        self._report = report
        self._limit = limit

    def began(self, what: str, error: str, retry_in: float) -> None:  # noqa: ARG002 - the limit says more
        self._report(f"{what}: {error}; retrying for up to {self._limit:g} s")

    def failed_again(self, what: str, error: str, retry_in: float, seconds: float, *, is_due: bool) -> None:  # noqa: ARG002 - the interface of every report
        if is_due:
            self._report(f"database still unavailable after {seconds:.0f} s: {error}")

    def ended(self, seconds: float) -> None:  # noqa: ARG002 - the sentence before said it
        self._report("database available")


async def _attempt(url: str, waits: Waits, *, writes: bool) -> AsyncConnection | str:
    """Open a session; return it if it works, else why the database is unavailable."""
    try:
        async with AsyncExitStack() as stack:
            conn = await stack.enter_async_context(await connect(url, name=NAME, waits=waits))
            is_standby = await fetch_value(conn, "SELECT pg_catalog.pg_is_in_recovery()")
            if writes and is_standby:
                return "the server is a standby and takes no writes"
            another = partial(connect, url, name=NAME, waits=waits)
            await check_session_is_ours(conn, another, seconds=waits.database_connect)
            stack.pop_all()
            return conn
    except psycopg.ProgrammingError as error:
        raise _unusable(describe(error)) from error
    except (psycopg.OperationalError, OSError) as error:
        await _check_refusal(url, waits, error)
        return describe(error)


async def _check_refusal(url: str, waits: Waits, error: Exception) -> None:
    """Raise an error if the next attempt would be refused too."""
    login = await asyncio.to_thread(log_in, url)
    if login.is_final:
        raise _unusable(describe(error), *login.sqlstates) from error
    if login.succeeded:
        try:  # again, because the database may have become available in between
            await (await connect(url, name=NAME, waits=waits)).close()
        except (psycopg.OperationalError, OSError) as again:
            raise _options_refused(describe(again)) from again


def log_in(url: str) -> Login:
    """Log in without startup options, and return how that ended."""
    parameters = conninfo_to_dict(url)
    conninfo = make_conninfo("", **{**parameters, "options": "", "connect_timeout": int(LOGIN_SECONDS)})
    conn = pq.PGconn.connect_start(conninfo.encode())
    with _traced(conn) as trace:
        _poll(conn, monotonic() + LOGIN_SECONDS)
        succeeded = conn.status == pq.ConnStatus.OK
        refused = not succeeded and (bool(conn.needs_password) or _is_unreadable(conninfo))
    conn.finish()
    sqlstates = tuple(code.decode() for code in _ERROR_RESPONSE.findall(bytes(trace)))
    return Login(succeeded, refused, sqlstates)


@contextmanager
def _traced(conn: pq.abc.PGconn) -> Iterator[bytearray]:
    """Yield a buffer that has libpq's trace when the block ends; it stays empty where libpq can't write one."""
    recorded = bytearray()
    if not hasattr(os, "memfd_create"):
        yield recorded
        return
    memory = os.memfd_create("trace")
    try:
        with suppress(psycopg.Error):
            conn.trace(memory)
        yield recorded
        conn.untrace()  # which flushes libpq's buffer
        recorded += os.pread(memory, 2**20, 0)
    finally:
        os.close(memory)


def _is_unreadable(conninfo: str) -> bool:
    """Return whether libpq didn't try to connect, because a parameter is invalid."""
    return pq.PGconn.ping(conninfo.encode()) == pq.Ping.NO_ATTEMPT


def _poll(conn: pq.abc.PGconn, deadline: float) -> None:
    status = pq.PollingStatus.WRITING
    while conn.status != pq.ConnStatus.BAD and status in (pq.PollingStatus.READING, pq.PollingStatus.WRITING):
        left = deadline - monotonic()
        if left <= 0:
            return
        reading = [conn.socket] if status == pq.PollingStatus.READING else []
        writing = [conn.socket] if status == pq.PollingStatus.WRITING else []
        select.select(reading, writing, [], left)
        status = pq.PollingStatus(conn.connect_poll())


def _unusable(why: str, *sqlstates: str) -> UsageError:
    codes = f" (SQLSTATE {', '.join(dict.fromkeys(sqlstates))})" if sqlstates else ""
    return UsageError(f"the database can't be used: {why}{codes}; check DATABASE_URL")


def _options_refused(why: str) -> UsageError:
    return UsageError(
        f"the server or a pooler rejects our startup options: {why}; if this is PgBouncer, set"
        " ignore_startup_parameters = options and pool_mode = session in it, or connect to Postgres itself"
    )
