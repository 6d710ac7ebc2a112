"""The append lock, which makes positions gapless, and what is done about a frozen process that holds it.

Invariants. Whoever assigns positions holds the append lock until its transaction ends, and acquires it last. The head
is read in a statement after the one that acquires the lock, so it includes what the last holder committed; also if the
last holder made a partition for it, of which a transaction that has read the log before may not know.

A process that is frozen in the middle of a pipeline keeps the lock, and none of Postgres's timeouts ends it. So those
who wait terminate it: if one and the same transaction held the lock during a whole wait, its backend is terminated,
and what it wrote is rolled back. If the holder changes, the lock is only busy, and nobody is terminated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

import structlog
from psycopg import AsyncConnection, errors, sql

from eventstore.appending import server_clock
from eventstore.appending.cursor_move import MOVE_CURSOR, CursorMove, why_not_moved
from eventstore.appending.partition_room import LastPartition, abandon_if_in_the_way
from eventstore.distributed_log import IS_DISTRIBUTED, begin_distributed_append
from eventstore.errors import AppendLockBusy, CommitsLost, DatabaseError
from eventstore.event_reader import LAST_EVENT
from eventstore.locks import APPEND_LOCK, TRY_TRANSACTION_LOCK, WAIT_FOR_TRANSACTION_LOCK
from eventstore.partitions import LAST_PARTITION
from eventstore.postgres.lock_holder import Holder, find_holder, terminate_holder
from eventstore.postgres.session_settings import LOCK_TIMEOUT, milliseconds
from eventstore.waits import Waits

log = structlog.get_logger(__name__)

T = TypeVar("T")

_READ_STATE = (
    sql.SQL(
        "SELECT head.*, (SELECT max(id) FROM eventstore.erasures), last.first_position, last.last_position, {}"
        " FROM ({}) AS head LEFT JOIN {} AS last ON true"
    )
    .format(sql.SQL(IS_DISTRIBUTED), sql.SQL(LAST_EVENT), LAST_PARTITION)
    .as_bytes()
)

# A session learns of new partitions when it locks a table that its transaction hasn't locked. If a transaction has read
# the log, a prepared statement would read the partitions of before. This locks a table that nothing else here uses.
_LEARN_OF_PARTITIONS = "SELECT pg_catalog.pg_relation_size('pg_catalog.pg_largeobject_metadata')"


class Head(NamedTuple):
    """The last position of the log (0 for an empty one), and the ``received_at`` of the events that come after it.

    ``erasure`` is the id of the newest erasure, None while there is none; ``partition`` is the last one, None if the
    log is one table. ``is_distributed`` says whether the log is.
    """

    position: int
    received_at: datetime
    erasure: int | None = None
    partition: LastPartition | None = None
    is_distributed: bool = False


class FrozenHolder(AppendLockBusy):
    """One and the same transaction held the append lock during a whole wait.

    Attributes:
        holder: that transaction.

    """

    def __init__(self, holder: Holder) -> None:
        super().__init__(f"backend {holder.pid} holds the append lock and makes no progress")
        self.holder = holder


async def retry_while_append_lock_is_busy(
    conn: AsyncConnection, waits: Waits, attempt: Callable[[], Awaitable[T]]
) -> T:
    """Run a transaction that acquires the append lock, again and again until the lock is free; end a frozen holder.

    Raises:
        Exception: whatever the attempt raises, other than that the append lock is held.

    """
    while True:
        try:
            return await attempt()
        except AppendLockBusy as busy:
            await terminate_if_frozen(conn, busy, waits)
        except errors.CheckViolation as error:
            if not await abandon_if_in_the_way(conn, error):
                raise


async def acquire_append_lock(conn: AsyncConnection, waits: Waits, cursor: CursorMove | None = None) -> Head:
    """Move a cursor, acquire the append lock, and read the head, inside the caller's transaction.

    Args:
        conn: the connection.
        waits: ``append_lock`` counts.
        cursor: which cursor to move, if this is the transaction's first step; None in a transaction that may have read
            the log.

    Returns:
        The head. Times never fall as positions rise: if the last event's is ahead of the clock, it is used again.

    Raises:
        AppendLockBusy: the lock was not free in time; :func:`retry_while_append_lock_is_busy` tries again.
        LeadershipLost: the cursor's epoch is no longer this follower's.
        CommitsLost: the database lost what this follower had committed.
        AlreadyAppended: an earlier attempt at the same batch was committed.

    """
    # One round trip: each statement of the pipeline has its own snapshot, so the head is read after the lock.
    async with conn.pipeline():
        moved = await conn.execute(MOVE_CURSOR, cursor._asdict()) if cursor else None
        locked = await conn.execute(TRY_TRANSACTION_LOCK, [APPEND_LOCK])
        if cursor is None:
            await conn.execute(_LEARN_OF_PARTITIONS)
        last_event = await conn.execute(_READ_STATE)
        acquired = await locked.fetchone()
        row = await last_event.fetchone()
    if cursor and moved is not None and moved.rowcount != 1:
        raise await why_not_moved(conn, cursor)
    if not (acquired and acquired[0]):
        await wait_for_append_lock(conn, waits.as_timedelta(waits.append_lock))
        async with conn.pipeline():
            await conn.execute(_LEARN_OF_PARTITIONS)
            last_event = await conn.execute(_READ_STATE)
            row = await last_event.fetchone()
    if row is None:
        raise DatabaseError("the head of eventstore.events can't be read")
    now, position, previous, _, erasure, first_position, last_position, is_distributed = row
    partition = None if last_position is None else LastPartition(first_position, last_position)
    if cursor and (position or 0) < cursor.head:
        raise CommitsLost(cursor.app)
    if is_distributed:
        await begin_distributed_append(conn)
    if previous is None or previous <= now:
        return Head(position or 0, now, erasure, partition, is_distributed)
    server_clock.WATCH.check(now, previous)
    return Head(position or 0, previous, erasure, partition, is_distributed)


async def wait_for_append_lock(conn: AsyncConnection, wait: timedelta) -> None:
    """Wait for the append lock, inside the caller's transaction.

    Raises:
        FrozenHolder: the same transaction held it all the while.
        AppendLockBusy: several transactions held it in turn; try again.

    """
    before = await find_holder(conn, APPEND_LOCK)
    await conn.execute(LOCK_TIMEOUT, [milliseconds(max(wait.total_seconds(), 0.001))])
    try:
        async with conn.transaction():
            await conn.execute(WAIT_FOR_TRANSACTION_LOCK, [APPEND_LOCK])
    except errors.LockNotAvailable:
        now = await find_holder(conn, APPEND_LOCK)
        if now is not None and now == before:
            raise FrozenHolder(now) from None
        raise AppendLockBusy("other appends held the append lock in turn during the whole wait") from None


class _Warned:
    """The last holder that was logged: while it stays, each attempt meets it again."""

    holder: Holder | None = None


async def terminate_if_frozen(conn: AsyncConnection, busy: AppendLockBusy, waits: Waits) -> None:
    """Terminate the backend that held the append lock during a whole wait, outside of any transaction."""
    if not isinstance(busy, FrozenHolder):
        return
    if await terminate_holder(conn, busy.holder, waits.as_timedelta(waits.append_lock)):
        return
    if busy.holder != _Warned.holder:
        _Warned.holder = busy.holder
        log.warning(
            "the append lock is held by a transaction that makes no progress, and its backend can't be terminated",
            backend=busy.holder.pid,
        )
