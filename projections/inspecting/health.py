"""What ``projections status --check`` finds wrong: one sentence for each thing that needs somebody."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime

from projections.inspecting.status import NEW, AppStatus, ProjectionStatus, Status
from projections.running.checkpoint import State


def problems(status: Status, configured: Collection[str] = (), max_behind: float | None = None) -> list[str]:
    """Return a sentence for each problem; none while all is well.

    Args:
        status: what was found.
        configured: apps that are to be followed, besides those that were followed before.
        max_behind: seconds that a projection may be behind; None for any.

    """
    known = {app.app: app for app in status.apps}
    found = [f"the schema isn't as it should be: {sentence}" for sentence in status.schema]
    for name in sorted({*known, *configured}):
        found += _of_app(name, known.get(name))
    for one in status.projections:
        found += _of_projection(one)
        if max_behind is not None and one.seconds_behind > max_behind:
            found.append(
                f"{one.name} is {one.seconds_behind:.0f} s behind ({one.events_behind:,} events); allowed are"
                f" {max_behind:g} s"
            )
    return found


def _of_app(name: str, app: AppStatus | None) -> Iterator[str]:
    if app is not None and app.refused_at is not None:
        said = (app.last_error or "no reason was noted").removeprefix(f"app {name!r}: ")
        if _is_refused(app):
            yield f"app {name!r} is refused since {_time(app.refused_at)}: {said}"
        else:
            yield f"app {name!r} was refused at {_time(app.refused_at)} and nobody follows it: {said}"
    elif app is None or app.followed_by is None:
        last = f"; its last error: {app.last_error}" if app is not None and app.last_error else ""
        yield f"nobody follows app {name!r}: start projections run{last}"
    elif app.last_error:
        yield f"the stream of app {name!r} fails: {app.last_error}"
    if app is not None and app.quarantine_full_since is not None:
        yield (
            f"the quarantine of app {name!r} is full since {_time(app.quarantine_full_since)}:"
            f" {app.quarantined_not_kept:,} messages were counted but not kept"
        )


def _is_refused(app: AppStatus) -> bool:
    """Whether an app is refused, and a process tries again; without one, nobody follows it."""
    if app.refused_at is None or not app.last_error:
        return False
    return app.followed_by is not None or (app.retry_at is not None and app.retry_at > datetime.now(UTC))


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if moment is not None else "an unknown time"


def _of_projection(one: ProjectionStatus) -> Iterator[str]:
    if one.code_version is None and one.folded_by:
        return  # another installation has it, and folds it
    if one.state in (State.FAILED, State.WAITING):
        yield f"{one.name} is {one.state}: {one.last_error or 'no error was noted'}"
    elif one.problem is not None:
        yield f"{one.name}: {one.problem}"
    elif one.state == NEW:
        yield f"{one.name} has not run yet: start projections run"
    elif one.state == State.RUNNING and not one.folded_by:
        yield f"nobody folds {one.name}: start projections run"
