"""The progress that long work prints when stderr isn't a terminal."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from projections.cli.shared import progress
from projections.cli.shared.output import counted
from projections.cli.shared.progress import ProgressLines, duration_text, progress_text


@dataclass
class Clock:
    """A clock whose time a test sets."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


def test_a_phase_is_printed_and_then_its_progress_every_few_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ProgressLines("consent_registry")
    lines.phase("folding", position=1_000, target=3_000)
    assert capsys.readouterr().err == "consent_registry: folding 2,000 events\n"
    clock.now += 2
    lines.at(1_500)
    assert capsys.readouterr().err == ""
    clock.now += 3
    lines.at(2_000)
    assert capsys.readouterr().err == "consent_registry: 2,000 of 3,000 events (66%), 200 events/s, about 5 s left\n"
    clock.now += 10
    lines.at(3_000)
    assert capsys.readouterr().err == ""


def test_usually_short_work_is_printed_only_if_it_takes_long(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines("consent_registry", only_long=True)
    lines.phase("searching", target=3_000)
    clock.now += 4
    lines.at(3_000)
    lines.phase("folding", target=1)
    lines.at(1)
    lines.phase("folding", target=200)
    clock.now += 5
    lines.at(100)
    clock.now += 5
    lines.at(150)
    assert capsys.readouterr().err.splitlines() == [
        "consent_registry: folding 200 events",
        "consent_registry: 100 of 200 events (50%), 20 events/s, about 5 s left",
        "consent_registry: 150 of 200 events (75%), 15 events/s, about 3 s left",
    ]


def test_the_rate_is_the_recent_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines("consent_registry")
    lines.phase("folding", target=100_000)
    for step in range(70):
        clock.now += 1
        lines.at(1_000 * (step + 1) if step < 30 else 30_000 + 10 * (step - 29))
    assert "30,400 of 100,000 events (30%), 10 events/s, about 1 h 56 min left" in capsys.readouterr().err


def test_without_a_rate_no_remaining_time_is_printed() -> None:
    assert progress_text(0, 10, None) == "0 of 10 events (0%)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3_599, "59 min 59 s"), (3_600, "1 h 0 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 rows were"), (1, "1 row was"), (1_000, "1,000 rows were")])
def test_counts_have_the_right_noun_form(number: int, text: str) -> None:
    assert counted(number, "row was", "rows were") == text
    assert counted(number, "row") == text.rsplit(maxsplit=1)[0]
