"""A log is partitioned while it is used, keeps everything that the table had, and survives a kill at each step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from psycopg import AsyncConnection, sql

from eventstore.appending.append import Appended, Appender
from projections.errors import MigrationRefused, ProjectionsError
from projections.migrating import partition_log as partitioning
from projections.migrating.go_back import go_back
from projections.migrating.migrate import upgrade
from projections.migrating.migration_transaction import run_in_transaction as in_transaction
from projections.migrating.one_table import PARTITIONS_SINCE
from projections.migrating.partition_log import partition_log, read_partitioning
from projections.migrating.revision_files import read_revisions
from projections.migrating.schema_drift import find_drift
from projections.migrating.table_catalog import execute
from tests.databases import Server
from tests.queries import fetch_all, fetch_row
from tests.rebuilding import role
from tests.store import assert_ids_have_positions, new_events, positions

# What a database administrator may have added to the table of events.
ADDITIONS = """
CREATE INDEX by_message ON eventstore.events (message_id) WHERE message_id <> '';
COMMENT ON INDEX eventstore.by_message IS 'ours';
COMMENT ON TABLE eventstore.events IS 'the log; 100%';
GRANT SELECT ON eventstore.events TO {role} WITH GRANT OPTION;
GRANT UPDATE (app), INSERT (app) ON eventstore.events TO {role};
CREATE POLICY of_app ON eventstore.events AS RESTRICTIVE FOR SELECT TO {role}, public USING (app <> 'hidden');
ALTER TABLE eventstore.events ENABLE ROW LEVEL SECURITY, ALTER COLUMN app SET STATISTICS 500,
    ALTER COLUMN payload SET STORAGE EXTERNAL, SET (autovacuum_vacuum_insert_threshold = 5000, fillfactor = 90);
CREATE STATISTICS eventstore.of_apps ON app, event_type FROM eventstore.events;
CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER each_row BEFORE INSERT ON eventstore.events
    FOR EACH ROW WHEN (NEW.app = 'x') EXECUTE FUNCTION nothing();
ALTER TABLE eventstore.events DISABLE TRIGGER each_row;
CREATE VIEW public.theirs WITH (security_barrier=true) AS
    SELECT DISTINCT app, count(*) AS events FROM eventstore.events GROUP BY app;
CREATE VIEW public.of_theirs AS SELECT * FROM theirs WHERE events > 0;
GRANT SELECT ON public.theirs TO {role};
COMMENT ON VIEW public.theirs IS 'theirs';
"""
# Everything about the relation of that name; what belongs to one form alone is left out.
SHAPES = {
    "table": """SELECT pg_get_userbyid(relowner), relacl::text, relrowsecurity, obj_description(oid)
                FROM pg_class WHERE oid = 'eventstore.events'::regclass""",
    "columns": """SELECT attname, format_type(atttypid, atttypmod), attnotnull, attcollation, attacl::text, attstorage,
                  coalesce(nullif(attstattarget, -1), 0), col_description(attrelid, attnum)
                  FROM pg_attribute WHERE attrelid = 'eventstore.events'::regclass AND attnum > 0 ORDER BY attnum""",
    "indexes": """SELECT c.relname, replace(pg_get_indexdef(c.oid), ' ON ONLY ', ' ON '), obj_description(c.oid)
                  FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
                  WHERE indrelid = 'eventstore.events'::regclass AND NOT indisprimary AND indisvalid ORDER BY 1""",
    "constraints": """SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
                      WHERE conrelid = 'eventstore.events'::regclass AND contype IN ('c', 'u') ORDER BY 1""",
    "triggers": """SELECT tgname, pg_get_triggerdef(oid), tgenabled FROM pg_trigger
                   WHERE tgrelid = 'eventstore.events'::regclass AND NOT tgisinternal AND tgname <> 'keep_event_ids'
                   ORDER BY 1""",
    "policies": "SELECT * FROM pg_policies WHERE schemaname = 'eventstore' AND tablename = 'events' ORDER BY 1, 2, 3",
    "views": """SELECT n.nspname, c.relname, c.oid, pg_get_viewdef(c.oid), c.relacl::text, c.reloptions,
                obj_description(c.oid) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE relkind = 'v' AND n.nspname IN ('public', 'eventstore')
                AND relname NOT IN ('event_positions', 'head', 'read_model_freshness')
                ORDER BY 1, 2""",
    "statistics": "SELECT stxkeys::text FROM pg_statistic_ext WHERE stxrelid = 'eventstore.events'::regclass",
    "events": "SELECT * FROM eventstore.events ORDER BY position",
    "views' rows": "SELECT * FROM public.of_theirs",
}


class Killed(BaseException):
    """Stands for a kill: nothing tidies up after it, and Postgres rolls back what isn't committed."""


async def shapes(conn: AsyncConnection) -> dict[str, list[tuple[Any, ...]]]:
    return {name: await fetch_all(conn, query.encode()) for name, query in SHAPES.items()}


async def test_everything_that_the_table_had_is_there_afterwards_and_after_the_way_back(
    database_url: str, conn: AsyncConnection, appender: Appender, postgres: Server
) -> None:
    await appender.append(new_events(5))
    async with role(postgres, database_url) as somebody:
        name = sql.Identifier(somebody.name)
        await conn.execute(sql.SQL(ADDITIONS).format(role=name))
        before = await shapes(conn)
        file = await fetch_row(conn, "SELECT pg_relation_filenode('eventstore.events')")
        assert partition_log(database_url, 4).partitions == 2
        assert await shapes(conn) == before
        # The table itself is the first partition.
        assert await fetch_row(conn, "SELECT pg_relation_filenode('eventstore.events_from_1')") == file
        assert await find_drift(conn) == []
        await appender.append(new_events(12))
        made = await fetch_all(
            conn,
            "SELECT DISTINCT relacl::text,"
            " reloptions = (SELECT reloptions FROM pg_class WHERE relname = 'events_from_1')"
            " FROM pg_class WHERE relispartition AND relkind = 'r' AND relname <> 'events_from_1'",
        )
        assert made == [(None, True)]
        before = await shapes(conn)
        go_back(database_url, str(read_revisions()[PARTITIONS_SINCE]))
        upgrade(database_url)
        assert await shapes(conn) == before
        assert await fetch_row(conn, "SELECT pg_relation_filenode('eventstore.events')") == file
        assert await find_drift(conn) == []
        await conn.execute("DROP POLICY of_app ON eventstore.events")


REFUSED = {
    "MATERIALIZED VIEW public.copied": ("AS SELECT * FROM eventstore.events", "materialized view"),
    "TABLE public.notes": ("(event_id text REFERENCES eventstore.events)", "notes_event_id_fkey"),
    "TABLE public.kept": ("(event eventstore.events)", "column event of table"),
    "FUNCTION public.counted": (
        "() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM eventstore.events; END",
        "function public.counted",
    ),
    "PUBLICATION some_events": ("FOR TABLE eventstore.events", "some_events"),
    "INDEX their_key": ("ON eventstore.events (payload)", "their_key is unique"),
}


@pytest.mark.newest
async def test_what_a_partitioned_table_cannot_have_is_named_and_nothing_is_changed(
    database_url: str, conn: AsyncConnection
) -> None:
    for name, (definition, named) in REFUSED.items():
        unique = " UNIQUE " if name.startswith("INDEX") else " "
        await conn.execute(f"CREATE{unique}{name} {definition}".encode())
        with pytest.raises(MigrationRefused, match=named):
            partition_log(database_url, 10)
        await conn.execute(f"DROP {name.replace('INDEX ', 'INDEX eventstore.')}".encode())
    assert await find_drift(conn) == []
    assert partition_log(database_url, 10).partitions == 2


@pytest.mark.newest
async def test_a_kill_at_any_step_leaves_either_form_whole(
    database_url: str, conn: AsyncConnection, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = new_events(40)
    await appender.append(events[:30])
    monkeypatch.setattr(partitioning, "_abandon", lambda *_: None)
    steps, most = 0, 0

    def kill_at(step: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
        nonlocal steps
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1
            if steps == step:
                raise Killed

        def killed_execute(*arguments: Any) -> None:  # noqa: ANN401 - passed on
            count()
            execute(*arguments)

        def killed_transaction(*arguments: Any) -> Any:  # noqa: ANN401 - passed on
            done = in_transaction(*arguments)
            count()
            return done

        return killed_execute, killed_transaction

    forms = set()
    # Every third statement, and the end of each transaction.
    for step in range(1, 400, 3):
        killed = kill_at(step)
        monkeypatch.setattr(partitioning, "execute", killed[0])
        monkeypatch.setattr(partitioning, "run_in_transaction", killed[1])
        try:
            partition_log(database_url, 100)
        except Killed:
            most = max(most, steps)
        else:
            break
        partitions = read_partitioning(database_url).partitions
        forms.add(partitions > 0)
        assert all(one.is_unfinished for one in await find_drift(conn))
        assert len(await positions(conn)) == 30
        assert await appender.append(events[:3]) == Appended(0, 3, 0, 30)
    assert most > 30
    assert read_partitioning(database_url).partitions == 2
    assert await appender.append(events) == Appended(10, 30, 0, 40)
    await assert_ids_have_positions(conn)
    assert await find_drift(conn) == []
    assert False in forms


async def test_an_interrupted_partitioning_is_undone_by_a_migration(
    database_url: str, conn: AsyncConnection, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    await appender.append(new_events(3))

    def fail(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(partitioning, "_replace_table", fail)
    monkeypatch.setattr(partitioning, "_abandon", fail)
    with pytest.raises(Killed):
        partition_log(database_url, 100)
    (drift,) = await find_drift(conn)
    assert "projections migrate" in drift.sentence
    upgrade(database_url)
    assert await find_drift(conn) == []
    assert read_partitioning(database_url).partitions == 0
    # Whoever undoes it while it is at work makes it begin again.
    monkeypatch.undo()

    def undone(url: str, work: Any, *arguments: Any) -> Any:  # noqa: ANN401 - passed on
        if isinstance(work, partial) and work.func is partitioning._replace_table:
            upgrade(url)
        return in_transaction(url, work, *arguments)

    monkeypatch.setattr(partitioning, "run_in_transaction", undone)
    monkeypatch.setattr(partitioning, "ATTEMPTS", 2)
    with pytest.raises(ProjectionsError):
        partition_log(database_url, 100)
    assert read_partitioning(database_url).partitions == 0
