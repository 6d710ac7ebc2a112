"""The rows of ``projections.rebuilds``: what each rebuild, and each as-of, is doing or did.

A row is there from a run's start. A process that can still speak says how its run ended; of one that was killed the
next run of the same projection does.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection

from eventstore.errors import describe
from eventstore.postgres.queries import fetch_value
from projections.errors import ProjectionsError, UsageError
from projections.projection import Projection

RECORD_SECONDS = 2.0
_NEXT = "SELECT nextval(pg_get_serial_sequence('projections.rebuilds', 'id'))"
_ABANDONED = (
    "UPDATE projections.rebuilds SET state = 'abandoned', finished_at = clock_timestamp(),"
    " error = 'its process ended in the middle' WHERE name = %s AND state = 'running'"
)
_BEGUN = (
    "INSERT INTO projections.rebuilds (id, name, version, fingerprint, holder, state, dry_run, position, started_at,"
    " into_schema) OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s, %s, 'running', %s, 0, clock_timestamp(), %s)"
)
_ENDED = (
    "UPDATE projections.rebuilds SET state = %s, error = %s, finished_at = clock_timestamp()"
    " WHERE id = %s AND state IN ('running', 'abandoned')"
)


async def next_run_id(conn: AsyncConnection[Any]) -> int:
    """Return a number that no other replay has."""
    return int(await fetch_value(conn, _NEXT) or 0)


async def record_start(
    conn: AsyncConnection[Any],
    run: int,
    projection: Projection,
    fingerprint: str,
    holder: str,
    *,
    dry_run: bool = False,
    into: str | None = None,
) -> None:
    """Note that a run begins, and of earlier ones of the projection that are not over that they are.

    Args:
        conn: an autocommit connection.
        run: a number of :func:`next_run_id`.
        projection: whose run, under the lock that lets only one be.
        fingerprint: of its code.
        holder: the session's application_name.
        dry_run: whether it only shows the difference.
        into: the schema that an as-of makes; None for the read model itself.

    """
    row = [run, projection.name, projection.version, fingerprint, holder, dry_run, into]
    async with conn.transaction():
        await conn.execute(_ABANDONED, [projection.name])
        await conn.execute(_BEGUN, row)


async def record_failure(conn: AsyncConnection[Any], run: int, state: str, error: BaseException) -> None:
    """Note that a run came to nothing, and why, if the database can be told; nothing is raised."""
    if isinstance(error, asyncio.CancelledError):
        state, said = "abandoned", "it was interrupted"
    else:
        said = str(error) if isinstance(error, (ProjectionsError, UsageError)) else describe(error)
    # If not, the next one finds it running and without its session.
    with suppress(psycopg.Error, TimeoutError):
        async with asyncio.timeout(RECORD_SECONDS):
            await conn.execute(_ENDED, [state, said, run])
