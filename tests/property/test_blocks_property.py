"""Projections made of building blocks have the rows that a plain Python fold computes, for any events, orders and cuts.

The events are few of each kind, so that rows often move between groups, and their times are around days that a zone
begins late, repeats in part or skips.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import ulid
from eventstore.contracts import Event
from projections.testing import ProjectionKit, event
from tests.block_examples import EXAMPLES, Example

TIMES = [
    datetime(2026, 3, 28, 23, 0, tzinfo=UTC),  # midnight before an hour is skipped in Zurich
    datetime(2026, 3, 29, 21, 59, 59, 999999, tzinfo=UTC),
    datetime(2026, 3, 29, 22, 0, tzinfo=UTC),
    datetime(2026, 10, 24, 22, 0, tzinfo=UTC),  # midnight before an hour is repeated
    datetime(2026, 10, 25, 22, 59, 59, tzinfo=UTC),
    datetime(2026, 10, 25, 23, 0, tzinfo=UTC),
    datetime(2011, 12, 30, 9, 59, 59, tzinfo=UTC),  # in Samoa, the 29th is followed by the 31st
    datetime(2011, 12, 30, 10, 0, tzinfo=UTC),
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 30, tzinfo=UTC),
]
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Case(NamedTuple):
    """Events, and how they arrive."""

    events: list[Event]
    order: list[int]
    batch_size: int | None
    twice: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    types = draw(st.sampled_from([(1, 2, 3, 4, 5, 6, 7, 8), (1, 2), (7, 8), (1, 4, 5)]))
    drawn: st.SearchStrategy[dict[str, Any]] = st.builds(
        dict,
        event_type=st.sampled_from(types),
        app=st.sampled_from(("a", "a", "b")),
        send_request_id=st.sampled_from(("r", "r", "s", "", None)),
        ppnum=st.sampled_from(("4179", "4179", "4978", "", None)),
        error_code=st.sampled_from((None, "blocked", "expired")),
        total_recipients=st.sampled_from((None, 0, 1, 2, 2_000_000_000)),
        poll_options=st.one_of(st.none(), st.lists(st.sampled_from(("yes", "no", "")), max_size=20)),
        occurred_at=st.sampled_from(TIMES),
    )
    fields = draw(st.lists(drawn, min_size=1, max_size=12))
    events = [
        event(**{**one, "event_id": ulid.first_ulid_at(_BEGIN + timedelta(seconds=number))})._replace(
            ppnum=one["ppnum"]
        )
        for number, one in enumerate(fields)
    ]
    order = draw(st.permutations(range(len(events))))
    return Case(events, list(order), draw(st.sampled_from((None, 1, 2, 3))), draw(st.booleans()))


@pytest.fixture(params=EXAMPLES, ids=[one.projection.name for one in EXAMPLES])
def example(request: pytest.FixtureRequest) -> Example:
    found: Example = request.param
    return found


@pytest.fixture
async def kit(database_url: str, example: Example) -> AsyncIterator[ProjectionKit]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(ProjectionKit(database_url, example.projection()))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(case=cases())
async def test_blocks_equal_a_plain_fold(kit: ProjectionKit, example: Example, case: Case) -> None:
    await kit.given(case.events, order=case.order, batch_size=case.batch_size, twice=case.twice)
    for table, expected in example.fold(case.events).items():
        key = [column.name for column in table.primary_key.columns]
        found = {tuple(row[name] for name in key): row for row in await kit.rows(table)}
        assert found == {tuple(row[name] for name in key): row for row in expected}, table.name
