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
    anew = (
        bool(cursor.holes)
        and not recent
        and not so_far.first_contact_refused
        and not await cursors.has_events(conn, cursor.app)
    )
    first = cursors.first_contact(contract, since, now)
    beginning = cursors.beginning_of(cursor, first, anew=anew)
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
        return NextDial(event_id, "the last event_id received; no new event was stored since")
    if cursor.holes and not anew:
        return NextDial(event_id, "the end of the last gap; nothing was stored since")
    asked = since if since is not None and since != first else None
    why = _why_first_contact(first, since, asked)
    return NextDial(event_id, why, is_first_contact=True, replays_hole=anew, asked=asked)


def _why_first_contact(first: str | None, since: str | None, asked: str | None) -> str:
    if first is None:
        return "nothing is stored, so all events that the upstream has"
    if since is None:
        return "nothing is stored, so as far back as the upstream replays"
    if asked is not None:
        return "nothing is stored, and since is older than the upstream replays, so as far back as it does"
    return "nothing is stored, so from since"
