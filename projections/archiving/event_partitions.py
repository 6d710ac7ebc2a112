"""Who still needs the events of a partition, how their ids are kept, and how a partition is dropped.

Invariants. The ids of a partition are in ``eventstore.event_ids`` before it is dropped, so that an archived event that
is received again is a duplicate. A partition is dropped in one transaction with the record that its events are in a
file. The event table is locked first and nothing is waited for after that, so this can't deadlock, and appends wait for
a moment only. Under the lock nobody reads or appends events; so whoever needs an event of the partition is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.archived_rows import record_dropped
from eventstore.erasure.erasure_rows import read_last_erasure
from eventstore.event_reader import read_head
from eventstore.locks import PARTITION_LOCK, WAIT_FOR_TRANSACTION_LOCK
from eventstore.partitions import Partition
from eventstore.postgres.lock_retry import retry_on_lock
from eventstore.postgres.queries import fetch_all, fetch_value
from eventstore.postgres.session_settings import COMMIT_DURABLY, LOCK_TIMEOUT, milliseconds
from projections.archiving.archive_request import CannotArchive

LOCK_SECONDS = 0.5
"""How long the event table is waited for: meanwhile appends and folds queue behind."""
PAUSE_SECONDS = 1.0
CHUNK = 100_000
"""Ids that are kept in one transaction."""

_CHECKPOINTS = "SELECT name, position FROM projections.checkpoints ORDER BY name"
_CONSUMERS = "SELECT name, position FROM eventstore.consumers ORDER BY name"
_IS_OWNER = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = 'eventstore.events'::regclass"
_LOCK = "LOCK TABLE ONLY eventstore.events IN ACCESS EXCLUSIVE MODE"
_DETACH = sql.SQL("ALTER TABLE eventstore.events DETACH PARTITION {}")
_DROP = sql.SQL("DROP TABLE {}")
_KEEP_IDS = sql.SQL(
    "INSERT INTO eventstore.event_ids (event_id, position) SELECT e.event_id, e.position FROM {} AS e"
    " WHERE e.position > %s AND e.position <= %s AND NOT EXISTS ("
    "SELECT FROM eventstore.event_ids AS i WHERE i.event_id = e.event_id AND i.position = e.position)"
)
_FORGET = "DELETE FROM eventstore.partitions WHERE name = %s"


async def refuse_others_than_owner(conn: AsyncConnection[Any]) -> None:
    """Make sure that this role may drop partitions, before anything is written.

    Raises:
        CannotArchive: it may not.

    """
    if not await fetch_value(conn, _IS_OWNER):
        raise CannotArchive(
            "this role may not archive; only the owner of the tables may, see projections docs archives"
        )


async def find_who_needs(conn: AsyncConnection[Any], last: int, installed: Collection[str]) -> list[str]:
    """Return sentences about who still needs an event up to a position; empty if nobody does.

    Args:
        conn: a connection.
        last: the last position of a partition.
        installed: the projections of this installation.

    """
    checkpoints: dict[str, int] = dict(await fetch_all(conn, _CHECKPOINTS))
    needed = [f"projection {name} is at position {at:,}" for name, at in checkpoints.items() if at <= last]
    needed += [f"projection {name} has not run yet" for name in sorted(set(installed) - checkpoints.keys())]
    consumers = await fetch_all(conn, _CONSUMERS)
    needed += [f"consumer {name} is at position {at:,}" for name, at in consumers if at <= last]
    head = await read_head(conn)
    if head <= last:
        needed.append(f"the log ends at position {head:,}, and its last event stays in it")
    return needed


async def keep_ids(conn: AsyncConnection[Any], partition: Partition, progress: Callable[[int], None]) -> None:
    """Copy the ids of a partition's events to where they stay when it is dropped; done again, it changes nothing.

    Args:
        conn: an autocommit connection.
        partition: the partition; no event can be added to it.
        progress: is called with the last position that is done.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    if not partition.has_key:
        return
    statement = _KEEP_IDS.format(sql.Identifier("eventstore", partition.name))
    for after in range(partition.first_position - 1, partition.last_position, CHUNK):
        up_to = min(after + CHUNK, partition.last_position)
        await conn.execute(statement, [after, up_to])
        progress(up_to)


async def drop_partition(
    conn: AsyncConnection[Any],
    partition: Partition,
    erasure: int,
    installed: Collection[str],
    note: Callable[[str], None],
) -> None:
    """Drop a partition whose files are recorded and whose ids are kept, or leave everything as it is.

    Args:
        conn: an autocommit connection.
        partition: the partition.
        erasure: the newest erasure that the files have.
        installed: the projections of this installation.
        note: is called with a sentence when others hold the event table.

    Raises:
        CannotArchive: somebody needs its events now, or a person was erased meanwhile.
        psycopg.Error: the database failed, or the role doesn't own the table.

    """

    async def attempt() -> None:
        async with conn.transaction():
            await conn.execute(COMMIT_DURABLY)
            await conn.execute(LOCK_TIMEOUT, [milliseconds(LOCK_SECONDS)])
            await conn.execute(WAIT_FOR_TRANSACTION_LOCK, [PARTITION_LOCK])
            await conn.execute(_LOCK)
            if needed := await find_who_needs(conn, partition.last_position, installed):
                where = f"positions {partition.first_position:,} to {partition.last_position:,}"
                raise CannotArchive(f"{where} stay in the log: {'; '.join(needed)}")
            if await read_last_erasure(conn) != erasure:
                raise CannotArchive("a person was erased meanwhile; run the same command again")
            if not await record_dropped(conn, partition.first_position, partition.last_position):
                raise CannotArchive("another command archived the partition meanwhile; run the same command again")
            table = sql.Identifier("eventstore", partition.name)
            await conn.execute(_DETACH.format(table))
            await conn.execute(_DROP.format(table))
            await conn.execute(_FORGET, [partition.name])

    async def pause() -> None:
        note("another session reads the event table or works on its partition; trying again")
        await asyncio.sleep(PAUSE_SECONDS)

    await retry_on_lock(attempt, before_retry=pause)
