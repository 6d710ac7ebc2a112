"""How a checkpoint's state changes, apart from moving forward.

::

    running ──fail──▶ failed ──retry, resume──▶ running
    running, failed ──newer code, or checkpoint ahead of the log──▶ waiting ──rebuild──▶ running
    any ──pause──▶ paused ──resume──▶ running

Invariants. Nothing but ``resume`` ends a pause: a projection that fails, waits or is rebuilt while paused stays paused.
Nobody marks the rows of a newer version: older code leaves such a checkpoint alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.postgres.queries import fetch_column
from projections.running.checkpoint import Checkpoint

_FAIL = (
    "UPDATE projections.checkpoints SET state = 'failed', last_error = %(error)s, last_error_at = clock_timestamp(),"
    " failures = failures + 1, retry_at = clock_timestamp() + %(wait)s"
    " WHERE name = %(name)s AND version = %(version)s AND position = %(position)s AND state <> 'paused'"
)
_AHEAD = (
    "UPDATE projections.checkpoints SET version = 0, position = %(head)s, last_error = %(error)s,"
    " last_error_at = clock_timestamp(), state = CASE WHEN state = 'paused' THEN 'paused' ELSE 'waiting' END"
    " WHERE name = %(name)s"
)
_WAIT = (
    "UPDATE projections.checkpoints SET state = 'waiting', last_error = %(error)s, last_error_at = clock_timestamp()"
    " WHERE name = %(name)s AND version < %(version)s AND state IN ('running', 'failed')"
)
_END_WAIT = (
    "UPDATE projections.checkpoints SET state = 'running', last_error = NULL, last_error_at = NULL"
    " WHERE name = %s AND version = %s AND state = 'waiting'"
)
_REBUILT = (
    "WITH old_skips AS (DELETE FROM projections.skips WHERE name = %(name)s AND version < %(version)s)"
    " UPDATE projections.checkpoints SET version = %(version)s, position = %(position)s,"
    " state = CASE WHEN state = 'paused' THEN 'paused' ELSE 'running' END, last_error = NULL, last_error_at = NULL,"
    " failures = 0, retry_at = NULL, redecoded_at = NULL WHERE name = %(name)s"
)
_AFFECTED_OR_UNKNOWN = sql.SQL("(name = ANY(%(affected)s) OR name <> ALL(%(known)s))")
_LOCK_THOSE = sql.SQL("SELECT FROM projections.checkpoints WHERE {} ORDER BY name FOR UPDATE").format(
    _AFFECTED_OR_UNKNOWN
)
_MARK_REDECODED = sql.SQL(
    "UPDATE projections.checkpoints SET redecoded_at = clock_timestamp() WHERE {} AND position >= %(position)s"
    " RETURNING name"
).format(_AFFECTED_OR_UNKNOWN)
_NEED_REBUILD = (
    "SELECT name FROM projections.checkpoints WHERE redecoded_at IS NOT NULL AND name = ANY(%s) ORDER BY name"
)


async def record_failure(
    conn: AsyncConnection[Any], name: str, version: int, position: int, error: str, wait: timedelta
) -> None:
    """Record that a projection failed after a position, and how long it waits before it tries again."""
    parameters = {"name": name, "version": version, "position": position, "error": error, "wait": wait}
    await conn.execute(_FAIL, parameters)


def describe_ahead_of_log(name: str, position: int, head: int) -> str:
    """Say that a checkpoint is ahead of the log, and what to do."""
    return (
        f"its checkpoint ({position}) is ahead of the log ({head}): the database lost events that were folded"
        f" (a failover or a restore); run projections rebuild {name}"
    )


def describe_older_rows(name: str, code_version: int) -> str:
    """Say that the rows are older than the code, and what to do."""
    return f"the code has version {code_version}, its rows are older; run projections rebuild {name}"


async def wait_because_ahead(conn: AsyncConnection[Any], name: str, at: Checkpoint) -> str:
    """Let a projection whose checkpoint is ahead of the log wait for a rebuild; return the recorded error.

    The caller holds the checkpoint's lock.
    """
    error = describe_ahead_of_log(name, at.position, at.head)
    # No code has version 0, so no code takes new events at the lost positions for folded ones.
    await conn.execute(_AHEAD, {"name": name, "head": at.head, "error": error})
    return error


async def wait_because_older(conn: AsyncConnection[Any], name: str, code_version: int) -> None:
    """Let a projection whose rows are older than the code wait for a rebuild."""
    error = describe_older_rows(name, code_version)
    await conn.execute(_WAIT, {"name": name, "version": code_version, "error": error})


async def end_wait(conn: AsyncConnection[Any], name: str, version: int) -> None:
    """Let a projection run again whose rows have this version; newer code had marked it as waiting."""
    await conn.execute(_END_WAIT, [name, version])


async def record_rebuild(conn: AsyncConnection[Any], name: str, version: int, position: int) -> None:
    """Record that the rows have this version, up to a position; skips of older versions are deleted."""
    await conn.execute(_REBUILT, {"name": name, "version": version, "position": position})


async def mark_redecoded(
    conn: AsyncConnection[Any], affected: Sequence[str], known: Sequence[str], position: int
) -> list[str]:
    """Mark every affected or unknown projection as needing a rebuild, inside the caller's transaction.

    Waits for windows that are being folded: they have read the old columns.

    Args:
        conn: the caller's connection.
        affected: the projections that fold a redecoded event.
        known: the projections that this code knows; of others it can't say whether they are affected.
        position: the first redecoded position; a projection that has not reached it is not marked.

    Returns:
        The names of those that were marked.

    """
    values = {"affected": affected, "known": known, "position": position}
    await conn.execute(_LOCK_THOSE, values)
    return sorted(await fetch_column(conn, _MARK_REDECODED, values))


async def find_needing_rebuild(conn: AsyncConnection[Any], names: Sequence[str]) -> list[str]:
    """Return which of these projections were marked since they were last rebuilt."""
    return await fetch_column(conn, _NEED_REBUILD, [names])
