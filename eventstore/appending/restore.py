"""Restores exported events to the log that they were exported from, with their positions and their received_at."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation

from eventstore.appending.append_lock import acquire_append_lock, retry_while_append_lock_is_busy
from eventstore.appending.copying import as_timestamptz, copy_rows
from eventstore.appending.duplicates import EXPORTED_ELSEWHERE, find_missing, find_stored_ids
from eventstore.appending.notify_channel import NOTIFY
from eventstore.appending.partition_room import make_room
from eventstore.contracts import Event
from eventstore.distributed_log import events_for_rows, move_distributed_head
from eventstore.erasure.erasure_key import ErasureKey
from eventstore.erasure.late_events import LateEvents
from eventstore.errors import OtherLog
from eventstore.event_reader import StoredEvent
from eventstore.waits import Waits

# The trigger of a partitioned log would not look for events before the position up to which it knows the ids.
_ANNOUNCE = "SELECT set_config('eventstore.restored_positions', int8range(%s, %s, '[]')::text, true)"
_STORED_ELSEWHERE = f"an event of the file is stored here at another position: {EXPORTED_ELSEWHERE}"


async def restore_events(
    conn: AsyncConnection, stored: Sequence[StoredEvent], waits: Waits, key: ErasureKey | None = None
) -> int:
    """Store events at their positions, in one transaction.

    Args:
        conn: an autocommit connection, used by nobody else meanwhile.
        stored: at least one event, in order of position. Events that are stored already are left out; the first of
            those after the head must directly follow it.
        waits: ``append_lock`` counts.
        key: the erasure key; None without one. Events of erased persons are stored with their tokens.

    Returns:
        How many events were missing.

    Raises:
        OtherLog: a position or an event_id is taken by another event, or positions before them are missing.
        psycopg.Error: the database failed, or the connection.

    """
    return await retry_while_append_lock_is_busy(conn, waits, lambda: _try_to_restore(conn, stored, waits, key))


async def _try_to_restore(
    conn: AsyncConnection, stored: Sequence[StoredEvent], waits: Waits, key: ErasureKey | None
) -> int:
    late = LateEvents(key)
    async with conn.transaction():
        head = await acquire_append_lock(conn, waits)
        missing = await find_missing(conn, stored)
        after_head = (each.position for each in missing if each.position > head.position)
        for wanted, position in enumerate(after_head, head.position + 1):
            if position != wanted:
                raise OtherLog(f"positions {wanted}..{position - 1} are neither in this database nor in the file")
        if missing:
            events = await late.erase(conn, [one.event for one in missing], head.erasure, may_be_old=True)
            missing = [one._replace(event=event) for one, event in zip(missing, events, strict=True)]
            await make_room(conn, head.partition, missing[-1].position)
            stored_as: Sequence[Event] = [one.event for one in missing]
            if head.is_distributed:
                stored_as = events_for_rows(stored_as)
            rows = [
                (*event, one.position, as_timestamptz(one.received_at))
                for event, one in zip(stored_as, missing, strict=True)
            ]
            try:
                if head.is_distributed:
                    await _refuse_stored_ids(conn, missing)
                await conn.execute(_ANNOUNCE, [missing[0].position, missing[-1].position])
                await copy_rows(conn, rows)
            except UniqueViolation as error:
                raise OtherLog(_STORED_ELSEWHERE) from error
            last = missing[-1]
            if head.is_distributed and last.position > head.position:
                await move_distributed_head(conn, last.position, last.received_at, last.event.event_id)
            await late.record(conn, events, is_distributed=head.is_distributed)
            await conn.execute(NOTIFY)
    return len(missing)


async def _refuse_stored_ids(conn: AsyncConnection, missing: Sequence[StoredEvent]) -> None:
    """Refuse ids that are stored elsewhere in a distributed log, whose key is wider than event_id."""
    stored_ids, _ = await find_stored_ids(conn, [one.event for one in missing], is_distributed=True)
    if stored_ids:
        raise OtherLog(_STORED_ELSEWHERE)
