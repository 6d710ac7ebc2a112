"""What people do to projections from outside: wait for them, and let them pass over an event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore import ulid
from eventstore.event_reader import HEAD
from eventstore.postgres.queries import fetch_all, fetch_row, fetch_value
from projections.errors import ProjectionsError, UsageError
from projections.running.checkpoint import State

POLL_SECONDS = 0.05

_WHERE = "SELECT position FROM eventstore.events WHERE event_id = %s"
_QUARANTINED = "SELECT app, reason FROM eventstore.quarantine WHERE event_id = %s ORDER BY last_seen DESC LIMIT 1"
# One of the asked version's rows waits only in the eyes of newer code; whoever has this version folds it. A checkpoint
# that is ahead of the log tells nothing of an event at a position that was given out again.
_BEHIND = sql.SQL(
    "SELECT name, CASE WHEN c.version < asked.version OR c.position > head.position THEN 'waiting'"
    " WHEN c.version = asked.version AND c.state = 'waiting' THEN 'running' ELSE c.state END, c.last_error"
    " FROM unnest(%s::text[], %s::integer[]) AS asked (name, version)"
    " CROSS JOIN (SELECT {head} AS position) AS head"
    " LEFT JOIN projections.checkpoints AS c USING (name)"
    " WHERE coalesce(c.position, 0) < %s OR c.version < asked.version OR c.position > head.position ORDER BY name"
).format(head=sql.SQL(HEAD))
_LAST = "SELECT event_id FROM eventstore.events ORDER BY position DESC LIMIT 1"
_SKIP = (
    "INSERT INTO projections.skips (name, event_id, version, why, skipped_at)"
    " VALUES (%s, %s, %s, %s, clock_timestamp()) ON CONFLICT (name, event_id, version)"
    " DO UPDATE SET why = excluded.why, skipped_at = excluded.skipped_at"
)


async def last_event(conn: AsyncConnection[Any]) -> str:
    """Return the last event's id.

    Raises:
        ProjectionsError: there is none.

    """
    event_id = await fetch_value(conn, _LAST)
    if event_id is None:
        raise ProjectionsError("no event is stored yet")
    return str(event_id)


async def wait_until_folded(
    conn: AsyncConnection[Any], versions: Mapping[str, int], event_id: str, timeout: float
) -> int:
    """Wait until every projection has folded an event, and return its position.

    Args:
        conn: an autocommit connection.
        versions: the projections, and the version of each that must have folded it.
        event_id: the event; it may not have arrived yet.
        timeout: seconds, after which to give up.

    Raises:
        UsageError: that is no ULID.
        ProjectionsError: it is in quarantine, or a projection that lacks it stands still, or time is up.

    """
    _require_event_id(event_id)
    deadline = monotonic() + timeout
    while True:
        row = await fetch_row(conn, _WHERE, [event_id])
        if row is None:
            await _not_in_quarantine(conn, event_id)
            lacking = "it has not arrived"
        else:
            behind = await fetch_all(conn, _BEHIND, [[*versions], [*versions.values()], row[0]])
            if not behind:
                return int(row[0])
            for name, state, error in behind:
                if state not in (State.RUNNING, None):  # None has not run yet, and may
                    said = f": {error or f'run projections rebuild {name}'}" if error or state == State.WAITING else ""
                    raise ProjectionsError(f"{name} has not folded event {event_id}, and is {state}{said}")
            lacking = f"not folded by {', '.join(name for name, _, _ in behind)}"
        if monotonic() >= deadline:
            raise ProjectionsError(f"event {event_id}: {lacking} after {timeout:g} s; is projections run running?")
        await asyncio.sleep(POLL_SECONDS)


def _require_event_id(text: str) -> None:
    if not ulid.is_ulid(text):
        raise UsageError(f"{text!r} is not an event_id: give an upper-case ULID")


async def _not_in_quarantine(conn: AsyncConnection[Any], event_id: str) -> None:
    row = await fetch_row(conn, _QUARANTINED, [event_id])
    if row is not None:
        raise ProjectionsError(f"event {event_id} of app {row[0]!r} is in quarantine: {row[1]}")


async def skip(conn: AsyncConnection[Any], name: str, event_id: str, why: str, code_version: int) -> int:
    """Let a projection pass over an event that it can't fold, and try again at once; returns the event's position.

    For a projection that waits for a rebuild the skip holds for the code's version: it is the rebuild that passes over
    the event, wherever it lies.

    Raises:
        UsageError: there is no such event, or the projection has folded it, or has not run yet.

    """
    if not why.strip():
        raise UsageError("say why the event is skipped: --why 'a few words'")
    _require_event_id(event_id)
    async with conn.transaction():
        row = await fetch_row(conn, _WHERE, [event_id])
        if row is None:
            raise UsageError(f"there is no event {event_id}: the error of the failed projection names the one")
        position = int(row[0])
        taken = await fetch_row(
            conn, "SELECT version, position FROM projections.checkpoints WHERE name = %s FOR UPDATE", [name]
        )
        if taken is None:
            raise UsageError(f"projection {name} has not run yet: nothing is to be skipped")
        version, folded = taken
        if code_version <= version and position <= folded:
            raise UsageError(f"projection {name} has folded event {event_id} already (position {position})")
        await conn.execute(_SKIP, [name, event_id, max(version, code_version), why.strip()])
        await conn.execute("UPDATE projections.checkpoints SET retry_at = NULL WHERE name = %s", [name])
    return position
