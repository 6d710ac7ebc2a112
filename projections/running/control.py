"""What people do to a projection from outside: pause it, resume it, let it skip an event, and wait for it.

Invariants. A pause and a resume wait for the window that is being folded. A skip is recorded for one version of the
projection, with its reason; live folds, rebuilds and verifications of that version all skip the event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore import ulid
from eventstore.event_reader import HEAD, read_last_event
from eventstore.postgres.queries import fetch_all, fetch_row, fetch_value
from projections.errors import ProjectionsError, UsageError
from projections.running.checkpoint import ProjectionState

POLL_SECONDS = 0.05

_POSITION_OF = "SELECT position FROM eventstore.event_positions WHERE event_id = %s"
_QUARANTINED = "SELECT app, reason FROM eventstore.quarantine WHERE event_id = %s ORDER BY last_seen DESC LIMIT 1"
# Rows of the asked version may be marked as waiting by newer code; a process with this version still folds them. A
# checkpoint ahead of the log says nothing about an event: its position may have been given out twice.
_NOT_FOLDED = sql.SQL(
    "SELECT name, CASE WHEN c.version < asked.version OR c.position > head.position THEN 'waiting'"
    " WHEN c.version = asked.version AND c.state = 'waiting' THEN 'running' ELSE c.state END, c.last_error"
    " FROM unnest(%s::text[], %s::integer[]) AS asked (name, version)"
    " CROSS JOIN (SELECT {head} AS position) AS head"
    " LEFT JOIN projections.checkpoints AS c USING (name)"
    " WHERE coalesce(c.position, 0) < %s OR c.version < asked.version OR c.position > head.position ORDER BY name"
).format(head=HEAD)
_PAUSE = "UPDATE projections.checkpoints SET state = 'paused' WHERE name = %s"
_RESUME = (
    "UPDATE projections.checkpoints SET state = 'running', last_error = NULL, last_error_at = NULL, failures = 0,"
    " retry_at = NULL WHERE name = %s AND state <> 'waiting'"
)
_LOCK_CHECKPOINT = "SELECT version, position FROM projections.checkpoints WHERE name = %s FOR UPDATE"
_SKIP = (
    "INSERT INTO projections.skips (name, event_id, version, why, skipped_at)"
    " VALUES (%s, %s, %s, %s, clock_timestamp()) ON CONFLICT (name, event_id, version)"
    " DO UPDATE SET why = excluded.why, skipped_at = excluded.skipped_at"
)
_RETRY_NOW = "UPDATE projections.checkpoints SET retry_at = NULL WHERE name = %s"


async def pause(conn: AsyncConnection[Any], name: str) -> bool:
    """Stop a projection at its checkpoint; return whether it has one."""
    return (await conn.execute(_PAUSE, [name])).rowcount == 1


async def resume(conn: AsyncConnection[Any], name: str) -> bool:
    """Let a paused or failed projection run again at once; return whether it has a checkpoint that is not waiting."""
    return (await conn.execute(_RESUME, [name])).rowcount == 1


async def skip(conn: AsyncConnection[Any], name: str, event_id: str, why: str, code_version: int) -> int:
    """Let a projection skip an event that it can't fold, and retry at once; return the event's position.

    If the projection waits for a rebuild, the skip holds for the code's version: the rebuild skips the event, wherever
    it is in the log.

    Raises:
        UsageError: there is no such event, or the projection has already folded it, or has not run yet.

    """
    if not why.strip():
        raise UsageError("give the reason for the skip: --why 'a few words'")
    _require_event_id(event_id)
    async with conn.transaction():
        found = await fetch_value(conn, _POSITION_OF, [event_id])
        if found is None:
            raise UsageError(f"event {event_id} does not exist; the failed projection's error names its event")
        position = int(found)
        row = await fetch_row(conn, _LOCK_CHECKPOINT, [name])
        if row is None:
            raise UsageError(f"projection {name} has not run yet; there is nothing to skip")
        version, folded = row
        if code_version <= version and position <= folded:
            raise UsageError(f"projection {name} has already folded event {event_id} (position {position})")
        await conn.execute(_SKIP, [name, event_id, max(version, code_version), why.strip()])
        await conn.execute(_RETRY_NOW, [name])
    return position


async def find_last_event_id(conn: AsyncConnection[Any]) -> str:
    """Return the event_id at the head of the log.

    Raises:
        ProjectionsError: no event is stored.

    """
    last = await read_last_event(conn)
    if last.event_id is None:
        raise ProjectionsError("no event is stored yet")
    return last.event_id


async def wait_until_folded(
    conn: AsyncConnection[Any], versions: Mapping[str, int], event_id: str, timeout: float
) -> int:
    """Wait until every projection has folded an event, and return its position.

    Args:
        conn: an autocommit connection.
        versions: the projections, and the version of each that must have folded the event.
        event_id: the event; it may not be stored yet.
        timeout: seconds, after which to give up.

    Raises:
        UsageError: the event_id is no ULID.
        ProjectionsError: the event is quarantined, a projection that has not folded it is stopped, or time is up.

    """
    _require_event_id(event_id)
    deadline = monotonic() + timeout
    while True:
        position = await fetch_value(conn, _POSITION_OF, [event_id])
        if position is None:
            await _refuse_quarantined(conn, event_id)
            missing = "not stored"
        else:
            behind = await fetch_all(conn, _NOT_FOLDED, [[*versions], [*versions.values()], position])
            if not behind:
                return int(position)
            for name, state, error in behind:
                _refuse_stopped(name, state, error, event_id)
            missing = f"not folded by {', '.join(name for name, _, _ in behind)}"
        if monotonic() >= deadline:
            raise ProjectionsError(f"event {event_id}: {missing} after {timeout:g} s; is projections run running?")
        await asyncio.sleep(POLL_SECONDS)


def _require_event_id(text: str) -> None:
    if not ulid.is_ulid(text):
        raise UsageError(f"{text!r} is not an event_id; give an upper-case ULID")


async def _refuse_quarantined(conn: AsyncConnection[Any], event_id: str) -> None:
    row = await fetch_row(conn, _QUARANTINED, [event_id])
    if row is not None:
        raise ProjectionsError(f"event {event_id} of app {row[0]!r} is quarantined: {row[1]}")


def _refuse_stopped(name: str, state: str | None, error: str | None, event_id: str) -> None:
    if state in (ProjectionState.RUNNING, None):  # None: it has not run yet, and may
        return
    reason = error or (f"run projections rebuild {name}" if state == ProjectionState.WAITING else "")
    raise ProjectionsError(f"{name} has not folded event {event_id} and is {state}" + (f": {reason}" if reason else ""))
