"""A worker: its windows, its checkpoint, which is also its lock, and what wakes it up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import psycopg
import pytest
from psycopg import AsyncConnection, sql
from structlog.testing import capture_logs

from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection
from projections.read_models.request_status import RequestStatus
from projections.running import checkpoint
from projections.running.control import pause, resume
from projections.running.folding_sessions import folding_session_name
from projections.running.window_step import Step
from projections.running.worker import Worker
from tests import folding, oracle, store
from tests.fault.proxy import TcpProxy, target_of, through
from tests.folding import (
    NEVER,
    Watched,
    append,
    checkpoint_row,
    fold,
    new_record,
    running_workers,
    worker,
    worker_connection,
)
from tests.queries import fetch_all


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_watched_table(conn)
        yield conn


async def wait_for_step(one: Worker, step: Step) -> None:
    """Wait until the last attempt of a running worker has this result."""

    async def has_step() -> bool:
        return one.last is step

    await store.wait_until(has_step, f"{step}")


async def folded_event_ids(conn: AsyncConnection) -> list[str]:
    rows = await fetch_all(conn, "SELECT event_id FROM watched ORDER BY event_id")
    return [event_id for (event_id,) in rows]


async def test_a_new_projection_begins_at_0_and_is_at_the_head_of_an_empty_log(
    database_url: str, conn: AsyncConnection
) -> None:
    one = worker(database_url, Watched())
    async with worker_connection(one) as own:
        assert await one.step(own) is Step.AT_HEAD
    assert await checkpoint_row(conn, "watched") == (1, 0, "running", None, 0, 0, 0, None)


@pytest.mark.parametrize(("size", "windows"), [(1, 7), (2, 4), (3, 3), (6, 2), (7, 1), (10_000, 1)])
async def test_windows_have_the_batch_size_and_follow_each_other(
    database_url: str, conn: AsyncConnection, size: int, windows: int
) -> None:
    records = [new_record(request=None if number == 3 else "request 1") for number in range(7)]
    await append(conn, *records)
    one = worker(database_url, Watched(), batch_size=size)
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.AT_HEAD
    assert (one.windows, one.position) == (windows, 7)
    assert await checkpoint_row(conn, "watched") == (1, 7, "running", None, 0, windows, 7, None)
    assert await folded_event_ids(conn) == [record.event_id for record in records]


async def test_events_of_other_types_move_the_checkpoint_too(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record(oracle.DENIED), new_record(99), new_record(oracle.COMPLETED))
    await folding.fold_all(database_url, [Watched, *READ_MODELS])
    for name in ("watched", "request_status", "consent_registry", "poll_tallies"):
        assert (await checkpoint_row(conn, name)).position == 3
    assert await folded_event_ids(conn) == []
    await folding.assert_rows_match_oracle(conn)


async def test_an_outage_ends_while_the_worker_waits_for_the_migration(
    database_url: str, conn: AsyncConnection
) -> None:
    await conn.execute("DROP TABLE watched")
    async with TcpProxy(*target_of(database_url)) as proxy:
        proxy.refuse()
        one = worker(through(database_url, proxy.port), Watched())

        async def is_unavailable() -> bool:
            return any(line["event"] == "database unavailable" for line in logs)

        async def waits_for_migration() -> bool:
            return one.not_migrated is not None

        with capture_logs() as logs:
            async with running_workers(database_url, one):
                await store.wait_until(is_unavailable, "the outage")
                proxy.accept()
                await store.wait_until(waits_for_migration, "the wait for the migration")
                assert [line["event"] for line in logs].count("database available again") == 1


async def test_a_checkpoint_locked_by_another_session_is_skipped(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record())
    one = worker(database_url, Watched())
    async with worker_connection(one) as own, store.connection(database_url, "other") as other:
        async with other.transaction():
            await other.execute("SELECT FROM projections.checkpoints WHERE name = 'watched' FOR UPDATE")
            assert await one.step(own) is Step.BUSY
            assert own.info.transaction_status is psycopg.pq.TransactionStatus.IDLE, "it holds no snapshot"
            assert (one.windows, await folded_event_ids(conn)) == (0, [])
        await fold(one, own)
    assert one.windows == len(await folded_event_ids(conn)) == 1


async def test_a_worker_sleeps_while_its_checkpoint_row_is_missing(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record())
    one = worker(database_url, Watched())
    async with worker_connection(one) as own:
        await conn.execute("DELETE FROM projections.checkpoints")
        assert await one.step(own) is Step.BUSY
    assert await folded_event_ids(conn) == []


async def test_two_workers_fold_each_window_once(database_url: str, conn: AsyncConnection) -> None:
    records = [new_record() for _ in range(60)]
    workers = [worker(database_url, Watched(), batch_size=1) for _ in range(2)]
    async with running_workers(database_url, *workers):
        for record in records:
            await append(conn, record)
        await folding.wait_until_folded(conn, "watched", 60)

        async def are_counted() -> bool:
            return sum(one.windows for one in workers) >= 60

        # A commit is visible shortly before the client gets its answer.
        await store.wait_until(are_counted, "60 counted windows")
    assert await checkpoint_row(conn, "watched") == (1, 60, "running", None, 0, 60, 60, None)
    assert sum(one.windows for one in workers) == 60
    assert await folded_event_ids(conn) == [record.event_id for record in records]


@pytest.mark.parametrize("projection", READ_MODELS)
async def test_a_backend_terminated_during_a_fold_leaves_nothing(
    database_url: str, conn: AsyncConnection, projection: type[Projection]
) -> None:
    await append(conn, new_record(), new_record(oracle.POLL_RESPONSE, options=("yes",)))
    one = worker(database_url, projection())
    last = projection.tables[-1].name
    async with worker_connection(one) as own, store.connection(database_url, "other") as other:
        pid = own.info.backend_pid
        async with other.transaction():
            # Its last table is locked; its writes to the other tables must be rolled back.
            await other.execute(sql.SQL("LOCK TABLE public.{} IN SHARE MODE").format(sql.Identifier(last)))
            step = asyncio.create_task(one.step(own))
            await store.wait_until_blocked(conn, pid)
            assert await store.value(conn, "SELECT pg_terminate_backend(%s)", pid)
            with pytest.raises(psycopg.OperationalError):
                await step
    for table in projection.tables:
        assert await folding.count_rows(conn, table.name) == 0
    assert await checkpoint_row(conn, projection.name) == (projection.version, 0, "running", None, 0, 0, 0, None)
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)


async def test_a_running_worker_survives_a_lost_connection(database_url: str, conn: AsyncConnection) -> None:
    one = worker(database_url, Watched(), poll=NEVER)
    async with running_workers(database_url, one) as (task,):
        await wait_for_step(one, Step.AT_HEAD)
        await append(conn, new_record())
        await folding.wait_until_folded(conn, "watched", 1)
        ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = %s"
        ended += " AND datname = current_database()"
        assert await store.value(conn, ended, folding_session_name("watched")) == 1
        await append(conn, new_record())
        await folding.wait_until_folded(conn, "watched", 2)
        assert not task.done()


async def test_a_notification_wakes_the_worker(database_url: str, conn: AsyncConnection) -> None:
    one = worker(database_url, Watched(), poll=NEVER)
    async with running_workers(database_url, one):
        await wait_for_step(one, Step.AT_HEAD)
        for number in range(1, 30):
            await append(conn, new_record())
            await folding.wait_until_folded(conn, "watched", number)


async def test_a_notification_during_a_step_is_not_lost(database_url: str, conn: AsyncConnection) -> None:
    one = worker(database_url, Watched(), poll=NEVER)
    async with running_workers(database_url, one):
        await wait_for_step(one, Step.AT_HEAD)
        for number in range(0, 60, 3):
            await asyncio.gather(*(folding.append_in_new_session(database_url, new_record()) for _ in range(3)))
            await folding.wait_until_folded(conn, "watched", number + 3)


async def test_without_a_notification_the_worker_polls(database_url: str, conn: AsyncConnection) -> None:
    one = worker(database_url, Watched())
    async with running_workers(database_url, one):
        await wait_for_step(one, Step.AT_HEAD)
        await folding.insert_at(conn, 1, new_record())
        await folding.wait_until_folded(conn, "watched", 1)


async def test_a_standby_process_takes_over_without_a_notification(database_url: str, conn: AsyncConnection) -> None:
    one = worker(database_url, Watched())
    await append(conn, new_record())
    async with store.connection(database_url, "other") as other:
        await checkpoint.create_if_missing(other, "watched", 1)
        async with other.transaction():
            await other.execute("SELECT FROM projections.checkpoints FOR UPDATE")
            async with running_workers(database_url, one):
                await wait_for_step(one, Step.BUSY)
                pid = other.info.backend_pid
                await store.value(conn, "SELECT pg_terminate_backend(%s)", pid)
                await folding.wait_until_folded(conn, "watched", 1)
            with suppress(psycopg.OperationalError):
                await other.execute("SELECT 1")


async def test_the_appender_and_the_workers_do_not_wait_for_each_other(
    database_url: str, conn: AsyncConnection
) -> None:
    """A slow fold blocks neither an append nor another projection."""
    await append(conn, new_record())
    slow, other = worker(database_url, Watched()), worker(database_url, RequestStatus())
    async with worker_connection(slow) as own, store.connection(database_url, "holder") as holder:
        async with holder.transaction():
            await holder.execute("LOCK TABLE watched IN SHARE MODE")
            step = asyncio.create_task(slow.step(own))
            await store.wait_until_blocked(conn, own.info.backend_pid)
            assert (await append(conn, new_record())).stored == 1
            async with worker_connection(other) as others:
                assert await fold(other, others) is Step.AT_HEAD
            assert (await checkpoint_row(conn, "request_status")).position == 2
        await step
    assert (await checkpoint_row(conn, "watched")).position >= 1


async def test_each_change_of_state_is_logged_once_and_no_window(database_url: str, conn: AsyncConnection) -> None:
    one = worker(database_url, Watched(), batch_size=1)

    async def events_while_folding() -> list[tuple[str, int | None]]:
        with capture_logs() as logs:
            await fold(one, own)
        return [(line["event"], line.get("behind")) for line in logs]

    await append(conn, *(new_record() for _ in range(9)))
    async with worker_connection(one) as own:
        assert await events_while_folding() == [("folding", 9), ("caught up", 0)]
        await append(conn, *(new_record() for _ in range(9)))
        assert await events_while_folding() == []
        await pause(conn, "watched")
        with capture_logs() as logs:
            assert [await one.step(own), await one.step(own)] == [Step.STOPPED] * 2
        assert [line["event"] for line in logs] == ["paused"]
        await resume(conn, "watched")
        assert await events_while_folding() == [("folding again", 0)]
