"""Which cases the kit folds, and how it shrinks one that fails; no database decides that."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from projections.testing import event
from projections.testing.case_code import code_of_case
from projections.testing.case_shrinking import shrink
from projections.testing.fold_cases import (
    MAX_CASES,
    MAX_FOLDED_EVENTS,
    MAX_WINDOWS,
    MIN_CASES,
    FoldCase,
    arrange,
    cases_of,
    one_window,
)

PARTITION = ("app", "send_request_id")


def by_number(case: FoldCase, events: list[object]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(events.index(one) for one in window) for window in case.windows)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_few_events_are_folded_in_every_order_with_every_cut_once(count: int) -> None:
    events = [event() for _ in range(count)]
    cases = list(cases_of(events, PARTITION, seed=1))
    orders = list(itertools.permutations(range(count)))
    once = [by_number(case, [*events]) for case in cases if not case.twice]
    assert {tuple(itertools.chain(*windows)) for windows in once} == set(orders)
    assert len(once) == len(set(once)) == len(orders) * 2 ** max(count - 1, 0)
    assert {tuple(case.events) for case in cases if case.twice} == set(itertools.permutations(events))


@pytest.mark.parametrize("count", [5, 12])
def test_more_events_are_folded_in_the_cases_that_break_wrong_folds(count: int) -> None:
    events = [event(send_request_id=f"request {number % 3}") for number in range(count)]
    given = list(range(count))
    once = {by_number(case, [*events]) for case in cases_of(events, PARTITION, seed=1) if not case.twice}
    singles = {tuple((number,) for number in order) for order in (given, given[::-1])}
    cuts = {(tuple(given[:place]), tuple(given[place:])) for place in range(1, count)}
    first = {((number,), tuple(other for other in given if other != number)) for number in given}
    last = {(others, alone) for alone, others in first}
    assert singles | cuts | first | last <= once
    orders = {tuple(itertools.chain(*windows)) for windows in once}
    for distance in (1, 3):  # neighbours, and neighbours in a partition
        for place in range(count - distance):
            swapped = [*given]
            swapped[place], swapped[place + distance] = swapped[place + distance], swapped[place]
            assert tuple(swapped) in orders
    assert any(case.twice for case in cases_of(events, PARTITION, seed=1))


def test_the_sample_is_bounded_and_depends_on_its_seed_alone() -> None:
    few, many = ([event() for _ in range(count)] for count in (200, 2_000))
    for events in (few, many):
        cases = list(cases_of(events, PARTITION, seed=1))
        assert len(cases) <= max(min(MAX_CASES, MAX_FOLDED_EVENTS // len(events)), MIN_CASES)
        assert all(len(case.windows) <= MAX_WINDOWS for case in cases)
        assert all(len({id(one) for one in case.events}) == len(events) for case in cases)
    assert list(cases_of(few, PARTITION, seed=1)) == list(cases_of(few, PARTITION, seed=1))
    assert list(cases_of(few, PARTITION, seed=1)) != list(cases_of(few, PARTITION, seed=2))


async def test_shrinking_keeps_what_the_failure_needs_and_nothing_else() -> None:
    at = datetime(2026, 3, 1, 14, 33, 12, tzinfo=UTC)
    events = [
        event(number % 8 + 1, ppnum=f"4179{number}", error_code="x", payload=b"1", occurred_at=at)
        for number in range(40)
    ]
    tries = 0

    async def still_fails(case: FoldCase) -> bool:
        """A fold for which a failure that arrives before a delivery in the afternoon, in another window, is wrong."""
        nonlocal tries
        tries += 1
        failed = False
        for window in case.windows:
            if failed and any(one.event_type == 1 and one.occurred_at.hour >= 14 for one in window):
                return True
            failed = failed or any(one.event_type == 2 and one.error_code == "x" for one in window)
        return False

    case = arrange(events[::-1], [3] * 13, twice=True)
    assert await still_fails(case)
    smallest = await shrink(case, still_fails)
    assert await still_fails(smallest)
    assert code_of_case(smallest).splitlines() == [
        "from datetime import UTC, datetime",
        "",
        "events = [",
        "    event(1, occurred_at=datetime(2026, 3, 1, 14, tzinfo=UTC)),",
        "    event(2, error_code='x'),",
        "]",
        'await kit.given(events, order="reversed", batch_size=1, twice=False)',
    ]
    assert tries < 200


def test_code_says_what_arrives_in_which_order_and_windows() -> None:
    first, second, third = event(), event(6), event(1, poll_options=["it's"])._replace(ppnum=None)
    code = code_of_case(arrange([third, first, second], [1, 2], twice=True))
    assert code.splitlines() == [
        "events = [",
        "    event(1),",
        "    event(6),",
        '    event(1, poll_options=["it\'s"])._replace(ppnum=None),',
        "]",
        "await kit.given(events, order=[2, 0, 1], batch_size=[1, 2])",
    ]
    assert code_of_case(one_window([second, first])).endswith("await kit.given(events, twice=False)")
    stored = first._replace(event_id="01KE000000000000000000000A")
    assert "event(1, event_id='01KE000000000000000000000A', occurred_at=" in code_of_case(one_window([stored, second]))
