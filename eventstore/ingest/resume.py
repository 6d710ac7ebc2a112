"""Decides which event_id a follower sends when it connects: the upstream sends the events after it.

The decision takes three steps:

1. :func:`read_saved` reads what is saved: the cursor row and the app's last stored event_ids.
2. The :class:`Situation` and the number of streams in a row without a new event choose an :class:`Attempt` from
   :data:`ATTEMPTS`.
3. The attempt names the event_id.

Why several attempts: a stream is resumed a little before the last event_id received (the overlap), because upstreams
may send events slightly out of order, and a late one must not be missed. But the overlap may hold more events than one
stream brings before it is cut. So after a stream that brought only duplicates or quarantined messages, the next one
resumes where the stream stood before the overlap, then after the last event_id received, until something new is stored.

Invariants. An event_id that lies in the future is never sent (:mod:`eventstore.ingest.recent_events`). A made-up
event_id is sent only at first contact, after a reset, and as the end of a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import NamedTuple

from psycopg import AsyncConnection

from eventstore import ulid
from eventstore.archived_rows import read_archived_up_to
from eventstore.contracts import Contract
from eventstore.ingest.cursor_row import Cursor
from eventstore.ingest.first_contact import REPLAY_WINDOW, first_contact
from eventstore.ingest.recent_events import (
    CLOCK_SKEW,
    has_events,
    is_last_received_stored,
    plausible_ids,
    recent_event_ids,
    unix_milliseconds,
)


class Attempt(Enum):
    """From which event_id the stream is resumed."""

    BEGINNING = auto()
    """The end of the last gap; without one, first contact: the configured ``since``, or as far back as possible."""
    OVERLAP = auto()
    """The newest stored event that lies the overlap before the last event_id received; if none does, the oldest."""
    BEFORE_OVERLAP = auto()
    """The last event_id received before the stream was resumed with the overlap."""
    LAST_RECEIVED = auto()
    """The last event_id received, whether or not that event was stored."""
    GREATEST_STORED = auto()
    """The greatest stored event_id: for upstreams that send in the order of ULIDs."""
    LAST_STORED = auto()
    """The event_id that was stored last: for upstreams that send in the order of arrival."""


class Situation(Enum):
    """What is known about the stream."""

    EVENTS_STORED = auto()
    """Events are stored, and the last event_id received can be sent."""
    LAST_IN_FUTURE = auto()
    """Events are stored, but the last event_id received lies in the future."""
    ONLY_RECEIVED = auto()
    """No stored event can be sent, but the last event_id received can: all events went to quarantine, for example."""
    NOTHING = auto()
    """Neither a stored event nor the last event_id received can be sent."""


# How many streams in a row brought events, but no new one:
#                              none               one                      two or more
ATTEMPTS = {
    Situation.EVENTS_STORED: (Attempt.OVERLAP, Attempt.BEFORE_OVERLAP, Attempt.LAST_RECEIVED),
    Situation.LAST_IN_FUTURE: (Attempt.OVERLAP, Attempt.GREATEST_STORED, Attempt.LAST_STORED),  # then from the left
    Situation.ONLY_RECEIVED: (Attempt.BEGINNING, Attempt.LAST_RECEIVED, Attempt.LAST_RECEIVED),
    Situation.NOTHING: (Attempt.BEGINNING, Attempt.BEGINNING, Attempt.BEGINNING),
}


@dataclass(slots=True)
class StreamHistory:
    """What the streams of this session brought so far.

    Attributes:
        without_new: how many streams in a row brought events, but no new one.
        before_overlap: the last event_id received when the stream was last resumed with the overlap, or None.
        first_contact_refused: whether the upstream can't replay from the first contact's event_id; it is not sent
            again in this session.

    """

    without_new: int = 0
    before_overlap: str | None = None
    first_contact_refused: bool = False

    def stream_starts(self, cursor: Cursor) -> None:
        """Note that a stream is about to be resumed."""
        if not self.without_new:
            self.before_overlap = cursor.last_event_id

    def stream_ended(self, *, received: bool, stored_new: bool, failed: bool) -> None:
        """Note what a stream brought."""
        if stored_new or not (received or failed):
            self.without_new = 0
        elif received:
            self.without_new += 1


@dataclass(frozen=True, slots=True)
class Saved:
    """What is saved of an app's stream.

    Attributes:
        cursor: the row.
        recent: the last stored event_ids, newest first.
        is_log_empty: no event of the app is stored; read only if there is a gap and ``recent`` is empty.
        is_last_received_stored: read only after a reset, for a second attempt.

    """

    cursor: Cursor
    recent: list[str]
    is_log_empty: bool = False
    is_last_received_stored: bool = False


@dataclass(frozen=True, slots=True)
class ResumeSettings:
    """How a stream is resumed.

    Attributes:
        contract: the contract of the stream.
        since: the first contact's event_id, made up from the ``since`` setting; None for the contract's default.
        overlap: how far before the last event_id received the stream is resumed.

    """

    contract: Contract
    since: str | None
    overlap: timedelta


class ResumePoint(NamedTuple):
    """What is sent.

    Attributes:
        event_id: None for a stream without a cursor: the upstream sends all it has.
        why: the reason, for people.
        is_first_contact: whether the event_id is made up because no stored event and no gap says where to resume.
        replays_gap: whether the stream may bring events that a recorded gap says are lost.
        unreachable_since: the ``since`` that lies before the replay window, so that another event_id is sent; or None.

    """

    event_id: str | None
    why: str
    is_first_contact: bool = False
    replays_gap: bool = False
    unreachable_since: str | None = None


async def read_saved(conn: AsyncConnection, cursor: Cursor, history: StreamHistory) -> Saved:
    """Read what the decision needs besides the cursor row."""
    recent = await recent_event_ids(conn, cursor)
    if recent:
        return Saved(cursor, recent)
    if cursor.reset_position is not None:
        return Saved(cursor, [], is_last_received_stored=await _may_continue(conn, cursor, history))
    if cursor.gaps and not history.first_contact_refused:
        is_empty = not await has_events(conn, cursor.app) and await read_archived_up_to(conn) == 0
        return Saved(cursor, [], is_log_empty=is_empty)
    return Saved(cursor, [])


async def _may_continue(conn: AsyncConnection, cursor: Cursor, history: StreamHistory) -> bool:
    return history.without_new > 0 and await is_last_received_stored(conn, cursor)


def choose_resume_point(saved: Saved, settings: ResumeSettings, history: StreamHistory, now: datetime) -> ResumePoint:
    """Return the event_id to send next."""
    trusted = plausible_ids(saved.recent, now)
    received = (history.before_overlap if history.without_new == 1 and trusted else None) or saved.cursor.last_event_id
    received = received or (trusted[0] if trusted else None)
    situation = _situation(saved, trusted, received, now)
    attempt = _attempt(situation, history.without_new)
    if attempt is Attempt.BEGINNING or received is None:
        return _beginning(saved, settings, history, now)
    match attempt:
        case Attempt.OVERLAP if situation is Situation.LAST_IN_FUTURE:
            point = _overlap_before(max(trusted), "the greatest event_id stored", trusted, settings.overlap)
        case Attempt.OVERLAP:
            point = _overlap_before(received, "the last event_id received", trusted, settings.overlap)
            if _is_too_old(point.event_id, received, settings, now):
                point = ResumePoint(received, "the last event_id received; older stored events can't be replayed")
        case Attempt.BEFORE_OVERLAP:
            point = ResumePoint(received, "the last event_id before the overlap was replayed; no event stored since")
        case Attempt.LAST_RECEIVED:
            point = ResumePoint(received, "the last event_id received; no event stored since")
        case Attempt.GREATEST_STORED:
            point = ResumePoint(max(trusted), "the greatest event_id stored; the last one received is in the future")
        case Attempt.LAST_STORED:
            point = ResumePoint(trusted[0], "the event_id stored last; the last one received is in the future")
    return point


def _situation(saved: Saved, trusted: list[str], received: str | None, now: datetime) -> Situation:
    latest = unix_milliseconds(now + CLOCK_SKEW)
    if trusted:
        latest = max(latest, ulid.time_milliseconds(max(trusted)))
        is_future = received is not None and ulid.time_milliseconds(received) > latest
        return Situation.LAST_IN_FUTURE if is_future else Situation.EVENTS_STORED
    if saved.cursor.reset_position is not None and not saved.recent:
        # A replay brings stored events, and one late or wrong id among them must not make the stream jump ahead. So it
        # continues only within a session, after an event that is stored; a new session replays from the beginning.
        return Situation.ONLY_RECEIVED if saved.is_last_received_stored else Situation.NOTHING
    can_be_sent = received is not None and ulid.time_milliseconds(received) <= latest
    return Situation.ONLY_RECEIVED if can_be_sent else Situation.NOTHING


def _attempt(situation: Situation, without_new: int) -> Attempt:
    attempts = ATTEMPTS[situation]
    if situation is Situation.LAST_IN_FUTURE:
        return attempts[without_new % len(attempts)]
    return attempts[min(without_new, len(attempts) - 1)]


def _overlap_before(reference: str, reference_in_words: str, stored: list[str], overlap: timedelta) -> ResumePoint:
    latest = ulid.time_milliseconds(reference) - overlap // timedelta(milliseconds=1)
    early_enough = [event_id for event_id in stored if ulid.time_milliseconds(event_id) <= latest]
    before = f"{overlap.total_seconds():g} s before {reference_in_words}"
    if early_enough:
        return ResumePoint(max(early_enough), f"the newest recent event at least {before}")
    return ResumePoint(min(stored), f"the oldest recent event; none is at least {before}")


def _is_too_old(event_id: str | None, received: str, settings: ResumeSettings, now: datetime) -> bool:
    """Return whether the event can't be replayed any more, although the last event_id received can.

    That happens when everything was quarantined for a long time: to send the old event_id would only make a gap.
    """
    oldest = unix_milliseconds(now - REPLAY_WINDOW)
    has_window = settings.contract is Contract.PCS_EXTERNAL_V1
    return has_window and ulid.time_milliseconds(event_id or "") < oldest < ulid.time_milliseconds(received)


def _beginning(saved: Saved, settings: ResumeSettings, history: StreamHistory, now: datetime) -> ResumePoint:
    """Return the end of the last gap, or the first contact's event_id."""
    cursor = saved.cursor
    is_reset = cursor.reset_position is not None
    # Nothing is stored at all: first contact is repeated, and may find events that the gap says are lost.
    replays_gap = bool(cursor.gaps) and saved.is_log_empty and not history.first_contact_refused and not is_reset
    if cursor.gaps and not is_reset and not replays_gap:
        return ResumePoint(cursor.gaps[-1]["upper"], "the end of the last gap; no event stored since")
    since = cursor.reset_to or settings.since if is_reset else settings.since
    event_id = first_contact(settings.contract, since, now)
    unreachable = since if since is not None and since != event_id else None
    start = "the cursor was reset" if is_reset else "nothing is stored"
    why = f"{start}; starting with {_start_in_words(event_id, since, unreachable)}"
    return ResumePoint(event_id, why, is_first_contact=True, replays_gap=replays_gap, unreachable_since=unreachable)


def _start_in_words(event_id: str | None, since: str | None, unreachable_since: str | None) -> str:
    if event_id is None:
        return "all events the upstream has"
    if since is None:
        return "the oldest events the upstream replays"
    if unreachable_since is not None:
        return "the oldest events the upstream replays, because `since` is older"
    return "the events after `since`"
