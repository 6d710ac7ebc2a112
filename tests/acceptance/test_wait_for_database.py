"""Commands wait at their start for an unavailable database; what waiting can't help is reported at once."""

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


class Standby:
    """A server that recovers until it is promoted; a hot one takes sessions that only read meanwhile."""

    def __init__(self, *, hot: bool) -> None:
        self._hot = "on" if hot else "off"

    def __enter__(self) -> str:
        self._home = temporary_home()
        home = self._home.__enter__()
        server = embedded(home)
        self._url = server.start()
        upgrade(self._url, projections=())
        data = server.status().data
        assert data is not None
        server.stop()
        self._data = data
        (data / "standby.signal").touch()
        # Such a server is never "ready", so nobody waits for it to be; it goes on all the same.
        timeouts = EmbeddedTimeouts(start=1)
        self._server = EmbeddedPostgres(home, settings={**FAST, "hot_standby": self._hot}, timeouts=timeouts)
        with suppress(EmbeddedError):
            self._server.start()
        return self._url

    def promote(self) -> None:
        pid = self._server.status().pid
        assert pid is not None
        (self._data / "promote").touch()
        os.kill(pid, signal.SIGUSR1)

    def __exit__(self, *_: object) -> None:
        self._home.__exit__(None, None, None)


@pytest.fixture(params=[False, True], ids=["recovering", "hot standby"])
def standby(request: pytest.FixtureRequest) -> Iterator[tuple[str, Standby]]:
    one = Standby(hot=request.param)
    with one as url:
        yield url, one


async def test_a_server_that_recovers_is_waited_for(commands: Commands, standby: tuple[str, Standby]) -> None:
    url, server = standby
    running = await commands.start(*RUN, DATABASE_URL=url, **QUICK)
    await running.says("database unavailable: ", "; retrying for up to 60 s")
    server.promote()
    ended = await running.ended()
    assert ended.code == 0, ended.said
    assert "projections: database available" in ended.err


async def test_the_wait_ends_with_exit_code_1_and_reading_needs_no_promotion(commands: Commands) -> None:
    with Standby(hot=True) as url:
        # Until the standby takes sessions at all.
        status = await commands.run("status", "--wait-for-database", "30", DATABASE_URL=url)
        assert status.code == 0, status.said
        ended = await commands.run("migrate", "--wait-for-database=0.2", DATABASE_URL=url)
        assert ended.code == 1, ended.said
        last = ended.err.splitlines()[-1]
        assert last == "projections: database unavailable after 0.2 s: the server is a standby and takes no writes"


async def test_a_host_where_nobody_listens_yet_is_waited_for(commands: Commands, database_url: str) -> None:
    proxy = TcpProxy(*target_of(database_url))
    async with proxy:
        port = proxy.port
    url = through(database_url, port)
    for command in (("migrate",), RUN, ("verify",)):
        ended = await commands.run(*command, DATABASE_URL=url, PROJECTIONS_WAIT_FOR_DATABASE="0.1", **QUICK)
        assert ended.code == 1, ended.said
        assert "database unavailable after 0.1 s" in ended.err.splitlines()[-1]
    running = await commands.start("migrate", DATABASE_URL=url, **QUICK)
    await running.says("database unavailable: ", "Connection refused")
    async with TcpProxy(*target_of(database_url), listen=port):
        ended = await running.ended()
    assert ended.code == 0, ended.said


async def test_a_signal_ends_the_wait(commands: Commands) -> None:
    url = f"postgresql://u@127.0.0.1:{free_port()}/d"
    running = await commands.start("run", "--no-ingest", DATABASE_URL=url)
    await running.says("database unavailable")
    running.send(signal.SIGTERM)
    ended = await running.ended()
    assert ended.code == 0, ended.said
    assert "Traceback" not in ended.err


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
    ended = await commands.run("migrate", DATABASE_URL=changed(database_url, **change))
    assert ended.code == 2, ended.said
    assert ended.sentence.startswith("projections: the database can't be used: ")
    assert ended.sentence.endswith(f" (SQLSTATE {sqlstate}); check DATABASE_URL")


@pytest.mark.parametrize("query", ["sslmode=bogus", "options=-c%20no_such_setting%3D1"])
async def test_so_is_an_invalid_parameter(commands: Commands, database_url: str, query: str) -> None:
    ended = await commands.run("migrate", DATABASE_URL=f"{database_url}?{query}")
    assert ended.code == 2, ended.said
    assert "bogus" in ended.sentence or "no_such_setting" in ended.sentence


async def test_a_role_that_may_not_connect_is_reported_at_once(
    commands: Commands, postgres: Server, database_url: str
) -> None:
    database = urlsplit(database_url).path.lstrip("/")
    postgres.execute("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", sql.Identifier(database))
    postgres.execute("CREATE ROLE may_not LOGIN PASSWORD 'x'")
    try:
        ended = await commands.run(
            "run", "--no-ingest", DATABASE_URL=changed(database_url, user="may_not", password="x")
        )
        assert ended.code == 2, ended.said
        assert "(SQLSTATE 42501)" in ended.sentence
    finally:
        postgres.execute("DROP ROLE may_not")


async def test_a_server_with_no_session_left_is_waited_for(
    commands: Commands, postgres: Server, database_url: str
) -> None:
    database = sql.Identifier(urlsplit(database_url).path.lstrip("/"))
    postgres.execute("ALTER DATABASE {} CONNECTION LIMIT 1", database)
    with psycopg.connect(database_url):
        running = await commands.start(*RUN, DATABASE_URL=database_url, **QUICK)
        await running.says("database unavailable: ", "too many connections")
    postgres.execute("ALTER DATABASE {} CONNECTION LIMIT -1", database)
    ended = await running.ended()
    assert ended.code == 0, ended.said


def changed(url: str, *, user: str | None = None, password: str | None = None, database: str | None = None) -> str:
    parts = urlsplit(url)
    login = f"{user or parts.username}:{password or parts.password}"
    netloc = f"{login}@{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}" if database else parts.path))
