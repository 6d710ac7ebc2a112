"""Reads what only the page shows: how fresh rows are, new events by app, rebuilds, and damage of the schema.

Invariants. Every query reads by index, and a bounded number of rows: of the event table one event for each projection,
at most ``COUNTED_EVENTS`` of the events that are new since the last reading, and the last events only where personal
data may be shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row

from eventstore.contracts.event_types import KNOWN_TYPES, EventType
from eventstore.postgres.queries import fetch_all
from projections.rebuilding.rebuild_history import find_sessions_of_runs
from projections.rebuilding.shadow_position import read_positions_of_runs

COUNTED_EVENTS = 20_000
"""How many new events are counted by app, at the most; of more, the last ones stand for all."""
SHOWN_REBUILDS = 8
SHOWN_EVENTS = 20

_FRESH_TO = """
SELECT c.name, e.received_at FROM projections.checkpoints AS c
JOIN (
    SELECT position, received_at FROM eventstore.events
    WHERE position = ANY(ARRAY(SELECT position FROM projections.checkpoints))
) AS e USING (position)
"""
_NEW_BY_APP = """
SELECT app, count(*) FROM eventstore.events WHERE position > %s AND position <= %s GROUP BY app
"""
_REBUILDS = """
SELECT r.id, r.name, r.into_schema, r.dry_run, r.state, r.position, r.started_at, r.finished_at, r.rows_added,
       r.rows_removed, r.rows_changed, r.error, r.slices, r.slices_folded, c.position AS checkpoint,
       coalesce(c.version = r.version AND c.state IN ('running', 'paused'), false) AS follows_checkpoint
FROM (
    SELECT * FROM projections.rebuilds WHERE state = 'running'
    UNION SELECT * FROM (SELECT * FROM projections.rebuilds ORDER BY id DESC LIMIT %s) AS newest
) AS r LEFT JOIN projections.checkpoints AS c ON c.name = r.name
ORDER BY r.state = 'running' DESC, r.id DESC LIMIT %s
"""
_LAST_EVENTS = """
SELECT position, event_id, event_type, app, nullif(send_request_id, '') AS send_request_id, ppnum, error_code,
       occurred_at
FROM eventstore.events ORDER BY position DESC LIMIT %s
"""


@dataclass(frozen=True)
class RecordedRebuild:
    """A row of ``projections.rebuilds``, with what is known of its progress.

    Attributes:
        follows_checkpoint: whether it folds up to the checkpoint; else up to the head.
        holder: the session that runs it; None if none does.

    """

    id: int
    name: str
    into_schema: str | None
    dry_run: bool
    state: str
    position: int
    started_at: datetime
    finished_at: datetime | None
    rows_added: int | None
    rows_removed: int | None
    rows_changed: int | None
    error: str | None
    slices: int | None
    slices_folded: int | None
    checkpoint: int | None
    follows_checkpoint: bool
    holder: str | None = None


@dataclass(frozen=True)
class PageExtras:
    """What only the page shows.

    Attributes:
        fresh_to: when the last event that each projection folded was received.
        new_by_app: how many events of each app are new since the last reading.
        rebuilds: the running rebuilds, then the last ones.
        events: the last events, the newest first; empty unless personal data may be shown.

    """

    fresh_to: Mapping[str, datetime] = field(default_factory=dict)
    new_by_app: Mapping[str, float] = field(default_factory=dict)
    rebuilds: tuple[RecordedRebuild, ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()


async def read_extras(
    conn: AsyncConnection[Any], *, head_before: int | None, head: int, personal_data: bool
) -> PageExtras:
    """Read what only the page shows.

    Args:
        conn: an autocommit connection.
        head_before: the head at the last reading; None before the first.
        head: the head now.
        personal_data: whether phone numbers and requests may be shown.

    Raises:
        psycopg.Error: the database failed, or this role may not read something.

    """
    fresh: dict[str, Any] = dict(await fetch_all(conn, _FRESH_TO))
    new = await _count_new_events(conn, head_before, head) if head_before is not None else {}
    events = await _read_last_events(conn) if personal_data else ()
    return PageExtras(fresh, new, await _read_rebuilds(conn), events)


async def _count_new_events(conn: AsyncConnection[Any], before: int, head: int) -> dict[str, float]:
    if head <= before:
        return {}
    since = max(before, head - COUNTED_EVENTS)
    stands_for = (head - before) / (head - since)
    return {app: count * stands_for for app, count in await fetch_all(conn, _NEW_BY_APP, [since, head])}


async def _read_rebuilds(conn: AsyncConnection[Any]) -> tuple[RecordedRebuild, ...]:
    while True:
        async with conn.cursor(row_factory=class_row(RecordedRebuild)) as cursor:
            rows = await fetch_all(cursor, _REBUILDS, [SHOWN_REBUILDS, SHOWN_REBUILDS])
        running = {row.id: row.name for row in rows if row.state == "running"}
        if not running:
            return tuple(rows)
        shadows = await read_positions_of_runs(conn, list(running))
        sessions = await find_sessions_of_runs(conn, running)
        if sessions.keys() == running.keys():  # otherwise one has ended meanwhile, and its row now says how
            return tuple(_with_progress(row, shadows, sessions) if row.id in running else row for row in rows)


def _with_progress(
    row: RecordedRebuild, shadows: Mapping[int, int], sessions: Mapping[int, str | None]
) -> RecordedRebuild:
    return replace(row, position=max(row.position, shadows.get(row.id, 0)), holder=sessions[row.id])


async def _read_last_events(conn: AsyncConnection[Any]) -> tuple[dict[str, Any], ...]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        rows = await fetch_all(cursor, _LAST_EVENTS, [SHOWN_EVENTS])
    return tuple({**row, "event_type": _type_name(row["event_type"])} for row in rows)


def _type_name(number: int) -> str:
    return EventType(number).name if number in KNOWN_TYPES else f"UNKNOWN_{number}"
