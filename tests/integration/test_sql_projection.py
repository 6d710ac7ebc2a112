"""A read model as a .sql file folds, rebuilds, verifies and explains like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore.contracts import Event
from projections.folding.refused_functions import is_refused
from projections.inspecting import explain
from projections.inspecting.row_key import find_table
from projections.migrating.migrate import upgrade
from projections.projection import Projection
from projections.rebuilding.as_of import build_as_of
from projections.registry import find_projections
from projections.running.fold_function import FoldFunction
from projections.running.window_step import Step
from projections.sql_files.sql_projection import SqlFile
from projections.testing import ProjectionKit, event
from tests import folding, rebuilding, store
from tests.fake_package import install
from tests.queries import fetch_all

SQL = """\
-- The first delivery to each person, and how many people each request reached.
-- name: reached
-- version: 1
-- handles: RECIPIENT_DELIVERED, RECIPIENT_FAILED
-- partition_by: app, send_request_id

CREATE TABLE reached_people (
    app text, send_request_id text, ppnum text, failed boolean NOT NULL, event_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (app, send_request_id, ppnum)
);
CREATE TABLE reached_counts (
    app text, send_request_id text, people bigint NOT NULL CHECK (people > 0), latest timestamptz,
    PRIMARY KEY (app, send_request_id)
);
COMMENT ON TABLE reached_counts IS 'People by request, 100% of them.';
CREATE INDEX reached_counts_idx ON reached_counts (people DESC) WHERE people > 1;
CREATE VIEW reached_apps AS SELECT app, sum(people) AS people FROM reached_counts GROUP BY app;

INSERT INTO reached_people
SELECT DISTINCT ON (app, send_request_id, ppnum) app, send_request_id, ppnum, event_type = 2, event_id FROM window
WHERE send_request_id <> '' AND ppnum <> ''
ORDER BY app, send_request_id, ppnum, event_id DESC
ON CONFLICT (app, send_request_id, ppnum) DO UPDATE SET failed = excluded.failed, event_id = excluded.event_id
WHERE reached_people.event_id < excluded.event_id;

DELETE FROM reached_counts AS c USING window WHERE c.app = window.app AND c.send_request_id = window.send_request_id;

INSERT INTO reached_counts (app, send_request_id, people)
SELECT app, send_request_id, count(*) FROM reached_people AS r
WHERE NOT failed AND app = ANY (ARRAY(SELECT app FROM window))
  AND send_request_id = ANY (ARRAY(SELECT send_request_id FROM window))
GROUP BY app, send_request_id;

UPDATE reached_counts AS c SET latest = (SELECT max(occurred_at) FROM window WHERE window.app = c.app AND false)
FROM window AS w WHERE w.app = c.app;
"""


@pytest.fixture
def projection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Projection:
    """Install a package with the file, beside one whose file is broken."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    module = (
        'from projections import sql_projection\nreached, broken = sql_projection("r.sql"), sql_projection("b.sql")\n'
    )
    install(folder, monkeypatch, {"reaching": module}, {"reached": "reaching:reached", "broken": "reaching:broken"})
    (folder / "r.sql").write_text(SQL)
    (folder / "b.sql").write_text(SQL.replace("count(*)", "random()"))
    registry = find_projections()
    (why,) = registry.broken.values()
    assert why == (
        "projection 'broken' can't be loaded from reaching:broken: b.sql:29: random() depends on the clock, on chance"
        " or on the session: a fold must give the same rows at any time and in any session"
    )
    return registry.projections["reached"]


def sample() -> list[Event]:
    return [
        event(1, send_request_id="a", ppnum="1"),
        event(2, send_request_id="a", ppnum="2"),
        event(1, send_request_id="a", ppnum="2"),
        event(1, send_request_id="b", ppnum="2"),
        event(2, send_request_id="b", ppnum="2"),
        event(1, send_request_id=None, ppnum="2"),
    ]


@pytest.mark.newest
async def test_the_rows_are_the_same_in_every_order(database_url: str, projection: Projection) -> None:
    events = sample()
    expected: dict[str, list[dict[str, Any]]] = {
        "reached_people": [
            {"app": "app", "send_request_id": "a", "ppnum": "1", "event_id": events[0].event_id},
            {"app": "app", "send_request_id": "a", "ppnum": "2", "event_id": events[2].event_id},
            {"app": "app", "send_request_id": "b", "ppnum": "2", "failed": True},
        ],
        "reached_counts": [{"app": "app", "send_request_id": "a", "people": 2}],
    }
    async with ProjectionKit(database_url, projection) as kit:
        await kit.assert_same_for_every_order(events, expected)


async def test_it_is_folded_live_rebuilt_verified_and_explained(
    database_url: str, projection: Projection, tmp_path: Path
) -> None:
    upgrade(database_url, projections=[projection])
    events = sample()
    async with store.appender(database_url) as appender, store.connection(database_url) as conn:
        await appender.append(events[:4])
        worker = folding.worker(database_url, projection, batch_size=1)
        async with folding.worker_connection(worker) as folding_conn:
            assert await folding.fold(worker, folding_conn) is Step.AT_HEAD
            await appender.append(events[4:])
            # The usual window is folded in the session's function, as a fold of SQLAlchemy is.
            folded = await FoldFunction(projection).fold(folding_conn, 100)
        assert folded is not None
        assert (folded.lo, folded.hi) == (4, 6)
        rows = await read(conn)
        assert rows == [("app", "a", 2)]
        assert await fetch_all(conn, "SELECT app, people FROM public.reached_apps") == [("app", 2)]
        assert (await rebuilding.verify(database_url, projection)).position == 6
        await conn.execute("UPDATE public.reached_counts SET people = 7")
        changed = SQL.replace("version: 1", "version: 2").replace("event_type = 2", "event_type = 1")
        (tmp_path / "newer.sql").write_text(changed)
        newer = SqlFile(tmp_path / "newer.sql")()
        await rebuilding.rebuild(database_url, newer)
        assert await read(conn) == [("app", "b", 1)]
        found = await explain_row(database_url, newer, "reached_people", "b", "2")
        assert [change.event.event_id for change in found.changes] == [events[3].event_id, events[4].event_id]
        assert found.decided_by == events[4].event_id
        context = rebuilding.replay_context(database_url)
        await build_as_of(context, [projection], events[2].event_id, "back_then", force=False)
        assert await fetch_all(conn, "SELECT people FROM back_then.reached_counts") == [(2,)]


async def read(conn: AsyncConnection) -> list[tuple[object, ...]]:
    return await fetch_all(conn, "SELECT app, send_request_id, people FROM public.reached_counts ORDER BY 1, 2")


async def explain_row(url: str, projection: Projection, table: str, *key: str) -> explain.Explanation:
    owner, found = find_table({projection.name: projection}, table)
    return await explain.explain(rebuilding.replay_context(url), owner, found, key, "app")


ALLOWED_STABLE = """
age array_in array_out array_to_json array_to_string concat concat_ws convert convert_from convert_to date date_add
date_part date_subtract date_trunc extract format generate_series interval_pl_timestamptz json_agg json_agg_strict
json_build_array json_build_object json_object_agg json_object_agg_strict json_object_agg_unique
json_object_agg_unique_strict json_populate_record json_populate_recordset json_to_record json_to_recordset
json_to_tsvector jsonb_agg jsonb_agg_strict jsonb_build_array jsonb_build_object jsonb_object_agg
jsonb_object_agg_strict jsonb_object_agg_unique jsonb_object_agg_unique_strict jsonb_path_exists_tz jsonb_path_match_tz
jsonb_path_query_array_tz jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record
jsonb_populate_record_valid jsonb_populate_recordset jsonb_to_record jsonb_to_recordset jsonb_to_tsvector length
make_timestamptz money numeric overlaps phraseto_tsquery plainto_tsquery quote_literal quote_nullable row_to_json time
timestamp timestamptz timetz timezone to_char to_date to_json to_jsonb to_number to_timestamp to_tsquery to_tsvector
ts_debug ts_headline ts_parse ts_token_type websearch_to_tsquery xml xml_is_well_formed enum_first enum_last enum_range
anytextcat textanycat anyarray_out ts_match_tq ts_match_tt
"""
"""Stable functions whose results depend on settings that our sessions pin, or on nothing but their arguments."""

CALLABLE = """
SELECT DISTINCT proname, provolatile::text, pronargs FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind IN ('f', 'a', 'w')
  AND prorettype NOT IN ('trigger'::regtype, 'internal'::regtype, 'event_trigger'::regtype, 'language_handler'::regtype,
                         'index_am_handler'::regtype, 'table_am_handler'::regtype, 'tsm_handler'::regtype,
                         'fdw_handler'::regtype, 'cstring'::regtype)
  AND NOT 'internal'::regtype = ANY (proargtypes) AND NOT 'cstring'::regtype = ANY (proargtypes)
  AND NOT EXISTS (SELECT FROM pg_operator WHERE oprcode = pg_proc.oid)
  AND NOT EXISTS (SELECT FROM pg_amproc WHERE amproc = pg_proc.oid)
  AND proname !~ '(recv|send|sel|typanalyze|_in|_out)$'
"""


def test_every_function_that_depends_on_more_than_its_arguments_is_refused(database_url: str) -> None:
    allowed = set(ALLOWED_STABLE.split())
    with psycopg.connect(database_url) as conn:
        functions = conn.execute(CALLABLE).fetchall()
    assert len(functions) > 1000
    volatile = {name for name, kind, count in functions if kind == "v" and not is_refused(name, count)}
    stable = {name for name, kind, count in functions if kind == "s" and not is_refused(name, count)} - allowed
    immutable = {name for name, kind, count in functions if kind == "i" and is_refused(name, count)}
    assert (volatile, stable) == (set(), set())
    assert {name for name in immutable if not name.startswith(("pg_", "txid_", "binary_upgrade_"))} <= {"aclexplode"}
