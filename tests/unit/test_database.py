"""Which database the environment chooses, in every form of a connection string."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from eventstore.errors import UsageError
from projections.database import given_database_url, projections_home, resolve_database_url


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PG") or name in {"DATABASE_URL", "PROJECTIONS_HOME"}]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_each_scheme_means_the_same(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://user:pass%40word@host:5433/name?sslmode=require")
    assert given_database_url() == "postgresql://user:pass%40word@host:5433/name?sslmode=require"


@pytest.mark.parametrize(
    "text",
    [
        "host=/run/pg dbname='my base' user=me password='p@ss w'",
        "host=@abstract dbname=base",
        "postgresql://a:1,b:2/base?target_session_attrs=read-write",
        "postgresql://me:p%40ss@%2Fvar%2Frun%2Fpostgresql/base",
        "postgresql://%40abstract/base",
        "postgresql://me@host/base?hostaddr=127.0.0.1&sslrootcert=system",
        "postgresql:///base?service=main",
        "service=main",
    ],
    ids=["keywords", "keywords socket", "several hosts", "socket", "abstract", "address", "service of URL", "service"],
)
def test_a_connection_string_of_libpq_becomes_an_equivalent_url(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DATABASE_URL", text)
    url = given_database_url()
    assert url is not None
    assert conninfo_to_dict(url) == conninfo_to_dict(text)


def test_variables_of_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_database_url() is None
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("PGSSLMODE", "require")
    assert given_database_url() is None
    monkeypatch.setenv("PGHOST", "/run/pg")
    monkeypatch.setenv("PGDATABASE", "base")
    url = given_database_url()
    assert url is not None
    assert conninfo_to_dict(url) == {"host": "/run/pg", "dbname": "base"}


def test_database_url_takes_precedence_and_an_empty_one_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    assert given_database_url() is None
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("DATABASE_URL", "postgresql://host/base")
    assert given_database_url() == "postgresql://host/base"


def test_without_a_database_nothing_is_started(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="projections db start"):
        resolve_database_url(start=False)
    assert not (tmp_path / ".projections").exists()


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert projections_home() == tmp_path / ".projections"
    monkeypatch.setenv("PROJECTIONS_HOME", "/elsewhere")
    assert projections_home() == Path("/elsewhere")
