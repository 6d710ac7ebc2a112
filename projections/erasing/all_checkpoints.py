"""Locks all checkpoints for a batch of an erasure, so that nothing is folded meanwhile; folds go on in between.

Invariants. Checkpoints are locked in the order of their names, as everybody locks several. If the log is distributed,
their advisory locks follow, and then the transaction waits until all that was committed here is committed on every
server: the rows that it sees are those of the checkpoints.
"""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg import AsyncConnection

from eventstore.distributed_log import wait_for_commits
from eventstore.locks import WAIT_FOR_TRANSACTION_LOCK, checkpoint_lock
from eventstore.postgres.queries import fetch_all

PAUSE_SECONDS = 1.0
"""How long an erasure that didn't get a lock leaves the others to the workers, which look for work as often."""

_LOCK_CHECKPOINTS = "SELECT name, version FROM projections.checkpoints ORDER BY name FOR UPDATE"


async def lock_all_checkpoints(conn: AsyncConnection[Any], *, is_distributed: bool) -> dict[str, int]:
    """Lock all checkpoints in the caller's transaction; returns the version of each.

    Raises:
        UnfinishedCommit: the log is distributed, and a commit isn't finished in time.
        psycopg.Error: the database failed, or the connection, or a lock was not acquired within ``lock_timeout``.

    """
    versions = dict(await fetch_all(conn, _LOCK_CHECKPOINTS))
    if is_distributed:
        for name in versions:
            await conn.execute(WAIT_FOR_TRANSACTION_LOCK, [checkpoint_lock(name)])
        await wait_for_commits(conn)
    return versions


async def let_others_fold() -> None:
    """Leave the checkpoints to the workers for a moment, before they are locked again."""
    await asyncio.sleep(PAUSE_SECONDS)
