"""A migration does all its transactions in one session, and in a new one if that is lost."""

from __future__ import annotations

import psycopg
import pytest

from eventstore.postgres.connection import connect_sync
from projections.migrating import sqlalchemy_connection as connections
from projections.migrating.migrate import upgrade
from projections.migrating.schema_revision import head_revision
from projections.migrating.sqlalchemy_connection import one_session, sqlalchemy_connection
from tests.databases import Server

PID = "SELECT pg_catalog.pg_backend_pid()"


def pid_of_next_connection(url: str) -> int:
    with sqlalchemy_connection(url) as connection:
        return int(connection.exec_driver_sql(PID).scalar_one())


def test_a_migration_is_one_session(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def counted(url: str, **settings: object) -> psycopg.Connection:
        opened.append(url)
        return connect_sync(url, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(connections, "connect_sync", counted)
    assert upgrade(empty_database_url, projections=()) == (None, head_revision())
    assert opened == [empty_database_url]


def test_a_lost_session_is_replaced_and_none_outlives_the_block(
    postgres: Server, database_url: str, elsewhere: str
) -> None:
    with one_session(database_url):
        first = pid_of_next_connection(database_url)
        with one_session(database_url):
            assert pid_of_next_connection(database_url) == first
        assert pid_of_next_connection(elsewhere) != first
        with psycopg.connect(postgres.superuser_url) as superuser:
            superuser.execute("SELECT pg_catalog.pg_terminate_backend(%s, 60000)", [first])
        second = pid_of_next_connection(database_url)
        assert second not in {first, pid_of_next_connection(elsewhere)}
        assert pid_of_next_connection(database_url) == second
    assert pid_of_next_connection(database_url) not in {first, second}
