"""For any events, order, batches and windows: live rows, rebuilt rows, verified rows and the oracle's are equal.

Each story is a log of its own, in a database of its own: a part of it comes before a rebuild, and the rest while it is
folding, comparing and applying. The rows may have been damaged before, and a rebuild ended at a position, or cut off
before any of its messages to Postgres, as a process is that was killed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection, sql

from eventstore.errors import LockLost
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection
from tests import folding, oracle, rebuilding, store, stories
from tests.databases import Server
from tests.fault.proxy import PostgresProxy, target_of, through
from tests.rebuilding import ANY_REMOVAL, During, Interrupted, Interrupting, rebuild, verify
from tests.stories import Story

WINDOWS = (1, 2, 3, 7, 1000)


async def are_right(conn: AsyncConnection, projection: Projection) -> None:
    """Check that the projection's tables equal what the oracle expects of the events up to its checkpoint."""
    log = await folding.stored_records(conn)
    expected = oracle.read_models(log[: await folding.position(conn, projection.name)])
    found = await folding.read_model_rows(conn)
    for table in projection.tables:
        assert found[table.name] == expected[table.name], table.name


async def damage(conn: AsyncConnection, projection: Projection, kind: str) -> None:
    for table in projection.tables:
        name = sql.Identifier(table.name)
        if kind == rebuilding.MISSING:
            await conn.execute(sql.SQL("DELETE FROM public.{}").format(name))
        elif await folding.count_rows(conn, table.name):
            await rebuilding.damage(conn, table, kind, 0.5)


async def killed(url: str, number: int, projection: Projection, **how: Any) -> None:  # noqa: ANN401 - passed on
    """Run a rebuild whose n-th and later messages don't reach Postgres, and wait for the end of its sessions."""
    async with PostgresProxy(*target_of(url), before=lambda said, _: said < number) as proxy:
        with suppress(psycopg.Error, OSError, LockLost):
            await rebuild(through(url, proxy.port), projection, **how)
    async with store.connection(url, "looking") as conn:

        async def are_gone() -> bool:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
            return await store.value(conn, query, conn.info.backend_pid) == 1  # the test's own other session

        await store.wait_until(are_gone, "the end of its sessions")


@dataclass(frozen=True)
class Play:
    """How the events of a story are replayed.

    Attributes:
        projection: who folds it.
        cuts: how many batches come before the rebuild, before it compares, and before it applies.
        window: positions in the rebuild's windows.
        batch_size: positions in the worker's.
        rest: events that may be left to fold under the checkpoint's lock.
        damage: what happens to the rows first; None for nothing.
        interrupted_at: the position at which a first rebuild ends; None for no such rebuild.
        killed_at: the message to Postgres before which another one is killed, while events come; None for no such one.

    """

    projection: Projection
    cuts: list[int]
    window: int
    batch_size: int
    rest: int
    damage: str | None
    interrupted_at: int | None
    killed_at: int | None


plays = st.builds(
    Play,
    projection=st.sampled_from([one() for one in READ_MODELS]),
    cuts=st.lists(st.integers(0, 40), min_size=3, max_size=3).map(sorted),
    window=st.sampled_from(WINDOWS),
    batch_size=st.sampled_from(WINDOWS),
    rest=st.sampled_from((0, 3, 1000)),
    damage=st.sampled_from((None, *rebuilding.DAMAGES)),
    interrupted_at=st.sampled_from((None, 1, 5)),
    killed_at=st.sampled_from((*range(1, 201), *[None] * 50)),  # a short rebuild sends about two hundred messages
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=stories.stories(), play=plays)
async def test_live_rebuilt_verified_and_expected_rows_are_equal(postgres: Server, story: Story, play: Play) -> None:
    projection, delivery = play.projection, story.delivery
    with postgres.database() as url:

        async def take(begin: int, end: int | None) -> None:
            async with store.connection(url) as own:
                for batch in delivery[begin:end]:
                    await folding.append(own, *batch)
            await folding.fold_all(url, [type(projection)], batch_size=play.batch_size)

        first, second, third = play.cuts
        how: dict[str, Any] = {"window": play.window, "rest": play.rest}
        is_resumed = play.interrupted_at is not None or play.killed_at is not None

        def meanwhile() -> During:
            return During(
                folding=lambda: take(first, second),
                comparing=lambda: take(second, third),
                applying_the_difference=lambda: take(third, None),
            )

        await take(0, first)
        async with store.connection(url, "looking") as conn:
            if play.damage is not None:
                await damage(conn, projection, play.damage)
            if play.interrupted_at is not None:
                with suppress(Interrupted):
                    interrupting = Interrupting(play.interrupted_at)
                    await rebuild(url, projection, progress=interrupting, window=play.window, dry_run=True)
            limits = ANY_REMOVAL
            if play.killed_at is not None:
                await killed(url, play.killed_at, projection, progress=meanwhile(), limits=limits, **how)
                if play.damage is None:
                    await are_right(conn, projection)
            await rebuild(url, projection, progress=meanwhile(), limits=limits, resume=is_resumed, **how)
            await are_right(conn, projection)
            await take(0, None)  # what no phase took, and everything once more
            await are_right(conn, projection)
            found = await verify(url, projection, **how)
            assert found.equal
            assert found.position == len(story.events)
            again = await rebuild(url, projection, **how)
            assert rebuilding.total_differences(again) == 0
