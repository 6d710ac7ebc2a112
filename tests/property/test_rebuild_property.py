"""For any events, order, batches and windows: live rows, rebuilt rows, verified rows and the oracle's are equal.

Each story is the log of its own database. Some batches are folded before a rebuild, and the rest while it folds,
compares and applies. Before it, rows may be damaged, and earlier rebuilds may be interrupted at a position, or cut off
from Postgres before any message, like a killed process.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection, sql

from eventstore.errors import LockLost
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection
from projections.rebuilding import shadow_run, table_ranges
from projections.running.window_step import Step
from tests import folding, oracle, rebuilding, store, stories
from tests.databases import Server
from tests.fault.cut_connection import ended_before_cut
from tests.rebuilding import ANY_REMOVAL, During, Interrupted, Interrupting, rebuild, verify
from tests.stories import Story

WINDOWS = (1, 2, 3, 7, 1000)


async def assert_rows_equal_oracle(conn: AsyncConnection, projection: Projection) -> None:
    """Assert that the projection's tables equal the oracle's rows of the events up to its checkpoint."""
    log = await folding.stored_records(conn)
    expected = oracle.read_models(log[: await folding.position(conn, projection.name)])
    found = await folding.read_model_rows(conn, names=[table.name for table in projection.tables])
    for table in projection.tables:
        assert found[table.name] == expected[table.name], table.name


async def damage(conn: AsyncConnection, projection: Projection, kind: str) -> None:
    for table in projection.tables:
        name = sql.Identifier(table.name)
        if kind == rebuilding.MISSING:
            await conn.execute(sql.SQL("DELETE FROM public.{}").format(name))
        elif await folding.count_rows(conn, table.name):
            await rebuilding.damage(conn, table, kind, 0.5)


async def run_killed_rebuild(url: str, number: int, projection: Projection, **how: Any) -> None:  # noqa: ANN401 - passed on
    """Run a rebuild whose n-th and later messages do not reach Postgres, and wait for the end of its sessions."""
    await ended_before_cut(url, number, lambda cut: rebuild(cut, projection, **how), LockLost)


@dataclass(frozen=True)
class Replay:
    """How the events of a story are replayed.

    Attributes:
        projection: the projection that folds it.
        cuts: how many batches are folded before the rebuild, before it compares, and before it applies.
        window: positions in a window of the rebuild.
        batch_size: positions in a window of the worker.
        slice: events in a slice; a log of less than two slices is folded window by window.
        range_bytes: how much of a table is compared in one transaction, about.
        jobs: sessions that fold slices.
        rest: events that may be left to fold under the checkpoint's lock.
        damage: the damage to the rows before the rebuild; None for no damage.
        interrupted_at: the position at which an earlier rebuild is interrupted; None for no such rebuild.
        killed_at: the message to Postgres before which another earlier rebuild is killed; None for no such rebuild.

    """

    projection: Projection
    cuts: list[int]
    window: int
    batch_size: int
    slice: int
    range_bytes: int
    jobs: int
    rest: int
    damage: str | None
    interrupted_at: int | None
    killed_at: int | None


replays = st.builds(
    Replay,
    projection=st.sampled_from([one() for one in READ_MODELS]),
    cuts=st.lists(st.integers(0, 40), min_size=3, max_size=3).map(sorted),
    window=st.sampled_from(WINDOWS),
    batch_size=st.sampled_from(WINDOWS),
    slice=st.sampled_from((1, 4, 9, 250_000)),
    range_bytes=st.sampled_from((1000, 4000, 8_000_000)),
    jobs=st.sampled_from((1, 2)),
    rest=st.sampled_from((0, 3, 1000)),
    damage=st.sampled_from((None, *rebuilding.DAMAGES)),
    interrupted_at=st.sampled_from((None, 1, 5)),
    killed_at=st.sampled_from((*range(1, 201), *[None] * 50)),  # a rebuild by slices sends up to some 160 messages
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=stories.stories(), replay=replays)
async def test_live_rebuilt_verified_and_expected_rows_are_equal(
    postgres: Server, story: Story, replay: Replay
) -> None:
    projection, delivery = replay.projection, story.delivery
    with postgres.database() as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_ranges, "RANGE_BYTES", replay.range_bytes)
        patch.setattr(shadow_run, "FIRST_RANGES", 1)

        async def append_and_fold(begin: int, end: int | None) -> None:
            # One append: the log shows the order of the events, but not their batches.
            records = [*chain.from_iterable(delivery[begin:end])]
            if begin and not records:
                return  # nothing to append, and what was appended before is folded
            worker = folding.worker(url, projection, batch_size=replay.batch_size)
            async with folding.worker_connection(worker) as own:
                await folding.append(own, *records)
                assert await folding.fold(worker, own) is Step.AT_HEAD

        first, second, third = replay.cuts
        how: dict[str, Any] = {
            "window": replay.window,
            "rest": replay.rest,
            "slice": replay.slice,
            "jobs": replay.jobs,
        }
        is_resumed = replay.interrupted_at is not None or replay.killed_at is not None

        def meanwhile() -> During:
            return During(
                folding=lambda: append_and_fold(first, second),
                comparing=lambda: append_and_fold(second, third),
                applying_the_difference=lambda: append_and_fold(third, None),
            )

        await append_and_fold(0, first)
        async with store.connection(url, "observer") as conn:
            if replay.damage is not None:
                await damage(conn, projection, replay.damage)
            if replay.interrupted_at is not None:
                with suppress(Interrupted):
                    interrupting = Interrupting(replay.interrupted_at)
                    await rebuild(url, projection, progress=interrupting, dry_run=True, **how)
            limits = ANY_REMOVAL
            if replay.killed_at is not None:
                await run_killed_rebuild(url, replay.killed_at, projection, progress=meanwhile(), limits=limits, **how)
                if replay.damage is None:
                    await assert_rows_equal_oracle(conn, projection)
            await rebuild(url, projection, progress=meanwhile(), limits=limits, resume=is_resumed, **how)
            await assert_rows_equal_oracle(conn, projection)
            await append_and_fold(0, None)  # the batches that no phase appended, and all others again
            await assert_rows_equal_oracle(conn, projection)
            found = await verify(url, projection, **how)
            assert found.equal
            assert found.position == len(story.events)
            again = await rebuild(url, projection, **how)
            assert rebuilding.total_differences(again) == 0
