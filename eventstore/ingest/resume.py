"""Decides which event_id the next dial of an app sends, and says why."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from psycopg import AsyncConnection

from eventstore.contracts import Contract
from eventstore.ingest import cursor as cursors
from eventstore.ingest.cursor import Cursor


class NextDial(NamedTuple):
    """What the next dial sends.

    ``event_id`` is None for a stream without a cursor; ``why`` is a sentence for people; ``is_first_contact`` tells
    that the cursor was made up because no stored event and no hole says where to go on; ``replays_hole`` that this may
    bring what a recorded hole says is missing; ``asked`` is the wished cursor, where it reached beyond the replay
    window and another one is sent.
    """

    event_id: str | None
    why: str
    is_first_contact: bool = False
    replays_hole: bool = False
    asked: str | None = None


class SoFar(NamedTuple):
    """What the dials of a session brought so far.

    ``in_vain`` and ``reached`` are those of :func:`eventstore.ingest.cursor.resume_at`; ``first_contact_refused`` tells
    that the upstream can't replay from the first contact's cursor, which is not sent again then.
    """

    in_vain: int = 0
    reached: str | None = None
    first_contact_refused: bool = False


_LAST_RECEIVED = "the last event_id received; no new event was stored since"

NOTHING = SoFar()
"""Before the first dial."""


async def next_dial(
    conn: AsyncConnection,
    cursor: Cursor,
    recent: list[str],
    *,
    contract: Contract,
    since: str | None,
    overlap: timedelta,
    now: datetime,
    so_far: SoFar = NOTHING,
) -> NextDial:
    """Return what the next dial sends.

    Args:
        conn: a connection to the database.
        cursor: what is saved.
        recent: the app's last stored event_ids (:func:`eventstore.ingest.cursor.recent_events`).
        contract: the one that is dialled.
        since: a made-up ULID for the first contact, or None for the contract's default.
        overlap: how far before the last ULID received the stream is taken up again.
        now: the time.
        so_far: what the dials of this session brought.

    """
    is_reset = cursor.reset_position is not None
    wished = cursor.reset_to or since if is_reset else since
    first = cursors.first_contact(contract, wished, now)
    anew = None
    if is_reset:
        # A replay brings stored events, and one late or wrong id among them must not make it jump ahead. So it goes on
        # within a session only, right behind the event that came last; a new session replays from the beginning.
        if not recent and so_far.in_vain and await cursors.is_cursor_stored(conn, cursor):
            return NextDial(cursor.last_event_id, _LAST_RECEIVED)
        if not recent:
            return _begun(first, wished, "the cursor was reset")
        beginning = first
    else:
        refused = so_far.first_contact_refused
        anew = cursor.holes and not recent and not refused and not await cursors.has_events(conn, cursor.app)
        beginning = cursors.beginning_of(cursor, first, anew=bool(anew))
    event_id = cursors.resume_at(
        cursor,
        recent,
        contract=contract,
        beginning=beginning,
        overlap=overlap,
        in_vain=so_far.in_vain,
        reached=so_far.reached,
        now=now,
    )
    if event_id in recent:
        seconds = overlap.total_seconds()
        return NextDial(event_id, f"a stored event, if possible {seconds:g} s before the last event_id received")
    if event_id != beginning or cursors.believable(recent, now):
        return NextDial(event_id, _LAST_RECEIVED)
    if cursor.holes and not anew and not is_reset:
        return NextDial(event_id, "the end of the last gap; nothing was stored since")
    begun = "the cursor was reset" if is_reset else "nothing is stored"
    return _begun(event_id, wished, begun, first=first, replays_hole=bool(anew))


def _begun(
    event_id: str | None, wished: str | None, begun: str, *, first: str | None = None, replays_hole: bool = False
) -> NextDial:
    """Return the dial of a stream that begins; ``first`` is where, if another ``event_id`` is sent."""
    first = first or event_id
    asked = wished if wished is not None and wished != first else None
    why = f"{begun}, so {_where(first, wished, asked)}"
    return NextDial(event_id, why, is_first_contact=True, replays_hole=replays_hole, asked=asked)


def _where(first: str | None, wished: str | None, asked: str | None) -> str:
    if first is None:
        return "all events that the upstream has"
    if wished is None:
        return "as far back as the upstream replays"
    if asked is not None:
        return "as far back as the upstream replays: since is older"
    return "from since"
