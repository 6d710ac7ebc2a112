"""Workers and streams log each change of state once, however often it is met."""

from __future__ import annotations

from structlog.testing import capture_logs

from eventstore.ingest.stream_log import DIFFERENT_FAILURES, REPEAT_SECONDS, WARN_AGAIN_SECONDS, StreamLog
from projections.running.fold_log import BEHIND_SECONDS, FoldLog


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_worker_that_is_behind_for_long_is_logged_until_it_has_caught_up() -> None:
    clock = Clock()
    one = FoldLog("watched", clock)
    with capture_logs() as logs:
        one.began(5, 5)
        for position in range(5, 10_000):
            one.folded(position, position + 3)
            clock.now += BEHIND_SECONDS / 5_000
        one.folded(10_000, 10_000)
        for position in range(10_000, 20_000):
            one.folded(position, position + 1)
            one.folded(position + 1, position + 1)
            clock.now += BEHIND_SECONDS
    assert [line["event"] for line in logs] == ["folding", "behind", "caught up"]
    assert [line["behind"] for line in logs] == [0, 3, 0]


def test_an_error_of_a_worker_is_logged_once_until_it_folds_again() -> None:
    one = FoldLog("watched")
    with capture_logs() as logs:
        for _ in range(3):
            one.stopped("it fails")
        one.stopped("it fails otherwise")
        one.folded(1, 1)
        one.folded(2, 2)
        one.stopped("it fails")
    assert [line["event"] for line in logs] == ["stopped", "stopped", "folding again", "stopped"]


def test_a_stream_that_fails_and_works_again_and_again_is_logged_once_a_minute() -> None:
    clock = Clock()
    one = StreamLog("shop", "https://host", clock)
    with capture_logs() as logs:
        for _ in range(int(3 * REPEAT_SECONDS)):
            one.works("chat.external")
            one.failed("unavailable", 1)
            clock.now += 1
        one.works("chat.external")
    logged = [line["event"] for line in logs if line["log_level"] != "debug"]
    assert logged == [*["following", "the stream failed"] * 3, "following"]


def test_failures_that_always_differ_are_no_new_states() -> None:
    clock = Clock()
    one = StreamLog("shop", "https://host", clock)
    with capture_logs() as logs:
        for number in range(1_000):
            one.failed(f"unavailable {number}", 1)
            one.silent(65)
            one.clock_behind()
    warnings = [line["event"] for line in logs if line["log_level"] == "warning"]
    assert sorted(warnings) == sorted(
        [
            *["the stream failed"] * DIFFERENT_FAILURES,
            "the stream is silent",
            "this machine's clock is behind the upstream's: set it",
        ]
    )
    clock.now += WARN_AGAIN_SECONDS
    with capture_logs() as again:
        one.silent(65)
    assert len(again) == 1
