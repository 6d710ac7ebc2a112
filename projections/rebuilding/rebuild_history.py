"""The rows of ``projections.rebuilds``: what each rebuild and each as-of does or did.

Invariants. A row exists from a run's start. A process that can still write records how its run ended; the projection's
next rebuild or as-of marks a killed run as abandoned. Success is recorded in the transaction that applies the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor, sql

from eventstore.errors import describe
from eventstore.locks import rebuild_lock
from eventstore.postgres.lock_holder import find_holder_names
from eventstore.postgres.queries import fetch_column, fetch_value
from projections.errors import ProjectionsError, UsageError
from projections.projection import Projection
from projections.rebuilding.row_changes import Changes

RECORD_SECONDS = 2.0
"""How long a failed run tries to record its failure, at the most."""

_NEXT_ID = "SELECT nextval(pg_get_serial_sequence('projections.rebuilds', 'id'))"
_START = (
    "WITH killed AS (UPDATE projections.rebuilds SET state = 'abandoned', finished_at = clock_timestamp(),"
    " error = 'its process was killed' WHERE name = %(name)s AND state = 'running')"
    " INSERT INTO projections.rebuilds (id, name, version, fingerprint, holder, state, dry_run, position, started_at,"
    " into_schema) OVERRIDING SYSTEM VALUE VALUES (%(id)s, %(name)s, %(version)s, %(fingerprint)s, %(holder)s,"
    " 'running', %(dry_run)s, 0, clock_timestamp(), %(into)s)"
)
_READ_POSITION = "SELECT position FROM projections.rebuilds WHERE id = %s AND into_schema IS NULL"
_RECORD_POSITION = "UPDATE projections.rebuilds SET position = %s WHERE id = %s"
_RECORD_SLICES = "UPDATE projections.rebuilds SET slices = %s, slices_folded = %s WHERE id = %s"
_RECORD_SLICE = sql.SQL("UPDATE projections.rebuilds SET slices_folded = slices_folded + 1 WHERE id = {}")
_FAIL = (
    "UPDATE projections.rebuilds SET state = %s, error = %s, finished_at = clock_timestamp()"
    " WHERE id = %s AND state IN ('running', 'abandoned')"
)
_DONE = (
    "UPDATE projections.rebuilds SET state = 'done', error = NULL, finished_at = clock_timestamp(),"
    " position = %(position)s, rows_before = %(before)s, rows_added = %(added)s,"
    " rows_removed = %(removed)s, rows_changed = %(changed)s, fold_seconds = %(fold_seconds)s,"
    " compare_seconds = %(compare_seconds)s, apply_seconds = %(apply_seconds)s WHERE id = %(id)s"
)
_STILL_RUNNING = "SELECT id FROM projections.rebuilds WHERE id = ANY(%s) AND state = 'running'"
_AS_OF_DONE = (
    "UPDATE projections.rebuilds SET state = 'done', finished_at = clock_timestamp(), position = %s,"
    " into_schema_oid = %s, into_table_oids = %s WHERE id = %s"
)


async def next_run_id(conn: AsyncConnection[Any]) -> int:
    """Return an id that no other replay has."""
    return int(await fetch_value(conn, _NEXT_ID) or 0)


async def record_start(
    conn: AsyncConnection[Any],
    run_id: int,
    projection: Projection,
    fingerprint: str,
    holder: str,
    *,
    dry_run: bool = False,
    into: str | None = None,
) -> None:
    """Record that a run starts, and that earlier runs of the projection which were killed are abandoned.

    Args:
        conn: an autocommit connection.
        run_id: the run's, of :func:`next_run_id`.
        projection: whose run; its rebuild lock is held.
        fingerprint: of its code.
        holder: the session's application_name.
        dry_run: whether it only shows the difference.
        into: the schema that an as-of creates; None for the read model itself.

    """
    row = {
        "id": run_id,
        "name": projection.name,
        "version": projection.version,
        "fingerprint": fingerprint,
        "holder": holder,
        "dry_run": dry_run,
        "into": into,
    }
    await conn.execute(_START, row)


async def find_sessions_of_runs(conn: AsyncConnection[Any], running: Mapping[int, str]) -> dict[int, str | None]:
    """Return, by the run's id, which session runs it; None if its process is gone.

    Args:
        conn: an autocommit connection, or one in a transaction that sees what others commit.
        running: the names of the projections by the ids of the runs that were read as running. Those that have ended
            since then are left out of the result.

    """
    names = await find_holder_names(conn, {name: rebuild_lock(name) for name in running.values()})
    sessions: dict[int, str | None] = {run: names[name] for run, name in running.items() if name in names}
    # A run records its end before it releases the lock: so one that is still running here, and has none, was killed.
    if others := [run for run in running if run not in sessions]:
        sessions |= dict.fromkeys(await fetch_column(conn, _STILL_RUNNING, [others]))
    return sessions


async def read_position(conn: AsyncConnection[Any], run_id: int) -> int | None:
    """Return how far a rebuild had folded; None if there was no such rebuild."""
    position: int | None = await fetch_value(conn, _READ_POSITION, [run_id])
    return position


async def record_position(conn: AsyncConnection[Any], run_id: int, position: int) -> None:
    """Record how far a rebuild has folded, inside the transaction that folds."""
    await conn.execute(_RECORD_POSITION, [position, run_id])


async def record_slices(conn: AsyncConnection[Any], run_id: int, slices: int | None, folded: int | None) -> None:
    """Record how many slices a rebuild has, and how many of them are folded; None if it has none."""
    await conn.execute(_RECORD_SLICES, [slices, folded, run_id])


async def record_folded_slice(conn: AsyncConnection[Any], run_id: int) -> None:
    """Record that one more slice is folded, inside the transaction that folds it."""
    await conn.execute(_RECORD_SLICE.format(run_id))


async def record_done(
    conn: AsyncConnection[Any],
    run_id: int,
    position: int,
    changes: Sequence[Changes],
    *,
    fold_seconds: float,
    compare_seconds: float,
    apply_seconds: float,
) -> None:
    """Record a rebuild's success, inside the transaction that applies it."""
    row = {
        "id": run_id,
        "position": position,
        "before": sum(one.before for one in changes),
        "added": sum(one.added for one in changes),
        "removed": sum(one.removed for one in changes),
        "changed": sum(one.changed for one in changes),
        "fold_seconds": fold_seconds,
        "compare_seconds": compare_seconds,
        "apply_seconds": apply_seconds,
    }
    await conn.execute(_DONE, row)


async def record_as_of_done(
    conn: AsyncConnection[Any], run_id: int, position: int, schema_oid: int | None, table_oids: Sequence[int]
) -> None:
    """Record an as-of's success, inside the transaction that creates its schema."""
    await conn.execute(_AS_OF_DONE, [position, schema_oid, list(table_oids), run_id])


async def record_run_failure(conn: AsyncConnection[Any], run_id: int, state: str, error: BaseException) -> None:
    """Record that a run failed, and why, if the database can be reached; raises nothing."""
    if isinstance(error, asyncio.CancelledError):
        state, why = "abandoned", "it was interrupted"
    else:
        why = str(error) if isinstance(error, (ProjectionsError, UsageError)) else describe(error)
    # If this fails, the next run finds the row still running, and marks it as abandoned.
    with suppress(psycopg.Error, TimeoutError):
        async with asyncio.timeout(RECORD_SECONDS):
            # Not in the statement's text, which servers log: it may have the text of an exception that a fold raised.
            await AsyncCursor(conn).execute(_FAIL, [state, why, run_id])
