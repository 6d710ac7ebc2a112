"""The test kit finds folds that break the rules, and neither reads nor changes the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import psycopg
import pytest
from sqlalchemy import Column, Executable, Integer, MetaData, Table, Text, func, select
from sqlalchemy.dialects.postgresql import Insert, insert

from eventstore import ulid
from projections import database
from projections.errors import InvalidProjection
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import upgrade
from projections.projection import Projection, Window
from projections.read_models.poll_tallies import PollTallies, poll_responses, poll_tallies
from projections.testing import Order, ProjectionKit, event
from tests import folding, store
from tests.databases import Server
from tests.queries import fetch_all

sums = Table(
    "sums",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True),
    Column("events", Integer),
    Column("last", Text(collation="C")),
)


class Bad(Projection):
    name: ClassVar[str] = "bad"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({1})
    tables: ClassVar[tuple[Table, ...]] = (sums,)
    partition_by: ClassVar[tuple[str, ...]] = ("app",)

    def fold(self, window: Window) -> Sequence[Executable]:
        e = window.events
        new = insert(sums).from_select(
            ["app", "events", "last"], select(e.c.app, func.count(), func.max(e.c.event_id)).group_by(e.c.app)
        )
        return [new.on_conflict_do_update(index_elements=["app"], set_=self.changes(new))]

    def changes(self, new: Insert) -> dict[str, Any]:
        raise NotImplementedError


class SumsDeltas(Bad):
    def changes(self, new: Insert) -> dict[str, Any]:
        return {"events": sums.c.events + new.excluded.events, "last": func.greatest(sums.c.last, new.excluded.last)}


class LastToArriveWins(Bad):
    def changes(self, new: Insert) -> dict[str, Any]:
        return {"last": new.excluded.last, "events": 0}


class CountsWindows(Bad):
    """Is correct only if all events are folded once, in one window."""

    def changes(self, new: Insert) -> dict[str, Any]:
        return {"events": new.excluded.events}


@pytest.mark.oldest
@pytest.mark.parametrize("projection", [SumsDeltas(), LastToArriveWins(), CountsWindows()])
async def test_a_fold_that_depends_on_order_fails_the_assertion(database_url: str, projection: Projection) -> None:
    async with ProjectionKit(database_url, projection) as kit:
        with pytest.raises(AssertionError, match="sums depends on order, window size or repetition"):
            await kit.assert_same_for_every_order([event(), event(), event()])


@pytest.mark.oldest
@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [{"option": "a", "responses": 2}],
        [{"option": "b", "responses": 1}],
        [{"option": "a", "responses": 1}, {"option": "b"}],
        [{"option": "a", "responses": 1}, {"option": "a", "responses": 1}],
        [{"option": "a", "colour": "red"}],
    ],
)
async def test_unexpected_rows_are_shown(database_url: str, wrong: list[dict[str, object]]) -> None:
    poll = {"app": "app", "send_request_id": "request", "poll_id": "poll"}
    async with ProjectionKit(database_url, PollTallies()) as kit:
        events = [event(7, poll_id="poll", poll_options=["a"])]
        await kit.assert_same_for_every_order(events, {poll_tallies: [{**poll, "option": "a", "responses": 1}]})
        with pytest.raises(AssertionError, match=r"poll_tallies \(order='given', .*'responses': 1"):
            await kit.assert_same_for_every_order(events, {poll_tallies: [{**poll, **row} for row in wrong]})


@pytest.mark.oldest
async def test_the_built_in_read_models_are_the_same_for_every_order(database_url: str) -> None:
    events = [event(number, poll_id="poll", poll_options=[f"{number}"]) for number in (7, 1, 4, 6, 2, 5, 8, 3, 7)]
    for model in READ_MODELS:
        async with ProjectionKit(database_url, model()) as kit:
            await kit.assert_same_for_every_order(events)


@pytest.mark.parametrize(
    ("order", "arrived"), [("given", "abc"), ("reversed", "cba"), ([1, 2, 0], "bca"), ((0, 2, 1), "acb")]
)
async def test_events_arrive_in_the_given_order(database_url: str, order: Order, arrived: str) -> None:
    events = [event(send_request_id=name) for name in "abc"]
    async with ProjectionKit(database_url, PollTallies()) as kit:
        await kit.given([*events, events[0]._replace(send_request_id="again")], order=order)
        query = f"SELECT send_request_id FROM {kit._session.schemas['eventstore']}.events ORDER BY position"  # noqa: S608
        rows = await fetch_all(kit._session.conn, query.encode())
    assert "".join(row[0] for row in rows) == arrived


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [0, 1, 3], [0, 1, 2, 3], []])
async def test_an_invalid_order_is_refused(database_url: str, order: list[int]) -> None:
    async with ProjectionKit(database_url, PollTallies()) as kit:
        with pytest.raises(ValueError, match="each of the 3 events once"):
            await kit.given([event(), event(), event()], order=order)


async def test_shuffles_differ_by_their_seed_and_repeat(database_url: str) -> None:
    async with ProjectionKit(database_url, LastToArriveWins()) as kit:
        events = [event() for _ in range(20)]
        last = []
        for seed in (1, 2, 3, 1):
            await kit.given(events, order="shuffled", seed=seed, batch_size=1, twice=False)
            last.append((await kit.rows(sums))[0]["last"])
    assert last[0] == last[3]
    assert len(set(last)) > 1


@pytest.mark.oldest
async def test_the_database_is_neither_read_nor_changed(database_url: str) -> None:
    vote = event(7, app="live", poll_id="poll", poll_options=["live"])
    with psycopg.connect(database_url) as look:
        async with store.appender(database_url) as appender:
            await appender.append([vote])
            await folding.fold_all(database_url)
            async with ProjectionKit(database_url, PollTallies()) as kit:
                await kit.given([event(7)])
                assert [row["app"] for row in await kit.rows(poll_responses)] == ["app"]
                # The kit blocks neither an append nor a fold.
                await appender.append([event(7, app="live", ppnum="2")])
                await folding.fold_all(database_url)
        assert look.execute("SELECT DISTINCT app FROM poll_responses").fetchall() == [("live",)]
        assert look.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'kit%'").fetchone() == (0,)


async def test_a_database_that_is_not_migrated_is_enough(empty_database_url: str) -> None:
    async with ProjectionKit(empty_database_url, PollTallies()) as kit:
        await kit.given([event(7)])
        assert len(await kit.rows(poll_responses)) == 1


async def test_without_a_url_the_database_of_the_environment_is_used(
    postgres: Server, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert postgres
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    assert database.given_database_url() == empty_database_url
    async with ProjectionKit(None, PollTallies()) as kit:
        assert kit._session.conn.info.dbname == empty_database_url.rpartition("/")[2]


async def test_an_invalid_projection_is_refused(database_url: str) -> None:
    projection: Projection = type("Nameless", (SumsDeltas,), {"name": None})()
    with pytest.raises(InvalidProjection, match="must define name"):
        async with ProjectionKit(database_url, projection):
            pass


async def test_a_migration_is_not_blocked_by_the_kit(database_url: str) -> None:
    async with ProjectionKit(database_url, PollTallies()):
        upgrade(database_url)


def test_an_event_has_a_default_for_every_field() -> None:
    first, second = event(), event(6)
    assert first.event_id < second.event_id
    assert first.occurred_at == ulid.time_of(first.event_id)
    assert (first.ppnum, second.ppnum) == ("12300000001", None)
    with pytest.raises(ValueError, match="give an upper-case ULID"):
        event(event_id="01")
