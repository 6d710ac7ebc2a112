"""Finds what needs attention in a status: a sentence for ``projections status --check``, and the finding for doctor.

It decides; it reads nothing: :mod:`projections.inspecting.read_status` does. Whether one process is ready is decided in
:mod:`projections.http.readiness`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from projections.inspecting.finding import Finding, split_remedy
from projections.inspecting.status import NEW, AppStatus, ProjectionStatus, Status
from projections.running.checkpoint import ProjectionState

RUN = "projections run"
_EVENT = re.compile(r"event (?P<event_id>[0-7][0-9A-HJKMNP-TV-Z]{25}) at position ")
_MISSING = re.compile(r"positions \d+\.\.\d+ missing")


class FoundProblem(NamedTuple):
    """Something that needs attention: the sentence that ``status --check`` prints, and the same as a finding."""

    text: str
    finding: Finding


def find_problems(status: Status, configured: Collection[str] = (), max_behind: float | None = None) -> list[str]:
    """Return a sentence for each problem; an empty list if there is none.

    Args:
        status: the status.
        configured: apps that should be followed, besides those that were followed before.
        max_behind: how many seconds a projection may be behind; None for any.

    """
    found = [
        *find_schema_problems(status.schema),
        *find_app_problems(status.apps, configured),
        *find_projection_problems(status.projections, status.head, max_behind),
    ]
    if status.ledger is not None:
        return [*(problem.text for problem in found), status.ledger]
    return [problem.text for problem in found]


def find_schema_problems(schema: Iterable[str]) -> Iterator[FoundProblem]:
    """Yield the problems of a schema, given the sentence for each part that was changed or lost."""
    for sentence in schema:
        what, command = split_remedy(sentence)
        finding = Finding("schema_damaged", what, command)
        yield FoundProblem(f"the schema is damaged: {sentence}", finding)


def find_app_problems(apps: Iterable[AppStatus], configured: Collection[str] = ()) -> Iterator[FoundProblem]:
    """Yield the problems of the apps that were followed before, and of those that should be followed."""
    known = {app.app: app for app in apps}
    for name in sorted({*known, *configured}):
        yield from _find_app_problems(name, known.get(name))


def find_projection_problems(
    projections: Iterable[ProjectionStatus], head: int, max_behind: float | None = None
) -> Iterator[FoundProblem]:
    """Yield the problems of projections, and of those that are further behind than ``max_behind`` seconds."""
    for one in projections:
        yield from _find_projection_problems(one, head)
        if max_behind is not None and one.seconds_behind > max_behind:
            text = (
                f"{one.name} is {one.seconds_behind:.0f} s behind ({one.events_behind:,} events); the limit is"
                f" {max_behind:g} s"
            )
            yield FoundProblem(text, Finding("projection_behind", text, "projections status"))


def _find_app_problems(name: str, app: AppStatus | None) -> Iterator[FoundProblem]:
    if app is not None and app.refused_at is not None:
        why = (app.last_error or "no reason was recorded").removeprefix(f"app {name!r}: ")
        if _is_refused(app):
            text = f"app {name!r} is refused since {format_utc(app.refused_at)}: {why}"
            advice = "correct its credentials or its configuration; it is tried again by itself"
            yield FoundProblem(text, Finding("app_refused", text, advice=advice))
        else:
            text = f"app {name!r} was refused at {format_utc(app.refused_at)} and nobody follows it: {why}"
            advice = "correct its credentials or its configuration, and start"
            yield FoundProblem(text, Finding("app_refused", text, RUN, advice))
    elif app is None or app.followed_by is None:
        last = f"its last error: {app.last_error}" if app is not None and app.last_error else ""
        text = f"nobody follows app {name!r}: start {RUN}" + (f"; {last}" if last else "")
        sentence = f"nobody follows app {name!r}" + (f" ({last})" if last else "")
        yield FoundProblem(text, Finding("app_not_followed", sentence, RUN))
    elif app.last_error:
        text = f"the stream of app {name!r} fails: {app.last_error}"
        yield FoundProblem(
            text, Finding("app_failing", text, advice="mend what the error names; it is tried again by itself")
        )
    if app is not None and app.quarantine_full_since is not None:
        text = (
            f"the quarantine of app {name!r} is full since {format_utc(app.quarantine_full_since)}:"
            f" {app.quarantined_not_kept:,} messages were counted but not kept"
        )
        yield FoundProblem(text, Finding("quarantine_full", text, "projections quarantine list"))


def _is_refused(app: AppStatus) -> bool:
    """Return whether the upstream refuses an app and a process keeps trying; without a process, nobody follows it."""
    if app.refused_at is None or not app.last_error:
        return False
    return app.followed_by is not None or (app.retry_at is not None and app.retry_at > datetime.now(UTC))


def format_utc(moment: datetime | None) -> str:
    """Return a time as messages have it."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if moment is not None else "an unknown time"


def _find_projection_problems(one: ProjectionStatus, head: int) -> Iterator[FoundProblem]:
    if one.code_version is None and one.folded_by:
        return  # another installation has this projection, and folds it
    if one.state in (ProjectionState.FAILED, ProjectionState.WAITING):
        text = f"{one.name} is {one.state}: {one.last_error or 'no error was recorded'}"
        yield FoundProblem(text, _stopped(one, text, head))
    elif one.problem is not None:
        text = f"{one.name}: {one.problem}"
        yield FoundProblem(text, _unusable(one, text, head))
    elif one.state == NEW:
        text = f"{one.name} has not run yet"
        yield FoundProblem(f"{text}: start {RUN}", Finding("projection_new", text, RUN))
    elif one.state == ProjectionState.RUNNING and not one.folded_by:
        text = f"nobody folds {one.name}"
        yield FoundProblem(f"{text}: start {RUN}", Finding("projection_not_folded", text, RUN))


def _stopped(one: ProjectionStatus, text: str, head: int) -> Finding:
    """Return the finding of a projection that is failed or waiting."""
    sentence, command = split_remedy(text)
    if one.state == ProjectionState.WAITING:
        code = _code_of_stale_rows(one, head)
        return Finding(code or "projection_waiting", sentence, command or f"projections rebuild {one.name}")
    if _MISSING.search(text):
        return Finding("projection_failed", sentence, "projections import events FILE", "import an export of this log")
    if (event := _EVENT.search(text)) is not None:
        skip = f"projections skip {one.name} --event-id {event['event_id']} --why REASON"
        return Finding(
            "projection_failed",
            sentence,
            skip,
            f"mend the cause and run projections resume {one.name}, or skip the event",
        )
    return Finding("projection_failed", sentence, f"projections resume {one.name}", "mend the cause and run")


def _unusable(one: ProjectionStatus, text: str, head: int) -> Finding:
    """Return the finding of a projection that can't be folded here, or whose rows are stale."""
    sentence, command = split_remedy(text)
    if one.code_version is None:
        return Finding("projection_broken", sentence, advice="correct or install its package")
    code = _code_of_stale_rows(one, head)
    if code == "code_older":
        return Finding(code, sentence, advice="upgrade this installation")
    return Finding(code or "table_missing", sentence, command)


def _code_of_stale_rows(one: ProjectionStatus, head: int) -> str | None:
    """Return the code of what is wrong with the rows of an installed projection; None if nothing is."""
    if one.position > head:
        return "checkpoint_ahead"
    if one.version is not None and one.code_version is not None and one.version > one.code_version:
        return "code_older"
    if one.problem is None or one.version is None or one.code_version is None:
        return None
    if one.version < one.code_version:
        return "rows_older"
    return "redecoded" if one.redecoded_at is not None and " redecode " in one.problem else None
