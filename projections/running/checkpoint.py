"""Checkpoints: how far each projection is, who may fold, and what state it is in.

Invariants. The row is the lock: whoever folds holds it ``FOR UPDATE`` until the fold's transaction ends, and everybody
else passes it by. Its version is read under the lock, so code of another version never folds into rows that aren't its
own. A checkpoint is never ahead of the log: where it is, the log lost events that were folded, and the projection waits
for a rebuild.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any, LiteralString, NamedTuple

from psycopg import AsyncConnection, sql

from eventstore.event_reader import HEAD
from eventstore.postgres.queries import fetch_column, fetch_row, fetch_value
from projections.folding.whole_window import hi_if_whole


class State(StrEnum):
    """What a projection is."""

    RUNNING = "running"
    PAUSED = "paused"
    WAITING = "waiting"
    FAILED = "failed"


class Checkpoint(NamedTuple):
    """A checkpoint read under its lock.

    ``due`` says whether a failed projection may be tried again; ``skipped`` are the event_ids that it passes over;
    ``head`` is the log's last position.
    """

    version: int
    position: int
    state: str
    failures: int
    due: bool
    skipped: list[str]
    head: int

    @property
    def is_ahead(self) -> bool:
        """Whether events were folded that the log no longer has."""
        return self.position > self.head

    @property
    def within_log(self) -> int:
        """The last position that the rows may hold of the log as it is now."""
        return min(self.position, self.head)


_END_FROZEN = (
    "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM projections.checkpoints AS c"
    " JOIN pg_catalog.pg_locks AS l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = c.xmax"
    " JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid"
    " WHERE c.name = %s AND a.wait_event = 'ClientRead' AND clock_timestamp() - a.query_start > %s"
)
_ENSURE = (
    "INSERT INTO projections.checkpoints (name, version, position, state) VALUES (%s, %s, 0, 'running')"
    " ON CONFLICT (name) DO NOTHING"
)
_SKIPPED: LiteralString = (
    "ARRAY(SELECT event_id FROM projections.skips AS s WHERE s.name = c.name AND s.version = c.version ORDER BY 1)"
)
_COLUMNS: LiteralString = "version, position, state, failures, retry_at IS NULL OR retry_at <= clock_timestamp()"
_FROM: LiteralString = " FROM projections.checkpoints AS c WHERE name = "
_READ: LiteralString = f"SELECT {_COLUMNS}, {_SKIPPED}, {HEAD}{_FROM}%s"
# The statement that takes the lock may see other tables as they were before the row's newest version, so the skips and
# the log's head are read by the next one.
_TAKE: LiteralString = f"SELECT {_COLUMNS}{_FROM}%s FOR UPDATE OF c SKIP LOCKED"
_HOLD: LiteralString = f"SELECT {_COLUMNS}{_FROM}%s FOR UPDATE OF c"
_UNDER_LOCK: LiteralString = f"SELECT {_SKIPPED}, {HEAD}{_FROM}"
# One of this version's rows waits only in the eyes of newer code, which says so again and again.
_TAKE_RUNNING: LiteralString = (
    f"SELECT position INTO {{lo}}{_FROM}{{name}}"
    " AND version = {version} AND state IN ('running', 'waiting') FOR UPDATE OF c SKIP LOCKED"
)
_MOVE = sql.SQL(
    "UPDATE projections.checkpoints SET position = {position}, state = 'running', last_error = NULL,"
    " last_error_at = NULL, failures = 0, retry_at = NULL, windows = windows + 1, events = events + {hi} - {lo},"
    " folded_at = clock_timestamp(),"
    " fold_seconds = extract(epoch FROM clock_timestamp() - transaction_timestamp())"
    " WHERE name = {name}"
)
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
_REBUILT = (
    "UPDATE projections.checkpoints SET version = %(version)s, position = %(position)s,"
    " state = CASE WHEN state = 'paused' THEN 'paused' ELSE 'running' END, last_error = NULL, last_error_at = NULL,"
    " failures = 0, retry_at = NULL, redecoded_at = NULL WHERE name = %(name)s"
)
_MAY_OWE: LiteralString = "(name = ANY(%(affected)s) OR name <> ALL(%(known)s))"
_HOLD_THOSE = f"SELECT FROM projections.checkpoints WHERE {_MAY_OWE} ORDER BY name FOR UPDATE"
_OWE = (
    f"UPDATE projections.checkpoints SET redecoded_at = clock_timestamp() WHERE {_MAY_OWE} AND position >= %(position)s"  # noqa: S608 - made of our own parts
)
_OWING = "SELECT name FROM projections.checkpoints WHERE redecoded_at IS NOT NULL AND name = ANY(%s) ORDER BY name"
_FORGET_SKIPS = "DELETE FROM projections.skips WHERE name = %s AND version < %s"
_SKIPS = "SELECT event_id FROM projections.skips WHERE name = %s AND version = %s ORDER BY 1"


def take_running(name: str, version: int, *, lo: str) -> str:
    """Return what takes a checkpoint's lock where nothing is to be decided first, as a statement of PL/pgSQL.

    Args:
        name: the projection's, as a literal.
        version: its version.
        lo: the variable for its position.

    """
    return _TAKE_RUNNING.format(name=name, version=version, lo=lo)


def read_under_lock(name: str, *, skipped: str, head: str) -> str:
    """Return what reads, under the lock, the event_ids passed over and the log's last position, as in PL/pgSQL.

    Args:
        name: the projection's, as a literal.
        skipped: the variable for the event_ids.
        head: the variable for the position.

    """
    return f"SELECT {_SKIPPED}, {HEAD} INTO {skipped}, {head}{_FROM}{name}"


def move(name: sql.Composable, lo: sql.Composable, hi: sql.Composable) -> sql.Composed:
    """Return the statement that moves a checkpoint from ``lo`` to ``hi``, which is greater, if the window is whole."""
    return _MOVE.format(name=name, lo=lo, hi=hi, position=hi_if_whole(lo, hi))


MOVE = move(sql.Placeholder("name"), sql.SQL("%(lo)s::bigint"), sql.SQL("%(hi)s::bigint")).as_bytes()
"""The same, with parameters."""


async def exists(conn: AsyncConnection[Any], name: str) -> bool:
    """Tell whether a projection has a checkpoint."""
    row = await fetch_row(conn, "SELECT FROM projections.checkpoints WHERE name = %s", [name])
    return row is not None


async def ensure(conn: AsyncConnection[Any], name: str, version: int) -> None:
    """Make a projection's checkpoint, at position 0, unless it has one."""
    await conn.execute(_ENSURE, [name, version])


async def read(conn: AsyncConnection[Any], name: str) -> Checkpoint | None:
    """Read a checkpoint without its lock; None before the projection's first run."""
    row = await fetch_row(conn, _READ, [name])
    return Checkpoint(*row) if row else None


async def take(conn: AsyncConnection[Any], name: str) -> Checkpoint | None:
    """Begin a transaction and take a checkpoint's lock in it, in one round trip; None when somebody else has it."""
    async with conn.pipeline():
        await conn.execute("BEGIN")
        return await _locked(conn, _TAKE, name)


async def hold(conn: AsyncConnection[Any], name: str) -> Checkpoint | None:
    """Take a checkpoint's lock for the caller's transaction, waiting for a window under way.

    Raises:
        psycopg.errors.LockNotAvailable: not within ``lock_timeout``.

    """
    return await _locked(conn, _HOLD, name)


async def _locked(conn: AsyncConnection[Any], statement: LiteralString, name: str) -> Checkpoint | None:
    taken = await conn.execute(statement, [name])
    under_lock = await fetch_row(conn, _UNDER_LOCK + "%s", [name])
    row = await taken.fetchone()
    return Checkpoint(*row, *under_lock) if row and under_lock else None


async def skips(conn: AsyncConnection[Any], name: str, version: int) -> list[str]:
    """Return the event_ids that this version of a projection passes over."""
    return await fetch_column(conn, _SKIPS, [name, version])


async def rebuilt(conn: AsyncConnection[Any], name: str, version: int, position: int) -> None:
    """Note that the rows are this version's, up to a position; a pause stays one. Skips of older versions go."""
    await conn.execute(_REBUILT, {"name": name, "version": version, "position": position})
    await conn.execute(_FORGET_SKIPS, [name, version])


async def owe_rebuild(conn: AsyncConnection[Any], affected: Sequence[str], known: Sequence[str], position: int) -> None:
    """Note of those affected, and of those of whom this code can't say, that an event that they folded reads otherwise.

    Inside the caller's transaction. Waits for windows under way: what they read is of before.
    """
    values = {"affected": affected, "known": known, "position": position}
    await conn.execute(_HOLD_THOSE, values)
    await conn.execute(_OWE, values)


async def owing_rebuild(conn: AsyncConnection[Any], names: Sequence[str]) -> list[str]:
    """Return which of these projections were not rebuilt since."""
    return await fetch_column(conn, _OWING, [names])


async def fail(conn: AsyncConnection[Any], name: str, version: int, position: int, error: str, wait: timedelta) -> None:
    """Note that a projection failed behind a position, and when to try again; a pause stays one."""
    parameters = {"name": name, "version": version, "position": position, "error": error, "wait": wait}
    await conn.execute(_FAIL, parameters)


def ahead_of_log(name: str, position: int, head: int) -> str:
    """Say that a checkpoint is ahead of the log, and what to do."""
    return (
        f"its checkpoint ({position}) is ahead of the log ({head}): the database lost events that were folded"
        f" (a failover or a restore); run projections rebuild {name}"
    )


async def wait_because_ahead(conn: AsyncConnection[Any], name: str, at: Checkpoint) -> str:
    """Let a projection whose checkpoint is ahead of the log wait for a rebuild, whatever version its code has.

    The caller holds the checkpoint. Returns what is recorded.
    """
    error = ahead_of_log(name, at.position, at.head)
    # Version 0 is no code's: new events at the lost positions must not be taken for folded ones.
    await conn.execute(_AHEAD, {"name": name, "head": at.head, "error": error})
    return error


async def wait_for_rebuild(conn: AsyncConnection[Any], name: str, version: int) -> None:
    """Note that the rows are of an older version than the code."""
    error = f"the code has version {version}: run projections rebuild {name}"
    await conn.execute(_WAIT, {"name": name, "version": version, "error": error})


async def pause(conn: AsyncConnection[Any], name: str) -> bool:
    """Stop a projection at its checkpoint; waits for a window under way. Returns whether there is such a checkpoint."""
    done = await conn.execute("UPDATE projections.checkpoints SET state = 'paused' WHERE name = %s", [name])
    return done.rowcount == 1


async def resume(conn: AsyncConnection[Any], name: str) -> bool:
    """Let a paused or failed projection go on, at once. Returns whether there is such a one that doesn't wait."""
    done = await conn.execute(
        "UPDATE projections.checkpoints SET state = 'running', last_error = NULL, last_error_at = NULL, failures = 0,"
        " retry_at = NULL WHERE name = %s AND state <> 'waiting'",
        [name],
    )
    return done.rowcount == 1


async def waits_no_more(conn: AsyncConnection[Any], name: str, version: int) -> None:
    """Note that code of the rows' own version is back, after newer code had marked them as waiting."""
    await conn.execute(
        "UPDATE projections.checkpoints SET state = 'running', last_error = NULL, last_error_at = NULL"
        " WHERE name = %s AND version = %s AND state = 'waiting'",
        [name, version],
    )


async def end_frozen(conn: AsyncConnection[Any], name: str, older_than: timedelta) -> bool:
    """End the backend that holds a checkpoint and has waited for its own client for so long; returns whether one was.

    A process that is frozen while it sends a window is waited for past every timeout of Postgres.
    """
    return bool(await fetch_value(conn, _END_FROZEN, [name, older_than]))
