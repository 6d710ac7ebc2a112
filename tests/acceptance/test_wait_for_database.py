"""Commands wait at their start for an unavailable database; an error that waiting can't solve is reported at once."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from eventstore.errors import EmbeddedError
from projections.migrating.migrate import upgrade
from projections.sandbox.embedded import EmbeddedPostgres
from projections.sandbox.embedded.timeouts import EmbeddedTimeouts
from tests.acceptance.command import QUICK, Commands
from tests.databases import Server
from tests.fault.proxy import TcpProxy, target_of, through
from tests.servers import embedded, temporary_home
from tests.temporary_server import FAST

RUN = ("run", "--no-ingest", "--until-idle", "0.2")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def stopped() -> Iterator[EmbeddedPostgres]:
    """A stopped server with a migrated database; the tests start it as a standby, and stop it again."""
    with temporary_home() as home:
        server = embedded(home)
        upgrade(server.start(), projections=())
        server.stop()
        yield server


class Standby:
    """A server that recovers until it is promoted; a hot standby accepts sessions that only read meanwhile."""

    def __init__(self, stopped: EmbeddedPostgres, *, hot: bool) -> None:
        # Such a server never reports that it is ready, so the start fails; the server keeps running.
        timeouts = EmbeddedTimeouts(start=1)
        settings = {**FAST, "hot_standby": "on" if hot else "off"}
        self._server = EmbeddedPostgres(stopped.home, settings=settings, timeouts=timeouts)
        data = stopped.status().data
        assert data is not None
        self._data = data

    def __enter__(self) -> str:
        (self._data / "standby.signal").touch()
        with suppress(EmbeddedError):
            self._server.start()
        url = self._server.url()
        assert url is not None
        return url

    def promote(self) -> None:
        pid = self._server.status().pid
        assert pid is not None
        (self._data / "promote").touch()
        os.kill(pid, signal.SIGUSR1)

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        (self._data / "standby.signal").unlink(missing_ok=True)


@pytest.fixture(params=[False, True], ids=["recovering", "hot standby"])
def standby(request: pytest.FixtureRequest, stopped: EmbeddedPostgres) -> Iterator[tuple[str, Standby]]:
    server = Standby(stopped, hot=request.param)
    with server as url:
        yield url, server


async def test_it_waits_for_a_server_that_recovers(commands: Commands, standby: tuple[str, Standby]) -> None:
    url, server = standby
    running = await commands.start(*RUN, DATABASE_URL=url, **QUICK)
    await running.wait_for_stderr("database unavailable: ", "; retrying for up to 60 s")
    server.promote()
    result = await running.wait()
    assert result.code == 0, result.transcript
    assert "projections: database available" in result.err


async def test_the_wait_ends_with_exit_code_1_and_status_can_read_from_a_standby(
    commands: Commands, stopped: EmbeddedPostgres
) -> None:
    with Standby(stopped, hot=True) as url:
        # This waits until the standby accepts sessions at all.
        status = await commands.run("status", "--wait-for-database", "30", DATABASE_URL=url)
        assert status.code == 0, status.transcript
        result = await commands.run("migrate", "--wait-for-database=0.2", DATABASE_URL=url)
        assert result.code == 1, result.transcript
        last = result.err.splitlines()[-1]
        assert last == "projections: database unavailable after 0.2 s: the server is a standby and takes no writes"


async def test_it_waits_for_a_host_where_no_server_listens_yet(commands: Commands, database_url: str) -> None:
    proxy = TcpProxy(*target_of(database_url))
    async with proxy:
        port = proxy.port
    url = through(database_url, port)
    for command in (("migrate",), RUN, ("verify",)):
        result = await commands.run(*command, DATABASE_URL=url, PROJECTIONS_WAIT_FOR_DATABASE="0.1", **QUICK)
        assert result.code == 1, result.transcript
        assert "database unavailable after 0.1 s" in result.err.splitlines()[-1]
    running = await commands.start("migrate", DATABASE_URL=url, **QUICK)
    await running.wait_for_stderr("database unavailable: ", "Connection refused")
    async with TcpProxy(*target_of(database_url), listen=port):
        result = await running.wait()
    assert result.code == 0, result.transcript


async def test_a_signal_ends_the_wait(commands: Commands) -> None:
    url = f"postgresql://u@127.0.0.1:{free_port()}/d"
    running = await commands.start("run", "--no-ingest", DATABASE_URL=url)
    await running.wait_for_stderr("database unavailable")
    running.send(signal.SIGTERM)
    result = await running.wait()
    assert result.code == 0, result.transcript
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("change", "sqlstate"),
    [
        ({"password": "wrong"}, "28P01"),
        ({"user": "nobody_of_that_name"}, "28P01"),
        ({"database": "no_such_database"}, "3D000"),
    ],
    ids=["password", "role", "database"],
)
async def test_a_permanent_refusal_is_reported_at_once(
    commands: Commands, database_url: str, change: dict[str, str], sqlstate: str
) -> None:
    result = await commands.run("migrate", DATABASE_URL=changed(database_url, **change))
    assert result.code == 2, result.transcript
    assert result.stderr_line.startswith("projections: the database can't be used: ")
    assert result.stderr_line.endswith(f" (SQLSTATE {sqlstate}); check DATABASE_URL")


@pytest.mark.parametrize("query", ["sslmode=bogus", "options=-c%20no_such_setting%3D1"])
async def test_an_invalid_parameter_is_reported_at_once(commands: Commands, database_url: str, query: str) -> None:
    result = await commands.run("migrate", DATABASE_URL=f"{database_url}?{query}")
    assert result.code == 2, result.transcript
    assert "bogus" in result.stderr_line or "no_such_setting" in result.stderr_line


async def test_a_role_that_may_not_connect_is_reported_at_once(
    commands: Commands, postgres: Server, database_url: str
) -> None:
    database = urlsplit(database_url).path.lstrip("/")
    postgres.execute("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", sql.Identifier(database))
    postgres.execute("CREATE ROLE may_not LOGIN PASSWORD 'x'")
    try:
        result = await commands.run(
            "run", "--no-ingest", DATABASE_URL=changed(database_url, user="may_not", password="x")
        )
        assert result.code == 2, result.transcript
        assert "(SQLSTATE 42501)" in result.stderr_line
    finally:
        postgres.execute("DROP ROLE may_not")


async def test_it_waits_for_a_server_with_too_many_sessions(
    commands: Commands, postgres: Server, database_url: str
) -> None:
    database = sql.Identifier(urlsplit(database_url).path.lstrip("/"))
    postgres.execute("ALTER DATABASE {} CONNECTION LIMIT 1", database)
    with psycopg.connect(database_url):
        running = await commands.start(*RUN, DATABASE_URL=database_url, **QUICK)
        await running.wait_for_stderr("database unavailable: ", "too many connections")
    postgres.execute("ALTER DATABASE {} CONNECTION LIMIT -1", database)
    result = await running.wait()
    assert result.code == 0, result.transcript


def changed(url: str, *, user: str | None = None, password: str | None = None, database: str | None = None) -> str:
    parts = urlsplit(url)
    login = f"{user or parts.username}:{password or parts.password}"
    netloc = f"{login}@{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}" if database else parts.path))
