"""No event_id is stored twice in a partitioned log, whoever stores it where, and each id says where its event is."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation

from eventstore.appending.append import Appended, Appender
from eventstore.appending.append_lock import acquire_append_lock
from eventstore.partitions import MAKE_PARTITIONS, list_partitions
from eventstore.transfer import importing
from projections.migrating.lock_patience import LockPatience
from projections.migrating.migrate import downgrade, upgrade
from projections.migrating.partition_log import partition_log
from projections.migrating.schema_drift import find_drift
from projections.migrating.schema_repair import repair_schema
from projections.migrating.sqlalchemy_connection import one_session
from tests import store, transferring
from tests.queries import fetch_all
from tests.store import QUICK, assert_ids_have_positions, new_events, positions

_INSERT_ALL = (
    "INSERT INTO eventstore.events"
    " (event_id, position, app, contract, event_type, occurred_at, received_at, payload)"
    " SELECT i.event_id, i.position, app, contract, event_type, occurred_at, received_at, payload"
    " FROM eventstore.events AS e, unnest(%s::text[], %s::bigint[]) AS i (event_id, position) WHERE e.position = 1"
)
_UNKEYED = "SELECT count(*) FROM eventstore.partitions WHERE NOT has_key"
_WAITING = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
_KEYS = "SELECT count(*) FROM pg_index WHERE indisprimary AND indrelid::regclass::text ~ 'events_from'"
_RESTORE = "SELECT set_config('eventstore.restored_positions', %s, true)"
# A partition with a key whose ids aren't all between those that the trigger compares with.
_TOO_NARROW = """
SELECT p.name FROM eventstore.partitions AS p JOIN (
    SELECT tableoid, min(event_id) AS least_id, max(event_id) AS greatest_id FROM eventstore.events GROUP BY 1
) AS e ON e.tableoid = format('eventstore.%I', p.name)::regclass
WHERE p.has_key AND (e.least_id < p.least_event_id OR e.greatest_id > p.greatest_event_id) IS NOT FALSE
"""


async def insert(conn: AsyncConnection, position: int, *event_ids: str) -> None:
    """Insert events by SQL, with these ids, from a position on."""
    await conn.execute(_INSERT_ALL, [list(event_ids), list(range(position, position + len(event_ids)))])


async def restore(conn: AsyncConnection, position: int, event_id: str) -> None:
    """Insert an event where one is missing, as an import does."""
    async with conn.transaction():
        await conn.execute(_RESTORE, [f"[{position},{position + 1})"])
        await insert(conn, position, event_id)


async def make_unkeyed(url: str) -> None:
    """Leave a partitioned log as a version before revision 0031 does: partitions that have events have no keys."""
    with one_session(url):
        downgrade(url, "0030")
        upgrade(url, projections=())


async def fill_partitions(url: str, appender: Appender, first: int, rest: int, *, is_older: bool) -> None:
    """Append so many events, in two batches; if it is older, the partitions that the first one reached have no keys."""
    await appender.append(new_events(first))
    if is_older:
        await make_unkeyed(url)
    await appender.append(new_events(rest))


async def index_entries_read(conn: AsyncConnection) -> dict[str, int]:
    """Return how many entries of each index of the log were read."""
    await conn.execute("SELECT pg_stat_force_next_flush()")
    found = await fetch_all(
        conn, "SELECT indexrelname::text, idx_tup_read FROM pg_stat_user_indexes WHERE relname ~ 'events_from'"
    )
    return dict(found)


async def wait_for_waiting_sessions(conn: AsyncConnection, count: int) -> None:
    """Wait until this many sessions wait for locks."""

    async def are_waiting() -> bool:
        return await store.value(conn, _WAITING) == count

    await store.wait_until(are_waiting, f"{count} sessions waiting for locks")


@pytest.mark.partitioned(3)
@pytest.mark.oldest
async def test_an_id_is_stored_once_however_it_is_inserted(conn: AsyncConnection, appender: Appender) -> None:
    await appender.append(new_events(4))
    stored = await positions(conn)
    with pytest.raises(UniqueViolation):
        await insert(conn, 5, min(stored))
    for statement in (
        "UPDATE eventstore.events SET app = 'other' WHERE position = 4",
        "DELETE FROM eventstore.events_from_4",
        "TRUNCATE eventstore.events_from_4",
        "TRUNCATE eventstore.events",
    ):
        with pytest.raises(psycopg.errors.ModifyingSqlDataNotPermitted):
            await conn.execute(statement.encode())


@pytest.mark.partitioned(3)
@pytest.mark.oldest
async def test_ids_are_kept_of_restored_events_and_of_those_that_the_trigger_missed(
    database_url: str, conn: AsyncConnection, appender: Appender, tmp_path: Path
) -> None:
    await appender.append(new_events(11))
    before = list((await positions(conn)).items())
    await transferring.export(conn, tmp_path / "file")
    await transferring.delete_positions(conn, 2, 3, 7, 10, 11)
    # The end is lost: nothing is stored there without an id that is kept.
    events = new_events(3)
    with pytest.raises(psycopg.errors.RaiseException, match="after position 11 only"):
        await appender.append(events)
    await transferring.import_file(database_url, tmp_path / "file")
    await assert_ids_have_positions(conn)
    assert list((await positions(conn)).items()) == before
    # A position after a gap, which later events would fill.
    with pytest.raises(psycopg.errors.RaiseException, match="the last one would be 13"):
        await insert(conn, 13, events[0].event_id)
    await conn.execute("DROP TRIGGER keep_event_ids ON eventstore.events")
    await appender.append(events[:1])
    repair_schema(database_url)
    await appender.append(events[1:])
    await assert_ids_have_positions(conn)
    assert await appender.append(events) == Appended(0, 3, 0, 14)


@pytest.mark.partitioned(10)
@pytest.mark.oldest
@pytest.mark.parametrize("is_older", [False, True], ids=["keys", "some_keys"])
async def test_an_id_is_stored_once_wherever_it_is(
    database_url: str, conn: AsyncConnection, appender: Appender, is_older: bool
) -> None:
    """In its partition, in another one, in one of an earlier version, and in the same statement."""
    old_ids = [event.event_id for event in new_events(3)]
    await fill_partitions(database_url, appender, 14, 13, is_older=is_older)
    assert await store.value(conn, _UNKEYED) == (2 if is_older else 0)
    stored = await positions(conn)
    for event_id in stored:
        with pytest.raises(UniqueViolation):
            await insert(conn, 28, event_id)
    # Ids less than all others, which then are in two partitions.
    await insert(conn, 28, *old_ids[:2])
    again = (old_ids[0], old_ids[1], next(iter(stored)))
    for event_id in again:
        with pytest.raises(UniqueViolation):
            await insert(conn, 30, event_id)
    twice = new_events(1)[0].event_id
    for event_ids in ((twice, old_ids[2], twice), (twice, twice), (old_ids[2], twice, list(stored)[12])):
        with pytest.raises(UniqueViolation):
            await insert(conn, 30, *event_ids)
    await insert(conn, 30, twice, old_ids[2])
    assert len(await positions(conn)) == 31
    await assert_ids_have_positions(conn)
    assert await fetch_all(conn, _TOO_NARROW) == []


@pytest.mark.partitioned(5)
@pytest.mark.oldest
@pytest.mark.parametrize("is_older", [False, True], ids=["keys", "some_keys"])
async def test_a_restore_stores_no_id_that_another_position_has(
    database_url: str, conn: AsyncConnection, appender: Appender, is_older: bool
) -> None:
    await fill_partitions(database_url, appender, 8, 10, is_older=is_older)
    by_position = {position: event_id for event_id, position in (await positions(conn)).items()}
    for position in (2, 7, 12):
        await transferring.delete_positions(conn, position)
        for other in sorted({*by_position} - {position}):
            with pytest.raises(UniqueViolation):
                await restore(conn, position, by_position[other])
        await restore(conn, position, by_position[position])
    await assert_ids_have_positions(conn)
    assert [*await positions(conn)] == list(by_position.values())


@pytest.mark.partitioned(5)
@pytest.mark.oldest
async def test_two_sessions_store_no_id_twice(database_url: str, conn: AsyncConnection, appender: Appender) -> None:
    """Without the append lock, and at positions of which none is the other's."""
    await appender.append(new_events(13))
    await transferring.delete_positions(conn, 2)
    event_id = new_events(1)[0].event_id
    async with store.connection(database_url, "other") as other, other.transaction():
        await insert(other, 14, event_id)
        restoring = asyncio.create_task(restore(conn, 2, event_id))
        async with store.connection(database_url, "watching") as watching:
            await store.wait_until_blocked(watching, conn.info.backend_pid)
    with pytest.raises(UniqueViolation):
        await restoring


@pytest.mark.partitioned(5)
@pytest.mark.oldest
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_transaction_that_does_not_see_what_others_add_adds_nothing(
    database_url: str, conn: AsyncConnection, appender: Appender, level: str
) -> None:
    await appender.append(new_events(5))
    async with store.connection(database_url, "other") as other, other.transaction():
        await other.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
        await positions(other)
        await conn.execute(MAKE_PARTITIONS, [10])
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            await insert(other, 11, next(iter(await positions(conn))))


@pytest.mark.partitioned(5)
async def test_no_gap_is_left_before_partitions_that_were_made_far_ahead(
    conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(3))
    await conn.execute(MAKE_PARTITIONS, [60])
    for position in range(6, 65):
        with pytest.raises(psycopg.errors.RaiseException, match=f"the last one would be {position}"):
            await insert(conn, position, next(iter(await positions(conn))))


@pytest.mark.partitioned(10)
@pytest.mark.oldest
@pytest.mark.parametrize("upgraded", [False, True], ids=["now", "before_the_upgrade"])
async def test_an_import_restores_more_of_the_end_than_one_batch(
    database_url: str,
    conn: AsyncConnection,
    appender: Appender,
    tmp_path: Path,
    upgraded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importing, "BATCH", 3)
    await appender.append(new_events(20))
    before = await positions(conn)
    await transferring.export(conn, tmp_path / "file")
    if upgraded:
        downgrade(database_url, "0030")
    await transferring.delete_positions(conn, *range(8, 21))
    upgrade(database_url, projections=())
    await transferring.import_file(database_url, tmp_path / "file")
    assert await positions(conn) == before
    await appender.append(new_events(2))
    await assert_ids_have_positions(conn)
    with pytest.raises(UniqueViolation):
        await insert(conn, 23, next(iter(before)))


@pytest.mark.oldest
async def test_a_few_ids_are_looked_up_without_reading_a_key_from_end_to_end(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    """Also before a partition has statistics."""
    await conn.execute("ALTER TABLE eventstore.events SET (autovacuum_enabled = off)")
    await appender.append(new_events(1))
    partition_log(database_url, 20_000)
    size = (await list_partitions(conn))[0].last_position
    await conn.execute(MAKE_PARTITIONS, [2 * size])
    # Ids in no order, so that all that follow are looked up in both partitions.
    for begin in range(2, 2 * size - 10, size):
        numbers = range(begin, min(begin + size, 2 * size - 10))
        await insert(conn, begin, *(hashlib.md5(b"%d" % n).hexdigest()[:26].upper() for n in numbers))  # noqa: S324
    before = await index_entries_read(conn)
    await insert(conn, 2 * size - 10, "5" * 26, "7" * 26)
    after = await index_entries_read(conn)
    assert {name for name in after if after[name] - before[name] > 100} == set()


@pytest.mark.parametrize("seed", [1, 2])
async def test_random_inserts_store_each_id_once(
    database_url: str, conn: AsyncConnection, appender: Appender, seed: int
) -> None:
    """Ids in no order, so that the ids of all partitions reach into each other."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    pool = [event.event_id for event in new_events(150)]
    await appender.append(new_events(3))
    partition_log(database_url, 7)
    stored = [*await positions(conn)]
    refused = 0
    for number in range(120):
        if number == 40:
            await make_unkeyed(database_url)
        chosen = chance.choices(pool, k=chance.randint(1, 4))
        await conn.execute(MAKE_PARTITIONS, [len(stored) + len(chosen)])
        try:
            await insert(conn, len(stored) + 1, *chosen)
        except UniqueViolation:
            assert len({*stored, *chosen}) < len(stored) + len(chosen)
            refused += 1
        else:
            stored += chosen
        assert len({*stored}) == len(stored)
    assert refused > 10
    await assert_ids_have_positions(conn)
    assert [*await positions(conn)] == stored
    assert await fetch_all(conn, _TOO_NARROW) == []


@pytest.mark.oldest
async def test_a_log_that_an_earlier_version_partitioned_keeps_its_ids(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(2))
    partition_log(database_url, 5)
    await appender.append(new_events(6))
    downgrade(database_url, "0030")
    await appender.append(new_events(3))
    assert await store.value(conn, "SELECT count(*) FROM eventstore.event_ids") == 11
    upgrade(database_url, projections=())
    # The partition that was begun goes on without a key, the next one has one.
    assert [one.has_key for one in await list_partitions(conn)] == [False, False, True]
    await appender.append(new_events(6))
    assert await store.value(conn, "SELECT count(*) FROM eventstore.event_ids") == 15
    await assert_ids_have_positions(conn)
    for revision in ("0028", "0030"):
        downgrade(database_url, revision)
        await appender.append(new_events(2))
        upgrade(database_url, projections=())
        await appender.append(new_events(2))
        await assert_ids_have_positions(conn)
    assert len(await positions(conn)) == 25
    assert await find_drift(conn) == []


@pytest.mark.oldest
async def test_a_partitioning_that_an_earlier_version_left_unfinished_is_undone(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    downgrade(database_url, "0030")
    await conn.execute(
        "CREATE TRIGGER keep_event_ids AFTER INSERT ON eventstore.events"
        " FOR EACH STATEMENT EXECUTE FUNCTION eventstore.keep_event_ids()"
    )
    await conn.execute("INSERT INTO eventstore.event_ids_up_to (id, position) VALUES (1, 0)")
    await appender.append(new_events(2))
    upgrade(database_url, projections=())
    assert await find_drift(conn) == []
    await appender.append(new_events(2))
    assert await store.value(conn, "SELECT count(*) FROM eventstore.event_ids") == 0
    assert partition_log(database_url, 5).partitions == 2
    await appender.append(new_events(2))
    await assert_ids_have_positions(conn)


@pytest.mark.partitioned(5)
@pytest.mark.oldest
async def test_the_keys_are_added_while_appends_wait_for_each_other(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(3))
    downgrade(database_url, "0030")
    async with store.connection(database_url, "holder") as holder, asyncio.TaskGroup() as tasks:
        async with holder.transaction():
            await acquire_append_lock(holder, QUICK)
            patience = LockPatience(60.0)
            migrating = tasks.create_task(asyncio.to_thread(upgrade, database_url, projections=(), patience=patience))
            await wait_for_waiting_sessions(conn, 1)
            appending = tasks.create_task(appender.append(new_events(4)))
            await wait_for_waiting_sessions(conn, 2)
        assert (await appending).head == 7
        await migrating
    assert [one.has_key for one in await list_partitions(conn)] == [False, True, True]
    assert await find_drift(conn) == []


@pytest.mark.partitioned(5)
async def test_the_way_back_takes_any_key(database_url: str, conn: AsyncConnection, appender: Appender) -> None:
    await appender.append(new_events(12))
    await conn.execute("ALTER TABLE eventstore.events_from_6 RENAME CONSTRAINT events_from_6_pkey TO theirs")
    await conn.execute("ALTER TABLE eventstore.events_from_11 DROP CONSTRAINT events_from_11_pkey")
    downgrade(database_url, "0030")
    await assert_ids_have_positions(conn)
    assert await store.value(conn, _KEYS) == 0


@pytest.mark.partitioned(5)
@pytest.mark.oldest
async def test_a_partition_that_lost_its_key_is_reported_and_gets_it_again(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(8))
    await conn.execute("ALTER TABLE eventstore.events_from_6 DROP CONSTRAINT events_from_6_pkey")
    (drift,) = await find_drift(conn)
    assert drift.sentence == ("table eventstore.events_from_6 has lost primary key (event_id); run projections migrate")
    repair_schema(database_url)
    assert await find_drift(conn) == []
    with pytest.raises(UniqueViolation):
        await insert(conn, 9, [*await positions(conn)][6])
