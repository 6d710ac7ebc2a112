"""Tables of users' projections are created if missing, or by their own revisions, and never altered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Column, Executable, Index, Integer, MetaData, Table, Text, text

from projections.errors import InvalidProjection, MigrationRefused, ProjectionsError
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import downgrade, upgrade
from projections.migrating.schema_revision import head_revision, require_current_schema
from projections.projection import Projection, Window

REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {down}


def upgrade() -> None:
    {step}
"""
CREATE = 'op.create_table("mine", sa.Column("app", sa.Text(), primary_key=True), schema="public")'
ADD = 'op.add_column("mine", sa.Column("value", sa.Integer()), schema="public")'


class Fold(Projection):
    def fold(self, window: Window) -> Sequence[Executable]:
        assert window
        return ()


def new_table(name: str = "mine", *more: Any, metadata: MetaData | None = None) -> Table:  # noqa: ANN401 - SQLAlchemy's
    columns = [Column("app", Text, primary_key=True, comment="Whose."), Column("value", Integer), *more]
    return Table(name, MetaData(schema="public") if metadata is None else metadata, *columns, comment="Mine.")


def projection(*tables: Table, name: str = "mine", migrations: Path | None = None) -> Projection:
    attributes = {
        "name": name,
        "version": 1,
        "handles": frozenset({1}),
        "tables": tables or (new_table(),),
        "partition_by": ("app",),
        "migrations": migrations,
    }
    made: Projection = type("Mine", (Fold,), attributes)()
    return made


def alembic_folder(tmp_path: Path, *steps: str) -> Path:
    """Write an Alembic folder with a revision for each step; returns its path."""
    versions = tmp_path / "100% mine" / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(steps, start=1):
        down = f'"mine {number - 1}"' if number > 1 else "None"
        source = REVISION.format(revision=f"mine {number}", down=down, step=step)
        (versions / f"{number}.py").write_text(source)
    return versions.parent


def columns(url: str, table: str = "mine") -> list[str]:
    query = (
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s"
        " ORDER BY ordinal_position"
    )
    with psycopg.connect(url) as conn:
        return [name for (name,) in conn.execute(query, [table])]


def execute(url: str, command: str) -> None:
    with psycopg.connect(url) as conn:
        conn.execute(command.encode())


def versions(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as conn:
        return conn.execute("SELECT version_num FROM projections.version_mine").fetchall()


# Missing tables


@pytest.mark.oldest
def test_missing_tables_are_created_with_indexes_and_comments(database_url: str) -> None:
    metadata = MetaData(schema="public")
    first = new_table("first", Index("first_value_idx", "value"), metadata=metadata)
    second = new_table("second", Column("n", Integer, nullable=False, server_default=text("3")), metadata=metadata)
    third = new_table("third", metadata=metadata)
    upgrade(database_url, projections=[projection(first, second)])
    assert columns(database_url, "first") == ["app", "value"]
    assert columns(database_url, "second") == ["app", "value", "n"]
    assert columns(database_url, third.name) == []
    with psycopg.connect(database_url) as conn:
        index = conn.execute("SELECT tablename FROM pg_indexes WHERE indexname = 'first_value_idx'").fetchone()
        comments = conn.execute("SELECT obj_description('first'::regclass), col_description('first'::regclass, 1)")
        assert index == ("first",)
        assert comments.fetchone() == ("Mine.", "Whose.")


@pytest.mark.parametrize(("state", "then"), [("running", "waiting"), ("failed", "waiting"), ("paused", "paused")])
def test_a_table_created_again_needs_a_rebuild_and_a_pause_stays(database_url: str, state: str, then: str) -> None:
    upgrade(database_url, projections=[projection()])
    query = "INSERT INTO projections.checkpoints (name, version, position, state) VALUES ('mine', 1, 7, %s)"
    with psycopg.connect(database_url) as conn:
        conn.execute(query, [state])
    execute(database_url, "DROP TABLE mine")
    upgrade(database_url, projections=[projection()])
    with psycopg.connect(database_url) as conn:
        assert conn.execute("SELECT version, state FROM projections.checkpoints").fetchall() == [(0, then)]


def test_a_second_migration_creates_only_what_is_new(database_url: str) -> None:
    upgrade(database_url, projections=[projection()])
    execute(database_url, "INSERT INTO mine VALUES ('kept')")
    upgrade(database_url, projections=[projection(new_table(), new_table("more"))])
    assert columns(database_url, "more") == ["app", "value"]
    with psycopg.connect(database_url) as conn:
        assert conn.execute("SELECT app FROM mine").fetchall() == [("kept",)]


def test_an_earlier_revision_of_ours_creates_no_users_tables(empty_database_url: str) -> None:
    upgrade(empty_database_url, "0001", projections=[projection()])
    assert columns(empty_database_url) == []


@pytest.mark.parametrize(
    ("existing", "refusal"),
    [
        ("CREATE TABLE mine (app text PRIMARY KEY)", "is missing value; migrate never alters tables"),
        ("CREATE TABLE mine (ap text PRIMARY KEY)", "is missing app, value; migrate never alters tables"),
        ("CREATE VIEW mine AS SELECT ''::text AS app", "is missing value; migrate never alters tables"),
        ("CREATE TABLE mine (app text, value int)", r"must have the primary key \(app\); migrate never alters tables"),
        ("CREATE TABLE mine (app text, value int, PRIMARY KEY (app, value))", r"must have the primary key \(app\)"),
        ("CREATE VIEW mine AS SELECT ''::text AS app, 1 AS value", r"must have the primary key \(app\)"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_and_kept(database_url: str, existing: str, refusal: str) -> None:
    execute(database_url, existing)
    before = columns(database_url)
    with pytest.raises(MigrationRefused, match=refusal) as caught:
        upgrade(database_url, projections=[projection(new_table("another"), new_table())])
    assert str(caught.value).startswith("table public.mine of projection 'mine' ")
    assert "\n" not in str(caught.value)
    assert columns(database_url) == before
    assert columns(database_url, "another") == []


def test_a_table_with_additional_columns_is_accepted(database_url: str) -> None:
    execute(database_url, "CREATE TABLE mine (more int, value int, app text PRIMARY KEY)")
    upgrade(database_url, projections=[projection()])
    assert columns(database_url) == ["more", "value", "app"]


# Alembic folders


def test_an_alembic_folder_is_run_with_a_version_table_of_its_own(empty_database_url: str, tmp_path: Path) -> None:
    ours = [projection(migrations=alembic_folder(tmp_path, CREATE, ADD))]
    assert upgrade(empty_database_url, projections=ours) == (None, head_revision())
    assert columns(empty_database_url) == ["app", "value"]
    assert versions(empty_database_url) == [("mine 2",)]
    assert upgrade(empty_database_url, projections=ours) == (head_revision(), head_revision())


@pytest.mark.oldest
def test_new_revisions_of_a_folder_run_after_the_earlier_ones(database_url: str, tmp_path: Path) -> None:
    only_app = Table("mine", MetaData(schema="public"), Column("app", Text, primary_key=True))
    upgrade(database_url, projections=[projection(only_app, migrations=alembic_folder(tmp_path, CREATE))])
    execute(database_url, "INSERT INTO mine VALUES ('kept')")
    upgrade(database_url, projections=[projection(migrations=alembic_folder(tmp_path, CREATE, ADD))])
    with psycopg.connect(database_url) as conn:
        assert conn.execute("SELECT app, value FROM mine").fetchall() == [("kept", None)]


def test_a_users_env_is_not_run(database_url: str, tmp_path: Path) -> None:
    theirs = alembic_folder(tmp_path, CREATE, ADD)
    (theirs / "env.py").write_text("raise RuntimeError")
    upgrade(database_url, projections=[projection(migrations=theirs)])
    assert columns(database_url) == ["app", "value"]


def test_a_folder_whose_revisions_do_not_create_all_columns_is_refused_and_changes_nothing(
    database_url: str, tmp_path: Path
) -> None:
    with pytest.raises(MigrationRefused, match=r"is missing value; add a revision to its migrations$"):
        upgrade(database_url, projections=[projection(migrations=alembic_folder(tmp_path, CREATE))])
    with pytest.raises(
        MigrationRefused, match=r"public.other of projection 'mine' isn't created by .*; add a revision"
    ):
        upgrade(
            database_url, projections=[projection(new_table("other"), migrations=alembic_folder(tmp_path, CREATE, ADD))]
        )
    assert columns(database_url) == []


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        pytest.param("op.execute('SELECT 1 / 0')", r"division by zero \(SQLSTATE 22012\)", marks=pytest.mark.oldest),
        ("raise KeyError('x')", "KeyError: 'x'"),
    ],
)
def test_a_folder_that_fails_names_its_projection_and_changes_nothing(
    empty_database_url: str, tmp_path: Path, step: str, reason: str
) -> None:
    good, bad = (
        projection(new_table("good"), name="good"),
        projection(migrations=alembic_folder(tmp_path, CREATE, step)),
    )
    with pytest.raises(ProjectionsError, match=f"^projection 'mine': its migrations failed: {reason}$"):
        upgrade(empty_database_url, projections=[good, bad])
    assert columns(empty_database_url, "good") == []
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute("SELECT FROM pg_namespace WHERE nspname = 'eventstore'").fetchall() == []


def test_a_folder_without_versions_is_refused(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidProjection, match="its migrations have no folder 'versions'"):
        upgrade(database_url, projections=[projection(migrations=tmp_path)])


def test_our_schema_can_be_dropped_and_created_beside_users_tables(database_url: str, tmp_path: Path) -> None:
    ours = [projection(migrations=alembic_folder(tmp_path, CREATE, ADD))]
    upgrade(database_url, projections=ours)
    downgrade(database_url, "base")
    assert columns(database_url) == ["app", "value"]
    assert upgrade(database_url, projections=ours) == (None, head_revision())


# Checks before projections run


def test_a_projection_whose_table_is_missing_is_named(database_url: str) -> None:
    ours = [model() for model in READ_MODELS]
    why = "table mine is missing; run projections migrate"
    assert require_current_schema(database_url, [*ours, projection()]) == {"mine": why}
    upgrade(database_url, projections=[projection()])
    assert require_current_schema(database_url, [*ours, projection()]) == {}


def test_a_dropped_table_is_created_again_and_its_projection_needs_a_rebuild(database_url: str) -> None:
    upgrade(database_url, projections=[projection()])
    with psycopg.connect(database_url, autocommit=True) as conn:
        insert = "INSERT INTO projections.checkpoints (name, version, position, state) VALUES (%s, 1, %s, 'running')"
        conn.execute(insert, ["mine", 0])
        checkpoint = "SELECT version, state, last_error FROM projections.checkpoints"
        conn.execute("DROP TABLE public.mine")
        upgrade(database_url, projections=[projection()])
        assert conn.execute(checkpoint).fetchone() == (1, "running", None), "it has folded nothing"
        conn.execute("UPDATE projections.checkpoints SET position = 7")
        conn.execute("DROP TABLE public.mine")
        upgrade(database_url, projections=[projection()])
        error = "its tables were created again; run projections rebuild mine"
        assert conn.execute(checkpoint).fetchone() == (0, "waiting", error)
