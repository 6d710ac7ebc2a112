"""Keys of text sort by bytes after a migration; rows, views, comments and privileges stay; no row is written anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Column, MetaData, Table, Text
from structlog.testing import capture_logs

from projections.migrating.migrate import upgrade
from projections.migrating.schema_revision import head_revision
from projections.rebuilding.shadow_tables import create_fold_table
from tests import store
from tests.databases import Server
from tests.migration.test_user_tables import projection

COLLATIONS = """
SELECT c.oid::regclass || '.' || a.attname, a.attcollation::regcollation::text, c.relkind::text
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = ANY('{public,eventstore,projections}'::regnamespace[]) AND a.attnum > 0 AND a.attcollation <> 0
"""
KEYS = """
SELECT c.oid::regclass || '.' || a.attname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid
JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
WHERE i.indisunique AND a.attcollation <> 0 AND c.relname !~ '^version|^alembic'
  AND c.relnamespace = ANY('{public,eventstore,projections}'::regnamespace[])
"""
FILES = "SELECT oid::regclass::text, relfilenode FROM pg_class WHERE relnamespace = 'public'::regnamespace"
DEFAULT, BYTES = '"default"', '"C"'
VIEWS = """
SELECT c.relname, pg_get_viewdef(c.oid), c.relacl::text, c.reloptions, obj_description(c.oid, 'pg_class'),
       ARRAY(SELECT (attname, attacl::text, col_description(c.oid, attnum))::text FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum)
FROM pg_class AS c WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace ORDER BY c.relname
"""
PREPARED = (
    """INSERT INTO people (app, ppnum, requests, delivered, failed, pending_consent)
       SELECT 'a', number, 0, 0, 0, 0 FROM unnest('{ß,a,Z,1}'::text[]) AS number""",
    "CREATE VIEW per_app WITH (security_barrier = true) AS SELECT app, count(*) AS people FROM people GROUP BY app",
    "CREATE VIEW of_view AS SELECT p.app, p.people, r.total FROM per_app AS p LEFT JOIN poll_results AS r USING (app)",
    "COMMENT ON VIEW of_view IS 'It''s mine, 100%'",
    "COMMENT ON COLUMN of_view.people IS 'How many'",
    "GRANT SELECT ON per_app TO PUBLIC",
    "GRANT SELECT (app) ON of_view TO PUBLIC",
    "CREATE MATERIALIZED VIEW kept AS SELECT app, ppnum FROM consent_registry",
)


@contextmanager
def database(postgres: Server, options: sql.SQL) -> Iterator[str]:
    with postgres.database(migrated=False) as url:
        names = sql.Identifier(urlsplit(url).path[1:]), sql.Identifier(postgres.owner)
        postgres.execute("DROP DATABASE {}", names[0])
        postgres.execute("CREATE DATABASE {} OWNER {} TEMPLATE template0 {}", *names, options)
        yield url


def read(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as conn:
        return conn.execute(query.encode()).fetchall()


def collations(url: str) -> dict[str, str]:
    return {name: collation for name, collation, _ in read(url, COLLATIONS)}


def keys_by_default(url: str) -> set[str]:
    """Return the keys that the database's collation sorts."""
    found = collations(url)
    return {name for (name,) in read(url, KEYS) if found[name] == DEFAULT}


@pytest.mark.oldest
def test_keys_sort_by_bytes_and_views_of_others_stay_as_they_are(empty_database_url: str) -> None:
    url = empty_database_url
    upgrade(url, head_revision())
    before_keys = keys_by_default(url)
    assert {"people.ppnum", "projections.checkpoints.name", "eventstore.cursors.app"} <= before_keys
    with psycopg.connect(url) as conn:
        for statement in PREPARED:
            conn.execute(statement.encode())
    views, files = read(url, VIEWS), dict(read(url, FILES))
    with capture_logs() as logs:
        upgrade(url, projections=())
    assert read(url, VIEWS) == views
    assert collations(url)["of_view.app"] == collations(url)["people.app"] == BYTES
    assert read(url, "SELECT ppnum FROM people ORDER BY ppnum") == [("1",), ("Z",), ("a",), ("ß",)]
    after = dict(read(url, FILES))
    assert [name for name in ("people", "poll_tallies") if files[name] != after[name]] == []
    # A materialized view has rows of its own, so its table stays.
    assert keys_by_default(url) == {"consent_registry.app", "consent_registry.ppnum"}
    (warning,) = [one for one in logs if one["log_level"] == "warning"]
    assert warning["table"] == "public.consent_registry"
    assert "materialized view public.kept" in warning["why"]
    with psycopg.connect(url) as conn:
        conn.execute("DROP MATERIALIZED VIEW kept")
    upgrade(url, projections=())
    assert keys_by_default(url) == set()
    # Users' statements compare these with columns of theirs.
    assert {collations(url)[f"eventstore.events.{name}"] for name in ("app", "ppnum", "send_request_id")} == {DEFAULT}


@pytest.mark.newest
def test_nothing_changes_where_the_database_sorts_by_bytes(postgres: Server) -> None:
    with database(postgres, sql.SQL("LOCALE 'C'")) as url:
        upgrade(url, head_revision())
        before = collations(url), dict(read(url, FILES))
        upgrade(url, projections=())
        assert (collations(url), dict(read(url, FILES))) == before


async def test_keys_of_users_tables_sort_by_bytes_unless_they_name_a_collation(database_url: str) -> None:
    named = Table("named", MetaData(schema="public"), Column("app", Text(collation="POSIX"), primary_key=True))
    plain = Table("plain", MetaData(schema="public"), Column("app", Text, primary_key=True), Column("other", Text))
    upgrade(database_url, projections=[projection(plain, name="one"), projection(named, name="two")])
    found = collations(database_url)
    assert (found["plain.app"], found["plain.other"], found["named.app"]) == (BYTES, DEFAULT, '"POSIX"')
    async with store.connection(database_url, "owner") as conn:
        await conn.execute("ALTER TABLE public.people ALTER ppnum TYPE text COLLATE pg_catalog.default")
        for name in ("plain", "named", "people"):
            columns = [Column("app", Text, primary_key=True), Column("ppnum", Text, primary_key=True)]
            await create_fold_table(conn, Table(name, MetaData(schema="projections"), *columns))
    found = collations(database_url)
    # As in the read model, or by bytes where it has no such column.
    copied = {name: found[f"projections.{name}"] for name in ("plain.app", "plain.ppnum", "people.app", "people.ppnum")}
    assert copied == {"plain.app": BYTES, "plain.ppnum": BYTES, "people.app": BYTES, "people.ppnum": DEFAULT}
