"""Builds what the page shows from one reading: plain values, with every text made safe to show.

Invariants. Nothing here holds a phone number or a request id, unless personal data may be shown. Every text passes
:func:`projections.terminal_text.visible`, so control characters and those that reorder text are shown as escapes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from eventstore.consuming.consumers import ConsumerStatus
from eventstore.ingest.follower import Follower, FollowerState
from eventstore.redaction.redact import redact
from projections.http.page_extras import PageExtras, RecordedRebuild
from projections.http.page_memory import PageMemory
from projections.http.verdict import (
    LATE_SECONDS,
    Level,
    level_of_app,
    level_of_projection,
    mend_app,
    mend_projection,
)
from projections.inspecting.live_status import LiveStatus
from projections.inspecting.status import AppStatus, ProjectionStatus
from projections.recent_log import LogLine
from projections.running.checkpoint import ProjectionState
from projections.running.folding_sessions import FoldingSession
from projections.terminal_text import visible

LOG_LINES = 60


def describe_parts(
    status: LiveStatus, extras: PageExtras, memory: PageMemory, followers: Sequence[Follower]
) -> dict[str, Any]:
    """Return the parts of the page that come from the database."""
    own = {follower.app: follower for follower in followers}
    return {
        "head": status.head,
        "append_rate": memory.append_rate(),
        "projections": [_projection(one, status.head, extras, memory) for one in status.projections],
        "apps": [_app(app, own.get(app.app), memory) for app in status.apps],
        "consumers": [_consumer(one) for one in status.consumers],
        "rebuilds": [_rebuild(one, status.head) for one in extras.rebuilds],
    }


def describe_log(lines: Iterable[LogLine], note: str) -> dict[str, Any]:
    """Return log lines as the page shows them."""
    shown = [
        {
            "number": line.number,
            "at": line.at,
            "level": line.level,
            "event": line.event,
            "fields": "  ".join(f"{key}={value}" if key else value for key, value in line.fields.items()),
        }
        for line in lines
    ]
    return {"lines": shown, "note": note}


def describe_process() -> dict[str, str]:
    """Return which process shows the page."""
    return {"version": _installed_version(), "process": f"{socket.gethostname()}:{os.getpid()}"}


def make_safe(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return plain data in which every text is safe to show, times are ISO text, and numbers are rounded."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): make_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [make_safe(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return round(value, 3) if isinstance(value, float) else value


def _projection(one: ProjectionStatus, head: int, extras: PageExtras, memory: PageMemory) -> dict[str, Any]:
    error = one.last_error or one.problem
    return {
        "name": one.name,
        "state": one.state,
        "shown_state": _shown_state(one),
        "level": "idle" if one.state == ProjectionState.PAUSED else level_of_projection(one),
        "version_text": _version_text(one),
        "position": one.position,
        "events_behind": one.events_behind,
        "seconds_behind": one.seconds_behind,
        "rate": memory.fold_rate(one.name),
        "fresh_to": extras.fresh_to.get(one.name),
        "folded_by": [_folder(folder) for folder in one.folded_by],
        "error": error,
        "error_at": one.last_error_at if one.last_error else None,
        "retry_at": one.retry_at if one.state == ProjectionState.FAILED else None,
        **mend_projection(one, head)._asdict(),
        "note": _note(one),
        "skips": [{"event_id": skip.event_id, "why": redact(skip.why)} for skip in one.skips],
    }


def _shown_state(one: ProjectionStatus) -> str:
    if one.state == ProjectionState.RUNNING and not one.folded_by:
        return "stopped"
    return {"new": "not run yet", ProjectionState.WAITING: "needs a rebuild"}.get(one.state, one.state)


def _version_text(one: ProjectionStatus) -> str:
    if one.code_version is None:
        return "not installed here" if one.version is None else f"rows of version {one.version}; not installed here"
    if one.version is None or one.version == one.code_version:
        return f"version {one.code_version}"
    rows = "lost" if one.version == 0 else f"of version {one.version}"
    return f"rows {rows}, code of version {one.code_version}"


def _note(one: ProjectionStatus) -> str | None:
    if one.last_error or one.problem:
        return None
    if one.state == ProjectionState.PAUSED:
        return "Somebody paused it; its rows stay as they are until it is resumed."
    if one.state == ProjectionState.RUNNING and not one.folded_by:
        return "No process folds it."
    skips = f"Skips {one.skipped:,} {'event' if one.skipped == 1 else 'events'}." if one.skipped else None
    return "It has not run yet." if one.state == "new" else skips


def _folder(session: FoldingSession) -> str:
    if session.host is None or session.pid is None:
        return f"backend {session.backend} of Postgres"
    return f"{session.host}:{session.pid}"


def _app(app: AppStatus, own: Follower | None, memory: PageMemory) -> dict[str, Any]:
    level, connection = _connection(app, own)
    retries = app.refused_at is not None and app.followed_by is None
    return {
        "app": app.app,
        "contract": app.contract,
        "connection": connection,
        "level": level,
        "followed_by": _follower_name(app),
        "rate": memory.app_rate(app.app),
        "last_received_at": app.last_received_at,
        "gaps": app.holes,
        "quarantined": app.quarantined_messages,
        "error": app.last_error,
        "refused_at": app.refused_at,
        "retry_at": app.retry_at if retries or app.refused_at is not None else None,
        **mend_app(app)._asdict(),
        "notes": [*_quarantine_notes(app), *_loss_notes(app)],
    }


def _connection(app: AppStatus, own: Follower | None) -> tuple[Level, str]:
    """Return how well the stream is, and its state in a few words; of our own followers we know more."""
    if app.refused_at is not None:
        return Level.BAD, "refused"
    if app.followed_by is None:
        return Level.BAD, "not followed"
    if app.last_error:
        return Level.LATE, "reconnecting"
    if own is not None and own.state is FollowerState.FOLLOWING and own.state_text != own.state.value:
        return Level.LATE, own.state_text
    return level_of_app(app), "connected"


def _follower_name(app: AppStatus) -> str | None:
    return None if app.followed_by is None else app.followed_by.removeprefix(f"projections ingest {app.app} ")


def _quarantine_notes(app: AppStatus) -> list[str]:
    if not app.quarantine_reasons:
        return []
    reasons = ", ".join(f"{count:,} because {reason}" for reason, count in sorted(app.quarantine_reasons.items()))
    full = ""
    if app.quarantine_full_since is not None:
        full = f" The quarantine is full: {app.quarantined_not_kept:,} were counted but not kept."
    return [f"Quarantined: {redact(reasons)}.{full}"]


def _loss_notes(app: AppStatus) -> list[str]:
    if not app.went_back:
        return []
    last = app.went_back[-1]
    sentence = (
        f"The database lost committed events: the log ended at position {last['from']:,} and then at"
        f" {last['to']:,}. They are received again; whoever read beyond {last['to']:,} must read again from there."
    )
    return [sentence]


def _consumer(one: ConsumerStatus) -> dict[str, Any]:
    level, state = _consumer_state(one)
    note = None
    if not one.is_in_log:
        note = "Its checkpoint is not in the log, which was replaced or lost events; it is handed nothing."
    elif one.attempts > 1:
        note = f"It was handed the events after its checkpoint {one.attempts:,} times and acknowledged none."
    return {
        "name": one.name,
        "state": state,
        "level": level,
        "held_by": None if one.held_by is None else one.held_by.removeprefix(f"projections consume {one.name} "),
        "position": one.position,
        "events_behind": one.events_behind,
        "seconds_behind": one.seconds_behind,
        "events": one.events,
        "moved_at": one.moved_at,
        "note": note,
        "command": None if level is Level.GOOD else "projections doctor",
    }


def _consumer_state(one: ConsumerStatus) -> tuple[Level, str]:
    """Return how well a consumer is, and its state in a few words."""
    if not one.is_in_log:
        return Level.BAD, "not in the log"
    if one.held_by is None:
        return (Level.LATE, "not running") if one.events_behind else (Level.GOOD, "not running")
    return (Level.LATE, "behind") if one.seconds_behind > LATE_SECONDS else (Level.GOOD, "running")


def _rebuild(one: RecordedRebuild, head: int) -> dict[str, Any]:
    is_lost = one.state == "running" and one.holder is None
    follows = one.follows_checkpoint and one.checkpoint is not None and one.into_schema is None
    target = max(one.position, one.checkpoint or 0 if follows else head)
    # The position of a sliced rebuild moves when all slices are folded; until then this many events are.
    folded = one.position or (target * (one.slices_folded or 0) // one.slices if one.slices else 0)
    kind = "dry run of a rebuild" if one.dry_run else "rebuild"
    if one.into_schema is not None:
        kind = f"as of a time, into schema {one.into_schema}"
    state = "interrupted" if is_lost else one.state
    bad = is_lost or one.state in ("failed", "refused", "abandoned")
    return {
        "id": one.id,
        "name": one.name,
        "kind": kind,
        "state": state,
        "level": Level.BAD if bad else Level.GOOD,
        "position": folded,
        "target": target,
        "started_at": one.started_at,
        "finished_at": one.finished_at,
        "result": _result(one, is_lost=is_lost, is_folded=one.position >= target),
    }


def _result(one: RecordedRebuild, *, is_lost: bool, is_folded: bool) -> str:
    if is_lost:
        return "Its process is gone; the next rebuild can continue it with --resume."
    if one.state == "running":
        slices = f" {one.slices_folded or 0} of {one.slices} slices are folded." if one.slices else ""
        return "All events are folded; comparing and applying." if is_folded else f"Run by {one.holder}.{slices}"
    if one.error is not None:
        return one.error
    if one.rows_added is None:
        return ""
    would = "would be " if one.dry_run else ""
    return f"{one.rows_added:,} rows {would}added, {one.rows_removed or 0:,} removed, {one.rows_changed or 0:,} changed"


def _installed_version() -> str:
    try:
        return version("projections-engine")
    except PackageNotFoundError:
        return "version unknown"
