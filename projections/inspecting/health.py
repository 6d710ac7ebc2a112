"""Finds what needs attention: one sentence for each problem that ``projections status --check`` prints.

It decides; it reads nothing: :mod:`projections.inspecting.read_status` does. Whether one process is ready is decided in
:mod:`projections.http.readiness`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime

from projections.inspecting.status import NEW, AppStatus, ProjectionStatus, Status
from projections.running.checkpoint import ProjectionState


def find_problems(status: Status, configured: Collection[str] = (), max_behind: float | None = None) -> list[str]:
    """Return a sentence for each problem; an empty list if there is none.

    Args:
        status: the status.
        configured: apps that should be followed, besides those that were followed before.
        max_behind: how many seconds a projection may be behind; None for any.

    """
    known = {app.app: app for app in status.apps}
    found = [f"the schema is damaged: {sentence}" for sentence in status.schema]
    for name in sorted({*known, *configured}):
        found += _find_app_problems(name, known.get(name))
    for one in status.projections:
        found += _find_projection_problems(one)
        if max_behind is not None and one.seconds_behind > max_behind:
            found.append(
                f"{one.name} is {one.seconds_behind:.0f} s behind ({one.events_behind:,} events); the limit is"
                f" {max_behind:g} s"
            )
    return found


def _find_app_problems(name: str, app: AppStatus | None) -> Iterator[str]:
    if app is not None and app.refused_at is not None:
        why = (app.last_error or "no reason was recorded").removeprefix(f"app {name!r}: ")
        if _is_refused(app):
            yield f"app {name!r} is refused since {_utc(app.refused_at)}: {why}"
        else:
            yield f"app {name!r} was refused at {_utc(app.refused_at)} and nobody follows it: {why}"
    elif app is None or app.followed_by is None:
        last = f"; its last error: {app.last_error}" if app is not None and app.last_error else ""
        yield f"nobody follows app {name!r}: start projections run{last}"
    elif app.last_error:
        yield f"the stream of app {name!r} fails: {app.last_error}"
    if app is not None and app.quarantine_full_since is not None:
        yield (
            f"the quarantine of app {name!r} is full since {_utc(app.quarantine_full_since)}:"
            f" {app.quarantined_not_kept:,} messages were counted but not kept"
        )


def _is_refused(app: AppStatus) -> bool:
    """Return whether the upstream refuses an app and a process keeps trying; without a process, nobody follows it."""
    if app.refused_at is None or not app.last_error:
        return False
    return app.followed_by is not None or (app.retry_at is not None and app.retry_at > datetime.now(UTC))


def _utc(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if moment is not None else "an unknown time"


def _find_projection_problems(one: ProjectionStatus) -> Iterator[str]:
    if one.code_version is None and one.folded_by:
        return  # another installation has this projection, and folds it
    if one.state in (ProjectionState.FAILED, ProjectionState.WAITING):
        yield f"{one.name} is {one.state}: {one.last_error or 'no error was recorded'}"
    elif one.problem is not None:
        yield f"{one.name}: {one.problem}"
    elif one.state == NEW:
        yield f"{one.name} has not run yet: start projections run"
    elif one.state == ProjectionState.RUNNING and not one.folded_by:
        yield f"nobody folds {one.name}: start projections run"
