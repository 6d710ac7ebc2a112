"""What differs when the log is distributed over several servers by Citus, and how our code knows.

Invariants. ``eventstore.distributed_head`` has its one row if and only if the log is distributed: then the event table
and the read models are distributed tables, and that row is the head of the log, which an append moves under the append
lock. The view ``eventstore.head`` reads the head from where it is, so what reads the head is the same in both cases.

The event table is distributed by ``send_request_id``, which can't be NULL then: an event without a request has ''. It
is read back as None.

When a transaction of several servers commits, its rows on this server are visible first, and those on the others a
moment later; after a lost connection that moment lasts until Citus finishes the commit, up to a minute. Transaction
locks are released at the very end. So a window is folded only when all of its events are visible, and whoever needs
what an earlier transaction wrote takes an advisory lock that this transaction held.

An event that is redecoded or erased is visible before and after, as it was and as it is. So while stored events are
changed, the row of the head says so (``events_changed``), and a fold then waits until what was committed here is
committed on every server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from time import monotonic
from typing import Any, TypeVar

import structlog
from psycopg import AsyncConnection, Error, sql

from eventstore.contracts import Event
from eventstore.errors import MissingPositions, UnfinishedCommit, describe
from eventstore.postgres.queries import fetch_row, fetch_value
from eventstore.whole_window import find_missing_positions

log = structlog.get_logger(__name__)

T = TypeVar("T")

IS_DISTRIBUTED = "EXISTS (SELECT 1 FROM eventstore.distributed_head)"
"""The SQL expression for whether the log is distributed."""
EVENTS_CHANGED = "(SELECT events_changed FROM eventstore.distributed_head)"
"""The SQL expression for whether a server may have events as they were before a change; NULL if there is one server."""

WINDOW_PATIENCE = 5.0
"""Seconds to wait until all events of a window are visible."""
COMMIT_PATIENCE = 30.0
"""Seconds to wait until a commit is finished on every server."""
PATIENCE_UNDER_APPEND_LOCK = 0.5
"""The same under the append lock, where every append waits too."""
_POLL = 0.05

_COUNT = "SELECT count(*) FROM eventstore.events WHERE position > %s AND position <= %s"
_ONE_CONNECTION_PER_SERVER = "SELECT pg_catalog.set_config('citus.multi_shard_modify_mode', 'sequential', true)"
_SEND_SETTINGS = "SELECT pg_catalog.set_config('citus.propagate_set_commands', 'local', true)"
_MOVE_HEAD = "UPDATE eventstore.distributed_head SET position = %s, received_at = %s, event_id = %s WHERE position < %s"
_SET_EVENTS_CHANGED = "UPDATE eventstore.distributed_head SET events_changed = %s"
# The coordinator knows which transactions it has committed, and the workers which they haven't.
_UNFINISHED_COMMITS = (
    "WITH answers AS MATERIALIZED (SELECT success, result FROM pg_catalog.run_command_on_workers("
    "'SELECT string_agg(gid, '','') FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()'))"
    " SELECT (SELECT count(*) FROM pg_catalog.pg_dist_transaction WHERE gid IN ("
    "SELECT unnest(string_to_array(result, ',')) FROM answers WHERE success)),"
    " (SELECT count(*) FROM answers WHERE NOT success)"
)
# Nobody but the holder of the checkpoint writes the rows that a fold writes. If they are locked all the same, then by
# an earlier fold whose commit is unfinished. Rows that were counted before its end must not be written after it.
_DO_NOT_WAIT_FOR_ROWS = (_SEND_SETTINGS, "SET LOCAL lock_timeout TO '1ms'")
_READ_BY_INDEX = (_SEND_SETTINGS, "SET LOCAL enable_seqscan TO off")
_LOCK_TIMEOUT = "SELECT pg_catalog.current_setting('lock_timeout')"
_SET_LOCK_TIMEOUT = sql.SQL("SET LOCAL lock_timeout TO {}")


async def is_distributed(conn: AsyncConnection[Any]) -> bool:
    """Return whether the log is distributed.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    return bool(await fetch_value(conn, f"SELECT {IS_DISTRIBUTED}"))


@asynccontextmanager
async def changing_events(conn: AsyncConnection[Any]) -> AsyncIterator[bool]:
    """Let folds of a distributed log know that stored events are changed meanwhile; yields whether it is distributed.

    At the end, it waits until the changes are committed on every server. If it waits in vain, or if this process is
    killed or has lost its lock, folds wait for commits until another change has ended.

    Args:
        conn: an autocommit connection.

    Raises:
        UnfinishedCommit: an earlier commit isn't finished in time; nothing was changed.
        psycopg.Error: the database failed, or the connection.

    """
    if not await is_distributed(conn):
        yield False
        return
    await wait_for_commits(conn)
    await conn.execute(_SET_EVENTS_CHANGED, [True])
    try:
        yield True
    except Exception:  # whoever is cancelled may have lost the lock, and then another one changes events
        await _end_change(conn)
        raise
    await _end_change(conn)


async def _end_change(conn: AsyncConnection[Any]) -> None:
    try:
        await wait_for_commits(conn)
        await conn.execute(_SET_EVENTS_CHANGED, [False])
    except (UnfinishedCommit, Error) as error:
        # What was done is done, and its result must reach the user.
        log.warning("a worker may have events as they were; folds wait for its commits", error=describe(error))


def event_of_row(values: Iterable[Any]) -> Event:
    """Return the event of a row's columns, in the order of an event's fields."""
    event = Event(*values)
    return event._replace(send_request_id=None) if event.send_request_id == "" else event


def events_for_rows(events: Sequence[Event]) -> Sequence[Event]:
    """Return events as a distributed table stores them."""
    return [event if event.send_request_id else event._replace(send_request_id="") for event in events]


async def begin_distributed_append(conn: AsyncConnection[Any]) -> None:
    """Let the caller's transaction use one connection for each server, so that few have to be committed together."""
    await conn.execute(_ONE_CONNECTION_PER_SERVER)


async def move_distributed_head(
    conn: AsyncConnection[Any], position: int, received_at: datetime, event_id: str | None
) -> None:
    """Move the head forward, inside the caller's transaction, which holds the append lock."""
    await conn.execute(_MOVE_HEAD, [position, received_at, event_id, position])


async def wait_for_window(conn: AsyncConnection[Any], lo: int, hi: int) -> bool:
    """Wait until all events at lo < p <= hi are visible to the next statement; return False if time was up.

    The caller's transaction, if there is one, must not be one snapshot.
    """
    deadline = monotonic() + WINDOW_PATIENCE
    while await fetch_value(conn, _COUNT, [lo, hi]) != hi - lo:
        if monotonic() >= deadline:
            return False
        await asyncio.sleep(_POLL)
    return True


async def require_window(conn: AsyncConnection[Any], lo: int, hi: int) -> None:
    """Wait as :func:`wait_for_window` does.

    Raises:
        MissingPositions: time was up.

    """
    if not await wait_for_window(conn, lo, hi):
        first, last = await find_missing_positions(conn, lo, hi) or (lo + 1, hi)
        raise MissingPositions(first, last)


async def count_unfinished_commits(conn: AsyncConnection[Any]) -> tuple[int, int]:
    """Return how many commits a worker hasn't finished, and how many workers don't answer the coordinator."""
    commits, silent = await fetch_row(conn, _UNFINISHED_COMMITS) or (0, 0)
    return commits, silent


async def wait_for_commits(conn: AsyncConnection[Any], patience: float | None = None) -> None:
    """Wait until what was committed here is committed on every server, before rows of several servers are compared.

    Args:
        conn: a connection.
        patience: how long to wait, in seconds; None for ``COMMIT_PATIENCE``.

    Raises:
        UnfinishedCommit: time was up.

    """
    deadline = monotonic() + (COMMIT_PATIENCE if patience is None else patience)
    while any(counts := await count_unfinished_commits(conn)):
        if monotonic() >= deadline:
            raise UnfinishedCommit(
                "a worker doesn't answer the coordinator; start it, or mend the network between them, and try again"
                if counts[1]
                else "a transaction is committed on the coordinator and not yet on every worker; Citus finishes it"
                " within citus.recover_2pc_interval: try again then"
            )
        await asyncio.sleep(_POLL)


async def wait_for_commits_under_append_lock(conn: AsyncConnection[Any]) -> None:
    """Wait as :func:`wait_for_commits` does, but not for long: no event is appended meanwhile.

    Raises:
        UnfinishedCommit: time was up; :func:`retry_after_commits` waits without the lock, and tries again.

    """
    await wait_for_commits(conn, PATIENCE_UNDER_APPEND_LOCK)


async def retry_after_commits(conn: AsyncConnection[Any], attempt: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction that needs all commits finished; if one takes long, wait for it outside, and run it again.

    Raises:
        UnfinishedCommit: time was up.
        Exception: whatever else the attempt raises.

    """
    deadline = monotonic() + COMMIT_PATIENCE
    while True:
        try:
            return await attempt()
        except UnfinishedCommit:
            if monotonic() >= deadline:
                raise
        await wait_for_commits(conn)


async def begin_distributed_fold(conn: AsyncConnection[Any]) -> None:
    """Let the caller's transaction fail rather than wait for a row that another transaction has locked."""
    for statement in _DO_NOT_WAIT_FOR_ROWS:
        await conn.execute(statement)


async def begin_distributed_search(conn: AsyncConnection[Any]) -> None:
    """Let the caller's transaction find events and rows by index on every server."""
    for statement in _READ_BY_INDEX:
        await conn.execute(statement)


@asynccontextmanager
async def reading_by_index(conn: AsyncConnection[Any]) -> AsyncIterator[None]:
    """Let statements find single events by index on every server of a distributed log, as the session's settings do.

    Settings of a session count on the coordinator only; those of a transaction are sent along.

    Args:
        conn: an autocommit connection, with the settings of ``SEARCHING``.

    """
    if not await is_distributed(conn):
        yield
        return
    async with conn.transaction():
        await begin_distributed_search(conn)
        yield


async def begin_distributed_change(conn: AsyncConnection[Any]) -> None:
    """Let the caller's transaction change some events and rows, and wait for locks as long on every server as here."""
    await begin_distributed_append(conn)
    await begin_distributed_search(conn)
    await conn.execute(_SET_LOCK_TIMEOUT.format(sql.Literal(await fetch_value(conn, _LOCK_TIMEOUT))))
