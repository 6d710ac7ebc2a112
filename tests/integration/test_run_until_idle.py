"""``run --until-idle``: when workers and ingest are both done, and what ends the run earlier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from psycopg import AsyncConnection

from eventstore.ingest.follow_apps import Outcome
from projections.migrating.metadata import READ_MODELS
from projections.running import checkpoint, control
from projections.running import supervisor as running
from projections.running.supervisor import RunOutcome
from projections.running.worker import Worker
from tests import folding, store
from tests.folding import DIVIDES_BY_ZERO, NEVER, NewerWatched, Watched, append, new_record, worker


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_watched_table(conn)
        yield conn


async def run(url: str, workers: Sequence[Worker], until_idle: float | None = 0.0) -> RunOutcome:
    context = folding.run_context(url)
    return await running.run_projections(context, workers, [], stop=asyncio.Event(), until_idle=until_idle)


async def test_the_run_ends_at_the_head_even_if_it_was_not_there_at_the_first_poll(
    database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, *(new_record() for _ in range(3)))
    async with store.connection(database_url, "holder") as holder, asyncio.TaskGroup() as group:
        await checkpoint.create_if_missing(conn, "watched", 1)
        async with holder.transaction():
            await holder.execute("SELECT FROM projections.checkpoints FOR UPDATE")
            ending = group.create_task(run(database_url, [worker(database_url, Watched())]))
            looking = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'projections run' AND query <> ''"

            async def has_polled() -> object:
                return await store.value(conn, looking)

            await store.wait_until(has_polled, "the first poll of the checkpoints")
            assert not ending.done()
        assert await ending == RunOutcome(None)
    assert await folding.position(conn, "watched") == 3


async def test_a_connection_lost_while_it_polls_does_not_end_the_run(database_url: str, conn: AsyncConnection) -> None:
    async with store.connection(database_url, "holder") as holder, asyncio.TaskGroup() as group:
        await append(conn, new_record())
        await checkpoint.create_if_missing(conn, "watched", 1)
        async with holder.transaction():
            await holder.execute("SELECT FROM projections.checkpoints FOR UPDATE")
            ending = group.create_task(run(database_url, [worker(database_url, Watched())]))
            for _ in range(3):

                async def cut() -> object:
                    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = %s"
                    return await store.value(conn, ended, "projections run")

                await store.wait_until(cut, "a poll of the checkpoints")
        assert await ending == RunOutcome(None)


async def test_stopped_projections_are_named(database_url: str, conn: AsyncConnection) -> None:
    await folding.fold_all(database_url)
    await append(conn, new_record(ppnum=DIVIDES_BY_ZERO))
    await control.pause(conn, "poll_tallies")
    one = worker(database_url, Watched(), retry_first=NEVER, retry_cap=NEVER)
    others = [worker(database_url, projection()) for projection in READ_MODELS]
    outcome = await run(database_url, [one, *others], 0.1)
    assert outcome.ingest is None
    assert outcome.stopped.keys() == {"watched", "poll_tallies"}
    assert outcome.stopped["poll_tallies"] == "paused"
    assert outcome.stopped["watched"].startswith("failed: event ")


async def test_a_projection_that_newer_code_folds_too_does_not_count_as_stopped(
    database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, new_record())
    await folding.fold_all(database_url, [Watched])
    async with folding.worker_connection(newer := worker(database_url, NewerWatched())) as own:
        one = worker(database_url, Watched())
        running = asyncio.create_task(run(database_url, [one], 0.1))
        while not running.done():
            await newer.step(own)
            await asyncio.sleep(0.005)
        assert (await running).stopped == {}


@pytest.mark.parametrize("at_head", [True, False])
async def test_rows_of_another_version_are_named(database_url: str, conn: AsyncConnection, at_head: bool) -> None:
    """Even at the head, and also if they are newer than this code."""
    await append(conn, new_record())
    await folding.fold_all(database_url, [Watched])
    if not at_head:
        await append(conn, new_record())
    older = await run(database_url, [worker(database_url, NewerWatched())])
    assert older.stopped == {
        "watched": "waiting: the code has version 2, its rows are older; run projections rebuild watched"
    }
    await conn.execute("UPDATE projections.checkpoints SET version = 2, state = 'running'")
    newer = await run(database_url, [worker(database_url, Watched())])
    assert newer.stopped == {"watched": "its rows have version 2, this code has version 1: upgrade this process"}


async def test_a_programming_error_in_ingest_ends_the_run(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(conn, new_record())

    async def broken(*_: object, **__: object) -> Outcome:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(running, "follow", broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        await run(database_url, [worker(database_url, Watched())], None)


async def test_a_programming_error_in_a_worker_ends_the_run(database_url: str, conn: AsyncConnection) -> None:
    await conn.execute("DROP TABLE projections.skips")
    with pytest.raises(Exception, match="skips"):
        await run(database_url, [worker(database_url, Watched())], None)
