"""Back-off: doubled, with jitter, capped, at least as long as the other side requests, and reset after a success."""

from __future__ import annotations

import pytest

from eventstore.backoff import Backoff


def intervals(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next() for _ in range(count)]


@pytest.mark.parametrize(
    ("jitter", "expected"),
    [
        (0.0, [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]),
        (0.5, [0.375, 0.75, 1.5, 3.0, 6.0, 7.5, 7.5]),
        (1.0, [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]),
    ],
)
def test_each_wait_doubles_up_to_the_cap_and_jitter_takes_up_to_half(jitter: float, expected: list[float]) -> None:
    assert intervals(Backoff(0.5, 10, lambda: jitter), 7) == expected


def test_the_first_wait_is_never_above_the_cap() -> None:
    assert intervals(Backoff(8, 3, lambda: 1.0), 2) == [3, 3]


def test_a_lower_cap_applies_to_one_wait_and_the_doubling_continues() -> None:
    backoff = Backoff(1, 60, lambda: 1.0)
    assert [backoff.next(cap=2) for _ in range(4)] == [1, 2, 2, 2]
    assert backoff.next() == 16


def test_a_higher_cap_for_one_wait_has_no_effect() -> None:
    assert [Backoff(100, 10, lambda: 1.0).next(cap=50)] == [10]


@pytest.mark.parametrize(("asked", "expected"), [(0.0, 1.0), (0.9, 1.0), (1.1, 1.1), (3600.0, 3600.0)])
def test_the_requested_wait_is_respected_even_above_the_cap(asked: float, expected: float) -> None:
    assert Backoff(1, 10, lambda: 1.0).next(at_least=asked) == expected


def test_a_reset_starts_with_the_shortest_wait() -> None:
    backoff = Backoff(1, 60, lambda: 1.0)
    assert intervals(backoff, 3) == [1, 2, 4]
    backoff.reset()
    assert intervals(backoff, 2) == [1, 2]


def test_thousands_of_attempts_do_not_overflow() -> None:
    backoff = Backoff(0.5, 60, lambda: 1.0)
    assert intervals(backoff, 5_000)[-1] == 60


def test_the_default_jitter_stays_within_the_upper_half() -> None:
    waits = [Backoff(4, 60).next() for _ in range(200)]
    assert all(2 <= wait <= 4 for wait in waits)
    assert len(set(waits)) > 100
