"""The named consumers for people and monitoring: what they are, how far, who has them; resetting and dropping one.

Invariants. Reading costs the same on a log of any length: of the event table it reads, for each consumer, the event at
its checkpoint and the one after it, by index. A consumer is changed only under its lock, so never while a process has
it; and under a new epoch, so a process that lost the lock can't move the checkpoint afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from eventstore.archived_rows import event_id_at, read_archived_up_to
from eventstore.errors import LockHeld, UsageError
from eventstore.event_reader import LAG, from_checkpoints, read_head
from eventstore.locks import consumer_lock
from eventstore.postgres.connection import connect
from eventstore.postgres.lock_holder import find_holder_names
from eventstore.postgres.queries import fetch_all, fetch_value
from eventstore.postgres.session_lock import hold_lock, is_session_of, run_while_held, session_name
from eventstore.ulid import is_ulid
from eventstore.waits import Waits

_CONSUMERS = sql.SQL("""
SELECT c.name, c.position, {lag},
       c.events, c.attempts, c.handed_out_at, c.moved_at, c.created_at,
       c.position = 0 OR coalesce((c.position, c.event_id) IN (
           SELECT e.position, e.event_id FROM eventstore.events AS e
           WHERE e.position = ANY(ARRAY(SELECT position FROM eventstore.consumers))
       ), false) OR coalesce((
           SELECT a.last_event_id FROM eventstore.archived_partitions AS a WHERE a.last = c.position
       ) = c.event_id, false) AS is_in_log,
       extract(epoch FROM clock_timestamp() - coalesce(c.moved_at, c.created_at))::double precision AS seconds_still
FROM {from_} ORDER BY c.name
""").format(lag=LAG, from_=from_checkpoints(sql.Identifier("eventstore", "consumers")))
_RESET = sql.SQL(
    "UPDATE eventstore.consumers SET epoch = epoch + 1, position = %(to)s, attempts = 0, handed_out_at = NULL,"
    " event_id = {}, moved_at = statement_timestamp() WHERE name = %(name)s"
).format(event_id_at(sql.SQL("%(to)s::bigint")))


@dataclass(frozen=True)
class ConsumerStatus:
    """A named consumer; times are in UTC.

    Attributes:
        name: the name that its program gives to it.
        position: its checkpoint: every event up to here was handed out and acknowledged.
        events_behind: events after that position, those that its filters leave out included.
        seconds_behind: how long ago the first of them was received.
        events: how many events were acknowledged since it was created.
        attempts: how often the batch after the checkpoint was handed out; 0 while it has not been.
        handed_out_at: when that was last; None while it has not been.
        moved_at: when the checkpoint last moved; None for never.
        created_at: when the consumer first ran.
        is_in_log: whether the log still has the event at the checkpoint.
        seconds_still: for how many seconds the checkpoint has not moved.
        held_by: the session that has the consumer now; None if none has.

    """

    name: str
    position: int
    events_behind: int
    seconds_behind: float
    events: int
    attempts: int
    handed_out_at: datetime | None
    moved_at: datetime | None
    created_at: datetime
    is_in_log: bool
    seconds_still: float
    held_by: str | None = None


async def read_consumers(conn: AsyncConnection[Any]) -> list[ConsumerStatus]:
    """Read every consumer, by name.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    async with conn.cursor(row_factory=class_row(ConsumerStatus)) as cursor:
        found = await fetch_all(cursor, _CONSUMERS)
    holders = await find_holder_names(conn, {one.name: consumer_lock(one.name) for one in found})
    return [replace(one, held_by=holders.get(one.name)) for one in found]


async def read_consumer(conn: AsyncConnection[Any], name: str) -> ConsumerStatus:
    """Read one consumer.

    Raises:
        UsageError: there is none of that name; the message has the names.
        psycopg.Error: the database failed, or the connection.

    """
    found = {one.name: one for one in await read_consumers(conn)}
    if name not in found:
        those = f"the consumers are {', '.join(found)}" if found else "no consumer has run yet"
        raise UsageError(f"there is no consumer {name!r}; {those}")
    return found[name]


async def find_reset_position(conn: AsyncConnection[Any], to: str) -> int:
    """Return the position that a text names: ``beginning``, ``now``, a position, or the event_id of a stored event.

    Raises:
        UsageError: it names none, or one after the head, or among archived events.
        psycopg.Error: the database failed, or the connection.

    """
    position = await _find_named_position(conn, to)
    await _refuse_archived(conn, position, to)
    return position


async def _refuse_archived(conn: AsyncConnection[Any], position: int, to: str) -> None:
    if position < (archived := await read_archived_up_to(conn)):
        raise UsageError(
            f"{to} is among the archived events, which no consumer is handed: they end at position {archived}, so give"
            " that one or a later one"
        )


async def _find_named_position(conn: AsyncConnection[Any], to: str) -> int:
    head = await read_head(conn)
    if to in ("beginning", "now"):
        return 0 if to == "beginning" else head
    if is_ulid(to):
        found = await fetch_value(conn, "SELECT position FROM eventstore.event_positions WHERE event_id = %s", [to])
        if found is None:
            raise UsageError(f"event {to} is not stored")
        return int(found)
    if not (to.isascii() and to.isdigit() and len(to) < 19):
        raise UsageError(f"{to!r} is no place in the log; give beginning, now, a position or an event_id")
    if int(to) > head:
        raise UsageError(f"position {to} is after the end of the log ({head})")
    return int(to)


async def reset_consumer(url: str, waits: Waits, name: str, to: int) -> None:
    """Set a consumer's checkpoint: events up to a position count as acknowledged.

    Raises:
        LockHeld: a process has the consumer; the message names its session.
        UsageError: the position is among events that were archived meanwhile.
        LockLost: the connection that held the lock is lost; the reset may or may not be done.
        psycopg.Error: the database or the connection failed.

    """

    async def reset(conn: AsyncConnection[Any]) -> None:
        try:
            await conn.execute(_RESET, {"name": name, "to": to})
        except psycopg.errors.CheckViolation:
            await _refuse_archived(conn, to, str(to))  # its event was archived meanwhile
            raise

    await _run_under_lock(url, waits, name, "consumers reset", reset)


async def drop_consumer(url: str, waits: Waits, name: str) -> None:
    """Remove a consumer; its program would begin as a new one.

    Raises:
        LockHeld, LockLost, psycopg.Error: as :func:`reset_consumer` raises them.

    """

    async def drop(conn: AsyncConnection[Any]) -> None:
        await conn.execute("DELETE FROM eventstore.consumers WHERE name = %s", [name])

    await _run_under_lock(url, waits, name, "consumers drop", drop)


def refuse_held(name: str, holder: str) -> LockHeld:
    """Return the error that a process has a consumer, and says what to do."""
    if is_session_of(holder, "consumers"):  # a reset or drop, which ends by itself
        return LockHeld(f"consumer {name!r}", holder)
    return LockHeld(f"consumer {name!r}", holder, "stop its program first: it has the consumer for as long as it runs")


async def _run_under_lock(
    url: str, waits: Waits, name: str, work: str, change: Callable[[AsyncConnection[Any]], Coroutine[Any, Any, None]]
) -> None:
    what = f"consumer {name!r}"
    try:
        async with (
            hold_lock(url, consumer_lock(name), name=session_name(work), what=what, waits=waits) as lock,
            await connect(url, name=session_name(work), waits=waits) as conn,
        ):
            await run_while_held(lock, waits, what, change(conn))
    except LockHeld as error:
        raise refuse_held(name, error.holder) from error
