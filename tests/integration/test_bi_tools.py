"""A reader sees the read models and views of ``public`` with their comments, in the ways in which BI tools look.

Grafana reads ``information_schema``. Metabase reads ``pg_class`` and keeps what the role may select. Superset uses
SQLAlchemy's inspector.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, Inspector, create_engine, inspect, text
from sqlalchemy.exc import ProgrammingError

from projections.granting.role_kinds import RoleKind
from projections.migrating.metadata import READ_MODELS
from projections.read_models.common_columns import VIEWS
from tests import rebuilding, store
from tests.databases import Server
from tests.queries import fetch_all
from tests.roles import granted_roles

TABLES = {table.name for each in READ_MODELS for table in each.tables}

OUR_SCHEMAS = {"eventstore", "projections", "projections_shadow"}
_METABASE = """
SELECT n.nspname, c.relname, obj_description(c.oid, 'pg_class')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'f', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
"""
_GRAFANA = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema !~ '^(pg_|information_)'"
_GRAFANA_SCHEMAS = "SELECT schema_name FROM information_schema.schemata WHERE schema_name !~ '^(pg_|information_)'"
_SCHEMAS = (
    "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_)' AND has_schema_privilege(oid, 'USAGE')"
)


async def test_a_reader_sees_the_read_models_with_comments_and_nothing_else(
    postgres: Server, database_url: str
) -> None:
    expected = {("public", name) for name in TABLES | VIEWS}
    async with (
        granted_roles(postgres, database_url, *RoleKind) as roles,
        store.connection(database_url) as owner,
        store.connection(roles[RoleKind.READER].url) as reader,
    ):
        await rebuilding.append_and_fold(database_url, owner)
        # A rebuild must not add its shadows.
        await rebuilding.rebuild(roles[RoleKind.WORKER].url, READ_MODELS[0]())
        assert await fetch_all(reader, _SCHEMAS) == [("public",)]
        assert await fetch_all(reader, _GRAFANA_SCHEMAS) == [("public",)]
        assert set(await fetch_all(reader, _GRAFANA)) == expected
        assert (
            await fetch_all(
                reader,
                "SELECT * FROM information_schema.routines WHERE routine_schema <> 'pg_catalog'"
                " AND routine_schema <> 'information_schema'",
            )
            == []
        )
        found = await fetch_all(reader, _METABASE)
        assert {(schema, name) for schema, name, _ in found} == expected
        assert [name for _, name, comment in found if not comment] == []
        columns = await fetch_all(
            reader,
            "SELECT table_name, column_name, col_description(format('%I.%I', table_schema, table_name)::regclass,"
            " ordinal_position::int), data_type FROM information_schema.columns WHERE table_schema = 'public'",
        )
        assert {name for name, *_ in columns} == TABLES | VIEWS
        assert [(table, name) for table, name, comment, _ in columns if not comment] == []
        assert [(table, name) for table, name, _, kind in columns if "json" in kind or kind == "bytea"] == []
        for _, name in expected:
            assert await fetch_all(reader, sql.SQL("SELECT * FROM public.{} LIMIT 1").format(sql.Identifier(name)))
        with inspected(roles[RoleKind.READER].url) as (engine, inspector):
            check_inspector(engine, inspector)


def check_inspector(engine: Engine, inspector: Inspector) -> None:
    """What Superset shows: tables and views of ``public``; it can't read anything of the other schemas."""
    assert inspector.default_schema_name == "public"
    assert set(inspector.get_table_names("public")) == TABLES
    assert set(inspector.get_view_names("public")) == VIEWS
    for name in sorted(TABLES | VIEWS):
        assert inspector.get_table_comment(name, "public")["text"], name
        assert all(column["comment"] for column in inspector.get_columns(name, "public")), name
    # SQLAlchemy reads pg_namespace without asking for privileges, so the names of schemas can't be hidden from it.
    assert set(inspector.get_schema_names()) == {*OUR_SCHEMAS, "public", "information_schema"}
    for schema in OUR_SCHEMAS:
        for name in [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]:
            with engine.connect() as connection, pytest.raises(ProgrammingError) as raised:
                connection.execute(text(f'SELECT * FROM {schema}."{name}"'))  # noqa: S608 - a name of ours
            assert isinstance(raised.value.orig, psycopg.errors.InsufficientPrivilege), name


@contextmanager
def inspected(url: str) -> Iterator[tuple[Engine, Inspector]]:
    """Yield an engine and its inspector, without any settings of ours, as a BI tool has it."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        yield engine, inspect(engine)
    finally:
        engine.dispose()
