"""Only time with an open stream and without new events counts as idle."""

from __future__ import annotations

import pytest

from eventstore.ingest.address import Address
from eventstore.ingest.context import IngestContext
from eventstore.ingest.credentials import FixedToken
from eventstore.ingest.follower import Follower
from eventstore.ingest.idle_clock import IdleClock
from eventstore.ingest.upstream import Upstream
from eventstore.waits import Waits


class StandInFollower(Follower):
    """A follower whose ``is_quiet`` a test sets."""

    def __init__(self) -> None:
        super().__init__(
            IngestContext("", Waits()), Upstream("app", Address.parse("http://localhost"), FixedToken("t"))
        )
        self.quiet = True

    @property
    def is_quiet(self) -> bool:
        return self.quiet


@pytest.fixture
def standing() -> StandInFollower:
    """A follower with an open stream."""
    return StandInFollower()


def test_the_time_of_a_quiet_stream_adds_up(standing: StandInFollower) -> None:
    clock = IdleClock(standing)
    for _ in range(4):
        clock.tick(0.25)
    assert clock.seconds == 1


def test_a_new_event_starts_the_count_over(standing: StandInFollower) -> None:
    clock = IdleClock(standing)
    clock.tick(5)
    standing.stored += 1
    clock.tick(0.25)
    assert clock.seconds == 0
    clock.tick(0.25)
    assert clock.seconds == 0.25


def test_duplicates_and_quarantined_messages_do_not_start_the_count_over(standing: StandInFollower) -> None:
    clock = IdleClock(standing)
    clock.tick(1)
    standing.duplicates += 100
    standing.quarantined += 100
    clock.tick(1)
    assert clock.seconds == 2


def test_time_that_is_not_quiet_is_left_out_and_does_not_start_the_count_over(standing: StandInFollower) -> None:
    clock = IdleClock(standing)
    clock.tick(1)
    standing.quiet = False
    clock.tick(100)
    standing.quiet = True
    clock.tick(1)
    assert clock.seconds == 2


def test_events_stored_before_the_clock_started_are_not_new(standing: StandInFollower) -> None:
    standing.stored = 7
    clock = IdleClock(standing)
    clock.tick(1)
    assert clock.seconds == 1
