"""Where an app's stream resumes, and how the commands of ``projections cursor`` write it as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, NotRequired, TypedDict, cast

from eventstore.contracts import Contract
from eventstore.ingest.apps import App, time_in
from eventstore.ingest.resume import ResumePoint


class AppCursor(NamedTuple):
    """An app, the contract of its next call to the upstream, and where that call resumes."""

    app: App
    contract: Contract
    resume: ResumePoint


class NextCall(TypedDict):
    """What the next call to the upstream sends.

    Attributes:
        contract: the contract of the call.
        event_id: the event_id that it sends; null for none.
        time: the time in this event_id; null also if it is after the year 9999.
        why: why it resumes there.

    """

    contract: str
    event_id: str | None
    time: datetime | None
    why: str


class RecordedGap(TypedDict):
    """Events that the upstream can no longer replay.

    Attributes:
        lower: the event_id after which they begin; null for the beginning of the stream.
        upper: the event_id at which they end.
        noticed_at: when the gap was noticed.
        position: the head of the log then; gaps of early versions have none.
        detail: what the upstream sent about it.

    """

    lower: str | None
    upper: str | None
    noticed_at: datetime
    position: NotRequired[int]
    detail: str


class CursorReset(TypedDict):
    """A reset of the cursor since which nothing was received.

    Attributes:
        to: where the stream starts again, as an event_id; null for where a new app starts.
        position: the head of the log at the reset.

    """

    to: str | None
    position: int


class ShownCursor(TypedDict):
    """Where an app's stream resumes.

    Attributes:
        app: the app.
        contract: the contract of its stream; null if it isn't known yet.
        last_event_id: the last event_id received; null if none was.
        last_event_time: the time in this event_id.
        last_received_at: when it was received.
        followed_by: the session that follows the app now; null if none does.
        next_dial: what the next call sends.
        gaps: the recorded gaps.
        reset: the last reset, until an event is received after it; null without one.
        last_error: the stream's last error; null while it is well.

    """

    app: str
    contract: str | None
    last_event_id: str | None
    last_event_time: datetime | None
    last_received_at: datetime | None
    followed_by: str | None
    next_dial: NextCall
    gaps: list[RecordedGap]
    reset: CursorReset | None
    last_error: str | None


def describe_cursor(one: AppCursor) -> ShownCursor:
    """Return what is written about a cursor."""
    app, contract, resume = one
    return {
        "app": app.app,
        "contract": app.contract,
        "last_event_id": app.last_event_id,
        "last_event_time": time_in(app.last_event_id) if app.last_event_id else None,
        "last_received_at": app.last_received_at,
        "followed_by": app.followed_by,
        "next_dial": {
            "contract": contract.value,
            "event_id": resume.event_id,
            "time": time_in(resume.event_id) if resume.event_id else None,
            "why": resume.why,
        },
        "gaps": cast("list[RecordedGap]", app.gaps),
        "reset": None if app.reset_position is None else {"to": app.reset_to, "position": app.reset_position},
        "last_error": app.last_error,
    }
