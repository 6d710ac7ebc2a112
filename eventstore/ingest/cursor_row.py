"""Loads and saves an app's row of ``eventstore.cursors``; which event_id is sent is decided in ``ingest/resume.py``.

Invariant. Every statement names the follower's epoch, so a follower that lost the app changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from eventstore.contracts import Contract
from eventstore.errors import LeadershipLost
from eventstore.event_reader import HEAD
from eventstore.postgres.queries import fetch_row

_SAVE_GAP = sql.SQL(
    "UPDATE eventstore.cursors SET holes = %s::jsonb || (%s::jsonb || jsonb_build_object('position', {head})),"
    " reset_to = NULL, reset_position = NULL WHERE app = %s AND epoch = %s"
).format(head=HEAD)


@dataclass(frozen=True, slots=True)
class Cursor:
    """What is saved of an app's stream.

    Attributes:
        app: the app.
        epoch: this follower's epoch.
        contract: the contract that the upstream speaks; None until it is known.
        last_event_id: the last event_id received that is a ULID, None before the first.
        gaps: ranges of events that the upstream could not replay, oldest first (column ``holes``).
        reset_to: after a reset, the event_id from which the stream starts again; None for first contact's.
        reset_position: after a reset, the head of the log at that time: only events stored after it say where to
            resume. None without a reset.

    """

    app: str
    epoch: int
    contract: Contract | None
    last_event_id: str | None
    gaps: list[dict[str, Any]]
    reset_to: str | None = None
    reset_position: int | None = None


class Gap(NamedTuple):
    """Events that the upstream can no longer replay: those after ``lower`` up to ``upper``.

    Attributes:
        lower: the event_id that was sent and refused; None for a stream without one.
        upper: a made-up event_id, which is sent until an event after the gap is stored.
        noticed_at: when the upstream said so.
        detail: the upstream's words, redacted.

    """

    lower: str | None
    upper: str
    noticed_at: datetime
    detail: str


_LOAD = (
    "SELECT epoch, contract, last_event_id, holes, reset_to, reset_position"
    " FROM eventstore.cursors WHERE app = %s AND epoch = %s"
)


async def load(conn: AsyncConnection, app: str, epoch: int) -> Cursor:
    """Read an app's cursor.

    Raises:
        LeadershipLost: another follower has raised the epoch.

    """
    row = await fetch_row(conn, _LOAD, [app, epoch])
    if row is None:
        raise LeadershipLost(app)
    contract = Contract(row[1]) if row[1] is not None else None
    return Cursor(app, row[0], contract, row[2], list(row[3]), row[4], row[5])


async def save_contract(conn: AsyncConnection, app: str, epoch: int, contract: Contract) -> None:
    """Save which contract the upstream speaks."""
    await conn.execute(
        "UPDATE eventstore.cursors SET contract = %s WHERE app = %s AND epoch = %s", [contract.value, app, epoch]
    )


async def save_error(
    conn: AsyncConnection, app: str, epoch: int, error: str | None, *, keep_refusal: bool = False
) -> None:
    """Save the upstream's last error, or None once the stream works again.

    This ends a recorded refusal, except with ``keep_refusal``: then the next attempt is still under way.
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
    """Save that the app is refused, since when, and when it is tried again (None for never)."""
    await conn.execute(
        "UPDATE eventstore.cursors SET last_error = %(error)s, last_error_at = clock_timestamp(),"
        " refused_at = coalesce(refused_at, clock_timestamp()), retry_at = clock_timestamp() + %(after)s::interval"
        " WHERE app = %(app)s AND epoch = %(epoch)s",
        {"error": error, "app": app, "epoch": epoch, "after": retry_after},
    )


async def save_gap(conn: AsyncConnection, cursor: Cursor, gap: Gap, *, extends_last: bool) -> str:
    """Save that the upstream can't replay from the event_id that was sent; return the upper end of the gap.

    The head of the log is saved with it: which events are stored "after the gap" must not depend on this machine's
    clock.

    Args:
        conn: the lease's connection.
        cursor: what is saved.
        gap: the new gap.
        extends_last: the last recorded gap could not be replayed once more; so it is extended, and none is added.

    """
    upper, lower, kept = gap.upper, gap.lower, cursor.gaps
    if kept and (extends_last or (lower is not None and kept[-1]["upper"] == lower)):
        # Nothing was stored since the last gap, and its end is too old by now: it is the same gap, and longer.
        last = kept[-1]
        if upper <= str(last["upper"]):
            return str(last["upper"])
        lower, kept = last["lower"], kept[:-1]
    saved = {"lower": lower, "upper": upper, "noticed_at": gap.noticed_at.isoformat(), "detail": gap.detail}
    await conn.execute(_SAVE_GAP, [Jsonb(kept), Jsonb(saved), cursor.app, cursor.epoch])
    return upper


async def shorten_last_gap(conn: AsyncConnection, cursor: Cursor, sent: str | None) -> None:
    """Save that the upstream replays from an event_id inside the last gap: the gap ends there.

    If the stream started before the gap, the gap is removed.
    """
    *others, last = cursor.gaps
    if sent is not None and sent > (last["lower"] or ""):
        others.append({**last, "upper": min(sent, last["upper"])})
    await conn.execute(
        "UPDATE eventstore.cursors SET holes = %s WHERE app = %s AND epoch = %s",
        [Jsonb(others), cursor.app, cursor.epoch],
    )
