"""Answers at a glance whether the read models can be believed, why not if not, and what to run.

It decides; it reads nothing. What is wrong comes from :mod:`projections.inspecting.health`; this module weighs it. From
the worst to the best:

- the database can't be read: nothing is known;
- rows are wrong until a rebuild, because the code, the decoder or the log changed under them;
- folding has stopped: the rows were right, and are out of date;
- the log doesn't grow, because an app is not followed or is refused: the rows match a log that may lack events;
- something is late, and mends itself or was meant (catching up, a stream that is retried, a pause);
- all is well.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from projections.inspecting.finding import Finding
from projections.inspecting.health import find_app_problems, find_projection_problems, find_schema_problems
from projections.inspecting.status import NEW, AppStatus, ProjectionStatus, Status
from projections.running.checkpoint import ProjectionState

LATE_SECONDS = 10.0
"""A read model that is less behind is up to date."""


class Level(StrEnum):
    """How well it is."""

    GOOD = "good"
    LATE = "late"
    BAD = "bad"
    UNKNOWN = "unknown"


class Mending(NamedTuple):
    """What mends a problem: a command, or None if none does, and what to know before it."""

    hint: str | None = None
    command: str | None = None


_NOTHING = Mending()
_FIND_OUT = Mending("To find out why:", "projections doctor")


@dataclass(frozen=True, slots=True)
class ShownProblem:
    """What is wrong, and what mends it."""

    sentence: str
    mending: Mending = _NOTHING


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, in one sentence and a few more."""

    level: Level
    sentence: str
    detail: str
    problems: tuple[ShownProblem, ...] = ()


def judge(status: Status, configured: Collection[str] = (), damage: Sequence[str] = ()) -> Verdict:
    """Return whether the read models can be believed.

    Args:
        status: apps and projections; its counts over the log are not used.
        configured: apps that should be followed, besides those that were followed before.
        damage: a sentence for each part of the schema that was changed or lost.

    """
    found = [
        *find_schema_problems(damage),
        *find_projection_problems(status.projections, status.head),
        *find_app_problems(status.apps, configured),
    ]
    problems = tuple(ShownProblem(_capital(one.finding.sentence), _mending(one.finding)) for one in found)
    level, sentence, detail = _weigh(status, configured, damaged=bool(damage))
    if problems and level is Level.GOOD:
        level, sentence = Level.LATE, "The read models are up to date, but something needs attention."
    return Verdict(level, sentence, detail, problems)


def judge_outage(error: str, seconds: float | None, *, seen_before: bool) -> Verdict:
    """Return the verdict while the database can't be read."""
    since = "" if seconds is None else f" for {seconds:,.0f} s"
    numbers = " The numbers below were read before that." if seen_before else ""
    detail = f"The database has not answered{since}, so nothing is known about the read models.{numbers}"
    return Verdict(Level.UNKNOWN, "The database is unavailable.", detail, (ShownProblem(_capital(error), _FIND_OUT),))


def mend_projection(one: ProjectionStatus, head: int) -> Mending:
    """Return what mends a projection; nothing if it is well, or if nothing here does."""
    for problem in find_projection_problems([one], head):
        return _mending(problem.finding)
    return Mending(None, f"projections resume {one.name}" if one.state == ProjectionState.PAUSED else None)


def mend_app(app: AppStatus) -> Mending:
    """Return what mends an app's stream; nothing if it is well."""
    for problem in find_app_problems([app]):
        return _mending(problem.finding)
    return _NOTHING


def is_wrong(one: ProjectionStatus) -> bool:
    """Return whether the rows are wrong until a rebuild, as opposed to out of date."""
    return one.state == ProjectionState.WAITING or one.needs_rebuild


def level_of_projection(one: ProjectionStatus) -> Level:
    """Return how well one projection is."""
    if is_wrong(one) or _is_stopped(one) or (one.problem is not None and not one.folded_by):
        return Level.BAD
    is_late = one.state == ProjectionState.PAUSED or one.seconds_behind > LATE_SECONDS
    return Level.LATE if is_late else Level.GOOD


def level_of_app(app: AppStatus) -> Level:
    """Return how well one app's stream is."""
    if app.refused_at is not None or app.followed_by is None:
        return Level.BAD
    return Level.LATE if app.last_error else Level.GOOD


def _is_stopped(one: ProjectionStatus) -> bool:
    if one.state == ProjectionState.FAILED:
        return True
    return one.state in (ProjectionState.RUNNING, NEW) and not one.folded_by


def _weigh(status: Status, configured: Collection[str], *, damaged: bool) -> tuple[Level, str, str]:
    wrong = [one.name for one in status.projections if is_wrong(one)]
    bad = [one for one in status.projections if level_of_projection(one) is Level.BAD and one.name not in wrong]
    known = {app.app for app in status.apps}
    silent = [app.app for app in status.apps if level_of_app(app) is Level.BAD]
    silent += sorted({*configured} - known)
    others = _describe_others(status, {*wrong, *(one.name for one in bad)})
    if damaged:
        return Level.BAD, "The database's schema is damaged.", "Repair it before you rely on any read model."
    if wrong:
        verb = "it needs" if len(wrong) == 1 else "they need"
        return Level.BAD, f"{_join(wrong)} can't be believed: {verb} a rebuild.", others
    if bad:
        behind = sum(one.events_behind for one in bad)
        verb = "has" if len(bad) == 1 else "have"
        if all(one.state == NEW for one in bad):
            return Level.BAD, f"{_join([one.name for one in bad])} {verb} not run yet.", others
        state = "is out of date" if len(bad) == 1 else "are out of date"
        tail = f" and {state}" if behind else ""
        return Level.BAD, f"{_join([one.name for one in bad])} {verb} stopped{tail}.", others
    if silent:
        detail = "The read models match the log, but the log may lack what happened since."
        return Level.BAD, f"No new events arrive from {_join(silent)}.", detail
    return _weigh_late(status)


def _weigh_late(status: Status) -> tuple[Level, str, str]:
    late = [
        one for one in status.projections if one.state != ProjectionState.PAUSED and one.seconds_behind > LATE_SECONDS
    ]
    paused = [one.name for one in status.projections if one.state == ProjectionState.PAUSED]
    failing = [app.app for app in status.apps if level_of_app(app) is Level.LATE]
    if late:
        each = ", ".join(f"{one.name} {one.events_behind:,} events ({one.seconds_behind:,.0f} s)" for one in late)
        return Level.LATE, f"{_join([one.name for one in late])} {_is_or_are(late)} catching up.", f"Behind: {each}."
    if failing:
        detail = "The stream is tried again by itself. Until then the log may lack the latest events."
        return Level.LATE, f"The stream from {_join(failing)} was interrupted.", detail
    if paused:
        return (
            Level.LATE,
            f"{_join(paused)} {_is_or_are(paused)} paused.",
            "Somebody paused it; its rows stay as they are.",
        )
    if not status.projections:
        return Level.LATE, "No projection is installed.", "There is no read model to believe."
    detail = f"All {len(status.projections)} have folded every event of the log." + _describe_gaps(status)
    return Level.GOOD, "The read models are up to date.", detail


def _describe_gaps(status: Status) -> str:
    gaps = sum(app.holes for app in status.apps)
    if not gaps:
        return ""
    noun = "gap" if gaps == 1 else "gaps"
    return f" {gaps:,} {noun}: the upstream could no longer replay these events, so they are missing for good."


def _describe_others(status: Status, concerned: Collection[str]) -> str:
    others = [one for one in status.projections if one.name not in concerned]
    if not others:
        return "That is every read model."
    well = [one.name for one in others if level_of_projection(one) is Level.GOOD]
    parts = [f"{_join(well)} {_is_or_are(well)} up to date"] if well else []
    for one in others:
        if one.name not in well:
            state = "paused" if one.state == ProjectionState.PAUSED else f"{one.seconds_behind:,.0f} s behind"
            parts.append(f"{one.name} is {state}")
    return f"{'; '.join(parts)}."


def _mending(finding: Finding) -> Mending:
    if finding.advice is None:
        return Mending(None, finding.command)
    return Mending(f"{_capital(finding.advice)}{'.' if finding.command is None else ':'}", finding.command)


def _capital(sentence: str) -> str:
    """Return a sentence with a capital, unless it begins with a name that has an underscore."""
    first = sentence.partition(" ")[0]
    return sentence if "_" in first or first.endswith(":") else sentence[:1].upper() + sentence[1:]


def _join(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) <= 3 else f"{len(names)} read models"


def _is_or_are(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"
