"""The row of a consumer: its checkpoint, the epoch of whoever has it, and how often the next batch was handed out.

Invariants. A checkpoint moves only under the epoch of the process that took the consumer over last, only from the
position that this process knows, and only to an event that the log has at that position. So a process that was frozen
can't move it back, and after a failover that lost events it isn't moved past events that nobody was handed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection, sql

from eventstore.archived_rows import event_id_at, read_archived_up_to
from eventstore.errors import CheckpointNotInLog, UsageError
from eventstore.event_reader import HEAD, read_head
from eventstore.postgres.queries import fetch_row, fetch_value

_AT_POSITION = event_id_at(sql.SQL("%(position)s::bigint"))
_CREATE = sql.SQL(
    "INSERT INTO eventstore.consumers (name, position, event_id, created_at)"
    " SELECT %(name)s, %(position)s, {}, clock_timestamp() ON CONFLICT (name) DO NOTHING"
).format(_AT_POSITION)
_TAKE_OVER = (
    "UPDATE eventstore.consumers SET epoch = epoch + 1 WHERE name = %s RETURNING epoch, position, event_id, attempts"
)
_MOVE = (
    "UPDATE eventstore.consumers AS c SET position = e.position, event_id = e.event_id,"
    " moved_at = statement_timestamp(),"
    " events = c.events + %(count)s, attempts = %(attempts)s,"
    " handed_out_at = CASE WHEN %(attempts)s > 0 THEN statement_timestamp() END"
    " FROM eventstore.events AS e WHERE e.position = %(to)s AND e.event_id = %(event_id)s"
    " AND c.name = %(name)s AND c.epoch = %(epoch)s AND c.position = %(from)s"
)
# The next move waits for the disk, and with it for this one: a crash of the server can lose no more than this count.
_HAND_OUT = (
    "UPDATE eventstore.consumers SET attempts = attempts + 1, handed_out_at = clock_timestamp()"
    " WHERE name = %(name)s AND epoch = %(epoch)s AND position = %(from)s"
    " RETURNING attempts, pg_catalog.set_config('synchronous_commit', 'off', true)"
)
_IS_OURS = "SELECT FROM eventstore.consumers WHERE name = %s AND epoch = %s AND position = %s"
_IS_IN_LOG = sql.SQL("SELECT %(position)s::bigint = 0 OR coalesce({} = %(event_id)s, false), {}").format(
    _AT_POSITION, HEAD
)


class TakenOver(NamedTuple):
    """A consumer's row as a process found it when it took it over; ``epoch`` is this process's."""

    epoch: int
    position: int
    event_id: str | None
    attempts: int


async def create_consumer(conn: AsyncConnection[Any], name: str, start: int | None) -> None:
    """Create a consumer's row unless it has one.

    Args:
        conn: a connection in autocommit.
        name: the consumer.
        start: the position after which it begins; None for the head.

    Raises:
        UsageError: the schema has no consumers yet, or the position is after the head or among archived events.
        psycopg.Error: the database failed, or refused it.

    """
    try:
        exists = await fetch_value(conn, "SELECT true FROM eventstore.consumers WHERE name = %s", [name])
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise UsageError("the database has no table eventstore.consumers; run projections migrate") from error
    if exists:
        return
    at = await read_head(conn)
    start = at if start is None else start
    await _refuse_start(conn, name, start, at)
    try:
        await conn.execute(_CREATE, {"name": name, "position": start})
    except psycopg.errors.CheckViolation:
        await _refuse_start(conn, name, start, at)  # its event was archived meanwhile
        raise


async def _refuse_start(conn: AsyncConnection[Any], name: str, start: int, head: int) -> None:
    if start > head:
        raise UsageError(f"consumer {name} can't start after position {start}: the log ends at {head}")
    if start < (archived := await read_archived_up_to(conn)):
        raise UsageError(
            f"consumer {name} can't start after position {start}: positions up to {archived} are archived; start it"
            f" after {archived}, and read the files for what is before"
        )


async def take_over(conn: AsyncConnection[Any], name: str) -> TakenOver | None:
    """Raise the epoch, so that no other process can move the checkpoint; None if there is no such consumer.

    Only the holder of the consumer's lock may do this.

    Raises:
        CheckpointNotInLog: the log has another event at the checkpoint, or none.
        psycopg.Error: the database failed, or refused it.

    """
    row = await fetch_row(conn, _TAKE_OVER, [name])
    if row is None:
        return None
    taken = TakenOver(*row)
    await check_in_log(conn, name, taken.position, taken.event_id)
    return taken


async def check_in_log(conn: AsyncConnection[Any], name: str, position: int, event_id: str | None) -> None:
    """Check that the log has a checkpoint's event at its position.

    Raises:
        CheckpointNotInLog: it hasn't.
        psycopg.Error: the database failed, or the connection.

    """
    row = await fetch_row(conn, _IS_IN_LOG, {"position": position, "event_id": event_id})
    is_in_log, head = row or (False, 0)
    if not is_in_log:
        raise CheckpointNotInLog(name, position, event_id, head)


class CheckpointMove(NamedTuple):
    """A move of a checkpoint: the events between that were handed out, and whether the next batch is handed out too."""

    start: int
    to: int
    event_id: str | None
    events: int = 0
    hands_out_next: bool = False


async def move_checkpoint(conn: AsyncConnection[Any], name: str, epoch: int, move: CheckpointMove) -> bool:
    """Move a checkpoint; return False if this process doesn't have the consumer any more, or the log lost the event.

    Raises:
        psycopg.Error: the database failed, or the connection; the checkpoint has moved, or not.

    """
    values = {
        "name": name,
        "epoch": epoch,
        "from": move.start,
        "to": move.to,
        "event_id": move.event_id,
        "count": move.events,
        "attempts": int(move.hands_out_next),
    }
    return (await conn.execute(_MOVE, values)).rowcount == 1


async def record_attempt(conn: AsyncConnection[Any], name: str, epoch: int, position: int) -> int | None:
    """Record that the batch after a checkpoint is handed out; return how often it was, or None as above.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    attempts = await fetch_value(conn, _HAND_OUT, {"name": name, "epoch": epoch, "from": position})
    return None if attempts is None else int(attempts)


async def is_ours(conn: AsyncConnection[Any], name: str, epoch: int, position: int) -> bool:
    """Return whether the consumer is still of this epoch and at this position.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    return await fetch_row(conn, _IS_OURS, [name, epoch, position]) is not None
