"""What status shows: apps, projections, and counts over the log, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from eventstore.appending.server_clock import AheadOfClock
from eventstore.consuming.consumers import ConsumerStatus
from projections.json_value import json_value
from projections.running.checkpoint import ProjectionState
from projections.running.folding_sessions import FoldingSession

NEW = "new"
"""The state of a projection before its first run."""


WentBack = TypedDict("WentBack", {"noticed_at": datetime, "from": int, "to": int})  # from is a word of Python
WentBack.__doc__ = """A loss of committed events.

Attributes:
    noticed_at: when it was noticed.
    from: where the log ended before.
    to: where it ended then; events after this position were lost.

"""


@dataclass(frozen=True)
class AppStatus:
    """An app's stream; times are in UTC.

    Attributes:
        app: the app.
        contract: the contract of its stream.
        last_event_id: the last one received.
        last_received_at: when it was received.
        holes: the number of gaps: events that the upstream can no longer replay.
        last_error: the stream's last error; None while it is well.
        quarantined: quarantined messages that are kept, each once.
        went_back: each loss of committed events, oldest first.
        followed_by: the session that follows the app now; None if none does.
        refused_at: since when the upstream refuses the app; None unless it does.
        retry_at: when a refused app is tried again; None for never.
        quarantined_messages: all messages that were quarantined, repetitions included.
        quarantined_not_kept: those whose bytes were not kept, because the quarantine was full.
        quarantine_full_since: since when the quarantine is full; None while it has room.
        quarantine_reasons: ``quarantined_messages`` by reason.

    """

    app: str
    contract: str | None
    last_event_id: str | None
    last_received_at: datetime | None
    holes: int
    last_error: str | None
    quarantined: int
    went_back: list[WentBack]
    followed_by: str | None = None
    refused_at: datetime | None = None
    retry_at: datetime | None = None
    quarantined_messages: int = 0
    quarantined_not_kept: int = 0
    quarantine_full_since: datetime | None = None
    quarantine_reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Skip:
    """An event that a projection skips.

    Attributes:
        event_id: the event.
        why: the reason that was given.
        skipped_at: since when.

    """

    event_id: str
    why: str
    skipped_at: datetime


@dataclass(frozen=True)
class ProjectionStatus:
    """A projection, by its checkpoint and by this code.

    Attributes:
        name: the projection.
        state: the checkpoint's state, or ``new`` before its first run.
        version: the version of the rows.
        code_version: the version of this code; None for a projection that isn't installed here.
        position: every event up to here is folded.
        events_behind: events after that position.
        seconds_behind: how long ago the first of them was received.
        last_error: its last error; None while it is well.
        last_error_at: when that happened.
        retry_at: when a failed projection is tried again.
        redecoded_at: when redecode or erase changed events that it had folded; None once it is rebuilt.
        skipped: the number of skipped events.
        note: the problem, or else something good to know.
        skips: the skipped events.
        folded_by: the sessions that fold it now.
        problem: what needs attention besides the error.
        failures: how often it failed in a row.
        folded_events: how many events it has folded, counted by all processes; those of rebuilds are not counted.
        folded_at: when it folded its last window.
        fold_seconds: how long that window took.

    """

    name: str
    state: str
    version: int | None
    code_version: int | None
    position: int
    events_behind: int
    seconds_behind: float
    last_error: str | None
    last_error_at: datetime | None
    retry_at: datetime | None
    redecoded_at: datetime | None
    skipped: int
    note: str | None = None
    skips: tuple[Skip, ...] = ()
    folded_by: tuple[FoldingSession, ...] = ()
    problem: str | None = None
    failures: int = 0
    folded_events: int = 0
    folded_at: datetime | None = None
    fold_seconds: float | None = None

    @property
    def has_older_rows(self) -> bool:
        """Whether the rows are of older code, or (version 0) were folded from events that the database lost since."""
        return self.version is not None and self.code_version is not None and self.version < self.code_version

    @property
    def needs_rebuild(self) -> bool:
        """Whether the rows are older than the code, or were folded from events that were changed or lost since."""
        return self.has_older_rows or self.redecoded_at is not None

    @property
    def shown_state(self) -> str:
        """The state for people: a running projection that no session folds is stopped."""
        return "stopped (nobody folds)" if self.state == ProjectionState.RUNNING and not self.folded_by else self.state


MOST_COUNTED = 100_000
"""How many events of a kind are counted; so reading the status takes as long on a log of any length."""


@dataclass(frozen=True)
class Status:
    """The whole status.

    Attributes:
        head: the last position of the log.
        without_request: the number of events without a request, which tables keyed by request leave out.
        unknown_types: the number of events whose type this code doesn't know.
        apps: the apps that were ever followed.
        projections: those with a checkpoint, and those of this code.
        counts: the counts that projections declare with their ``status_query``, by name; None if the query fails.
        remarks: sentences about these counts.
        ahead_of_clock: the last events, if their times are ahead of the database server's clock.
        schema: a sentence for each part of the schema that was changed or lost since migrate made it.
        consumers: the named consumers that were ever run.
        ledger: what is wrong with the ledger of erased persons; None if nothing is, or there is no ledger.
        archived_up_to: the last position that is archived, so that its event is in a file only; 0 if none is.

    """

    head: int
    without_request: int
    unknown_types: int
    apps: list[AppStatus]
    projections: list[ProjectionStatus]
    counts: dict[str, int | None] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    ahead_of_clock: AheadOfClock | None = None
    schema: list[str] = field(default_factory=list)
    consumers: list[ConsumerStatus] = field(default_factory=list)
    ledger: str | None = None
    archived_up_to: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, times as ISO text, as in :class:`StatusDocument`."""
        plain: dict[str, Any] = json_value(self)
        del plain["remarks"]  # sentences for people, made of the counts
        counts: dict[str, Any] = plain.pop("counts")
        return counts | plain


class StatusDocument(TypedDict):
    """The whole status, and the counts that installed projections declare with their ``status_query``.

    Attributes:
        incomplete_answers: the number of poll answers of which an option was dropped or nothing could be read; 100000
            means that many or more, and the next two are of 100000 of them.
        dropped_options: the number of options that were dropped.
        unreadable_answers: the number of poll answers of which nothing could be read.
        head: the last position of the log.
        without_request: the number of events without a request, which tables keyed by request leave out; 100000 means
            that many or more.
        unknown_types: the number of events whose type this version doesn't know; 100000 means that many or more.
        apps: the apps that were ever followed.
        projections: those with a checkpoint, and those of this installation.
        ahead_of_clock: the last events, if their times are ahead of the database server's clock; else null.
        schema: a sentence for each part of the schema that was changed or lost since migrate made it.
        consumers: the named consumers that were ever run, see docs/consuming.md.
        ledger: what is wrong with the ledger of erased persons; null if nothing is, or there is no ledger.
        archived_up_to: the last position that is archived, so that its event is in a file only; 0 if none is.
        archived_up_to: the last position that is archived, so that its event is in a file only; 0 if none is.

    """

    incomplete_answers: NotRequired[int | None]
    dropped_options: NotRequired[int | None]
    unreadable_answers: NotRequired[int | None]
    head: int
    without_request: int
    unknown_types: int
    apps: list[AppStatus]
    projections: list[ProjectionStatus]
    ahead_of_clock: AheadOfClock | None
    schema: list[str]
    consumers: list[ConsumerStatus]
    ledger: str | None
    archived_up_to: int
