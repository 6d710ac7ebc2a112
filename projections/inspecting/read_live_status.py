"""Reads the part of the status that monitoring needs every second.

Invariant. It costs the same on a log of 100 million events as on an empty one: of the event table it reads the last
event, and for each projection and each consumer the first event after its checkpoint, by index; of the quarantine it
reads the counts that are kept by app, never its rows. Counts over the log are read by
:mod:`projections.inspecting.read_status`, which people call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from eventstore.consuming.consumers import read_consumers
from eventstore.event_reader import LAG, from_checkpoints, read_head, read_last_event
from eventstore.locks import app_lock
from eventstore.postgres.lock_holder import find_holder_names
from eventstore.postgres.queries import fetch_all, fetch_value
from projections.inspecting.live_status import LiveStatus, RunningRebuild
from projections.inspecting.status import NEW, AppStatus, ProjectionStatus
from projections.projection import Projection
from projections.rebuilding.rebuild_history import find_sessions_of_runs
from projections.rebuilding.shadow_position import read_positions_of_runs
from projections.registry import Registry
from projections.running.checkpoint import ProjectionState
from projections.running.folding_sessions import find_folding_sessions
from projections.running.state_changes import describe_ahead_of_log, describe_older_rows

_APPS = """
SELECT app, contract, last_event_id, last_received_at, jsonb_array_length(holes) AS holes, last_error, went_back,
       refused_at, retry_at,
       coalesce((SELECT kept_rows FROM eventstore.quarantine_usage AS u WHERE u.app = c.app), 0) AS quarantined,
       coalesce(n.messages, 0)::bigint AS quarantined_messages, coalesce(n.not_kept, 0)::bigint AS quarantined_not_kept,
       (SELECT full_since FROM eventstore.quarantine_usage AS u WHERE u.app = c.app) AS quarantine_full_since,
       coalesce(n.reasons, '{}') AS quarantine_reasons
FROM eventstore.cursors AS c, LATERAL (
    SELECT sum(messages) AS messages, sum(not_kept) AS not_kept, jsonb_object_agg(reason, messages) AS reasons
    FROM eventstore.quarantine_counts AS q WHERE q.app = c.app) AS n
ORDER BY app
"""
# The columns of the view read_model_freshness. With enable_seqscan off, as here, PostgreSQL 15 would compute
# the head in the view from the whole event table.
_PROJECTIONS = sql.SQL("""
SELECT c.name, c.state, c.version, NULL::integer AS code_version, c.position,
       {lag},
       c.last_error, c.last_error_at, c.retry_at, c.redecoded_at,
       (SELECT count(*) FROM projections.skips AS s WHERE s.name = c.name AND s.version = c.version) AS skipped,
       c.failures, c.events AS folded_events, c.folded_at, c.fold_seconds
FROM {from_} ORDER BY c.name
""").format(lag=LAG, from_=from_checkpoints(sql.Identifier("projections", "checkpoints")))
_SECONDS_SINCE_FIRST = (
    "SELECT coalesce(greatest(extract(epoch FROM clock_timestamp() - received_at), 0), 0)::double precision"
    " FROM eventstore.events ORDER BY position LIMIT 1"
)
_REBUILDS = """
SELECT id, name, into_schema, dry_run, started_at, position, slices, slices_folded FROM projections.rebuilds
WHERE state = 'running'
ORDER BY started_at
"""

_LAST_ERASED = "SELECT (SELECT erased_at FROM eventstore.erasures ORDER BY id DESC LIMIT 1)"


async def read_live_status(conn: AsyncConnection[Any], registry: Registry) -> LiveStatus:
    """Read what monitoring needs.

    Args:
        conn: an autocommit connection.
        registry: the projections of this code.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    apps, checkpoints = await read_app_streams(conn), await _read_checkpoints(conn)
    last = await read_last_event(conn)
    head = last.position or 0
    projections = await _describe_projections(conn, registry, checkpoints, head)
    rebuilds = await read_running_rebuilds(conn, head)
    consumers, erased_at = await read_consumers(conn), await fetch_value(conn, _LAST_ERASED)
    return LiveStatus(last.now, head, last.received_at, apps, projections, rebuilds, consumers, erased_at)


async def read_app_streams(conn: AsyncConnection[Any]) -> list[AppStatus]:
    """Read every app's stream, and who follows it."""
    async with conn.cursor(row_factory=class_row(AppStatus)) as cursor:
        apps = await fetch_all(cursor, _APPS)
    holders = await find_holder_names(conn, {app.app: app_lock(app.app) for app in apps})
    return [replace(app, followed_by=holders.get(app.app)) for app in apps]


async def read_projections(conn: AsyncConnection[Any], registry: Registry) -> list[ProjectionStatus]:
    """Read every projection with a checkpoint, and add those of this code; their problem is why they need attention.

    Whether the tables exist is not looked up.
    """
    checkpoints = await _read_checkpoints(conn)
    return await _describe_projections(conn, registry, checkpoints, await read_head(conn))


async def _read_checkpoints(conn: AsyncConnection[Any]) -> dict[str, ProjectionStatus]:
    async with conn.cursor(row_factory=class_row(ProjectionStatus)) as cursor:
        return {one.name: one for one in await fetch_all(cursor, _PROJECTIONS)}


async def _describe_projections(
    conn: AsyncConnection[Any], registry: Registry, found: Mapping[str, ProjectionStatus], head: int
) -> list[ProjectionStatus]:
    """Add what is not in the checkpoints.

    The head was read after the checkpoints, which move: so a checkpoint ahead of it is ahead of the log.
    """
    names = sorted({*found, *registry.projections, *registry.broken})
    waited = 0.0 if found.keys() >= {*names} else await fetch_value(conn, _SECONDS_SINCE_FIRST) or 0.0
    sessions = await find_folding_sessions(conn, names)
    projections = []
    for name in names:
        projection = registry.projections.get(name)
        problem = _describe_problem(found.get(name), name, projection, registry, head)
        projections.append(
            replace(
                found.get(name) or ProjectionStatus(name, NEW, None, None, 0, head, waited, None, None, None, None, 0),
                code_version=projection.version if projection else None,
                note=problem,
                problem=problem,
                folded_by=sessions.get(name, ()),
            )
        )
    return projections


async def read_running_rebuilds(conn: AsyncConnection[Any], head: int) -> list[RunningRebuild]:
    """Read the rebuilds that are recorded as running, and who runs them; ``head`` is the head of the log."""
    rows = await fetch_all(conn, _REBUILDS)
    if not rows:
        return []
    sessions = await find_sessions_of_runs(conn, {row[0]: row[1] for row in rows})
    shadows = await read_positions_of_runs(conn, [row[0] for row in rows])
    return [
        RunningRebuild(
            name, sessions[run], into_schema, dry_run, started_at, max(position, shadows.get(run, 0)), head, *slices
        )
        for run, name, into_schema, dry_run, started_at, position, *slices in rows
        if run in sessions
    ]


def _describe_problem(
    row: ProjectionStatus | None, name: str, projection: Projection | None, registry: Registry, head: int
) -> str | None:
    """Return what needs attention and isn't in the checkpoint; None if nothing does."""
    if projection is None:
        return registry.broken.get(name, "not installed here")
    return describe_stale_rows(row, projection, head) if row is not None else None


def describe_stale_rows(row: ProjectionStatus, projection: Projection, head: int) -> str | None:
    """Return why a projection's rows are stale, whatever its state is; None if they aren't."""
    rebuild = f"run projections rebuild {row.name}"
    if row.position > head:
        return describe_ahead_of_log(row.name, row.position, head)
    if row.version is not None and row.version > projection.version:
        return f"this code is older (version {projection.version}) than the rows (version {row.version})"
    if row.version is not None and row.version < projection.version:
        if row.state == ProjectionState.PAUSED and row.last_error:
            return row.last_error  # found while it was paused, and its state doesn't show it
        return None if row.last_error else describe_older_rows(row.name, projection.version)
    if row.redecoded_at is not None:
        return f"projections redecode or erase changed events that it has folded; {rebuild}"
    return None
