"""``projections db``, run as a process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from projections.sandbox.embedded import EmbeddedPostgres, wheel_psql
from tests.acceptance.command import CommandResult, Commands
from tests.json_documents import read_documents
from tests.servers import embedded, temporary_home

Run = Callable[..., Awaitable[CommandResult]]


def is_folder(path: str | Path) -> bool:
    return Path(path).is_dir()


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A running server, which tests don't stop."""
    with temporary_home() as folder:
        found = embedded(folder)
        found.start()
        yield found


@pytest.fixture
def run(commands: Commands, home: Path) -> Run:
    """Runs a command with a home of the test's own."""

    async def call(*arguments: str, **variables: str) -> CommandResult:
        return await commands.run(*arguments, **{"PROJECTIONS_HOME": str(home), **variables})

    return call


async def test_start_url_psql_stop(run: Run, commands: Commands, home: Path) -> None:
    before = await run("db", "url")
    assert before.code == 2
    assert before.out == ""
    assert "projections db start" in before.err

    started = await commands.installed.run("db", "start", PROJECTIONS_HOME=str(home))
    assert started.code == 0, started.transcript
    url = started.out.strip()
    assert url.startswith("postgresql://projections:")
    assert len(started.out.splitlines()) == 1
    assert "PostgreSQL 18." in started.err
    assert url.partition("@")[0].rpartition(":")[2] not in started.err
    assert (await run("db", "start")).out.strip() == url  # again: nothing to do
    assert (await run("db", "url")).out.strip() == url

    for arguments in (["--", "-Atc", "select 6 * 7"], ["-Atc", "select 6 * 7"]):
        answer = await run("db", "psql", *arguments)
        assert (answer.code, answer.out) == (0, "42\n")
    assert (await run("db", "psql", "--", "-c", "select 1/0", "-v", "ON_ERROR_STOP=1")).code == 1

    # One of our schemas has the role's name, but users' tables are still created in public.
    theirs = "create schema projections; create table theirs(); select relnamespace::regnamespace from pg_class"
    assert (await run("db", "psql", "-qAtc", f"{theirs} where relname = 'theirs'")).out == "public\n"

    (document,) = read_documents("db start", (await run("db", "start", "--json")).out)
    assert (document["url"], is_folder(document["data"])) == (url, True)
    assert read_documents("db url", (await run("db", "url", "--json")).out) == [{"url": url}]

    stopped = await run("db", "stop")
    assert (stopped.code, stopped.out) == (0, "")
    assert read_documents("db stop", (await run("db", "stop", "--json")).out) == [{"stopped": False}]
    assert (await run("db", "url")).code == 2


@pytest.mark.parametrize("given", [{"DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c"}, {"PGHOST": "/nowhere"}])
async def test_with_a_given_database_the_embedded_one_is_not_started(
    run: Run, home: Path, given: dict[str, str]
) -> None:
    for command in ("start", "stop"):
        refused = await run("db", command, **given)
        assert refused.code == 2
        assert "names another database" in refused.stderr_line
    assert (await run("db", "url", **given)).code == 0
    assert not is_folder(home)


async def test_psql_connects_to_a_given_database(run: Run, server: EmbeddedPostgres) -> None:
    url = server.url() or ""
    query = ("--", "-Atc", "select current_setting('port')")
    port = url.rpartition(":")[2].partition("/")[0]
    elsewhere = {"PROJECTIONS_HOME": "/nowhere"}
    assert (await run("db", "psql", *query, DATABASE_URL=url, **elsewhere)).out == f"{port}\n"
    alchemy = url.replace("postgresql://", "postgresql+psycopg://")
    assert (await run("db", "psql", *query, DATABASE_URL=alchemy, **elsewhere)).out == f"{port}\n"
    password = url.partition("@")[0].rpartition(":")[2]
    variables = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGUSER": "projections", "PGDATABASE": "projections"}
    assert (await run("db", "psql", *query, PGPASSWORD=password, **variables, **elsewhere)).out == f"{port}\n"


@pytest.mark.skipif(wheel_psql() is None, reason="the wheel's psql")
async def test_psql_gets_the_password_from_its_environment(run: Run, server: EmbeddedPostgres) -> None:
    password = (server.url() or "").partition("@")[0].rpartition(":")[2]
    arguments = ("db", "psql", "--", "-Atc", "\\! tr '\\0' ' ' < /proc/$PPID/cmdline")
    shown = await run(*arguments, PROJECTIONS_HOME=str(server.home))
    assert "--dbname=" in shown.out
    assert password not in shown.out


async def test_a_malformed_url_is_reported_in_one_sentence_without_its_password(run: Run) -> None:
    for url in (
        "postgresql://user:s3cret@host:port/x",
        "postgresql://user:s3cret%zz@host/x",
        "postgresql://user:half@s3cret@host/x",
        "mysql://user:s3cret@host/x",
        "user:s3cret@host/x",
    ):
        refused = await run("db", "url", DATABASE_URL=url)
        assert refused.code == 2
        assert refused.stderr_line.startswith("projections: DATABASE_URL ")
        assert "s3cret" not in refused.out + refused.err
