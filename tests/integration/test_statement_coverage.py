"""The check that the oldest PostgreSQL gets every statement can fail, and it ignores the values in statements."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import delete

from projections.folding.run_statement import execute_and_count
from projections.read_models.request_status import RequestStatus
from projections.rebuilding import rebuild_history
from projections.running import checkpoint
from tests import statements, store
from tests.rebuilding import replay_context
from tests.statements import ROOT, normalised, statements_in, uncovered


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT  a\n FROM t WHERE b = $1", "SELECT a FROM t WHERE b = $2"),
        ("SELECT 'it''s'", "SELECT 'other'"),
        ('DROP SCHEMA "shadow 1"', 'DROP SCHEMA "shadow 2"'),
        ("LIMIT 100", "LIMIT 20"),
        (
            "AS $fold_4eb558bddddddd06$ x $fold_4eb558bddddddd06$",
            "AS $fold_dd29b51a5f08471e$ x $fold_dd29b51a5f08471e$",
        ),
        ("VALUES ($1, $2), ($3, $4)", "VALUES ($1, $2), ($3, $4), ($5, $6)"),
        ("DELETE FROM public.people", "DELETE FROM projections_shadow.people"),
        ("CREATE TABLE public.people (app text)", "CREATE UNLOGGED TABLE projections_shadow.people (app text)"),
        ("x = ANY(ARRAY[$1::text, $2::text])", "x = ANY(ARRAY[$1::text, $2::text, $3::text])"),
    ],
)
def test_values_and_made_up_names_make_no_difference(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


def test_columns_tables_and_types_make_a_difference() -> None:
    texts = [
        "SELECT a FROM t1",
        "SELECT b FROM t1",
        "SELECT a FROM t2",
        "SELECT a::int FROM t1",
        "SELECT a::text FROM t1",
        "SELECT a FROM eventstore.t1",
        "SELECT a FROM projections.t1",
    ]
    assert len({normalised(text) for text in texts}) == len(texts)


def test_statements_of_one_message_count_each_and_a_function_is_one() -> None:
    assert statements_in("DROP TABLE t;  CREATE TABLE t (a text);") == ["DROP TABLE t", "CREATE TABLE t (a text);"]
    assert statements_in("SELECT 'a; b'") == ["SELECT ?"]
    assert len(statements_in("CREATE FUNCTION f() AS $$BEGIN a; b; END$$; SELECT f()")) == 1


def test_of_statements_about_tables_of_tests_the_form_counts() -> None:
    texts = [
        "INSERT INTO public.outcomes (app, a) SELECT app, a FROM eventstore.events",
        "INSERT INTO public.outcomes (app, b, c) SELECT app, b, c FROM eventstore.events",
    ]
    one, other = map(statements_in, texts)
    assert one == other == ["INSERT INTO SELECT FROM"]
    for more in ("lower(a)", "a::jsonb", "a || b"):
        assert statements_in(texts[0].replace("app, a FROM", f"app, {more} FROM")) != one
    one, other = (statements_in(text.replace("outcomes", "people")) for text in texts)
    assert one != other


def test_the_temporary_tables_of_the_product_are_no_tables_of_tests() -> None:
    sources = (path.read_text() for folder in ("eventstore", "projections") for path in (ROOT / folder).rglob("*.py"))
    named = {name for source in sources for name in re.findall(r"\bpg_temp\.(\w+)", source)}
    assert "erasing_persons" in named
    assert [name for name in sorted(named) if statements_in("LOCK TABLE pg_temp." + name) == ["LOCK TABLE"]] == []


def test_a_statement_that_only_the_newest_gets_is_found_unless_it_is_exempt() -> None:
    newest, oldest = ["SELECT 1", "SELECT a", "SELECT b"], ["SELECT 1", "SELECT c"]
    assert uncovered(newest, oldest, {}) == ["SELECT a", "SELECT b"]
    assert uncovered(newest, oldest, {"a$": "a reason"}) == ["SELECT b"]
    assert uncovered(oldest, oldest, {}) == []


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> statements.Recorder:
    for query_class in statements.QUERIES:
        monkeypatch.setattr(query_class, "convert", query_class.__dict__["convert"])  # restored after the test
    made = statements.Recorder()
    made.install()
    made.file = tmp_path / "recorded"
    return made


async def test_statements_of_the_product_are_recorded_and_those_of_tests_are_not(
    recorder: statements.Recorder, database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        await conn.execute("SELECT 'of a test'")
        async with store.appender(database_url) as appender:
            await appender.append(store.new_events(2))
        await execute_and_count(conn, delete(RequestStatus.tables[0]))  # through a raw cursor
        async with replay_context(database_url).connection("test", values_in_text=True) as replaying:
            assert not await checkpoint.exists(replaying, "it's 100 %s")
            await rebuild_history.next_run_id(replaying)
    with psycopg.connect(database_url) as plain:
        plain.execute(sql.SQL("SELECT {}").format(sql.Literal(1)))
    assert recorder.file is not None
    recorded = statements.read(recorder.file)
    assert any("eventstore.events" in each for each in recorded)
    assert any(each.startswith("COPY ") for each in recorded)
    assert any(each.startswith("DELETE FROM ") and RequestStatus.tables[0].name in each for each in recorded)
    assert "SELECT FROM projections.checkpoints WHERE name = $" in recorded
    assert any("nextval(" in each for each in recorded)
    assert "SELECT ?" not in recorded
