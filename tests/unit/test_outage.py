"""While the database is unavailable: a warning at the beginning, one a minute after that, and a line at the end."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
import structlog
from structlog.testing import capture_logs

from eventstore.postgres.outage import LogReport, Outage, retry_while_unavailable

LOST = psycopg.OperationalError("connection refused")


class Clock:
    """A clock whose time a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def outage(clock: Callable[[], float] = lambda: 0.0) -> Outage:
    return Outage(LogReport(structlog.get_logger("test"), app="shop"), cap=5.0, clock=clock)


def test_the_beginning_is_a_warning_and_the_attempts_after_it_are_not() -> None:
    one = outage()
    with capture_logs() as lines:
        for _ in range(3):
            one.failed(LOST)
    assert [line["log_level"] for line in lines] == ["warning", "debug", "debug"]
    assert {line["event"] for line in lines} == {"database unavailable"}
    assert all(line["app"] == "shop" and line["error"] == "connection refused" for line in lines)


def test_it_is_reported_again_once_a_minute_while_it_lasts() -> None:
    clock = Clock()
    one = outage(clock)
    with capture_logs() as lines:
        for clock.now in (0.0, 59.0, 60.0, 61.0, 119.0, 120.0):
            one.failed(LOST)
    assert [line["log_level"] for line in lines] == ["warning", "debug", "warning", "debug", "debug", "warning"]
    assert lines[-1]["since_seconds"] == 120


def test_the_end_is_reported_once_and_the_next_outage_is_reported_again() -> None:
    clock = Clock()
    one = outage(clock)
    with capture_logs() as lines:
        one.ended()
        assert not lines, "there was no outage"
        for _ in range(10):
            wait = one.failed(LOST)
        ongoing = [one.is_ongoing]
        assert wait >= 2.5
        clock.now = 7.0
        one.ended()
        one.ended()
        ongoing.append(one.is_ongoing)
        assert one.failed(LOST) <= 0.1
    assert ongoing == [True, False]
    assert [line["event"] for line in lines if line["log_level"] != "debug"] == [
        "database unavailable",
        "database available again",
        "database unavailable",
    ]
    assert lines[10]["after_seconds"] == 7.0


def test_a_server_that_takes_no_writes_is_reported_as_such() -> None:
    with capture_logs() as lines:
        outage().failed(psycopg.errors.ReadOnlySqlTransaction("cannot execute UPDATE in a read-only transaction"))
    assert lines[0]["event"] == "database takes no writes"


async def test_an_attempt_is_repeated_until_it_succeeds_and_then_the_outage_is_over() -> None:
    failures = [LOST, psycopg.OperationalError("starting up")]
    one = Outage(LogReport(structlog.get_logger("test")), cap=0.001)

    async def attempt() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    with capture_logs() as lines:
        assert await retry_while_unavailable(one, attempt, (psycopg.OperationalError,)) == "done"
    assert [line["event"] for line in lines] == [*["database unavailable"] * 2, "database available again"]
    assert not one.is_ongoing


async def test_an_error_that_is_not_named_ends_the_attempts() -> None:
    attempts = []

    async def attempt() -> None:
        attempts.append(1)
        raise psycopg.errors.UndefinedTable("no such table")

    one = outage()
    with pytest.raises(psycopg.errors.UndefinedTable):
        await retry_while_unavailable(one, attempt, (psycopg.OperationalError, OSError))
    assert len(attempts) == 1
    assert not one.is_ongoing
