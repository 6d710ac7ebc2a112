"""Migrate refuses a database where an object of others has the name of a read model."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from projections.errors import MigrationRefused
from projections.migrating.migrate import LATER_NAMES, READ_MODELS_SINCE, downgrade, upgrade
from projections.migrating.schema_revision import head_revision
from projections.read_models.common_columns import VIEWS, metadata

TABLES = [table.name for table in metadata.tables.values()]


def test_all_our_names_in_public_are_checked(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        rows = conn.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'").fetchall()
    assert {name for (name,) in rows} == {*TABLES, *VIEWS}


@pytest.mark.parametrize("name", [*sorted(TABLES), *sorted(VIEWS)])
def test_a_table_of_others_with_such_a_name_is_refused_in_one_sentence(empty_database_url: str, name: str) -> None:
    assert_refused(empty_database_url, "CREATE TABLE public.{} (theirs int)", name)


@pytest.mark.parametrize(
    "command",
    [
        "CREATE VIEW public.{} AS SELECT 1 AS theirs",
        "CREATE MATERIALIZED VIEW public.{} AS SELECT 1 AS theirs",
        "CREATE SEQUENCE public.{}",
        "CREATE TYPE public.{} AS ENUM ('theirs')",
        "CREATE TYPE public.{} AS (theirs int)",
    ],
)
def test_another_object_with_such_a_name_is_refused(empty_database_url: str, command: str) -> None:
    assert_refused(empty_database_url, command, "request_status")


def assert_refused(url: str, command: str, name: str) -> None:
    """Create an object; assert that migrate refuses the database and creates nothing."""
    with psycopg.connect(url) as conn:
        conn.execute(sql.SQL(command).format(sql.Identifier(name)))
    with pytest.raises(MigrationRefused) as caught:
        upgrade(url)
    assert str(caught.value).startswith(f"public.{name} already exists and isn't ours; rename it")
    assert "\n" not in str(caught.value)
    with psycopg.connect(url) as conn:
        schemas = conn.execute("SELECT FROM pg_namespace WHERE nspname IN ('eventstore', 'projections')").fetchall()
    assert schemas == []


def test_it_is_refused_if_only_the_event_store_exists(empty_database_url: str) -> None:
    upgrade(empty_database_url, "0001")
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("CREATE TABLE public.poll_tallies (theirs int)")
    with pytest.raises(MigrationRefused, match=r"^public.poll_tallies already exists"):
        upgrade(empty_database_url)
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("ALTER TABLE public.poll_tallies RENAME TO theirs")
    assert upgrade(empty_database_url) == ("0001", head_revision())


@pytest.mark.parametrize("name", sorted(LATER_NAMES))
def test_it_is_refused_if_only_earlier_read_models_exist(empty_database_url: str, name: str) -> None:
    upgrade(empty_database_url, "0012")
    with psycopg.connect(empty_database_url) as conn:
        conn.execute(sql.SQL("CREATE TABLE public.{} (theirs int)").format(sql.Identifier(name)))
    with pytest.raises(MigrationRefused, match=f"^public.{name} already exists"):
        upgrade(empty_database_url)


def test_the_same_name_in_another_schema_is_allowed(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("CREATE SCHEMA theirs")
        conn.execute("CREATE TABLE theirs.request_status (a int)")
    upgrade(empty_database_url)


def test_our_own_tables_are_not_refused_and_can_be_created_again_after_a_downgrade(database_url: str) -> None:
    upgrade(database_url)
    downgrade(database_url, "0001")
    assert upgrade(database_url) == ("0001", head_revision())
    assert (head_revision() or "") >= READ_MODELS_SINCE
