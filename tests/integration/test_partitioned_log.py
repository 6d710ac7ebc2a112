"""A partitioned log: who makes partitions, what a window reads, which roles may append, and the way back."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore.appending import partition_room
from eventstore.appending.append import Appended, Appender
from eventstore.appending.append_lock import Head, acquire_append_lock
from eventstore.appending.copying import copy_events
from eventstore.contracts import Event
from eventstore.partitions import FIRST_PARTITION_CHECK, MAKE_PARTITIONS, Partition, list_partitions
from projections.granting.role_kinds import RoleKind
from projections.inspecting.read_status import read_status
from projections.migrating.go_back import go_back
from projections.migrating.migrate import upgrade
from projections.migrating.one_table import PARTITIONS_SINCE
from projections.migrating.partition_log import partition_log
from projections.migrating.revision_files import read_revisions
from projections.migrating.schema_drift import find_drift
from projections.read_models.people import People
from projections.registry import Registry
from tests import doctoring, folding, rebuilding, store
from tests.databases import Server
from tests.erasing import erase
from tests.queries import fetch_all
from tests.roles import granted_roles
from tests.store import QUICK, assert_ids_have_positions, conflicting_event, new_events, positions

_SCANS = """
SELECT c.relname::text, coalesce(sum(s.idx_scan + t.seq_scan), 0)::bigint
FROM pg_class AS c JOIN pg_stat_user_tables AS t ON t.relid = c.oid JOIN pg_stat_user_indexes AS s ON s.relid = c.oid
WHERE c.relispartition AND c.relkind = 'r' GROUP BY 1 ORDER BY 1
"""


MANY = 12
"""After so many runs a statement is prepared, and its plan is kept."""


async def bounds(conn: AsyncConnection) -> list[tuple[int, int]]:
    return [(one.first_position, one.last_position) for one in await list_partitions(conn)]


async def test_partitions_are_made_ahead_and_follow_each_other(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    first = new_events(7)
    await appender.append(first)
    assert partition_log(database_url, 5).partitions == 2
    assert await bounds(conn) == [(1, 15), (16, 20)]
    await appender.append(new_events(8))
    assert await bounds(conn) == [(1, 15), (16, 20)]
    # The head enters the last one; a batch of more than a partition finds room as well.
    await appender.append(new_events(1))
    assert await bounds(conn) == [(1, 15), (16, 20), (21, 25)]
    await appender.append(new_events(23))
    assert await bounds(conn) == [(1, 15), (16, 20), (21, 25), (26, 30), (31, 35), (36, 40), (41, 45)]
    assert await list_partitions(conn) == [
        Partition(f"events_from_{lo}", lo, hi, has_key=True) for lo, hi in await bounds(conn)
    ]
    assert len(await positions(conn)) == 39
    assert await appender.append(first) == Appended(0, 7, 0, 39)
    assert partition_log(database_url, 9).events == 9
    assert (await bounds(conn))[-1] == (46, 54)
    assert await find_drift(conn) == []
    await assert_ids_have_positions(conn)
    assert await store.value(conn, "SELECT count(*) FROM eventstore.event_ids") == 0


@pytest.mark.partitioned(3)
async def test_an_append_succeeds_though_no_partition_can_be_made_ahead_and_waits_when_it_needs_one(
    database_url: str, conn: AsyncConnection, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_room, "LOCK_SECONDS", 0.01)
    monkeypatch.setattr(partition_room, "TRY_AGAIN", 0.0)
    await appender.append(new_events(1))
    async with store.connection(database_url, "maintenance") as other:
        await other.execute("BEGIN")
        # As ANALYZE or CREATE INDEX CONCURRENTLY of the log holds it.
        await other.execute("LOCK TABLE eventstore.events IN SHARE UPDATE EXCLUSIVE MODE")
        assert (await appender.append(new_events(5))).head == 6
        assert await bounds(conn) == [(1, 3), (4, 6)]
        finding = doctoring.only(await doctoring.findings(database_url), "partition_missing")
        assert "has room for 0 more events" in finding.sentence
        await appender._conn.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await appender.append(new_events(1))
        await other.rollback()
    assert (await appender.append(new_events(1))).head == 7
    assert await bounds(conn) == [(1, 3), (4, 6), (7, 9), (10, 12)]
    assert await store.quarantine_rows(conn) == []
    assert not {"partition_missing", "check_failed"} & {*doctoring.codes(await doctoring.findings(database_url))}


@pytest.mark.partitioned(3)
@pytest.mark.oldest
async def test_an_append_that_waited_sees_events_in_a_partition_that_was_made_meanwhile(database_url: str) -> None:
    before, meanwhile, new = new_events(5), new_events(6), new_events(1)
    patient = QUICK.model_copy(update={"append_lock": store.GIVE_UP})  # the holder isn't taken for a frozen one
    async with (
        store.connection(database_url) as conn,
        store.appender(database_url, waits=patient) as appender,
        store.connection(database_url, "holder") as holder,
    ):
        await appender.append(before)
        for _ in range(MANY):
            appender.probing = True
            await appender.append(before)
        async with holder.transaction():
            head = await acquire_append_lock(holder, QUICK)
            waiting = asyncio.create_task(appender.append([*before, conflicting_event(meanwhile[-1]), *new]))
            await store.wait_for_append_lock_waiters(conn)
            await _copy_into_new_partition(holder, meanwhile, head)
        assert await waiting == Appended(1, 5, 1, 12)
        assert list(await positions(conn)) == [event.event_id for event in (*before, *meanwhile, *new)]


@pytest.mark.partitioned(3)
@pytest.mark.oldest
async def test_the_append_lock_shows_events_in_a_partition_that_was_made_since_the_transaction_read_the_log(
    database_url: str, conn: AsyncConnection, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    await appender.append(new_events(5))
    for _ in range(MANY):
        async with conn.transaction():
            await acquire_append_lock(conn, QUICK)
    async with conn.transaction():
        with monkeypatch.context() as patch:
            patch.setattr("eventstore.appending.append_lock.APPEND_LOCK", 1)  # reads the same, and lets others append
            assert (await acquire_append_lock(conn, QUICK)).position == 5
        async with store.connection(database_url, "holder") as holder, holder.transaction():
            await _copy_into_new_partition(holder, new_events(6), await acquire_append_lock(holder, QUICK))
        assert (await acquire_append_lock(conn, QUICK)).position == 11


async def _copy_into_new_partition(conn: AsyncConnection, events: list[Event], head: Head) -> None:
    await conn.execute(MAKE_PARTITIONS, [head.position + len(events)])
    await copy_events(conn, events, head)


async def test_an_append_removes_the_check_of_an_unfinished_partitioning(
    conn: AsyncConnection, appender: Appender
) -> None:
    add = f"ALTER TABLE eventstore.events ADD CONSTRAINT {FIRST_PARTITION_CHECK} CHECK (position < 3) NOT VALID"
    await conn.execute(add.encode())
    assert [drift.is_unfinished for drift in await find_drift(conn)] == [True]
    assert await appender.append(new_events(4)) == Appended(4, 0, 0, 4)
    assert await store.quarantine_rows(conn) == []
    assert await find_drift(conn) == []


@pytest.mark.partitioned(10)
async def test_a_window_reads_only_the_partitions_that_it_is_in(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(100))
    projection = People()
    worker = folding.worker(database_url, projection)
    async with folding.worker_connection(worker) as folding_conn:
        await folding.fold(worker, folding_conn)
        # Windows of one event, many, so that every statement has its plan for any window.
        for _ in range(8):
            await appender.append(new_events(1))
            await folding.fold(worker, folding_conn)
        await folding_conn.execute("SELECT pg_stat_force_next_flush()")
        await appender._conn.execute("SELECT pg_stat_force_next_flush()")
        before: dict[str, int] = dict(await fetch_all(conn, _SCANS))
        await appender.append(new_events(1))
        await folding.fold(worker, folding_conn)
        await folding_conn.execute("SELECT pg_stat_force_next_flush()")
        await appender._conn.execute("SELECT pg_stat_force_next_flush()")
        after: dict[str, int] = dict(await fetch_all(conn, _SCANS))
    assert await folding.position(conn, projection.name) == 109
    # The head is looked for from the end: in the partition that is made ahead, and in the one that it is in.
    assert {name for name in after if after[name] != before.get(name, 0)} == {"events_from_101", "events_from_111"}


@pytest.mark.oldest
async def test_rows_are_the_same_and_an_erased_person_is_gone(database_url: str, conn: AsyncConnection) -> None:
    await folding.append(conn, *rebuilding.sample_records(4))
    partition_log(database_url, 25)
    await folding.append(conn, *rebuilding.sample_records(4))
    await folding.fold_all(database_url, batch_size=7)
    await folding.assert_rows_match_oracle(conn)
    done = await erase(database_url, "12300000000")
    assert done.tables["eventstore.events"] == 10
    await folding.assert_rows_match_oracle(conn)
    assert rebuilding.total_differences(await rebuilding.verify(database_url, People())) == 0
    assert rebuilding.total_differences(await rebuilding.rebuild(database_url, People())) == 0


@pytest.mark.oldest
async def test_roles_need_nothing_more(database_url: str, conn: AsyncConnection, postgres: Server) -> None:
    async with granted_roles(postgres, database_url, RoleKind.INGEST, RoleKind.WORKER) as roles:
        partition_log(database_url, 3)
        async with store.appender(roles[RoleKind.INGEST].url) as appender:
            await store.set_epoch(conn)
            batch = new_events(10)
            assert await appender.append(batch) == Appended(10, 0, 0, 10)
            assert await appender.append(batch) == Appended(0, 10, 0, 10)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await appender._conn.execute("INSERT INTO eventstore.event_ids VALUES ('x', 1)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await appender._conn.execute("SELECT eventstore.make_partition(3)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await appender._conn.execute("SELECT * FROM eventstore.events_from_1")
        await folding.fold_all(roles[RoleKind.WORKER].url)
    assert len(await bounds(conn)) == 5


async def test_the_way_back_makes_one_table_with_all_events(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    events = new_events(20)
    await appender.append(events[:5])
    partition_log(database_url, 4)
    await appender.append(events[5:])
    before = await positions(conn)
    earlier = str(read_revisions()[PARTITIONS_SINCE])
    go_back(database_url, earlier)
    assert await positions(conn) == before
    upgrade(database_url, projections=())
    assert await bounds(conn) == []
    assert await find_drift(conn) == []
    assert await store.stored_events(conn) == events
    assert await Appender(appender._conn, store.QUICK).append(events) == Appended(0, 20, 0, 20)
    assert (await read_status(conn, Registry({}, {}))).head == 20
