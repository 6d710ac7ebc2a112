"""What the page answers at a glance: whether the read models can be believed, why not, and what to run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from projections.http.verdict import Level, judge, judge_outage
from projections.inspecting.status import AppStatus, ProjectionStatus, Status
from projections.running.folding_sessions import FoldingSession

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FOLDER = (FoldingSession(1, "host", 2, NOW),)
EVENT = "01KE57A22WAXDSJX6FXBCFS5DG"


def projection(name: str = "people", **changed: object) -> ProjectionStatus:
    usual: dict[str, Any] = {
        "name": name,
        "state": "running",
        "version": 1,
        "code_version": 1,
        "position": 10,
        "events_behind": 0,
        "seconds_behind": 0.0,
        "last_error": None,
        "last_error_at": None,
        "retry_at": None,
        "redecoded_at": None,
        "skipped": 0,
        "folded_by": FOLDER,
    }
    return ProjectionStatus(**{**usual, **changed})


def app(**changed: object) -> AppStatus:
    usual: dict[str, Any] = {
        "app": "shop",
        "contract": "chat.external",
        "last_event_id": EVENT,
        "last_received_at": NOW,
        "holes": 0,
        "last_error": None,
        "quarantined": 0,
        "went_back": [],
        "followed_by": "projections ingest shop host:2",
    }
    return AppStatus(**{**usual, **changed})


def status(*things: ProjectionStatus | AppStatus) -> Status:
    apps = [one for one in things if isinstance(one, AppStatus)]
    return Status(10, 0, 0, apps or [app()], [one for one in things if isinstance(one, ProjectionStatus)])


REBUILD = "the code has version 2, its rows are older; run projections rebuild people"
CASES = [
    (status(projection()), Level.GOOD, "The read models are up to date.", []),
    (status(projection(seconds_behind=1.0, events_behind=5)), Level.GOOD, "The read models are up to date.", []),
    (
        status(projection(seconds_behind=40.0, events_behind=5000)),
        Level.LATE,
        "people is catching up.",
        [],
    ),
    (status(projection(state="paused", folded_by=())), Level.LATE, "people is paused.", []),
    (
        status(projection(state="failed", last_error=f"event {EVENT} at position 11: x", events_behind=3)),
        Level.BAD,
        "people has stopped and is out of date.",
        [f"projections skip people --event-id {EVENT} --why REASON"],
    ),
    (
        status(projection(state="failed", last_error="permission denied")),
        Level.BAD,
        "people has stopped.",
        ["projections resume people"],
    ),
    (
        status(projection(state="waiting", last_error=REBUILD, code_version=2)),
        Level.BAD,
        "people can't be believed: it needs a rebuild.",
        ["projections rebuild people"],
    ),
    (
        status(projection(folded_by=()), projection("other")),
        Level.BAD,
        "people has stopped.",
        ["projections run"],
    ),
    (
        status(projection(), app(followed_by=None)),
        Level.BAD,
        "No new events arrive from shop.",
        ["projections run"],
    ),
    (
        status(projection(), app(refused_at=NOW, last_error="UNAUTHENTICATED: bad token")),
        Level.BAD,
        "No new events arrive from shop.",
        [None],
    ),
    (status(projection(), app(last_error="UNAVAILABLE")), Level.LATE, "The stream from shop was interrupted.", [None]),
    (
        status(projection(), app(quarantine_full_since=NOW)),
        Level.LATE,
        "The read models are up to date, but something needs attention.",
        ["projections quarantine list"],
    ),
    (status(), Level.LATE, "No projection is installed.", []),
]


@pytest.mark.parametrize(("found", "level", "sentence", "commands"), CASES, ids=lambda value: str(value)[:40])
def test_the_worst_decides_the_sentence(found: Status, level: Level, sentence: str, commands: list[str | None]) -> None:
    verdict = judge(found)
    assert (verdict.level, verdict.sentence) == (level, sentence)
    assert [one.mending.command for one in verdict.problems] == commands


def test_the_others_are_told_from_those_that_are_concerned() -> None:
    stopped = projection(state="failed", last_error="x")
    assert judge(status(stopped, projection("other"))).detail == "other is up to date."
    assert judge(status(stopped)).detail == "That is every read model."
    late = projection("late", seconds_behind=99.0)
    assert judge(status(stopped, late, projection("other"))).detail == "other is up to date; late is 99 s behind."


def test_a_configured_app_that_was_never_followed_and_a_gap_are_told() -> None:
    assert judge(status(projection()), ["news", "shop"]).sentence == "No new events arrive from news."
    assert "1 gap: the upstream could no longer" in judge(status(projection(), app(holes=1))).detail


def test_damage_of_the_schema_comes_first_with_its_command() -> None:
    verdict = judge(status(projection(state="failed", last_error="x")), damage=["index x; run projections migrate"])
    assert (verdict.level, verdict.sentence) == (Level.BAD, "The database's schema is damaged.")
    assert verdict.problems[0].mending.command == "projections migrate"


def test_an_outage_says_nothing_about_the_read_models() -> None:
    verdict = judge_outage("connection refused", 12.0, seen_before=True)
    assert (verdict.level, verdict.problems[0].sentence) == (Level.UNKNOWN, "Connection refused")
    assert "for 12 s" in verdict.detail
    assert "read before that" in verdict.detail
    assert "below" not in judge_outage("connection refused", None, seen_before=False).detail
