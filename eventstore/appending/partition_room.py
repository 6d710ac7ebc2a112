"""Makes the next partition of the log before events need it.

Invariants. An append whose events don't fit into the partitions that are there makes them first, under the append lock;
that happens only if nobody could make them ahead. Ahead means: when the head enters the last partition, the one after
it is made, in a transaction of its own, after the append and without the append lock. If that fails, the append has
succeeded all the same, and a later one tries again.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, NamedTuple

import psycopg
import structlog
from psycopg import AsyncConnection

from eventstore.errors import describe
from eventstore.partitions import FIRST_PARTITION_CHECK, MAKE_PARTITIONS
from eventstore.postgres.queries import fetch_value
from eventstore.postgres.session_settings import LOCK_TIMEOUT, milliseconds

log = structlog.get_logger(__name__)

LOCK_SECONDS = 1.0
"""How long a partition that is made ahead may wait for a lock."""
TRY_AGAIN = 10.0
"""Seconds between two attempts of a process to make one ahead."""

_ABANDON = "SELECT eventstore.abandon_partitioning()"


class LastPartition(NamedTuple):
    """The first and the last position that belong into the last partition."""

    first: int
    last: int


async def make_room(conn: AsyncConnection[Any], last: LastPartition | None, position: int) -> None:
    """Make the partitions up to a position, under the append lock, if they are missing.

    Args:
        conn: the connection that holds the append lock.
        last: the last partition, read under the lock; None if the log is one table.
        position: the last position that is needed.

    Raises:
        psycopg.Error: the database failed, or the connection; or another session held a lock for too long.

    """
    if last is not None and position > last.last:
        await conn.execute(MAKE_PARTITIONS, [position])


class PartitionsAhead:
    """Makes partitions ahead, on one connection."""

    def __init__(self) -> None:
        self._try_at = float("-inf")

    async def make(self, conn: AsyncConnection[Any], last: LastPartition | None, head: int) -> None:
        """Make the partition after the last one if the head is in that; called outside of any transaction."""
        if last is None or head < last.first or monotonic() < self._try_at:
            return
        self._try_at = monotonic() + TRY_AGAIN
        try:
            async with conn.transaction():
                await conn.execute(LOCK_TIMEOUT, [milliseconds(LOCK_SECONDS)])
                made = await fetch_value(conn, MAKE_PARTITIONS, [head])
        except psycopg.Error as error:
            log.warning("the next partition of the log could not be made yet", why=describe(error))
        else:
            self._try_at = float("-inf")
            if made:
                log.info("made the next partition of the log", head=head)


def is_about_partitions(error: Exception) -> bool:
    """Return whether Postgres refused an event because of partitions: then nothing is wrong with the event."""
    # The error of a position that no partition has names no constraint.
    return isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name in (
        None,
        FIRST_PARTITION_CHECK,
    )


async def abandon_if_in_the_way(conn: AsyncConnection[Any], error: Exception) -> bool:
    """Remove the check that an unfinished partitioning left, if that is what refused an append; return whether it was.

    Called outside of any transaction.
    """
    if not isinstance(error, psycopg.errors.CheckViolation) or error.diag.constraint_name != FIRST_PARTITION_CHECK:
        return False
    log.warning("an unfinished partitioning of the log was in the way of an append; it begins that step again")
    await conn.execute(_ABANDON)
    return True
