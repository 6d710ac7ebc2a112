"""``projections db``, run as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from projections.sandbox.embedded import wheel_psql
from tests.json_documents import read_documents
from tests.servers import temporary_home

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "projections", *arguments],
            env={"PATH": os.environ["PATH"], "PROJECTIONS_HOME": str(home), **environment},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return call


def test_start_url_psql_stop(run: Run) -> None:
    before = run("db", "url")
    assert before.returncode == 2
    assert before.stdout == ""
    assert "projections db start" in before.stderr

    started = run("db", "start")
    assert started.returncode == 0, started.stderr
    url = started.stdout.strip()
    assert url.startswith("postgresql://projections:")
    assert run("db", "start").stdout.strip() == url  # again: nothing to do
    assert run("db", "url").stdout.strip() == url

    for arguments in (["--", "-Atc", "select 6 * 7"], ["-Atc", "select 6 * 7"]):
        answer = run("db", "psql", *arguments)
        assert (answer.returncode, answer.stdout) == (0, "42\n")
    assert run("db", "psql", "--", "-c", "select 1/0", "-v", "ON_ERROR_STOP=1").returncode == 1

    # One of our schemas has the role's name, but users' tables are still created in public.
    theirs = "create schema projections; create table theirs(); select relnamespace::regnamespace from pg_class"
    assert run("db", "psql", "-qAtc", f"{theirs} where relname = 'theirs'").stdout == "public\n"

    (document,) = read_documents("db start", run("db", "start", "--json").stdout)
    assert (document["url"], Path(document["data"]).is_dir()) == (url, True)
    assert read_documents("db url", run("db", "url", "--json").stdout) == [{"url": url}]

    stopped = run("db", "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "")
    assert read_documents("db stop", run("db", "stop", "--json").stdout) == [{"stopped": False}]
    assert run("db", "url").returncode == 2


def test_data_goes_to_stdout_and_the_rest_to_stderr(run: Run) -> None:
    started = run("db", "start")
    assert len(started.stdout.splitlines()) == 1
    assert "PostgreSQL 18." in started.stderr
    assert started.stdout.partition("@")[0].rpartition(":")[2] not in started.stderr


@pytest.mark.parametrize("given", [{"DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c"}, {"PGHOST": "/nowhere"}])
def test_with_a_given_database_the_embedded_one_is_not_started(run: Run, home: Path, given: dict[str, str]) -> None:
    for command in ("start", "stop"):
        refused = run("db", command, **given)
        assert refused.returncode == 2
        assert "names another database" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert run("db", "url", **given).returncode == 0
    assert not home.exists()


def test_psql_connects_to_a_given_database(run: Run) -> None:
    url = run("db", "start").stdout.strip()
    query = ("--", "-Atc", "select current_setting('port')")
    port = url.rpartition(":")[2].partition("/")[0]
    elsewhere = {"PROJECTIONS_HOME": "/nowhere"}
    assert run("db", "psql", *query, DATABASE_URL=url, **elsewhere).stdout == f"{port}\n"
    alchemy = url.replace("postgresql://", "postgresql+psycopg://")
    assert run("db", "psql", *query, DATABASE_URL=alchemy, **elsewhere).stdout == f"{port}\n"
    password = url.partition("@")[0].rpartition(":")[2]
    variables = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGUSER": "projections", "PGDATABASE": "projections"}
    assert run("db", "psql", *query, PGPASSWORD=password, **variables, **elsewhere).stdout == f"{port}\n"


@pytest.mark.skipif(wheel_psql() is None, reason="the wheel's psql")
def test_psql_gets_the_password_from_its_environment(run: Run) -> None:
    url = run("db", "start").stdout.strip()
    password = url.partition("@")[0].rpartition(":")[2]
    shown = run("db", "psql", "--", "-Atc", "\\! tr '\\0' ' ' < /proc/$PPID/cmdline")
    assert "--dbname=" in shown.stdout
    assert password not in shown.stdout


def test_a_malformed_url_is_reported_in_one_sentence_without_its_password(run: Run) -> None:
    for url in (
        "postgresql://user:s3cret@host:port/x",
        "postgresql://user:s3cret%zz@host/x",
        "postgresql://user:half@s3cret@host/x",
        "mysql://user:s3cret@host/x",
        "user:s3cret@host/x",
    ):
        refused = run("db", "url", DATABASE_URL=url)
        assert refused.returncode == 2
        assert refused.stderr.startswith("projections: DATABASE_URL ")
        assert len(refused.stderr.splitlines()) == 1
        assert "s3cret" not in refused.stdout + refused.stderr
