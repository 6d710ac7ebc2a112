"""For any events, in any order and batches, the read models have the rows that the oracle computes.

One test folds each story by itself, so that a failure shrinks to a few events. The other folds hundreds of stories in
one log, and every possible situation must occur in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import cache
from itertools import chain, count, zip_longest
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from eventstore.contracts import Event
from projections.folding.window_size import WindowSize
from projections.migrating.metadata import READ_MODELS
from projections.running.window_step import Step
from projections.running.worker import Worker
from tests import folding, oracle, store, stories
from tests.oracle import Row
from tests.stories import CHAT, PCS, Story

STORIES = 300
"""Enough stories for every situation to occur; tests/unit/test_stories.py checks that."""

_worlds = count(1)
any_story = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
same_stories = settings(
    max_examples=STORIES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


class Engine:
    """An appender, and a worker for each read model."""

    def __init__(self, appender: Appender, conn: AsyncConnection) -> None:
        self.workers: list[tuple[Worker, AsyncConnection]] = []
        self._appender = appender
        self._conn = conn

    async def append_and_fold(self, batches: Iterable[Sequence[Event]], batch_size: int, *, fold_once: bool) -> None:
        """Append the batches; fold after each batch, or once after all of them."""
        for batch in batches:
            await self._appender.append(batch)
            if not fold_once:
                await self._fold(batch_size)
        await self._fold(batch_size)

    async def assert_rows(self, apps: Collection[str], expected: Mapping[str, Sequence[Row]]) -> None:
        """Assert that the rows of these apps equal the oracle's rows of their events."""
        found = await folding.read_model_rows(self._conn, apps)
        for name in oracle.COLUMNS:
            assert found[name] == expected[name], name

    async def _fold(self, batch_size: int) -> None:
        for worker, conn in self.workers:
            worker._window_step._window_size = WindowSize(
                batch_size, folding.SETTINGS.fold_timeout, "PROJECTIONS_FOLD_TIMEOUT"
            )
            assert await folding.fold(worker, conn) is Step.AT_HEAD


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    async with AsyncExitStack() as stack:
        appender = await stack.enter_async_context(store.appender(database_url))
        engine = Engine(appender, await stack.enter_async_context(store.connection(database_url)))
        for projection in READ_MODELS:
            worker = folding.worker(database_url, projection())
            engine.workers.append((worker, await stack.enter_async_context(folding.worker_connection(worker))))
        yield engine


@any_story
@given(story=stories.stories(), batch_size=st.sampled_from((1, 2, 3, 7, 10_000)), fold_once=st.booleans())
async def test_each_story_in_its_own_log(engine: Engine, story: Story, batch_size: int, fold_once: bool) -> None:
    story = story.in_world(next(_worlds))
    batches = ([folding.decode_record(record) for record in batch] for batch in story.delivery)
    await engine.append_and_fold(batches, batch_size, fold_once=fold_once)
    await engine.assert_rows({event.app for event in story.events}, oracle.read_models(story.events))


class Worlds(NamedTuple):
    """Stories in one log: the batches of events, the apps, and the oracle's rows."""

    batches: list[list[Event]]
    apps: set[str]
    rows: dict[str, list[Row]]


@cache  # derandomized stories are the same each time
def draw_worlds(contracts: tuple[str, ...]) -> Worlds:
    """Draw stories of these contracts in which every possible situation occurs, each in a world of its own."""
    drawn: list[Story] = []

    @same_stories
    @given(story=stories.stories(contracts))
    def collect(story: Story) -> None:
        drawn.append(story)

    collect()
    occurred: Counter[stories.Situation] = Counter()
    for story in drawn:
        occurred.update(stories.coverage(story.events, story.delivery))
    assert sorted(stories.possible(contracts) - occurred.keys()) == [], "some situations never occurred"
    stories_of_worlds = [story.in_world(number) for number, story in enumerate(drawn, 1)]
    # The first batch of every story, then the second of every story: an event that is late in its story stays late.
    batches = zip_longest(*(one.delivery for one in stories_of_worlds), fillvalue=())
    events = [event for story in stories_of_worlds for event in story.events]
    decoded = {event.event_id: folding.decode_record(event) for event in events}
    return Worlds(
        [[decoded[event.event_id] for event in chain.from_iterable(batch)] for batch in batches],
        {event.app for event in events},
        oracle.read_models(events),
    )


@pytest.mark.parametrize(
    ("contracts", "batch_size", "fold_once"),
    [
        ((CHAT, PCS), 1000, False),
        ((CHAT, PCS), 37, False),
        ((CHAT, PCS), 10_000, True),
        ((PCS,), 1000, False),
    ],
    ids=["by-batch", "small-windows", "fold-once", "pcs"],
)
async def test_hundreds_of_stories_in_one_log(
    engine: Engine, contracts: tuple[str, ...], batch_size: int, fold_once: bool
) -> None:
    worlds = draw_worlds(contracts)
    await engine.append_and_fold(worlds.batches, batch_size, fold_once=fold_once)
    await engine.assert_rows(worlds.apps, worlds.rows)
