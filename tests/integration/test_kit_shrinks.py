"""The kit finds what only one order or cut shows, and prints the smallest case as code that fails when it is pasted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from textwrap import indent
from typing import Any, ClassVar

import pytest
from sqlalchemy import (
    TIMESTAMP,
    Column,
    Date,
    Executable,
    Integer,
    MetaData,
    Table,
    Text,
    cast,
    delete,
    func,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import distinct_on, insert

from eventstore import Event
from projections import EventType, Projection, Window
from projections.read_models.poll_tallies import PollTallies
from projections.testing import ProjectionKit, event
from projections.testing.kit import ExpectedRows

DOCS = Path(__file__).parents[2] / "docs"

metadata = MetaData(schema="public")
deliveries = Table(
    "deliveries_of_days",
    metadata,
    Column("app", Text, primary_key=True),
    Column("send_request_id", Text, primary_key=True),
    Column("ppnum", Text, primary_key=True),
    Column("day", Date, nullable=False),
    Column("event_id", Text(collation="C"), nullable=False),
)
daily_costs = Table(
    "daily_costs",
    metadata,
    Column("app", Text, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("messages", Integer, nullable=False),
)
MONDAY, TUESDAY = (datetime(2026, 1, day, 12, 30, tzinfo=UTC) for day in (5, 6))


class DailyCosts(Projection):
    """Counts deliveries by day, and forgets the day that a delivery was counted on before."""

    name: ClassVar[str] = "daily_costs"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({EventType.RECIPIENT_DELIVERED})
    tables: ClassVar[tuple[Table, ...]] = (deliveries, daily_costs)
    partition_by: ClassVar[tuple[str, ...]] = ("app",)

    def fold(self, window: Window) -> Sequence[Executable]:
        e = window.events
        key = (e.c.app, e.c.send_request_id, e.c.ppnum)
        day = cast(func.timezone("UTC", e.c.occurred_at), Date)
        latest = (
            select(*key, day, e.c.event_id)
            .ext(distinct_on(*key))
            .where(e.c.send_request_id != "", e.c.ppnum != "")
            .order_by(*key, e.c.event_id.desc())
        )
        rows = insert(deliveries).from_select(["app", "send_request_id", "ppnum", "day", "event_id"], latest)
        seen = select(e.c.app, day)
        counted = (
            select(deliveries.c.app, deliveries.c.day, func.count())
            .where(tuple_(deliveries.c.app, deliveries.c.day).in_(seen))
            .group_by(deliveries.c.app, deliveries.c.day)
        )
        return [
            rows.on_conflict_do_update(
                index_elements=["app", "send_request_id", "ppnum"],
                set_={"day": rows.excluded.day, "event_id": rows.excluded.event_id},
                where=deliveries.c.event_id < rows.excluded.event_id,
            ),
            delete(daily_costs).where(tuple_(daily_costs.c.app, daily_costs.c.day).in_(seen)),
            insert(daily_costs).from_select(["app", "day", "messages"], counted),
        ]


class InsertsOnce(DailyCosts):
    """Fails when a window is folded again."""

    name: ClassVar[str] = "inserts_once"
    tables: ClassVar[tuple[Table, ...]] = (deliveries,)

    def fold(self, window: Window) -> Sequence[Executable]:
        e = window.events
        one = select(e.c.app, e.c.send_request_id, e.c.ppnum, func.date("2026-01-05"), e.c.event_id)
        return [insert(deliveries).from_select(["app", "send_request_id", "ppnum", "day", "event_id"], one)]


SHRUNK = """daily_costs depends on order, window size or repetition:

from datetime import UTC, datetime

events = [
    event(1),
    event(1, occurred_at=datetime(2026, 1, 6, tzinfo=UTC)),
]
await kit.given(events, batch_size=1, twice=False)
# daily_costs then:
#     {'app': 'app', 'day': datetime.date(2026, 1, 1), 'messages': 1}
#     {'app': 'app', 'day': datetime.date(2026, 1, 6), 'messages': 1}
# daily_costs of the same events in one window:
#     {'app': 'app', 'day': datetime.date(2026, 1, 6), 'messages': 1}"""


def delivered(ppnum: str, at: datetime, request: str = "request") -> Event:
    return event(
        EventType.RECIPIENT_DELIVERED, ppnum=ppnum, occurred_at=at, message_id="message", send_request_id=request
    )


async def paste(kit: ProjectionKit, message: str) -> None:
    """Run the code in the kit's message, as if it were pasted into a test."""
    code = message.partition("\n\n")[2]
    names: dict[str, Any] = {"event": event}
    exec(f"async def pasted(kit):\n{indent(code, '    ')}\n", names)  # noqa: S102 - what the kit printed
    await names["pasted"](kit)


@pytest.mark.oldest
@pytest.mark.parametrize("others", [0, 2, 20])
async def test_a_group_that_keeps_a_row_which_moved_away_is_found_and_shrunk(database_url: str, others: int) -> None:
    elsewhere = [delivered(f"417900{number:02}", TUESDAY, request=f"request {number}") for number in range(others)]
    moving = [delivered("41791", MONDAY), *elsewhere, delivered("41791", TUESDAY)]
    async with ProjectionKit(database_url, DailyCosts()) as kit:
        with pytest.raises(AssertionError) as caught:
            await kit.assert_same_for_every_order(moving)
        assert str(caught.value) == SHRUNK
        await paste(kit, str(caught.value))
        assert [(row["day"], row["messages"]) for row in await kit.rows("daily_costs")] == [
            (date(2026, 1, 1), 1),
            (date(2026, 1, 6), 1),
        ]
        await kit.given(moving, twice=True)
        assert [(row["day"], row["messages"]) for row in await kit.rows(daily_costs)] == [(TUESDAY.date(), others + 1)]


def test_the_page_on_projections_shows_this_failure() -> None:
    code = SHRUNK.partition("\n\n")[2]
    assert f"```py\n{code}\n```" in (DOCS / "writing-a-projection.md").read_text()


@pytest.mark.oldest
async def test_an_error_that_depends_on_repetition_is_shrunk_too(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    events = [delivered(f"4179{number}", MONDAY) for number in range(6)]
    async with ProjectionKit(database_url, InsertsOnce()) as kit:
        with pytest.raises(AssertionError, match="the fold can fail, depending on order") as caught:
            await kit.assert_same_for_every_order(events)
        *code, why = str(caught.value).partition("\n\n")[2].splitlines()
        assert code == ["events = [", "    event(1),", "]", "await kit.given(events)"]
        assert why.startswith("# the fold fails: duplicate key value violates unique constraint ")
        assert [record for record in caplog.records if record.name.startswith("psycopg")] == []
        with pytest.raises(Exception, match="duplicate key"):
            await paste(kit, str(caught.value))
        # The kit can still be used.
        await kit.given(events, twice=False)
        assert len(await kit.rows(deliveries)) == 6


async def test_random_stories_find_it_and_their_seed_repeats_it(database_url: str) -> None:
    async with ProjectionKit(database_url, DailyCosts()) as kit:
        with pytest.raises(AssertionError, match="daily_costs depends on order") as caught:
            await kit.hold_for_random_events(100, seed=1)
        (note,) = caught.value.__notes__
        seed = int(note.partition("has seed ")[2].partition(":")[0])
        assert f"hold_for_random_events(1, seed={seed})" in note
        with pytest.raises(AssertionError) as again:
            await kit.hold_for_random_events(1, seed=seed)
        assert str(again.value) == str(caught.value)
        await paste(kit, str(caught.value))
    async with ProjectionKit(database_url, PollTallies()) as kit:
        await kit.hold_for_random_events(10)


async def test_random_stories_are_compared_with_expected_rows(database_url: str) -> None:
    def one_row_each(events: Sequence[Event]) -> ExpectedRows:
        known = [one for one in events if one.event_type == EventType.RECIPIENT_DELIVERED]
        rows = [
            {"app": one.app, "send_request_id": one.send_request_id, "ppnum": one.ppnum}
            for one in known
            if one.ppnum and one.send_request_id
        ]
        return {"deliveries_of_days": [row for place, row in enumerate(rows) if wrong or row not in rows[:place]]}

    class OnlyRows(DailyCosts):
        def fold(self, window: Window) -> Sequence[Executable]:
            return super().fold(window)[:1]

    async with ProjectionKit(database_url, OnlyRows()) as kit:
        wrong = False
        await kit.hold_for_random_events(20, one_row_each, seed=7)
        wrong = True
        with pytest.raises(AssertionError, match=r"deliveries_of_days \(in one window\): ") as caught:
            await kit.hold_for_random_events(100, one_row_each, seed=7)
        # Two deliveries of one message are enough.
        assert str(caught.value).endswith(
            "events = [\n    event(1),\n    event(1),\n]\nawait kit.given(events, twice=False)"
        )


async def test_an_unknown_table_is_named(database_url: str) -> None:
    async with ProjectionKit(database_url, DailyCosts()) as kit:
        with pytest.raises(
            ValueError, match="'costs' is not a table of daily_costs; its tables: deliveries_of_days, da"
        ):
            await kit.rows("costs")


@pytest.mark.oldest
async def test_a_fold_that_uses_when_events_were_received_is_found(database_url: str) -> None:
    seen = Table(
        "seen",
        MetaData(schema="public"),
        Column("app", Text, primary_key=True),
        Column("received_at", TIMESTAMP(timezone=True), nullable=False),
    )

    class Seen(Projection):
        name, version, partition_by, tables = "seen", 1, ("app",), (seen,)
        handles: ClassVar[frozenset[int]] = frozenset({EventType.RECIPIENT_DELIVERED})

        def fold(self, window: Window) -> Sequence[Executable]:
            e = window.events
            new = insert(seen).from_select(
                ["app", "received_at"], select(e.c.app, func.max(e.c.received_at)).group_by(e.c.app)
            )
            greatest = func.greatest(seen.c.received_at, new.excluded.received_at)
            return [new.on_conflict_do_update(index_elements=["app"], set_={"received_at": greatest})]

    async with ProjectionKit(database_url, Seen()) as kit:
        with pytest.raises(AssertionError, match="seen depends on order, window size or repetition"):
            await kit.assert_same_for_every_order([event(EventType.RECIPIENT_DELIVERED, app="a") for _ in range(2)])
