"""Reads what status shows: apps, projections, consumers, quarantine, counts over the log, and drift of the schema.

The counts read as many events as they count: people want them, a clock must not. ``status --check`` without ``--json``
leaves them out, so that a monitor may call it every minute. What monitoring reads every second is in
:mod:`projections.inspecting.read_live_status`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from sqlalchemy import SelectBase

from eventstore.appending.server_clock import find_events_ahead_of_clock
from eventstore.archived_rows import read_archived_up_to
from eventstore.consuming.consumers import read_consumers
from eventstore.contracts.event_types import KNOWN_TYPES
from eventstore.distributed_log import IS_DISTRIBUTED
from eventstore.event_reader import HEAD, read_head
from eventstore.postgres.queries import fetch_all, fetch_row
from projections.errors import describe_user_code_error
from projections.folding.run_statement import fetch_rows
from projections.inspecting.erasure_ledger import describe_ledger
from projections.inspecting.read_live_status import read_app_streams, read_projections
from projections.inspecting.status import MOST_COUNTED, AppStatus, Skip, Status
from projections.migrating.missing_tables import describe_missing_table
from projections.migrating.schema_drift import find_drift
from projections.projection import Projection
from projections.registry import Registry

_QUARANTINED = "SELECT app, count(*) FROM eventstore.quarantine GROUP BY app"
_COUNTS = sql.SQL("""
SELECT {head},
       CASE WHEN {is_distributed}
            THEN (SELECT count(*) FROM (SELECT 1 FROM eventstore.events WHERE send_request_id = '' LIMIT {most})
                  AS found)
            ELSE (SELECT count(*) FROM (SELECT 1 FROM eventstore.events WHERE send_request_id IS NULL LIMIT {most})
                  AS found) END,
       (SELECT count(*) FROM (SELECT 1 FROM eventstore.events WHERE event_type < {first} OR event_type > {last}
                              LIMIT {most}) AS found)
""").format(
    head=HEAD,
    is_distributed=sql.SQL(IS_DISTRIBUTED),
    most=sql.Literal(MOST_COUNTED),
    first=sql.Literal(min(KNOWN_TYPES)),
    last=sql.Literal(max(KNOWN_TYPES)),
)
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


async def read_status(
    conn: AsyncConnection[Any], registry: Registry, *, counted: bool = True, ledger: Path | None = None
) -> Status:
    """Read the status.

    Args:
        conn: an autocommit connection.
        registry: the projections of this code.
        counted: whether events and rows are counted too, up to ``MOST_COUNTED`` of a kind; so it costs the same on a
            log of any length. Without, it has everything that is needed to find problems; the counts are 0
            or missing.
        ledger: the ledger of erased persons that is compared with the log; None for none.

    """
    apps = await read_app_streams(conn)
    if counted:
        kept: dict[str, int] = dict(await fetch_all(conn, _QUARANTINED))
        apps = [replace(app, quarantined=kept.get(app.app, 0)) for app in apps]
    live = await read_projections(conn, registry)
    skips = await _read_skips(conn)
    counts = await fetch_row(conn, _COUNTS) if counted else None
    head, without_request, unknown_types = counts or (await read_head(conn), 0, 0)
    declared, remarks = await _read_declared_counts(conn, registry) if counted else ({}, [])
    missing = await _find_missing_columns(conn, registry)
    projections = []
    for one in live:
        projection = registry.projections.get(one.name)
        problem = (_describe_missing_table(projection, missing) if projection else None) or one.problem
        note = problem or (_describe_absent_events(projection, apps) if projection else None)
        projections.append(replace(one, note=note, problem=problem, skips=tuple(skips.get(one.name, ()))))
    schema = [drift.sentence for drift in await find_drift(conn)]
    status = Status(head, without_request, unknown_types, apps, projections, declared, remarks)
    ahead, consumers = await find_events_ahead_of_clock(conn), await read_consumers(conn)
    wrong = await describe_ledger(conn, ledger)
    archived = await read_archived_up_to(conn)
    return replace(
        status, ahead_of_clock=ahead, schema=schema, consumers=consumers, ledger=wrong, archived_up_to=archived
    )


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


async def _read_skips(conn: AsyncConnection[Any]) -> dict[str, list[Skip]]:
    skips: dict[str, list[Skip]] = {}
    for name, event_id, why, skipped_at in await fetch_all(conn, _SKIPS):
        skips.setdefault(name, []).append(Skip(event_id, why, skipped_at))
    return skips


def _describe_missing_table(projection: Projection, missing: Mapping[str, str | None]) -> str | None:
    """Return which table or columns of a projection are missing, and what to do; None if they all exist."""
    for table in projection.tables:
        if table.name in missing:
            columns = missing[table.name]
            if columns is None:
                return describe_missing_table(table.name)
            return f"table {table.name} is missing columns {columns}; run projections migrate"
    return None


def _describe_absent_events(projection: Projection, apps: list[AppStatus]) -> str | None:
    without = [app for app in apps if app.contract in projection.absent_contracts]
    if not without:
        return None
    contracts = ", ".join(sorted({str(app.contract) for app in without}))
    names = ", ".join(app.app for app in without)
    return f"no rows for {names}: contract {contracts} has none of the events that {projection.name} folds"
