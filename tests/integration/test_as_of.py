"""Read models as of a moment: built from the log up to it, all tables or none, in a schema that nothing else uses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from psycopg import AsyncConnection, errors, sql

from eventstore.errors import LockHeld
from eventstore.locks import rebuild_lock
from eventstore.postgres.session_lock import hold_lock
from projections.errors import CannotFold, ProjectionsError, UsageError
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.rebuilding.as_of import AsOfResult, build_as_of
from projections.rebuilding.as_of_position import find_position
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.replay_progress import NoProgress, Progress
from projections.running import control
from projections.settings import ReplaySettings
from tests import folding, oracle, rebuilding, store, stories
from tests.databases import Server
from tests.folding import DIVIDES_BY_ZERO, QUICK, Watched, append, new_record
from tests.oracle import Record
from tests.queries import fetch_all
from tests.rebuilding import RecordedProgress

SETTINGS = ReplaySettings(window=3, lock_timeout=0.5)
SUMMARY = oracle.Summary(3, 2, 2, 0, 0)
TABLES = sorted(table.name for projection in READ_MODELS for table in projection.tables)
TWO = (ConsentRegistry, PollTallies)
TABLES_OF_TWO = sorted(table.name for projection in TWO for table in projection.tables)
"""For tests of the schema, in which it doesn't matter how many projections there are."""


def sample_log() -> list[Record]:
    """Return events for every read model; the third is late: its event_id is lower than the earlier ones."""
    records = [
        new_record(oracle.PENDING_CONSENT, "12300000001"),
        new_record(oracle.DELIVERED, "12300000002"),
        new_record(oracle.GRANTED, "12300000001"),
        new_record(oracle.DELIVERED, "12300000001"),
        new_record(oracle.POLL_RESPONSE, "12300000002", options=("yes",)),
        new_record(oracle.COMPLETED, None, summary=SUMMARY),
        new_record(oracle.POLL_RESPONSE, "12300000002", options=("no",)),
        new_record(oracle.DENIED, "12300000001"),
    ]
    records.append(records.pop(2))
    return records


async def build(
    url: str,
    moment: str,
    into: str = "then",
    *,
    force: bool = False,
    projections: Sequence[type[Projection]] = READ_MODELS,
    settings: ReplaySettings = SETTINGS,
    progress: Progress | None = None,
) -> AsOfResult:
    context = ReplayContext(url, QUICK, settings, progress or NoProgress())
    return await build_as_of(context, [projection() for projection in projections], moment, into, force=force)


async def assert_tables_match(
    conn: AsyncConnection, records: Sequence[Record], schema: str = "then", tables: Sequence[str] = TABLES
) -> None:
    """Assert that a schema's tables equal the oracle's rows for these events."""
    expected = oracle.read_models(records)
    for name in tables:
        columns = sql.SQL(", ").join(map(sql.Identifier, oracle.COLUMNS[name]))
        query = sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier(schema, name))
        rows = await fetch_all(conn, query)
        assert oracle.sorted_rows(name, rows) == expected[name], name


async def tables_in(conn: AsyncConnection, schema: str = "then") -> list[str]:
    rows = await fetch_all(conn, "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", [schema])
    return [row[0] for row in rows]


async def schema_exists(conn: AsyncConnection, schema: str = "then") -> bool:
    return bool(await store.value(conn, "SELECT to_regnamespace(%s) IS NOT NULL", schema))


async def received_times(conn: AsyncConnection) -> list[datetime]:
    rows = await fetch_all(conn, "SELECT received_at FROM eventstore.events ORDER BY position")
    return [row[0] for row in rows]


# The position of a moment


async def test_an_event_id_means_the_log_up_to_and_including_its_position(
    database_url: str, conn: AsyncConnection, subtests: pytest.Subtests
) -> None:
    records = sample_log()
    await append(conn, *records)
    for number, record in enumerate(records, 1):
        with subtests.test(position=number):
            done = await build(database_url, record.event_id, f"at {number}")
            assert done.position == number
            assert done.received_at == (await received_times(conn))[number - 1]
            assert sorted(done.rows) == TABLES
            await assert_tables_match(conn, records[:number], f"at {number}")


async def test_a_time_means_the_last_event_received_by_then(database_url: str, conn: AsyncConnection) -> None:
    records = sample_log()
    first = records[0]
    await append(conn, first)
    for record in records[1:]:
        await append(conn, record)
    await append(conn, *(more := [new_record(), new_record()]))  # two events received at the same time
    times = await received_times(conn)
    assert times[-1] == times[-2]
    tick = timedelta(microseconds=1)
    expected = {
        times[0] - tick: 0,
        times[0]: 1,
        times[4]: 5,
        times[-1] - tick: times.index(times[-1]),
        times[-1]: len(times),
        times[-1] + timedelta(days=9): len(times),
    }
    assert {time: await find_position(conn, time.isoformat()) for time in expected} == expected
    assert await find_position(conn, f" {times[4]:%Y-%m-%d %H:%M:%S.%f}Z ") == 5
    assert (await build(database_url, times[-1].isoformat())).position == len(times)
    await assert_tables_match(conn, [*records, *more])


async def test_before_the_first_event_the_tables_are_empty(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, *sample_log())
    done = await build(database_url, "2001-01-01T00:00:00+02:00")
    assert (done.position, done.received_at, set(done.rows.values())) == (0, None, {0})
    await assert_tables_match(conn, [])


async def test_a_log_without_events(database_url: str, conn: AsyncConnection) -> None:
    assert (await build(database_url, "2030-01-01T00:00:00Z")).position == 0
    assert await tables_in(conn) == TABLES


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        ("2026-11-01T00:00:00", "neither an event_id nor a time with a time zone"),
        ("2026-11-01", "neither an event_id nor a time with a time zone"),
        ("yesterday", "neither an event_id nor a time with a time zone"),
        ("", "neither an event_id nor a time with a time zone"),
        ("01hzzzzzzzzzzzzzzzzzzzzzzz", "write an event_id in upper case"),
        ("01HZZZZZZZZZZZZZZZZZZZZZZZ", "there is no event 01HZZZZZZZZZZZZZZZZZZZZZZZ"),
    ],
)
async def test_an_invalid_moment_is_refused_and_nothing_is_created(
    database_url: str, conn: AsyncConnection, moment: str, message: str
) -> None:
    await append(conn, new_record())
    with pytest.raises(UsageError, match=message):
        await build(database_url, moment)
    assert not await schema_exists(conn)


async def test_a_missing_position_is_reported_and_nothing_is_created(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record(), last := new_record())
    await folding.insert_at(conn, 4, late := new_record())
    with pytest.raises(CannotFold, match=r"positions 3\.\.3 missing"):
        await build(database_url, late.event_id)
    with pytest.raises(ProjectionsError, match="position 3 is missing; import it"):
        await build(database_url, "2999-01-01T00:00:00Z")
    assert not await schema_exists(conn)
    assert (await build(database_url, last.event_id)).position == 2


# The tables


@pytest.mark.oldest
async def test_live_tables_are_not_changed_and_need_not_be_folded_yet(database_url: str, conn: AsyncConnection) -> None:
    records = sample_log()
    await append(conn, *records)
    await build(database_url, records[-1].event_id, "early")  # before any worker ran
    await folding.fold_all(database_url)
    await build(database_url, records[2].event_id, "late")
    await assert_tables_match(conn, records, "early")
    await assert_tables_match(conn, records[:3], "late")
    await folding.assert_rows_match_oracle(conn)
    assert await tables_in(conn, "projections_shadow") == ["shadow_positions"]
    assert await store.value(conn, "SELECT count(*) FROM projections_shadow.shadow_positions") == 0


@pytest.mark.oldest
async def test_only_the_named_projections_are_built(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, *sample_log())
    done = await build(database_url, "2999-01-01T00:00:00Z", projections=(ConsentRegistry, PollTallies))
    assert sorted(done.rows) == await tables_in(conn) == ["consent_registry", "poll_responses", "poll_tallies"]
    await build(database_url, "2999-01-01T00:00:00Z", "rest", projections=(RequestStatus,))
    assert await tables_in(conn, "rest") == ["request_recipients", "request_status"]


@pytest.mark.oldest
async def test_skipped_events_are_skipped(database_url: str, conn: AsyncConnection) -> None:
    await folding.create_watched_table(conn)
    await append(conn, new_record(), poison := new_record(ppnum=DIVIDES_BY_ZERO), new_record())
    with pytest.raises(CannotFold, match=f"event {poison.event_id} at position 2: division by zero"):
        await build(database_url, "2999-01-01T00:00:00Z", projections=[Watched])
    assert not await schema_exists(conn)
    async with folding.worker_connection(one := folding.worker(database_url, Watched())) as own:
        await folding.fold(one, own)
    await control.skip(conn, "watched", poison.event_id, "it divides by zero", 1)
    done = await build(database_url, "2999-01-01T00:00:00Z", projections=[Watched])
    assert (done.position, done.rows) == (3, {"watched": 2})


@pytest.mark.oldest
async def test_tables_have_keys_indexes_and_comments_and_survive_a_crash(
    database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, *sample_log())
    await build(database_url, "2999-01-01T00:00:00Z", "past")
    shape = (
        "SELECT c.relname, c.relpersistence::text, obj_description(c.oid, 'pg_class'),"
        " ARRAY(SELECT attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull || ' '"
        " || attgenerated::text || ' ' || coalesce(col_description(c.oid, attnum), '')"
        " FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum),"
        " ARRAY(SELECT replace(indexdef, schemaname || '.', '') FROM pg_indexes AS i"
        " WHERE i.schemaname = %s AND i.tablename = c.relname ORDER BY 1),"
        " ARRAY(SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = c.oid AND contype = 'p')"
        " FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace(%s)"
        " AND c.relname = ANY(%s) ORDER BY 1"
    )
    live = await fetch_all(conn, shape.encode(), ["public", "public", TABLES])
    past = await fetch_all(conn, shape.encode(), ["past", "past", TABLES])
    assert past == live
    assert [row[0] for row in past] == TABLES
    for _, persistence, comment, _, indexes, keys in past:
        assert persistence == "p"
        assert comment
        assert indexes
        assert len(keys) == 1
    message = str(await store.value(conn, "SELECT obj_description('past'::regnamespace, 'pg_namespace')"))
    assert "as of position 8" in message


async def test_an_as_of_is_recorded(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, *sample_log())
    await build(database_url, "2999-01-01T00:00:00Z")
    rows = await fetch_all(
        conn,
        "SELECT name, state, dry_run, position, into_schema, into_schema_oid = 'then'::regnamespace,"
        " finished_at >= started_at FROM projections.rebuilds ORDER BY name",
    )
    names = sorted(projection.name for projection in READ_MODELS)
    assert rows == [(name, "done", False, 8, "then", True, True) for name in names]


# All or nothing


async def test_a_failure_at_the_end_leaves_no_schema(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(conn, *sample_log())
    moved: list[str] = []
    from projections.rebuilding import as_of_schema  # noqa: PLC0415 - the test breaks it

    move = as_of_schema._move

    async def breaks(own: AsyncConnection, table: str, into: str) -> int:
        moved.append(table)
        if len(moved) == 4:
            raise errors.DiskFull
        return await move(own, table, into)

    monkeypatch.setattr(as_of_schema, "_move", breaks)
    with pytest.raises(errors.DiskFull):
        await build(database_url, "2999-01-01T00:00:00Z")
    assert not await schema_exists(conn)
    assert await rebuilding.shadow_tables(conn) == [], "a failed as-of is never resumed"
    monkeypatch.undo()
    await build(database_url, "2999-01-01T00:00:00Z")
    assert await tables_in(conn) == TABLES


async def test_a_failure_while_replacing_leaves_the_old_schema(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = sample_log()
    await append(conn, *records)
    await build(database_url, records[2].event_id)
    from projections.rebuilding import as_of_schema  # noqa: PLC0415 - the test breaks it

    async def breaks(*_: object) -> int:
        raise errors.DiskFull

    monkeypatch.setattr(as_of_schema, "_move", breaks)
    with pytest.raises(errors.DiskFull):
        await build(database_url, records[-1].event_id, force=True)
    await assert_tables_match(conn, records[:3])


async def test_nothing_is_started_while_another_run_has_one_of_the_projections(
    database_url: str, conn: AsyncConnection
) -> None:
    for projection in READ_MODELS:
        key = rebuild_lock(projection.name)
        async with hold_lock(database_url, key, name="projections rebuild x at host:1", what="it", waits=QUICK):
            message = f"projection {projection.name}: held by projections rebuild x at host:1; try again later"
            with pytest.raises(LockHeld, match=message):
                await build(database_url, "2999-01-01T00:00:00Z")
    assert not await schema_exists(conn)
    assert (await build(database_url, "2999-01-01T00:00:00Z")).position == 0  # all locks are released


# The owner of the schema


async def test_a_schema_of_an_earlier_as_of_is_replaced_only_with_force(
    database_url: str, conn: AsyncConnection
) -> None:
    records = sample_log()
    await append(conn, *records)
    await build(database_url, records[2].event_id)
    with pytest.raises(UsageError, match="schema then already exists; choose another name or use --force"):
        await build(database_url, records[-1].event_id)
    await assert_tables_match(conn, records[:3])
    await build(database_url, records[-1].event_id, force=True)
    await assert_tables_match(conn, records)
    done = await build(database_url, records[1].event_id, force=True, projections=(PollTallies,))
    assert await tables_in(conn) == sorted(done.rows) == ["poll_responses", "poll_tallies"]
    await build(database_url, records[-1].event_id, "new", force=True)
    assert await schema_exists(conn, "new")


@pytest.mark.oldest
async def test_a_schema_that_others_created_is_never_replaced(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, *sample_log())
    await conn.execute("CREATE SCHEMA theirs")
    for force in (False, True):
        with pytest.raises(UsageError, match="schema theirs already exists and was not created by this command"):
            await build(database_url, "2999-01-01T00:00:00Z", "theirs", force=force)
    await build(database_url, "2999-01-01T00:00:00Z")
    # The same name, but another oid.
    await conn.execute('DROP SCHEMA "then" CASCADE')
    await conn.execute('CREATE SCHEMA "then"')
    with pytest.raises(UsageError, match="was not created by this command"):
        await build(database_url, "2999-01-01T00:00:00Z", force=True)
    # A schema that an as-of created and somebody renamed.
    await build(database_url, "2999-01-01T00:00:00Z", "ours")
    await conn.execute("ALTER SCHEMA ours RENAME TO mine")
    with pytest.raises(UsageError, match="was not created by this command"):
        await build(database_url, "2999-01-01T00:00:00Z", "mine", force=True)
    assert await tables_in(conn, "mine") == TABLES


@pytest.mark.parametrize(
    "theirs",
    [
        'CREATE TABLE "then".mine (number int)',
        'CREATE VIEW "then".mine AS SELECT 1 AS number',
        'CREATE VIEW public.mine AS SELECT count(*) FROM "then".consent_registry',
        'CREATE FUNCTION "then".mine() RETURNS int LANGUAGE sql RETURN 1',
        "CREATE TYPE \"then\".mine AS ENUM ('one')",
    ],
)
async def test_a_schema_that_other_objects_depend_on_is_not_replaced(
    database_url: str, conn: AsyncConnection, theirs: str
) -> None:
    records = sample_log()
    await append(conn, *records)
    await build(database_url, records[2].event_id, projections=TWO)
    await conn.execute(theirs.encode())
    progress = RecordedProgress()
    message = r"schema then can't be replaced, because it contains objects of others: .*\bmine\b"
    with pytest.raises(UsageError, match=message):
        await build(database_url, records[-1].event_id, force=True, projections=TWO, progress=progress)
    assert progress.phases == [], "it is reported before the long work"
    await assert_tables_match(conn, records[:3], tables=TABLES_OF_TWO)


@pytest.mark.oldest
async def test_a_users_table_with_one_of_our_names_is_kept(database_url: str, conn: AsyncConnection) -> None:
    records = sample_log()
    await append(conn, *records)
    await build(database_url, records[2].event_id)
    await conn.execute('DROP TABLE "then".consent_registry')
    await conn.execute('CREATE TABLE "then".consent_registry AS SELECT 1 AS precious')
    with pytest.raises(UsageError, match=r"because it contains objects of others: table .*consent_registry"):
        await build(database_url, records[-1].event_id, force=True)
    assert await store.value(conn, 'SELECT precious FROM "then".consent_registry') == 1


async def test_a_schema_created_before_table_oids_were_recorded_is_replaced(
    database_url: str, conn: AsyncConnection
) -> None:
    records = sample_log()
    await append(conn, *records)
    await build(database_url, records[2].event_id)
    await conn.execute("UPDATE projections.rebuilds SET into_table_oids = NULL")
    await build(database_url, records[-1].event_id, force=True)
    await assert_tables_match(conn, records)


@pytest.mark.parametrize(
    "into",
    ["public", "Public", "eventstore", "projections", "projections_shadow", "information_schema", "pg_x", "pg_x\ny"],
)
async def test_reserved_schema_names_are_refused(database_url: str, conn: AsyncConnection, into: str) -> None:
    for force in (False, True):
        with pytest.raises(UsageError, match=f"--into {into}: this schema name is reserved"):
            await build(database_url, "2999-01-01T00:00:00Z", into, force=force)
    assert not await schema_exists(conn, "projections_shadow")


async def test_schema_names_that_postgres_would_change_are_refused(database_url: str) -> None:
    for into in ("", "é" * 32, "\udcff", "two\nlines"):
        with pytest.raises(UsageError, match="a schema name of 1 to 63 printable bytes"):
            await build(database_url, "2999-01-01T00:00:00Z", into)
    odd = 'Odd "name"; --'
    assert (await build(database_url, "2999-01-01T00:00:00Z", odd)).position == 0
    assert (await build(database_url, "2999-01-01T00:00:00Z", odd, force=True)).position == 0


async def test_a_role_that_may_not_create_schemas_is_refused_before_folding(
    database_url: str, conn: AsyncConnection, postgres: Server
) -> None:
    await append(conn, *sample_log())
    database, owner = str(await store.value(conn, "SELECT current_database()")), postgres.owner
    postgres.execute("ALTER DATABASE {} OWNER TO CURRENT_USER", sql.Identifier(database))
    postgres.execute("REVOKE CREATE ON DATABASE {} FROM {}", sql.Identifier(database), sql.Identifier(owner))
    with pytest.raises(UsageError, match="this role may not create schemas"):
        await build(database_url, "2999-01-01T00:00:00Z")
    assert not await schema_exists(conn, "projections_shadow")


def test_the_log_of_these_tests_reaches_every_table() -> None:
    records = sample_log()
    found = oracle.read_models(records)
    assert all(found[name] for name in TABLES)
    assert records != sorted(records, key=lambda record: record.event_id)
    assert {record.contract for record in records} == {stories.CHAT}
