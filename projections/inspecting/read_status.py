"""Reads what status shows: apps, projections, quarantine, counts over the log, and drift of the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row
from sqlalchemy import SelectBase

from eventstore.appending.server_clock import find_events_ahead_of_clock
from eventstore.contracts.event_types import KNOWN_TYPES
from eventstore.event_reader import HEAD
from eventstore.locks import app_lock
from eventstore.postgres.lock_holder import find_holder
from eventstore.postgres.queries import fetch_all, fetch_row, fetch_value
from projections.errors import describe_user_code_error
from projections.folding.run_statement import fetch_rows
from projections.inspecting.status import NEW, AppStatus, ProjectionStatus, Skip, Status
from projections.migrating.missing_tables import describe_missing_table
from projections.migrating.schema_drift import find_drift
from projections.projection import Projection
from projections.registry import Registry
from projections.running.folding_sessions import find_folding_sessions
from projections.running.state_changes import describe_ahead_of_log, describe_older_rows

_APPS = """
SELECT app, contract, last_event_id, last_received_at, jsonb_array_length(holes) AS holes, last_error, went_back,
       refused_at, retry_at, (SELECT count(*) FROM eventstore.quarantine AS q WHERE q.app = c.app) AS quarantined,
       coalesce(n.messages, 0)::bigint AS quarantined_messages, coalesce(n.not_kept, 0)::bigint AS quarantined_not_kept,
       (SELECT full_since FROM eventstore.quarantine_usage AS u WHERE u.app = c.app) AS quarantine_full_since,
       coalesce(n.reasons, '{}') AS quarantine_reasons
FROM eventstore.cursors AS c, LATERAL (
    SELECT sum(messages) AS messages, sum(not_kept) AS not_kept, jsonb_object_agg(reason, messages) AS reasons
    FROM eventstore.quarantine_counts AS q WHERE q.app = c.app) AS n
ORDER BY app
"""
_COUNTS = sql.SQL("""
SELECT {head},
       (SELECT count(*) FROM eventstore.events WHERE send_request_id IS NULL),
       (SELECT count(*) FROM eventstore.events WHERE event_type < {first} OR event_type > {last})
""").format(head=HEAD, first=sql.Literal(min(KNOWN_TYPES)), last=sql.Literal(max(KNOWN_TYPES)))
_PROJECTIONS = """
SELECT c.name, c.state, c.version, NULL::integer AS code_version, c.position, f.events_behind, f.seconds_behind,
       c.last_error, c.last_error_at, c.retry_at, c.redecoded_at,
       (SELECT count(*) FROM projections.skips AS s WHERE s.name = c.name AND s.version = c.version) AS skipped
FROM projections.checkpoints AS c JOIN public.read_model_freshness AS f ON f.read_model = c.name ORDER BY c.name
"""
_SKIPS = """
SELECT s.name, s.event_id, s.why, s.skipped_at
FROM projections.skips AS s JOIN projections.checkpoints AS c ON c.name = s.name AND c.version = s.version
ORDER BY s.name, s.skipped_at, s.event_id
"""
_MISSING_COLUMNS = """
SELECT name, CASE WHEN table_exists THEN string_agg(of, ', ' ORDER BY number) END
FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS owned (schema, name, of, number),
     to_regclass(format('%%I.%%I', schema, name)) AS found, LATERAL (SELECT found IS NOT NULL AS table_exists) AS looked
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = found AND attname = of AND NOT attisdropped)
GROUP BY schema, name, table_exists
"""
_SECONDS_SINCE_FIRST = (
    "SELECT coalesce(greatest(extract(epoch FROM clock_timestamp() - received_at), 0), 0)::double precision"
    " FROM eventstore.events ORDER BY position LIMIT 1"
)


async def read_status(conn: AsyncConnection[Any], registry: Registry) -> Status:
    """Read the status.

    Args:
        conn: an autocommit connection.
        registry: the projections of this code.

    """
    apps = await _read_apps(conn)
    async with conn.cursor(row_factory=class_row(ProjectionStatus)) as cursor:
        found = {one.name: one for one in await fetch_all(cursor, _PROJECTIONS)}
    skips = await _read_skips(conn)
    counts = await fetch_row(conn, _COUNTS)
    head, without_request, unknown_types = counts or (0, 0, 0)
    declared, remarks = await _read_declared_counts(conn, registry)
    waited = await fetch_value(conn, _SECONDS_SINCE_FIRST) or 0.0
    missing = await _find_missing_columns(conn, registry)
    names = sorted({*found, *registry.projections, *registry.broken})
    sessions = await find_folding_sessions(conn, names)
    projections = []
    for name in names:
        projection = registry.projections.get(name)
        problem = _describe_problem(found.get(name), name, registry, missing, head)
        projections.append(
            replace(
                found.get(name) or _new_projection(name, head, waited),
                code_version=projection.version if projection else None,
                note=problem or (_describe_absent_events(projection, apps) if projection else None),
                problem=problem,
                skips=tuple(skips.get(name, ())),
                folded_by=sessions.get(name, ()),
            )
        )
    schema = [drift.sentence for drift in await find_drift(conn)]
    status = Status(head, without_request, unknown_types, apps, projections, declared, remarks)
    return replace(status, ahead_of_clock=await find_events_ahead_of_clock(conn), schema=schema)


async def _read_declared_counts(
    conn: AsyncConnection[Any], registry: Registry
) -> tuple[dict[str, int | None], list[str]]:
    """Return the counts that projections declare, by name (None if the query fails), and the sentences about them.

    A name that is taken already, by status itself or by another projection, is left out and reported.
    """
    found: dict[str, int | None] = {}
    owners = dict.fromkeys((one.name for one in fields(Status)), "status itself")
    remarks: list[str] = []
    for projection in registry.projections.values():
        query = projection.status_query
        if query is None:
            continue
        counts: Mapping[str, int | None]
        try:
            (numbers,) = await fetch_rows(conn, query)
            counts, remark = numbers, projection.describe_counts(numbers)
        except psycopg.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - a projection that others wrote may raise anything; status still works
            remark = f"{projection.name}: its counts can't be shown: {describe_user_code_error(error)}"
            counts = dict.fromkeys(query.exported_columns.keys()) if isinstance(query, SelectBase) else {}
        remarks += [remark] if remark else []
        for label, count in counts.items():
            if (owner := owners.setdefault(label, projection.name)) == projection.name:
                found[label] = count
            else:
                remarks.append(f"{projection.name}: its count {label!r} is left out: {owner} has one of that name")
    return found, remarks


async def _find_missing_columns(conn: AsyncConnection[Any], registry: Registry) -> dict[str, str | None]:
    """Return, by table, the columns that are missing in the database; None if the whole table is missing."""
    columns = [c for one in registry.projections.values() for table in one.tables for c in table.columns]
    owned = ([c.table.schema for c in columns], [c.table.name for c in columns], [c.name for c in columns])
    return dict(await fetch_all(conn, _MISSING_COLUMNS, owned))


async def _read_apps(conn: AsyncConnection[Any]) -> list[AppStatus]:
    async with conn.cursor(row_factory=class_row(AppStatus)) as cursor:
        apps = await fetch_all(cursor, _APPS)
    return [await _with_follower(conn, app) for app in apps]


async def _with_follower(conn: AsyncConnection[Any], app: AppStatus) -> AppStatus:
    holder = await find_holder(conn, app_lock(app.app))
    name = (holder.application_name or f"backend {holder.pid}") if holder else None
    return AppStatus(**{**asdict(app), "followed_by": name})


async def _read_skips(conn: AsyncConnection[Any]) -> dict[str, list[Skip]]:
    skips: dict[str, list[Skip]] = {}
    for name, event_id, why, skipped_at in await fetch_all(conn, _SKIPS):
        skips.setdefault(name, []).append(Skip(event_id, why, skipped_at))
    return skips


def _new_projection(name: str, head: int, waited: float) -> ProjectionStatus:
    return ProjectionStatus(name, NEW, None, None, 0, head, waited, None, None, None, None, 0)


def _describe_problem(
    row: ProjectionStatus | None, name: str, registry: Registry, missing: Mapping[str, str | None], head: int
) -> str | None:
    """Return what needs attention and isn't in the checkpoint; None if nothing does."""
    projection = registry.projections.get(name)
    if projection is None:
        return registry.broken.get(name, "not installed here")
    for table in projection.tables:
        if table.name in missing:
            columns = missing[table.name]
            if columns is None:
                return describe_missing_table(table.name)
            return f"table {table.name} is missing columns {columns}; run projections migrate"
    return _describe_stale_rows(row, projection, head) if row is not None else None


def _describe_absent_events(projection: Projection, apps: list[AppStatus]) -> str | None:
    without = [app for app in apps if app.contract in projection.absent_contracts]
    if not without:
        return None
    contracts = ", ".join(sorted({str(app.contract) for app in without}))
    names = ", ".join(app.app for app in without)
    return f"no rows for {names}: contract {contracts} has none of the events that {projection.name} folds"


def _describe_stale_rows(row: ProjectionStatus, projection: Projection, head: int) -> str | None:
    rebuild = f"run projections rebuild {row.name}"
    if row.position > head:
        return describe_ahead_of_log(row.name, row.position, head)
    if row.version is not None and row.version > projection.version:
        return f"this code is older (version {projection.version}) than the rows (version {row.version})"
    if row.version is not None and row.version < projection.version:
        return None if row.last_error else describe_older_rows(row.name, projection.version)
    if row.redecoded_at is not None:
        return f"projections redecode changed events that it has folded; {rebuild}"
    return None
