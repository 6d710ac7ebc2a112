"""Reads an app's last stored event_ids, and decides which of them are plausible.

Invariant. An event_id that lies in the future is never sent to an upstream, and no position is computed from it: one
bogus id would make the upstream skip everything that follows.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from psycopg import AsyncConnection, sql

from eventstore import ulid
from eventstore.archived_rows import ARCHIVED_UP_TO
from eventstore.distributed_log import is_distributed
from eventstore.ingest.cursor_row import Cursor
from eventstore.partitions import BY_ID_IN_MODE
from eventstore.postgres.queries import fetch_column, fetch_value

RECENT_EVENTS = 1_000
"""How many stored event_ids are read."""
CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of this machine's clock an event_id may lie."""
CLOCK_ERROR = timedelta(days=1)
"""How far behind this machine's clock may be, if all stored event_ids say so."""
AGREEING_EVENTS = 20
"""If this many events are stored, the median of their ids is plausible, whatever this machine's clock says."""

# An event that a retry stored from quarantine was received long ago, perhaps before a gap or a reset: its position says
# nothing about where the stream stands.
_RECENT = (
    "SELECT e.event_id FROM eventstore.events AS e WHERE e.app = %s AND e.position > %s"
    " AND e.event_id NOT IN (SELECT r.event_id FROM eventstore.retried_events AS r)"
    " ORDER BY e.position DESC LIMIT %s"
)
_HAS_EVENTS = (
    "SELECT EXISTS (SELECT 1 FROM eventstore.events AS e WHERE e.app = %s"
    " AND e.event_id NOT IN (SELECT r.event_id FROM eventstore.retried_events AS r))"
)
# Of an archived event only the id is known.
_STORED_ID = sql.SQL("SELECT EXISTS (SELECT 1 FROM {by_id} WHERE coalesce(e.app = %s, true) AND {id} = %s)")
_IS_STORED = {mode: _STORED_ID.format(**parts) for mode, parts in BY_ID_IN_MODE.items()}


# If all events of an app are archived, the last one that it received is known by its id.
_LAST_IF_ARCHIVED = sql.SQL(
    "SELECT event_id FROM eventstore.event_positions WHERE event_id = %s AND position > %s AND position <= {}"
).format(ARCHIVED_UP_TO)


async def recent_event_ids(conn: AsyncConnection, cursor: Cursor) -> list[str]:
    """Return the app's last stored event_ids, newest first; only those after the last gap and the last reset.

    Events that a retry stored from quarantine are left out. If all events are archived, it is the last one received.
    """
    after = max(cursor.gaps[-1].get("position", 0) if cursor.gaps else 0, cursor.reset_position or 0)
    found = await fetch_column(conn, _RECENT, [cursor.app, after, RECENT_EVENTS])
    if found or cursor.last_event_id is None:
        return found
    return await fetch_column(conn, _LAST_IF_ARCHIVED, [cursor.last_event_id, after])


async def has_events(conn: AsyncConnection, app: str) -> bool:
    """Return whether any event of the app is stored, other than from quarantine."""
    return bool(await fetch_value(conn, _HAS_EVENTS, [app]))


async def is_last_received_stored(conn: AsyncConnection, cursor: Cursor) -> bool:
    """Return whether the last event_id received belongs to a stored event of the app, so that the upstream has it."""
    return bool(await fetch_value(conn, _IS_STORED[await is_distributed(conn)], [cursor.app, cursor.last_event_id]))


def plausible_ids(event_ids: list[str], now: datetime) -> list[str]:
    """Return the ids that don't lie in the future, in their order.

    This machine's clock decides, with some tolerance. If no id passes, the clock itself may be wrong: then ids are
    plausible that lie less than a day ahead, or else, if there are many ids, those up to their median.
    """
    for tolerance in (CLOCK_SKEW, CLOCK_ERROR):
        latest = unix_milliseconds(now + tolerance)
        if passed := [event_id for event_id in event_ids if ulid.time_milliseconds(event_id) <= latest]:
            return passed
    if len(event_ids) < AGREEING_EVENTS:
        return []
    median = sorted(event_ids)[len(event_ids) // 2]
    return [event_id for event_id in event_ids if event_id <= median]


def is_clock_behind(event_ids: list[str], now: datetime) -> bool:
    """Return whether all ids lie in this machine's future, although they agree with each other."""
    latest = unix_milliseconds(now + CLOCK_SKEW)
    return bool(plausible_ids(event_ids, now)) and all(
        ulid.time_milliseconds(event_id) > latest for event_id in event_ids
    )


def unix_milliseconds(moment: datetime) -> int:
    """Return the moment in milliseconds since 1970, as ULIDs have it."""
    return int(moment.timestamp() * 1000)
