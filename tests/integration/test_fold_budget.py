"""A fold that takes too long stops at the slow event; delays by other sessions blame no event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import timedelta
from time import sleep
from typing import ClassVar

import pytest
from psycopg import AsyncConnection, errors
from sqlalchemy import Boolean, Column, Executable, MetaData, Table, Text, case, func, insert, select
from sqlalchemy.schema import CreateTable

from eventstore.contracts import Event
from eventstore.errors import UnfinishedCommit
from projections.errors import CannotFold, HandleTooSlow
from projections.folding import fold_budget
from projections.folding.python_projection import PythonProjection, Row, Tombstone
from projections.folding.sql_text import DIALECT
from projections.folding.window_size import Cause, WindowSize
from projections.projection import Projection, Window
from projections.running import control
from projections.running.window_step import Step
from projections.running.worker import Worker
from projections.settings import WorkerSettings, load_worker_settings
from tests import folding, oracle, rebuilding, store
from tests.folding import HALF_HOUR, append, checkpoint_row, fold, new_record, worker, worker_connection

SLOW = "12300000777"
"""The person whose events are slow to fold."""

seen = Table(
    "seen",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True),
    Column("ppnum", Text, primary_key=True),
    Column("event_id", Text(collation="C"), nullable=False),
    Column("deleted", Boolean, nullable=False),
)


class Slow(Projection):
    """Sleeps in Postgres for one person, for longer than any test."""

    name: ClassVar[str] = "slow"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.DELIVERED})
    tables: ClassVar[tuple[Table, ...]] = (seen,)
    partition_by: ClassVar[tuple[str, ...]] = ("app", "ppnum")
    seconds: ClassVar[float] = folding.NEVER

    def fold(self, window: Window) -> Sequence[Executable]:
        e = window.events
        slept = case((e.c.ppnum == SLOW, func.coalesce(func.length(func.pg_sleep(self.seconds).cast(Text)), 0) > 99))
        rows = select(e.c.app, e.c.ppnum, e.c.event_id, func.coalesce(slept, False))
        return [insert(seen).from_select(["app", "ppnum", "event_id", "deleted"], rows)]


class SlowHandle(PythonProjection):
    """Sleeps in Python for one person, for a little longer than the tests' time budget."""

    name: ClassVar[str] = "slow_handle"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.DELIVERED})
    tables: ClassVar[tuple[Table, ...]] = (seen,)
    partition_by: ClassVar[tuple[str, ...]] = ("app", "ppnum")

    def handle(self, event: Event) -> Iterable[Row | Tombstone]:
        if event.ppnum == SLOW:
            sleep(1.1)
        return [Row(seen, {"app": event.app, "ppnum": event.ppnum})]


both = pytest.mark.parametrize("projection", [Slow, SlowHandle])


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await conn.execute(str(CreateTable(seen).compile(dialect=DIALECT)).encode())
        yield conn


def people(count: int, first: int = 1) -> list[oracle.Record]:
    return [new_record(ppnum=f"123000{number:05}") for number in range(first, first + count)]


async def fold_until_named(one: Worker, own: AsyncConnection, conn: AsyncConnection, name: str) -> str:
    """Fold until the error names an event; return the error."""

    async def named() -> bool:
        await conn.execute("UPDATE projections.checkpoints SET retry_at = NULL")
        await fold(one, own)
        return ((await checkpoint_row(conn, name)).last_error or "").startswith("event ")

    await store.wait_until(named, "an error that names an event")
    return str((await checkpoint_row(conn, name)).last_error)


@pytest.mark.parametrize("projection", [pytest.param(Slow, marks=pytest.mark.oldest), SlowHandle])
async def test_a_slow_event_is_named_events_before_it_are_folded_and_skip_works(
    database_url: str, conn: AsyncConnection, projection: type[Projection]
) -> None:
    slow = new_record(ppnum=SLOW)
    await append(conn, *people(7), slow, *people(5, 20))
    one = worker(database_url, projection(), fold_timeout=1.0)
    async with worker_connection(one) as own:
        error = await fold_until_named(one, own, conn, projection.name)
        now = await checkpoint_row(conn, projection.name)
        assert (now.state, now.position) == ("failed", 7)
        assert now.wait is not None
        assert now.wait >= timedelta(seconds=4), "skip and pause can lock the checkpoint until then"
        assert error == (
            f"event {slow.event_id} at position 8: folding took longer than 1 s (PROJECTIONS_FOLD_TIMEOUT), twice"
        )
        await control.skip(conn, projection.name, slow.event_id, "it takes for ever", 1)
        assert await fold(one, own) is Step.AT_HEAD
    assert (await checkpoint_row(conn, projection.name)).position == 13
    assert await folding.count_rows(conn, "seen") == 12


async def test_a_slow_event_is_retried_once_before_it_is_named(database_url: str, conn: AsyncConnection) -> None:
    """The first time, the whole machine may have been frozen."""
    await append(conn, new_record(ppnum=SLOW))
    one = worker(database_url, Slow(), fold_timeout=0.3, retry_first=HALF_HOUR, retry_cap=HALF_HOUR)
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.STOPPED
        message = (await checkpoint_row(conn, "slow")).last_error
        assert message == ("after position 0: folding took longer than 0.3 s (PROJECTIONS_FOLD_TIMEOUT); retrying once")


async def test_a_slow_event_in_a_one_round_trip_window_is_named_too(database_url: str, conn: AsyncConnection) -> None:
    one = worker(database_url, Slow(), fold_timeout=0.3)
    async with worker_connection(one) as own:
        for number in range(3):
            await append(conn, *people(1, number + 1))
            assert await fold(one, own) is Step.AT_HEAD
        await append(conn, new_record(ppnum=SLOW))
        error = await fold_until_named(one, own, conn, "slow")
    assert "at position 4: folding took longer" in error


async def test_a_lock_held_by_another_session_blames_no_event(database_url: str, conn: AsyncConnection) -> None:
    """The projection reports the lock, and continues once it is released."""
    await append(conn, *people(3))
    one = worker(database_url, Slow(), fold_timeout=0.6)
    async with worker_connection(one) as own, store.connection(database_url, "holder") as holder:
        async with holder.transaction():
            await holder.execute("LOCK TABLE public.seen IN SHARE MODE")
            for _ in range(3):
                await conn.execute("UPDATE projections.checkpoints SET retry_at = NULL")
                assert await one.step(own) is Step.STOPPED
                message = (await checkpoint_row(conn, "slow")).last_error
                assert message == "after position 0: canceling statement due to lock timeout (SQLSTATE 55P03)"
        await conn.execute("UPDATE projections.checkpoints SET retry_at = NULL")
        assert await fold(one, own) is Step.AT_HEAD


async def test_a_cancelled_statement_blames_no_event(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record(ppnum=SLOW))
    one = worker(database_url, Slow(), fold_timeout=HALF_HOUR)
    async with worker_connection(one) as own:
        for _ in range(3):
            await conn.execute("UPDATE projections.checkpoints SET retry_at = NULL")
            step = asyncio.create_task(one.step(own))

            async def cancelled() -> object:
                sleeping = (
                    "SELECT bool_or(pg_cancel_backend(pid)) FROM pg_stat_activity"
                    " WHERE pid = %s AND wait_event = 'PgSleep'"
                )
                return await store.value(conn, sleeping, own.info.backend_pid)

            await store.wait_until(cancelled, "a sleeping statement, which is then cancelled")
            assert await step is Step.STOPPED
            message = (await checkpoint_row(conn, "slow")).last_error
            assert message == "after position 0: canceling statement due to user request (SQLSTATE 57014)"


async def test_a_commit_that_another_server_owes_blames_no_event(conn: AsyncConnection) -> None:
    await append(conn, *(new_record(oracle.DELIVERED, f"1230000000{number}") for number in range(2)))
    for lo in (0, 1):
        size = WindowSize(100, 60.0, "PROJECTIONS_FOLD_TIMEOUT")
        failure = await size.failed(conn, lo, 2, UnfinishedCommit("a worker doesn't answer"), 30.0)
        assert (failure.cause, size.positions) == (Cause.NOT_AN_EVENT, 100)


async def test_an_event_that_was_slow_only_once_is_folded(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, *people(1))
    one = worker(database_url, Slow(), fold_timeout=0.3)
    async with worker_connection(one) as own:
        await conn.execute("ALTER TABLE public.seen ADD CONSTRAINT slowly CHECK (length(pg_sleep(600)::text) >= 0)")
        assert await fold(one, own) is Step.STOPPED
        assert "retrying once" in str((await checkpoint_row(conn, "slow")).last_error)
        await conn.execute("ALTER TABLE public.seen DROP CONSTRAINT slowly")
        await conn.execute("UPDATE projections.checkpoints SET retry_at = NULL")
        assert await fold(one, own) is Step.AT_HEAD
    assert (await checkpoint_row(conn, "slow")).last_error is None


@both
async def test_a_rebuild_and_a_verification_name_a_slow_event(
    database_url: str, conn: AsyncConnection, projection: type[Projection]
) -> None:
    slow = new_record(ppnum=SLOW)
    await append(conn, *people(5), slow, *people(5, 20))
    one = projection()
    async with worker_connection(worker(database_url, one)):
        await conn.execute("UPDATE projections.checkpoints SET position = 11")
    for work in (rebuilding.rebuild, rebuilding.verify):
        with pytest.raises(CannotFold) as caught:
            await work(database_url, one, fold_timeout=1.0)
        assert str(caught.value).startswith(
            f"{one.name}: event {slow.event_id} at position 6: folding took longer than 1 s"
            " (PROJECTIONS_REBUILD_FOLD_TIMEOUT), twice; fix the projection, or run projections skip"
        )
    await conn.execute("UPDATE projections.checkpoints SET position = 5")
    await control.skip(conn, one.name, slow.event_id, "it takes for ever", 1)
    await conn.execute("UPDATE projections.checkpoints SET position = 11")
    done = await rebuilding.rebuild(database_url, one, fold_timeout=1.0)
    assert rebuilding.total_differences(done) == 10


# The rules


@pytest.mark.parametrize(
    ("error", "seconds", "expected"),
    [
        (errors.QueryCanceled(), 2.0, True),
        (errors.QueryCanceled(), 1.99, False),
        (HandleTooSlow(), 0.0, True),
        (errors.LockNotAvailable(), 5.0, False),
        (ValueError(), 5.0, False),
    ],
)
def test_only_the_budget_itself_makes_a_fold_too_slow(error: Exception, seconds: float, expected: bool) -> None:
    assert fold_budget.is_too_slow(error, seconds, 2.0) is expected


def test_windows_shrink_fast_when_slow_and_grow_only_while_they_are_quick() -> None:
    def shrunk(positions: int, *, too_slow: bool) -> int:
        size = WindowSize(10_000, 10.0, "SETTING")
        size.shrink(positions, too_slow=too_slow)
        return size.positions

    def grown(positions: int, most: int, *, seconds: float, budget: float) -> int:
        size = WindowSize(most, budget, "SETTING")
        size.positions = positions
        size.succeeded(seconds)
        return size.positions

    assert shrunk(10_000, too_slow=True) == 100
    assert shrunk(10_000, too_slow=False) == 5_000
    assert shrunk(3, too_slow=True) == shrunk(1, too_slow=False) == 1
    assert grown(100, 10_000, seconds=1.0, budget=10.0) == 200
    assert grown(100, 10_000, seconds=2.5, budget=10.0) == 100
    assert grown(100, 150, seconds=0.0, budget=10.0) == 150


def test_windows_of_a_projection_that_is_far_behind_grow_while_they_are_quick() -> None:
    size = WindowSize(200_000, 120.0, "SETTING", usual=10_000)
    seen = []
    for seconds in (0.1, 0.2, 0.4, 0.8, 0.9, 2.0, 5.0, 0.5):
        size.succeeded(seconds)
        seen.append(size.positions)
    assert seen == [20_000, 40_000, 80_000, 160_000, 200_000, 200_000, 100_000, 200_000]
    size.succeeded(0.1, is_at_head=True)
    assert size.positions == 10_000
    size.succeeded(50.0)
    assert size.positions == 10_000


def test_a_batch_size_that_is_set_is_the_most_of_any_window(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (WorkerSettings().batch_size, WorkerSettings().largest_window) == (10_000, 200_000)
    assert WorkerSettings(batch_size=500).largest_window == 500
    monkeypatch.setenv("PROJECTIONS_BATCH_SIZE", "10000")
    assert load_worker_settings().largest_window == 10_000
