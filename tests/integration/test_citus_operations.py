"""Operations of a log that Citus distributes: what doctor finds, what is refused, repaired and added later.

Needs a cluster: see tests/citus.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from psycopg import AsyncConnection, sql

from eventstore import distributed_log
from eventstore.errors import UsageError
from eventstore.event_reader import read_head
from eventstore.locks import (
    APPEND_LOCK,
    ERASE_LOCK,
    RELEASE_SESSION_LOCKS,
    TRY_SESSION_LOCK,
    WAIT_FOR_TRANSACTION_LOCK,
    checkpoint_lock,
)
from projections.archiving.archive_partitions import archive_partitions
from projections.archiving.archive_request import ArchiveRequest
from projections.errors import MigrationRefused
from projections.inspecting.doctor import cluster_checks
from projections.inspecting.explain import explain
from projections.migrating.distribute import distribute
from projections.migrating.go_back import go_back
from projections.migrating.migrate import upgrade
from projections.migrating.partition_log import partition_log
from projections.migrating.schema_drift import find_drift
from projections.running.window_step import LONGEST_PAUSE, Step
from tests import folding, oracle, store, transferring
from tests.citus import CitusDatabase, needs_citus, unfinished_commit
from tests.doctoring import findings, only, run_sql
from tests.erasing import BUILT_IN, erase
from tests.folding import append, fold, new_record, worker, worker_connection
from tests.meanwhile import let_happen
from tests.queries import fetch_all
from tests.rebuilding import OptOuts, replay_context, sample_records, verify

pytestmark = [pytest.mark.newest, needs_citus]
PERSON = "12300000003"
VIEWS = ("public.event_log", "public.read_model_freshness", "eventstore.event_log", "eventstore.head")


@pytest.fixture
async def conn(distributed: CitusDatabase) -> AsyncIterator[AsyncConnection]:
    async with store.connection(distributed.url) as conn:
        yield conn


async def waits_for_advisory_lock(conn: AsyncConnection, command: str) -> bool:
    """Return whether a session of a command waits for an advisory lock."""
    waiting = (
        "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND NOT granted AND starts_with(application_name, %s))"
    )
    return bool(await store.value(conn, waiting, f"projections {command}"))


async def test_doctor_names_workers_that_do_not_answer_and_commits_that_they_owe(
    distributed: CitusDatabase, conn: AsyncConnection
) -> None:
    await append(conn, *sample_records(2))
    await folding.fold_all(distributed.url)
    codes = {one.code for one in await findings(distributed.url)}
    assert codes <= {"app_not_followed", "projection_not_folded"}

    # A commit that a worker owes: rows that are not visible yet aren't missing, but whoever waits is told.
    async with store.connection(distributed.workers[1]) as there:
        await there.execute("BEGIN")
        await there.execute("PREPARE TRANSACTION 'citus_99_1_1_1'")
        try:
            found = await findings(distributed.url, limits={"snapshot": 1e-6})
            owed = only(found, "commit_unfinished")
            port = str(there.info.port)
            assert port in owed.sentence
            assert owed.command == "SELECT recover_prepared_transactions();"
        finally:
            await there.execute("ROLLBACK PREPARED 'citus_99_1_1_1'")
    await conn.execute("UPDATE eventstore.distributed_head SET position = position + 1")
    async with unfinished_commit(distributed, conn):
        assert not {"missing_positions"} & {one.code for one in await findings(distributed.url)}
    missing = only(await findings(distributed.url), "missing_positions")
    assert f"position {await read_head(conn):,} is missing" in missing.sentence
    await conn.execute("UPDATE eventstore.distributed_head SET position = position - 1")

    # The coordinator's own transactions of Citus are not for us to roll back.
    await conn.execute("BEGIN")
    await conn.execute("SELECT FROM projections.checkpoints WHERE name = 'people' FOR UPDATE")
    await conn.execute("PREPARE TRANSACTION 'citus_99_1_1_2'")
    try:
        found = await findings(distributed.url, limits={"snapshot": 1e-6})
        for code in ("prepared_transaction", "checkpoint_held"):
            assert only(found, code).command == "SELECT recover_prepared_transactions();"
    finally:
        await conn.execute("ROLLBACK PREPARED 'citus_99_1_1_2'")

    last = await store.value(conn, "SELECT max(nodeport) FROM pg_dist_node")
    move = "UPDATE pg_catalog.pg_dist_node SET nodeport = %s WHERE nodeport = %s"
    await conn.execute(move, [1, last])
    try:
        found = await findings(distributed.url)
        assert only(found, "worker_unavailable").sentence.partition(":1 ")[2].startswith("doesn't answer")
        assert found[0].code == "worker_unavailable"
    finally:
        await conn.execute(move, [last, 1])


async def test_doctor_ends_a_change_of_events_that_was_interrupted(
    distributed: CitusDatabase, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(conn, *sample_records(1))
    await conn.execute("UPDATE eventstore.distributed_head SET events_changed = true")
    async with store.connection(distributed.url, "projections erase here:1") as changing:
        await changing.execute(TRY_SESSION_LOCK, [ERASE_LOCK])
        assert "events_changed" not in {one.code for one in await findings(distributed.url)}

        async def end() -> None:
            await changing.execute("UPDATE eventstore.distributed_head SET events_changed = false")
            await changing.execute(RELEASE_SESSION_LOCKS)

        let_happen(monkeypatch, end, cluster_checks, "find_holder")
        assert "events_changed" not in {one.code for one in await findings(distributed.url)}
    await conn.execute("UPDATE eventstore.distributed_head SET events_changed = true")
    command = "UPDATE eventstore.distributed_head SET events_changed = false"
    async with unfinished_commit(distributed, conn):
        found = only(await findings(distributed.url), "events_changed")
        assert (found.command, "has not" in found.sentence) == (None, True)
    found = only(await findings(distributed.url), "events_changed")
    assert (found.command or "").startswith(command)
    async with store.connection(distributed.url, "projections erase here:1") as changing:
        await changing.execute(TRY_SESSION_LOCK, [ERASE_LOCK])
        await run_sql(conn, found)  # does nothing, for events are changed now
        assert await store.value(conn, "SELECT events_changed FROM eventstore.distributed_head")
        await changing.execute(RELEASE_SESSION_LOCKS)
    await run_sql(conn, found)
    assert "events_changed" not in {one.code for one in await findings(distributed.url)}


async def test_events_are_appended_while_an_erase_waits_for_a_commit(
    distributed: CitusDatabase, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit becomes unfinished when the erase has all locks but that of appends."""
    monkeypatch.setattr(distributed_log, "PATIENCE_UNDER_APPEND_LOCK", 0.0)
    await append(conn, *sample_records(2), new_record(ppnum=PERSON))
    await folding.fold_all(distributed.url)

    async def is_waiting() -> bool:
        return await waits_for_advisory_lock(conn, "erase")

    async with store.connection(distributed.url, "appends") as appending:
        async with appending.transaction():
            await appending.execute(WAIT_FOR_TRANSACTION_LOCK, [APPEND_LOCK])
            erasing = asyncio.create_task(erase(distributed.url, PERSON))
            await store.wait_until(is_waiting, "an erase that waits for the append lock")
            unfinished = unfinished_commit(distributed, conn)
            await unfinished.__aenter__()
        try:
            head = await read_head(conn)
            stored = await append(appending, new_record(ppnum=PERSON, request="meanwhile"))
            assert (stored.head, erasing.done()) == (head + 1, False)
        finally:
            await unfinished.__aexit__(None, None, None)
        assert (await erasing).erased == 1
    assert PERSON not in {event.ppnum for event in await store.stored_events(conn)}


async def test_what_a_distributed_log_refuses_says_the_way_out(
    distributed: CitusDatabase, conn: AsyncConnection, tmp_path: Path
) -> None:
    way_out = "export it, and import it into"
    with pytest.raises(MigrationRefused, match=f"is distributed by Citus, and can't be partitioned: {way_out}"):
        partition_log(distributed.url, 10)
    request = ArchiveRequest("1", tmp_path, None, parquet=False, archive=tmp_path, system_user="tester")
    with pytest.raises(UsageError, match=f"is distributed by Citus, and only partitions .* {way_out}"):
        await archive_partitions(replay_context(distributed.url), BUILT_IN, request, dry_run=True)
    await append(conn, *sample_records(1), new_record(ppnum=PERSON))
    await erase(distributed.url, PERSON)
    with pytest.raises(MigrationRefused, match=f"persons were erased, .* {way_out}"):
        go_back(distributed.url, "0027")
    assert await find_drift(conn) == []


async def test_views_of_a_distributed_log_are_repaired_as_they_were(
    distributed: CitusDatabase, conn: AsyncConnection
) -> None:
    await append(conn, *sample_records(1), new_record(oracle.GRANTED, request=None))

    async def definitions() -> list[str]:
        return [str(await store.value(conn, "SELECT pg_get_viewdef(to_regclass(%s))", view)) for view in VIEWS]

    before = await definitions()
    for view in VIEWS:
        await conn.execute(f"DROP VIEW {view} CASCADE".encode())
    assert {one.what for one in await find_drift(conn)} == {f"view {view} is missing" for view in VIEWS}
    upgrade(distributed.url, projections=[])
    assert await definitions() == before
    assert await find_drift(conn) == []
    assert await store.value(conn, "SELECT count(*) FROM public.event_log WHERE send_request_id IS NULL") == 1


async def test_a_read_model_that_is_added_later_is_distributed(
    distributed: CitusDatabase, conn: AsyncConnection
) -> None:
    await append(conn, *sample_records(3))
    upgrade(distributed.url, projections=[OptOuts()])
    by = "SELECT column_to_column_name(logicalrelid, partkey) FROM pg_dist_partition WHERE logicalrelid = %s::regclass"
    assert await store.value(conn, by, "public.opt_outs") == "ppnum"
    await folding.fold_all(distributed.url, [OptOuts])
    assert await store.value(conn, "SELECT count(*) FROM public.opt_outs")
    assert (await verify(distributed.url, OptOuts())).equal
    assert distribute(distributed.url, projections=[OptOuts()]).tables == {}


async def test_positions_that_are_missing_are_exported_around_and_imported(
    distributed: CitusDatabase, conn: AsyncConnection, tmp_path: Path
) -> None:
    await append(conn, *(new_record(request=f"request {n}") for n in range(40)))
    whole, gap = tmp_path / "whole", tmp_path / "gap"
    before = await transferring.export(conn, whole)
    events = await store.stored_events(conn)
    lost = 7
    for url in distributed.workers:  # as after a restore of one server
        async with store.connection(url) as there:
            await there.execute("SET citus.enable_manual_changes_to_shards = on")
            await there.execute("SET citus.override_table_visibility = off")
            await there.execute("SET session_replication_role = replica")
            shards = await fetch_all(
                there,
                "SELECT c.oid::regclass::text FROM pg_class AS c WHERE relname ~ '^events_[0-9]+$' AND relkind = 'r'",
            )
            for (shard,) in shards:
                table = sql.SQL(shard)
                await there.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(table))
                await there.execute(sql.SQL("DELETE FROM {} WHERE position = %s").format(table), [lost])
    assert f"position {lost} is missing" in only(await findings(distributed.url), "missing_positions").sentence
    exported = await transferring.export(conn, gap)
    assert (exported.events, exported.missing) == (before.events - 1, ((lost, lost),))
    assert (await transferring.import_file(distributed.url, whole)).stored == 1
    assert await store.stored_events(conn) == events
    assert "missing_positions" not in {one.code for one in await findings(distributed.url)}


async def test_a_row_is_explained_once_the_window_of_its_checkpoint_is_committed_everywhere(
    distributed: CitusDatabase, conn: AsyncConnection
) -> None:
    """The checkpoint is visible before the rows on other servers, and its advisory lock is given back afterwards."""
    people = BUILT_IN["people"]
    one = worker(distributed.url, people)
    await append(conn, new_record(ppnum=PERSON, request="first"))
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.AT_HEAD
        assert 0 < one._window_step.pause <= LONGEST_PAUSE  # so that the next events are folded together
    await append(conn, new_record(ppnum=PERSON, request="second"))
    move = "UPDATE projections.checkpoints SET position = %s WHERE name = 'people'"

    async def is_waiting() -> bool:
        return explaining.done() or await waits_for_advisory_lock(conn, "explain")

    async with store.connection(distributed.url, "folds") as folding_one:
        async with folding_one.transaction():
            await folding_one.execute(WAIT_FOR_TRANSACTION_LOCK, [checkpoint_lock("people")])
            await conn.execute(move, [2])
            explaining = asyncio.create_task(
                explain(replay_context(distributed.url), people, people.tables[1], [PERSON], None)
            )
            await store.wait_until(is_waiting, "an explain that waits")
            await conn.execute(move, [1])
        found = await explaining
    assert (found.position, found.equal) == (1, True)
