"""Checkpoints: how far each projection has folded, and the lock under which it folds.

Invariants. The row is the lock: a worker holds it ``FOR UPDATE`` until the fold's transaction ends, and other workers
skip it. The version is read under the lock, so code of one version never folds into rows of another version. A
checkpoint is never ahead of the log: if it is, the database lost events that were folded, and the projection waits for
a rebuild.

Where the log is distributed, an advisory lock stands beside the row: when a fold commits, its row is free before its
rows on other servers are visible, and the advisory lock only afterwards.

How the state changes (failed, waiting, rebuilt) is in :mod:`projections.running.state_changes`; pause and resume are in
:mod:`projections.running.control`.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql

from eventstore.distributed_log import EVENTS_CHANGED, IS_DISTRIBUTED
from eventstore.event_reader import HEAD
from eventstore.locks import (
    TRY_TRANSACTION_LOCK_IF,
    WAIT_FOR_TRANSACTION_LOCK,
    WAIT_FOR_TRANSACTION_LOCK_IF,
    checkpoint_lock,
)
from eventstore.postgres.queries import fetch_column, fetch_row, fetch_value
from eventstore.whole_window import hi_if_whole


class ProjectionState(StrEnum):
    """The state of a projection."""

    RUNNING = "running"
    PAUSED = "paused"  # somebody paused it
    WAITING = "waiting"  # it needs a rebuild
    FAILED = "failed"  # it is retried


class Checkpoint(NamedTuple):
    """A checkpoint's row.

    ``due`` says whether a failed projection may be tried again; ``skipped`` are the event_ids that it skips; ``head``
    is the highest position of the log; ``events_changed`` says whether a server may have events as they were before a
    change, and is None unless the log is distributed.
    """

    version: int
    position: int
    state: str
    failures: int
    due: bool
    skipped: list[str]
    head: int
    events_changed: bool | None = None

    @property
    def is_distributed(self) -> bool:
        """Whether the log is distributed."""
        return self.events_changed is not None

    @property
    def is_ahead(self) -> bool:
        """Whether events were folded that the log no longer has."""
        return self.position > self.head

    @property
    def within_log(self) -> int:
        """The last position that the rows may hold of the log as it is now."""
        return min(self.position, self.head)


_CREATE = (
    "INSERT INTO projections.checkpoints (name, version, position, state) VALUES (%s, %s, 0, 'running')"
    " ON CONFLICT (name) DO NOTHING"
)
_SKIPS = "SELECT event_id FROM projections.skips WHERE name = %s AND version = %s ORDER BY 1"
_TERMINATE_FROZEN = (
    "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM projections.checkpoints AS c"
    " JOIN pg_catalog.pg_locks AS l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = c.xmax"
    " JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid"
    " WHERE c.name = %s AND a.wait_event = 'ClientRead' AND clock_timestamp() - a.query_start > %s"
)

_NAME = sql.Placeholder()
_OWN_COLUMNS = sql.SQL("version, position, state, failures, retry_at IS NULL OR retry_at <= clock_timestamp()")
_SKIPPED_AND_HEAD = sql.SQL(
    "ARRAY(SELECT event_id FROM projections.skips AS s WHERE s.name = c.name AND s.version = c.version ORDER BY 1), {}"
).format(HEAD)
_FROM = sql.SQL("FROM projections.checkpoints AS c WHERE name = ")
_SHARED_COLUMNS = sql.SQL("{}, {}").format(_SKIPPED_AND_HEAD, sql.SQL(EVENTS_CHANGED))
_READ = sql.SQL("SELECT {}, {} {}{}").format(_OWN_COLUMNS, _SHARED_COLUMNS, _FROM, _NAME).as_bytes()
_LOCK_ROW = sql.SQL("SELECT {} {}{} FOR UPDATE OF c").format(_OWN_COLUMNS, _FROM, _NAME)
_LOCK = _LOCK_ROW.as_bytes()
_TRY_LOCK = sql.SQL("{} SKIP LOCKED").format(_LOCK_ROW).as_bytes()
# The statement that locks the row may see other tables as they were before the row's newest version. So the skips and
# the head are read by a second statement.
_READ_UNDER_LOCK = sql.SQL("SELECT {} {}{}").format(_SHARED_COLUMNS, _FROM, _NAME).as_bytes()
_TRY_ADVISORY = TRY_TRANSACTION_LOCK_IF.format(IS_DISTRIBUTED).encode()
_WAIT_ADVISORY = WAIT_FOR_TRANSACTION_LOCK_IF.format(IS_DISTRIBUTED).encode()
# In PL/pgSQL. Rows of this version may be marked as waiting by newer code; this version still folds them.
_TRY_LOCK_RUNNING = sql.SQL(
    "SELECT position INTO {lo} {from_}{name} AND version = {version} AND state IN ('running', 'waiting')"
    " FOR UPDATE OF c SKIP LOCKED"
)
_READ_UNDER_LOCK_INTO = sql.SQL("SELECT {columns} INTO {skipped}, {head} {from_}{name}")
_MOVE = sql.SQL(
    "UPDATE projections.checkpoints SET position = {position}, state = 'running', last_error = NULL,"
    " last_error_at = NULL, failures = 0, retry_at = NULL, windows = windows + 1, events = events + {hi} - {lo},"
    " folded_at = {now}, fold_seconds = extract(epoch FROM {now} - transaction_timestamp())"
    " WHERE name = {name}"
)


def move_statement(name: sql.Composable, lo: sql.Composable, hi: sql.Composable) -> sql.Composed:
    """Return the statement that moves a checkpoint from ``lo`` to ``hi``, which is greater, if the window is whole."""
    return _MOVE.format(name=name, lo=lo, hi=hi, position=hi_if_whole(lo, hi), now=sql.SQL("clock_timestamp()"))


_PARAMETERS = {
    "name": sql.Placeholder("name"),
    "lo": sql.SQL("%(lo)s::bigint"),
    "hi": sql.SQL("%(hi)s::bigint"),
}
MOVE = move_statement(**_PARAMETERS).as_bytes()
"""The same statement with parameters."""
MOVE_AFTER_COUNT = _MOVE.format(**_PARAMETERS, position=_PARAMETERS["hi"], now=sql.SQL("clock_timestamp()")).as_bytes()
"""The same for a window that was counted before it was folded, as in a distributed log."""


def plpgsql_try_lock(name: str, version: int, *, lo: sql.SQL) -> sql.Composed:
    """Return the PL/pgSQL statement that locks a checkpoint which can be folded without further decisions.

    Args:
        name: the projection.
        version: its version.
        lo: the variable for its position.

    """
    return _TRY_LOCK_RUNNING.format(lo=lo, from_=_FROM, name=sql.Literal(name), version=sql.Literal(version))


def plpgsql_read_under_lock(name: str, *, skipped: sql.SQL, head: sql.SQL) -> sql.Composed:
    """Return the PL/pgSQL statement that reads the skipped event_ids and the head, under the lock.

    Args:
        name: the projection.
        skipped: the variable for the event_ids.
        head: the variable for the head.

    """
    return _READ_UNDER_LOCK_INTO.format(
        columns=_SKIPPED_AND_HEAD, skipped=skipped, head=head, from_=_FROM, name=sql.Literal(name)
    )


async def exists(conn: AsyncConnection[Any], name: str) -> bool:
    """Return whether a projection has a checkpoint."""
    return await fetch_row(conn, "SELECT FROM projections.checkpoints WHERE name = %s", [name]) is not None


async def create_if_missing(conn: AsyncConnection[Any], name: str, version: int) -> None:
    """Create a projection's checkpoint at position 0, unless it has one."""
    await conn.execute(_CREATE, [name, version])


async def find_checkpoint(conn: AsyncConnection[Any], name: str) -> Checkpoint | None:
    """Read a checkpoint without its lock; None before the projection's first run."""
    row = await fetch_row(conn, _READ, [name])
    return Checkpoint(*row) if row else None


async def begin_and_try_lock(conn: AsyncConnection[Any], name: str) -> Checkpoint | None:
    """Begin a transaction and lock a checkpoint in it, in one round trip; None if another session has the lock."""
    async with conn.pipeline():
        await conn.execute("BEGIN")
        return await _lock(conn, _TRY_LOCK, _TRY_ADVISORY, name)


async def lock(conn: AsyncConnection[Any], name: str) -> Checkpoint | None:
    """Lock a checkpoint in the caller's transaction, after the current window of another session.

    Raises:
        psycopg.errors.LockNotAvailable: not within ``lock_timeout``.

    """
    return await _lock(conn, _LOCK, _WAIT_ADVISORY, name)


async def hold_up_folding(conn: AsyncConnection[Any], name: str) -> None:
    """Keep a projection of a distributed log from being folded until the caller's transaction ends.

    There, rows of several servers are not read in one snapshot.

    Raises:
        psycopg.errors.LockNotAvailable: not within ``lock_timeout``.

    """
    await conn.execute(WAIT_FOR_TRANSACTION_LOCK, [checkpoint_lock(name)])


async def _lock(conn: AsyncConnection[Any], row: bytes, advisory: bytes, name: str) -> Checkpoint | None:
    locked = await conn.execute(row, [name])
    is_free = await conn.execute(advisory, [checkpoint_lock(name)])
    under_lock = await fetch_row(conn, _READ_UNDER_LOCK, [name])
    own, advised = await locked.fetchone(), await is_free.fetchone()
    if own is None or under_lock is None or advised is None or (advisory is _TRY_ADVISORY and advised[0] is False):
        return None
    return Checkpoint(*own, *under_lock)


async def read_skips(conn: AsyncConnection[Any], name: str, version: int) -> list[str]:
    """Return the event_ids that this version of a projection skips."""
    return await fetch_column(conn, _SKIPS, [name, version])


async def terminate_frozen_holder(conn: AsyncConnection[Any], name: str, older_than: timedelta) -> bool:
    """Terminate the backend that holds a checkpoint and has waited for its client for so long; return whether one did.

    No timeout of Postgres ends the transaction of a process that is frozen while it sends a window.
    """
    return bool(await fetch_value(conn, _TERMINATE_FROZEN, [name, older_than]))
