"""Where a stream goes on: what is saved of it in Postgres, and which event_id is sent on the next dial."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from eventstore import ulid
from eventstore.contracts import Contract
from eventstore.errors import LeadershipLost
from eventstore.postgres.queries import fetch_column, fetch_row, fetch_value

RECENT_EVENTS = 1_000
CLOCK_SKEW = timedelta(minutes=5)
CLOCK_ERROR = timedelta(days=1)
"""How far this machine's clock may be behind, if everything stored says so."""
AGREEING = 20
"""So many stored events are believed whatever this machine's clock says."""
REPLAY_WINDOW = timedelta(days=7) - timedelta(hours=1)
"""How far back the first contact under ``pcs.external.v1`` goes: its replay window, less a margin."""
SAFE_WINDOW = timedelta(days=7) - CLOCK_ERROR
"""How far back the second attempt goes when the first was refused: this machine's clock may be behind."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """What is saved of an app's stream.

    ``epoch`` is this follower's; ``contract`` is None until decided; ``last_event_id`` is the last ULID received, None
    before the first; ``holes`` are gaps the upstream could not replay, oldest first. After a reset ``reset_position``
    is the head of that moment: only events stored later say where the stream goes on; until then it begins again at
    ``reset_to``, or where a first contact begins when that is None.
    """

    app: str
    epoch: int
    contract: Contract | None
    last_event_id: str | None
    holes: list[dict[str, Any]]
    reset_to: str | None = None
    reset_position: int | None = None


_LOAD = (
    "SELECT epoch, contract, last_event_id, holes, reset_to, reset_position"
    " FROM eventstore.cursors WHERE app = %s AND epoch = %s"
)
_HAS_EVENTS = "SELECT EXISTS (SELECT FROM eventstore.events WHERE app = %s)"
_IS_STORED = "SELECT EXISTS (SELECT FROM eventstore.events WHERE app = %s AND event_id = %s)"
_RECENT = "SELECT event_id FROM eventstore.events WHERE app = %s AND position > %s ORDER BY position DESC LIMIT %s"


async def load(conn: AsyncConnection, app: str, epoch: int) -> Cursor:
    """Read an app's cursor.

    Raises:
        LeadershipLost: the epoch isn't this follower's any more.

    """
    row = await fetch_row(conn, _LOAD, [app, epoch])
    if row is None:
        raise LeadershipLost(app)
    contract = Contract(row[1]) if row[1] is not None else None
    return Cursor(app, row[0], contract, row[2], list(row[3]), row[4], row[5])


async def recent_events(conn: AsyncConnection, cursor: Cursor) -> list[str]:
    """Return the app's last stored event_ids, newest first: those since the last hole or reset, if there was one."""
    since = max(cursor.holes[-1].get("position", 0) if cursor.holes else 0, cursor.reset_position or 0)
    return await fetch_column(conn, _RECENT, [cursor.app, since, RECENT_EVENTS])


async def has_events(conn: AsyncConnection, app: str) -> bool:
    """Tell whether any event of the app is stored."""
    return bool(await fetch_value(conn, _HAS_EVENTS, [app]))


async def is_cursor_stored(conn: AsyncConnection, cursor: Cursor) -> bool:
    """Tell whether the last ULID received is that of a stored event of the app, which an upstream knows as well."""
    return bool(await fetch_value(conn, _IS_STORED, [cursor.app, cursor.last_event_id]))


async def save_contract(conn: AsyncConnection, app: str, epoch: int, contract: Contract) -> None:
    """Keep which contract the upstream speaks."""
    await conn.execute(
        "UPDATE eventstore.cursors SET contract = %s WHERE app = %s AND epoch = %s", [contract.value, app, epoch]
    )


async def save_error(
    conn: AsyncConnection, app: str, epoch: int, error: str | None, *, keep_refusal: bool = False
) -> None:
    """Keep what went wrong with the upstream, or that it is well again.

    An app with another error is not refused now, unless ``keep_refusal``: the attempt is still under way.
    """
    await conn.execute(
        "UPDATE eventstore.cursors SET last_error = %(error)s,"
        " last_error_at = CASE WHEN %(error)s::text IS NOT NULL THEN clock_timestamp() END,"
        " refused_at = CASE WHEN %(keep)s THEN refused_at END, retry_at = NULL"
        " WHERE app = %(app)s AND epoch = %(epoch)s AND (last_error IS DISTINCT FROM %(error)s"
        " OR (refused_at IS NOT NULL AND NOT %(keep)s) OR retry_at IS NOT NULL)",
        {"error": error, "app": app, "epoch": epoch, "keep": keep_refusal},
    )


async def save_refusal(conn: AsyncConnection, app: str, epoch: int, error: str, retry_after: timedelta | None) -> None:
    """Keep that the app is refused, since when, and when it is tried again (None for never)."""
    await conn.execute(
        "UPDATE eventstore.cursors SET last_error = %(error)s, last_error_at = clock_timestamp(),"
        " refused_at = coalesce(refused_at, clock_timestamp()), retry_at = clock_timestamp() + %(after)s::interval"
        " WHERE app = %(app)s AND epoch = %(epoch)s",
        {"error": error, "app": app, "epoch": epoch, "after": retry_after},
    )


async def save_hole(
    conn: AsyncConnection,
    cursor: Cursor,
    sent: str | None,
    overlap: timedelta,
    detail: str,
    *,
    retry_at: str | None = None,
    again: bool = False,
) -> str:
    """Record that the upstream can't replay from the cursor that was sent, and return the hole's upper end.

    The upper end is a made-up ULID a little before now; it is sent until an event is stored behind the hole. The
    position of the head is kept with it: what counts as "behind the hole" must not hang on this machine's clock.

    Args:
        conn: the lease's connection.
        cursor: what is saved.
        sent: the cursor that was refused.
        overlap: how far before now the upper end lies.
        detail: the upstream's words.
        retry_at: a made-up ULID that is sent next, after a first contact was refused: the hole ends there.
        again: whether it is the last hole that could not be replayed, once more: none is added.

    """
    now = datetime.now(UTC)
    upper = retry_at or ulid.first_at(now - overlap)
    hole = {"lower": sent, "upper": upper, "noticed_at": now.isoformat(), "detail": detail}
    kept: list[dict[str, Any]] = cursor.holes
    if kept and (again or (sent is not None and kept[-1]["upper"] == sent)):
        # Nothing came since the last hole, whose end is too old by now: it is the same hole, and longer.
        before = str(kept[-1]["upper"])
        if upper <= before:
            return before
        hole["lower"] = kept[-1]["lower"]
        kept = kept[:-1]
    await conn.execute(
        "UPDATE eventstore.cursors SET holes = %s::jsonb || (%s::jsonb || jsonb_build_object('position',"
        " (SELECT coalesce(max(position), 0) FROM eventstore.events))), reset_to = NULL, reset_position = NULL"
        " WHERE app = %s AND epoch = %s",
        [Jsonb(kept), Jsonb(hole), cursor.app, cursor.epoch],
    )
    return upper


async def shorten_hole(conn: AsyncConnection, cursor: Cursor, sent: str | None) -> None:
    """Record that the upstream replays from a cursor inside the last hole: the hole ends there.

    Nothing is left of the hole when the stream began before it.
    """
    *others, hole = cursor.holes
    if sent is not None and sent > (hole["lower"] or ""):
        others.append({**hole, "upper": min(sent, hole["upper"])})
    await conn.execute(
        "UPDATE eventstore.cursors SET holes = %s WHERE app = %s AND epoch = %s",
        [Jsonb(others), cursor.app, cursor.epoch],
    )


def resume_at(
    cursor: Cursor,
    recent: list[str],
    *,
    contract: Contract,
    beginning: str | None,
    overlap: timedelta,
    in_vain: int,
    reached: str | None,
    now: datetime,
) -> str | None:
    """Return the event_id to send on the next dial; None for a stream without a cursor.

    Ids from the future are never sent, and none is reckoned from (:func:`believable`): one bogus id would make the
    upstream pass over all that follows.

    Args:
        cursor: what is saved.
        recent: the app's last stored event_ids, newest first (:func:`recent_events`).
        contract: the one that is dialled.
        beginning: what is sent while no stored event says where to go on (:func:`beginning_of`).
        overlap: how far before the last ULID received the stream is taken up again: upstreams may bring events a
            little out of order, and one that came late must not be passed over.
        in_vain: how many dials in a row brought only what was known. The overlap may hold more than a dial brings: so
            the stream is taken up where it was before the overlap, and then right behind what came last, until it
            brings something new. Where what came last is not to be believed, right behind the greatest event stored,
            then right behind the one stored last (upstreams may go by arrival, not by ULID), then with the overlap
            again.
        reached: the last ULID received when the stream was last taken up with the overlap; None when not known.
        now: the time.

    """
    trusted = believable(recent, now)
    horizon = _milliseconds(now + CLOCK_SKEW)
    if not trusted:
        if in_vain and cursor.last_event_id and ulid.milliseconds(cursor.last_event_id) <= horizon:
            return cursor.last_event_id  # all that came is in quarantine
        return beginning
    horizon = max(horizon, ulid.milliseconds(max(trusted)))
    last = (reached if in_vain == 1 else None) or cursor.last_event_id or trusted[0]
    received = ulid.milliseconds(last)
    if received > horizon:
        if in_vain % 3:
            return max(trusted) if in_vain % 3 == 1 else trusted[0]
        received = ulid.milliseconds(max(trusted))
    elif in_vain:
        return last
    latest = received - overlap // timedelta(milliseconds=1)
    early_enough = [event_id for event_id in trusted if ulid.milliseconds(event_id) <= latest]
    wanted = max(early_enough) if early_enough else min(trusted)
    if contract is Contract.PCS_EXTERNAL_V1 and received <= horizon:
        replayed_from = _milliseconds(now - REPLAY_WINDOW)
        # Nothing was stored for so long, all that came being in quarantine: what is stored would be a hole for sure.
        if ulid.milliseconds(wanted) < replayed_from < ulid.milliseconds(last) <= horizon:
            return last
    return wanted


def believable(recent: list[str], now: datetime) -> list[str]:
    """Return those of the stored ids that don't lie in the future, in their order.

    That is judged by this machine's clock, with a skew. If that leaves none, the clock may be what is wrong: then ids
    are believed that lie less than a day ahead, or that many others agree with.
    """
    for ahead in (CLOCK_SKEW, CLOCK_ERROR):
        horizon = _milliseconds(now + ahead)
        if trusted := [event_id for event_id in recent if ulid.milliseconds(event_id) <= horizon]:
            return trusted
    if len(recent) < AGREEING:
        return []
    median = sorted(recent)[len(recent) // 2]
    return [event_id for event_id in recent if event_id <= median]


def is_clock_behind(recent: list[str], now: datetime) -> bool:
    """Tell whether everything stored lies in this machine's future, though it agrees with itself."""
    horizon = _milliseconds(now + CLOCK_SKEW)
    return bool(believable(recent, now)) and all(ulid.milliseconds(event_id) > horizon for event_id in recent)


def first_contact(contract: Contract, since: str | None, now: datetime) -> str | None:
    """Return the cursor of a stream of which nothing is stored: as wished, but no further back than can be replayed.

    No window is known of ``chat.external``; without a wish, its streams begin with all there is (None).
    """
    if contract is Contract.CHAT_EXTERNAL:
        return since
    return max(since or "", ulid.first_at(now - REPLAY_WINDOW))


def beginning_of(cursor: Cursor, first: str | None, *, anew: bool) -> str | None:
    """Return what is sent while no stored event says where to go on: a hole's upper end, or the first contact's.

    Args:
        cursor: what is saved.
        first: the first contact's cursor.
        anew: whether first contact is made anew although a hole is recorded, because nothing at all is stored.

    """
    return cursor.holes[-1]["upper"] if cursor.holes and not anew else first


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
