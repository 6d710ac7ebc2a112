"""A worker that fails: only it stops, before the event that it can't fold, with the error in the table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import LiteralString

import psycopg
import pytest
from psycopg import AsyncConnection

from projections.migrating.metadata import READ_MODELS
from projections.read_models.request_status import RequestStatus
from projections.running import control
from projections.running.run_context import RunContext
from projections.running.window_step import Step
from projections.running.worker import Worker
from tests import folding, oracle, store
from tests.folding import (
    DIVIDES_BY_ZERO,
    HALF_HOUR,
    NUMBER_TOO_LARGE,
    TOO_LONG,
    NewerWatched,
    Watched,
    append,
    checkpoint_row,
    count_rows,
    fold,
    insert_at,
    new_record,
    worker,
    worker_connection,
)
from tests.queries import fetch_all, fetch_row

PREFIX, SUFFIX = 5, 4


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_watched_table(conn)
        yield conn


async def append_with_poison(conn: AsyncConnection, ppnum: str = DIVIDES_BY_ZERO) -> str:
    """Append good events, one that can't be folded, and more good ones; return the id of the bad one."""
    poison = new_record(ppnum=ppnum)
    await append(conn, *(new_record() for _ in range(PREFIX)), poison, *(new_record() for _ in range(SUFFIX)))
    return poison.event_id


async def make_due(conn: AsyncConnection) -> None:
    """Make failed projections due for a retry now."""
    await conn.execute("UPDATE projections.checkpoints SET retry_at = clock_timestamp()")


@pytest.mark.parametrize("size", [1, 2, 4, 10_000])
async def test_events_before_a_poison_event_are_folded_and_the_error_names_it(
    database_url: str, conn: AsyncConnection, size: int
) -> None:
    event_id = await append_with_poison(conn)
    one = worker(database_url, Watched(), batch_size=size, retry_first=HALF_HOUR, retry_cap=HALF_HOUR)
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.STOPPED
        assert await fold(one, own) is Step.STOPPED
    now = await checkpoint_row(conn, "watched")
    assert (now.state, now.position, now.failures, now.events) == ("failed", PREFIX, 1, PREFIX)
    assert now.last_error == f"event {event_id} at position {PREFIX + 1}: division by zero (SQLSTATE 22012)"
    assert await count_rows(conn, "watched") == PREFIX


@pytest.mark.parametrize(("ppnum", "sqlstate"), [(TOO_LONG, "23514"), (NUMBER_TOO_LARGE, "22003")])
async def test_no_phone_number_is_in_the_error(
    database_url: str, conn: AsyncConnection, ppnum: str, sqlstate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    event_id = await append_with_poison(conn, ppnum)
    one = worker(database_url, Watched())
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.STOPPED
    error = (await checkpoint_row(conn, "watched")).last_error
    assert error is not None
    assert event_id in error
    assert sqlstate in error
    assert ppnum not in error
    assert "DETAIL" not in error
    printed = capsys.readouterr()
    assert ppnum not in printed.out + printed.err


async def test_other_projections_continue(database_url: str, conn: AsyncConnection) -> None:
    await append_with_poison(conn)
    workers = [worker(database_url, projection()) for projection in (Watched, *READ_MODELS)]
    async with folding.running_workers(database_url, *workers) as tasks:
        await folding.wait_for_state(conn, "watched", "failed")
        await append(conn, new_record())
        for projection in READ_MODELS:
            await folding.wait_until_folded(conn, projection.name, PREFIX + SUFFIX + 2)
        assert not any(task.done() for task in tasks)
    await folding.assert_rows_match_oracle(conn)
    assert (await checkpoint_row(conn, "watched")).position == PREFIX


async def test_the_retry_wait_doubles_up_to_its_cap(database_url: str, conn: AsyncConnection) -> None:
    await append_with_poison(conn)
    one = worker(database_url, Watched(), retry_first=100.0, retry_cap=500.0)
    async with worker_connection(one) as own:
        for failures, longest in enumerate([100, 200, 400, 500, 500], 1):
            assert await fold(one, own) is Step.STOPPED
            now = await checkpoint_row(conn, "watched")
            assert (now.failures, now.position, now.state) == (failures, PREFIX, "failed")
            assert now.wait is not None
            seconds = timedelta(seconds=longest)
            assert seconds / 2 <= now.wait <= seconds + timedelta(seconds=1)
            assert await one.step(own) is Step.STOPPED
            assert (await checkpoint_row(conn, "watched")).failures == failures, "it isn't retried before its time"
            await make_due(conn)


async def test_a_failed_projection_is_retried_and_runs_once_it_succeeds(
    database_url: str, conn: AsyncConnection
) -> None:
    await append_with_poison(conn, TOO_LONG)
    one = worker(database_url, Watched())
    async with folding.running_workers(database_url, one):
        await folding.wait_for_state(conn, "watched", "failed")
        await conn.execute("ALTER TABLE watched DROP CONSTRAINT watched_check")
        await folding.wait_until_folded(conn, "watched", PREFIX + SUFFIX + 1)
    now = await checkpoint_row(conn, "watched")
    assert (now.state, now.last_error, now.failures, now.wait) == ("running", None, 0, None)
    assert await count_rows(conn, "watched") == PREFIX + SUFFIX + 1


async def test_resume_clears_the_failure_and_its_retry_wait(database_url: str, conn: AsyncConnection) -> None:
    await append_with_poison(conn)
    one = worker(database_url, Watched(), retry_first=HALF_HOUR, retry_cap=HALF_HOUR)
    async with worker_connection(one) as own:
        for _ in range(2):
            await make_due(conn)
            await fold(one, own)
        assert (await checkpoint_row(conn, "watched")).failures == 2
        assert await control.resume(conn, "watched")
        cleared = await checkpoint_row(conn, "watched")
        assert (cleared.state, cleared.last_error, cleared.failures, cleared.wait) == ("running", None, 0, None)
        await fold(one, own)
        assert (await checkpoint_row(conn, "watched")).failures == 1, "it was retried at once"


async def test_a_paused_projection_folds_nothing_until_it_is_resumed(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record())
    one = worker(database_url, Watched())
    async with worker_connection(one) as own:
        assert await control.pause(conn, "watched")
        assert await one.step(own) is Step.STOPPED
        assert (await checkpoint_row(conn, "watched"))[:3] == (1, 0, "paused")
        await control.resume(conn, "watched")
        assert await fold(one, own) is Step.AT_HEAD
    assert (await checkpoint_row(conn, "watched"))[:3] == (1, 1, "running")


async def test_a_pause_waits_for_the_current_window_and_holds(database_url: str, conn: AsyncConnection) -> None:
    """Even if that window fails."""
    await append(conn, new_record(ppnum=DIVIDES_BY_ZERO))
    one = worker(database_url, Watched())
    async with (
        worker_connection(one) as own,
        store.connection(database_url, "holder") as holder,
        store.connection(database_url, "pausing") as pausing,
        asyncio.TaskGroup() as group,
    ):
        async with holder.transaction():
            await holder.execute("LOCK TABLE watched IN SHARE MODE")
            step = group.create_task(one.step(own))
            await store.wait_until_blocked(conn, own.info.backend_pid)
            pause = group.create_task(control.pause(pausing, "watched"))
            await store.wait_until_blocked(conn, pausing.info.backend_pid)
        assert await pause
        await step
        assert await fold(one, own) is Step.STOPPED
    assert (await checkpoint_row(conn, "watched")).state == "paused"


# Missing positions


@pytest.mark.parametrize(
    ("there", "missing"), [([2, 3], "1..1"), ([1, 2, 5], "3..4"), ([1, 4, 6], "2..3"), ([10_001], "1..10000")]
)
async def test_missing_positions_stop_every_projection_and_storing_them_heals_it(
    database_url: str, conn: AsyncConnection, there: list[int], missing: str
) -> None:
    for position in there:
        await insert_at(conn, position, new_record())
    for projection in (*READ_MODELS, Watched):
        one = worker(database_url, projection(), batch_size=20_000)
        async with worker_connection(one) as own:
            assert await fold(one, own) is Step.STOPPED
        now = await checkpoint_row(conn, projection.name)
        assert (now.state, now.position, now.last_error) == ("failed", 0, f"positions {missing} missing")
        for table in projection.tables:
            assert await count_rows(conn, table.name) == 0
    if there[-1] > 100:
        return
    for position in {*range(1, there[-1])} - {*there}:
        await insert_at(conn, position, new_record())
    await make_due(conn)
    await folding.fold_all(database_url, [*READ_MODELS, Watched])
    assert await count_rows(conn, "watched") == there[-1]
    await folding.assert_rows_match_oracle(conn)


async def test_missing_positions_in_the_folded_part_of_the_log(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record(), new_record())
    await folding.fold_all(database_url, [Watched])
    await insert_at(conn, 4, new_record())
    one = worker(database_url, Watched())
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.STOPPED
    now = await checkpoint_row(conn, "watched")
    assert (now.position, now.last_error) == (2, "positions 3..3 missing")
    assert await count_rows(conn, "watched") == 2


# Skips


async def test_a_skipped_event_is_not_folded_and_the_rest_is(database_url: str, conn: AsyncConnection) -> None:
    event_id = await append_with_poison(conn)
    one = worker(database_url, Watched(), retry_first=HALF_HOUR, retry_cap=HALF_HOUR)
    async with worker_connection(one) as own:
        await fold(one, own)
        assert await control.skip(conn, "watched", event_id, " it divides by zero ", 1) == PREFIX + 1
        assert await fold(one, own) is Step.AT_HEAD
    now = await checkpoint_row(conn, "watched")
    assert (now.state, now.position, now.last_error) == ("running", PREFIX + SUFFIX + 1, None)
    assert await count_rows(conn, "watched") == PREFIX + SUFFIX
    skips = await fetch_all(conn, "SELECT name, event_id, version, why FROM projections.skips")
    assert skips == [("watched", event_id, 1, "it divides by zero")]


async def test_a_skip_holds_for_one_projection_and_one_version(database_url: str, conn: AsyncConnection) -> None:
    event_id = await append_with_poison(conn)
    other, newer = worker(database_url, RequestStatus()), worker(database_url, NewerWatched())
    async with worker_connection(worker(database_url, Watched())), worker_connection(other) as others:
        await control.skip(conn, "watched", event_id, "it divides by zero", 1)
        await fold(other, others)
    assert (await checkpoint_row(conn, "request_status")).position == PREFIX + SUFFIX + 1
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)
    # The state that a rebuild under the new version leaves.
    await conn.execute("UPDATE projections.checkpoints SET version = 2 WHERE name = 'watched'")
    async with worker_connection(newer) as own:
        assert await fold(newer, own) is Step.STOPPED
    error = (await checkpoint_row(conn, "watched")).last_error
    assert error is not None
    assert event_id in error


# Versions


async def test_rows_of_an_older_version_wait_for_a_rebuild(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record())
    await folding.fold_all(database_url, [Watched])
    await append(conn, new_record())
    newer = worker(database_url, NewerWatched())
    async with worker_connection(newer) as own:
        for _ in range(2):
            assert await fold(newer, own) is Step.STOPPED
            now = await checkpoint_row(conn, "watched")
            assert (now.version, now.position, now.state) == (1, 1, "waiting")
            assert now.last_error is not None
            assert "projections rebuild watched" in now.last_error
            await control.resume(conn, "watched")  # a resume does not replace a rebuild
    assert await count_rows(conn, "watched") == 1
    await folding.fold_all(database_url, [Watched])  # the older code is back
    assert (await checkpoint_row(conn, "watched"))[:4] == (1, 2, "running", None)


async def test_older_code_changes_nothing_in_newer_rows(
    database_url: str, conn: AsyncConnection, capsys: pytest.CaptureFixture[str]
) -> None:
    await append(conn, new_record())
    await folding.fold_all(database_url, [NewerWatched])
    await append(conn, new_record())
    before = await checkpoint_row(conn, "watched")
    older = worker(database_url, Watched())
    async with worker_connection(older) as own:
        assert await fold(older, own) is Step.STOPPED
    assert await checkpoint_row(conn, "watched") == before
    assert await count_rows(conn, "watched") == 1
    printed = capsys.readouterr().out
    assert "version 2" in printed
    assert "rebuild" not in printed, "a rebuild by older code wouldn't help"


@pytest.mark.oldest
async def test_code_of_the_rows_version_ends_the_wait_when_it_returns(database_url: str, conn: AsyncConnection) -> None:
    """Even at the head, where there is nothing to fold."""
    await append(conn, new_record())
    await folding.fold_all(database_url, [Watched])
    newer = worker(database_url, NewerWatched())
    async with worker_connection(newer) as own:
        assert await fold(newer, own) is Step.STOPPED
    assert (await checkpoint_row(conn, "watched")).state == "waiting"
    await folding.fold_all(database_url, [Watched])
    assert (await checkpoint_row(conn, "watched"))[:4] == (1, 1, "running", None)


# Failures that no event causes


async def test_fixed_code_is_tried_without_waiting(database_url: str, conn: AsyncConnection) -> None:
    await append_with_poison(conn)
    one = worker(database_url, Watched(), retry_first=HALF_HOUR, retry_cap=HALF_HOUR)
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.STOPPED
        assert await fold(one, own) is Step.STOPPED, "the same process waits"

    class Corrected(Watched):
        handles = frozenset({oracle.GRANTED})

    corrected = worker(database_url, Corrected())
    async with worker_connection(corrected) as own:
        assert await fold(corrected, own) is Step.AT_HEAD


async def test_a_timeout_of_the_database_names_no_event(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record(), new_record())
    one = worker(database_url, Watched(), batch_size=1)
    async with worker_connection(one) as own, store.connection(database_url, "slow") as slow:
        await own.execute("SET statement_timeout = '1s'")
        await own.commit()
        async with slow.transaction():
            await slow.execute("LOCK TABLE public.watched IN SHARE MODE")
            assert await fold(one, own) is Step.STOPPED
        error = (await checkpoint_row(conn, "watched")).last_error
        assert error == "after position 0: canceling statement due to statement timeout (SQLSTATE 57014)"


@pytest.mark.parametrize(
    ("done", "ending"),
    [
        ("DROP TABLE watched", ' relation "public.watched" does not exist (SQLSTATE 42P01)'),
        ("ALTER TABLE watched DROP COLUMN value", " does not exist (SQLSTATE 42703)"),
    ],
)
async def test_a_changed_table_names_no_event(
    database_url: str, conn: AsyncConnection, done: LiteralString, ending: str
) -> None:
    await append(conn, new_record())
    one = worker(database_url, Watched())
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.AT_HEAD
        await conn.execute(done)
        await append(conn, new_record(), new_record())
        assert await fold(one, own) is Step.STOPPED
    error = (await checkpoint_row(conn, "watched")).last_error or ""
    assert error.startswith("after position 1: ")
    assert error.endswith(ending)


async def test_a_worker_waits_while_the_database_takes_no_writes(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record())
    one = worker(database_url, Watched(), poll=0.01)
    async with worker_connection(one) as own:
        await own.execute("SET default_transaction_read_only = on")
        await own.commit()
        with pytest.raises(psycopg.InternalError, match="read-only"):
            await one.step(own)
        await own.execute("SET default_transaction_read_only = off")
        await own.commit()
        assert await fold(one, own) is Step.AT_HEAD
    assert (await checkpoint_row(conn, "watched"))[2:5] == ("running", None, 0)


@pytest.mark.oldest
async def test_a_frozen_session_that_holds_the_checkpoint_is_terminated(
    database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, new_record())
    quick = folding.QUICK.model_copy(update={"idle_in_transaction": 0.2})
    one = Worker(RunContext(database_url, quick, folding.SETTINGS), Watched())
    async with worker_connection(one) as own, store.connection(database_url, "frozen") as frozen:
        await own.execute("SET idle_in_transaction_session_timeout = 0")
        with suppress(psycopg.OperationalError):
            # In a pipeline without a sync, none of Postgres's timeouts ends the wait for the client.
            async with frozen.pipeline():
                await frozen.execute("SET idle_in_transaction_session_timeout = 0")
                await frozen.execute("BEGIN")
                await fetch_row(frozen, "SELECT 1 FROM projections.checkpoints FOR UPDATE")
                await frozen.execute("SELECT 1")
                frozen.pgconn.send_flush_request()
                frozen.pgconn.flush()
                assert await one.step(own) is Step.BUSY

                async def is_folded() -> bool:
                    return await one.step(own) is Step.AT_HEAD

                await store.wait_until(is_folded, "the folded event")
        assert frozen.broken
    assert await count_rows(conn, "watched") == 1
