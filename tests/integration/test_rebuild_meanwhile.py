"""A rebuild while events are appended and folded, and while other sessions lock rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection
from projections.read_models.poll_tallies import PollTallies
from projections.running.window_step import Step
from tests import folding, oracle, store
from tests.folding import (
    append,
    checkpoint_row,
    new_record,
    worker,
    worker_connection,
)
from tests.oracle import Record
from tests.rebuilding import (
    ANY_REMOVAL,
    During,
    RecordedProgress,
    damage_all,
    rebuild,
    recorded_runs,
    sample_records,
    total_differences,
    verify,
)


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_watched_table(conn)
        yield conn


# Live folds during a rebuild


async def append_answer(url: str, *options: str, ppnum: str = "12300009999") -> None:
    """Append an answer to a poll without other answers, and fold it."""
    async with store.connection(url) as own:
        await append(own, new_record(oracle.POLL_RESPONSE, ppnum, request="a poll", options=options))
    await folding.fold_all(url, [PollTallies])


async def wait_for_two_releases(progress: RecordedProgress) -> None:
    async def has_two() -> bool:
        return len(progress.notes) >= 2

    await store.wait_until(has_two, "two released locks")


@pytest.mark.folded
@pytest.mark.parametrize("rest", [0, 1000])
@pytest.mark.parametrize("first", ["folding", "comparing"])
async def test_a_row_that_appears_and_disappears_during_a_rebuild(
    database_url: str, conn: AsyncConnection, first: str, rest: int
) -> None:
    await damage_all(conn, PollTallies)

    async def chosen() -> None:
        await append_answer(database_url, "briefly", "to the end")

    async def deserted() -> None:
        await append_answer(database_url, "to the end")
        await append_answer(database_url, "more briefly")
        await append_answer(database_url, "to the end", ppnum="12300009998")
        await append_answer(database_url, "to the end")

    progress = During(**{first: chosen, "applying_the_difference": deserted})
    done = await rebuild(database_url, PollTallies(), progress=progress, limits=ANY_REMOVAL, rest=rest)
    assert progress.is_done
    assert done.position == (await checkpoint_row(conn, "poll_tallies")).position
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.folded
@pytest.mark.parametrize("projection", READ_MODELS)
async def test_events_folded_between_any_two_steps_end_up_in_the_rows(
    database_url: str, conn: AsyncConnection, projection: type[Projection]
) -> None:
    await damage_all(conn, projection)

    async def more() -> None:
        """Append events for existing rows and for new rows."""
        async with store.connection(database_url) as own:
            await append(own, *sample_records(14)[::-1])
        await folding.fold_all(database_url, [projection], batch_size=50)

    progress = During(folding=more, comparing=more, applying_the_difference=more)
    await rebuild(database_url, projection(), progress=progress, limits=ANY_REMOVAL)
    assert progress.is_done
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.folded
async def test_a_rebuild_waits_for_a_running_fold_and_retries_if_it_takes_long(
    database_url: str, conn: AsyncConnection
) -> None:
    await damage_all(conn, PollTallies)
    one, progress = worker(database_url, PollTallies()), RecordedProgress()
    async with worker_connection(one) as own, store.connection(database_url, "holder") as holder:
        async with holder.transaction():
            # The worker has locked the checkpoint and can't write; readers aren't blocked.
            await holder.execute("LOCK TABLE public.poll_responses IN SHARE MODE")
            await append(conn, *sample_records(5))
            step = asyncio.create_task(one.step(own))
            await store.wait_until_blocked(conn, own.info.backend_pid)
            rebuilding_ = asyncio.create_task(
                rebuild(database_url, PollTallies(), progress=progress, limits=ANY_REMOVAL)
            )

            await wait_for_two_releases(progress)
        assert await step is Step.AT_HEAD
        await rebuilding_
    assert set(progress.notes) == {"poll_tallies: another session has locked the checkpoint or a row; trying again"}
    assert (await recorded_runs(conn, "poll_tallies"))[-1].state == "done"
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.folded
async def test_the_checkpoint_is_released_while_waiting_for_locked_rows(
    database_url: str, conn: AsyncConnection
) -> None:
    await damage_all(conn, PollTallies)
    progress = RecordedProgress()
    async with store.connection(database_url, "holder") as holder:
        async with holder.transaction():
            await holder.execute("SELECT FROM public.poll_responses FOR UPDATE")
            task = asyncio.create_task(
                rebuild(database_url, PollTallies(), progress=progress, limits=ANY_REMOVAL, lock_timeout=0.05)
            )

            await wait_for_two_releases(progress)
        await task
    await folding.assert_rows_match_oracle(conn)


class AppendsOnRelease(RecordedProgress):
    """Appends an event when a rebuild releases its locks, and records whether it is folded before the next attempt."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.fresh: list[bool] = []

    def note(self, line: str) -> None:
        super().note(line)
        with ThreadPoolExecutor(1) as other:  # in another event loop, because this one is blocked
            other.submit(lambda: asyncio.run(folding.append_in_new_session(self._url, new_record()))).result()

    def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
        super().phase(name, position=position, target=target)
        if name == "applying the difference" and self.notes:
            with psycopg.connect(self._url) as session:
                row = session.execute(
                    "SELECT position = (SELECT max(position) FROM eventstore.events) FROM projections.checkpoints"
                    " WHERE name = 'poll_tallies'"
                ).fetchone()
            self.fresh.append(bool(row and row[0]))


@pytest.mark.folded
async def test_workers_catch_up_between_two_attempts(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.rebuilding.rebuild.CATCH_UP_SECONDS", 60)
    await damage_all(conn, PollTallies)
    progress = AppendsOnRelease(database_url)
    async with (
        folding.running_workers(database_url, worker(database_url, PollTallies())),
        store.connection(database_url, "holder") as holder,
    ):
        async with holder.transaction():
            await holder.execute("SELECT FROM public.poll_responses FOR UPDATE")
            task = asyncio.create_task(
                rebuild(database_url, PollTallies(), progress=progress, limits=ANY_REMOVAL, lock_timeout=0.05)
            )

            async def has_three() -> bool:
                return len(progress.fresh) >= 3

            await store.wait_until(has_three, "three more attempts")
        await task
    assert set(progress.fresh) == {True}


@pytest.mark.folded
@pytest.mark.parametrize("work", ["rebuild", "dry run", "verify"])
async def test_a_rebuild_retries_while_a_table_is_locked(database_url: str, conn: AsyncConnection, work: str) -> None:
    await damage_all(conn, PollTallies)
    progress = RecordedProgress()
    async with store.connection(database_url, "holder") as holder:
        async with holder.transaction():
            await holder.execute("LOCK TABLE public.poll_responses")
            if work == "verify":
                waiting: asyncio.Task[Any] = asyncio.create_task(
                    verify(database_url, PollTallies(), progress=progress, lock_timeout=0.05)
                )
            else:
                waiting = asyncio.create_task(
                    rebuild(
                        database_url,
                        PollTallies(),
                        progress=progress,
                        limits=ANY_REMOVAL,
                        dry_run=work == "dry run",
                        lock_timeout=0.05,
                    )
                )

            await wait_for_two_releases(progress)
        assert total_differences(await waiting) > 0
    assert set(progress.notes) == {"poll_tallies: another session has locked a table; trying again"}


# Live rows without events that the shadow has


async def append_without_folding(url: str, *records: Record) -> None:
    """Append events and move the checkpoint past them without folding, which a rebuild must repair."""
    async with store.connection(url) as own:
        await append(own, *records)
        await own.execute(
            "UPDATE projections.checkpoints SET position = (SELECT max(position) FROM eventstore.events)"
            " WHERE name = 'poll_tallies'"
        )


Action = Callable[[], Coroutine[Any, Any, object]]
ANSWERS = {"a new row": ("another poll", "yes"), "a row less": ("a poll", "no")}


def answer_record(which: str) -> Record:
    """Return an answer to a new poll, or another answer of the same person."""
    request, option = ANSWERS[which]
    return new_record(oracle.POLL_RESPONSE, "12300009999", request=request, options=(option,))


@pytest.mark.folded
@pytest.mark.parametrize("which", ANSWERS)
@pytest.mark.parametrize("rest", [0, 1000])
async def test_events_missing_in_the_rows_after_the_shadow_was_folded(
    database_url: str, conn: AsyncConnection, which: str, rest: int
) -> None:
    await append_answer(database_url, "yes")
    progress = During(comparing=lambda: append_without_folding(database_url, answer_record(which)))
    assert total_differences(await rebuild(database_url, PollTallies(), progress=progress, rest=rest)) > 0
    assert progress.is_done
    assert (await verify(database_url, PollTallies())).equal
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)


class DuringNarrowing(During):
    """Runs one more action while events that were appended during the comparison are folded."""

    def __init__(self, last: Action, **acts: Action) -> None:
        super().__init__(**acts)
        self._last: Action | None = last

    def at(self, position: int) -> None:
        super().at(position)
        if "comparing" in self.phases and self._last is not None:
            last, self._last = self._last, None
            with ThreadPoolExecutor(1) as other:
                other.submit(lambda: asyncio.run(last())).result()


@pytest.mark.folded
@pytest.mark.parametrize("which", ANSWERS)
async def test_events_missing_in_the_rows_after_the_difference_was_narrowed(
    database_url: str, conn: AsyncConnection, which: str
) -> None:
    await append_answer(database_url, "yes")
    two = [new_record(oracle.POLL_RESPONSE, ppnum, request="a third poll") for ppnum in ("12300000001", "12300000002")]
    progress = DuringNarrowing(
        lambda: append_without_folding(database_url, answer_record(which)),
        comparing=lambda: append_without_folding(database_url, *two),
    )
    done = await rebuild(database_url, PollTallies(), progress=progress, rest=1)
    assert done.position == progress.positions[-1] + 1
    assert (await verify(database_url, PollTallies())).equal
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)
