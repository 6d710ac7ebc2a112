"""Redecodes the events while no replay of any projection runs, and marks the projections that need a rebuild after it.

Invariants. Each page of events and the marks of its projections are one transaction: if a redecode is killed, the
projections of every changed event are already marked. No interrupted rebuild is resumed, because it folded the old
columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from psycopg import AsyncConnection

from eventstore.distributed_log import changing_events
from eventstore.event_reader import read_head
from eventstore.locks import ERASE_LOCK
from eventstore.postgres.connection import connect
from eventstore.postgres.session_lock import Lock, session_name
from eventstore.redecode import Redecoded, redecode
from projections.errors import UsageError
from projections.projection import Projection
from projections.rebuilding.exclusive_run import run_exclusively
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.shadow_position import delete_all_positions
from projections.running import state_changes


async def redecode_and_mark(
    context: ReplayContext, projections: Sequence[Projection], *, after: int, on_progress: Callable[[int, int], None]
) -> tuple[Redecoded, list[str]]:
    """Redecode all events behind a position.

    Args:
        context: the database and its timeouts.
        projections: all that are installed.
        after: the position before the first event to redecode.
        on_progress: is called with the position and the head from time to time.

    Returns:
        What was redecoded, and the names of the projections that need a rebuild, from this run or an earlier one.

    Raises:
        UsageError: no event lies behind that position.
        CannotRedecode: an event of a distributed log would belong to another request; see there.
        LockHeld: a rebuild, verify, as-of or erase runs; nothing was done.
        psycopg.Error: the database failed, or the connection, or the role may not do it.

    """

    async def work() -> tuple[Redecoded, list[str]]:
        async with await connect(context.url, name=session_name("redecode"), waits=context.waits) as conn:
            return await _redecode(conn, projections, after, on_progress)

    events = Lock(ERASE_LOCK, "the stored events")
    return await run_exclusively(context, projections, "redecode", work, before=[events])


async def _redecode(
    conn: AsyncConnection[Any], projections: Sequence[Projection], after: int, on_progress: Callable[[int, int], None]
) -> tuple[Redecoded, list[str]]:
    known = [one.name for one in projections]
    last = await read_head(conn)
    if after and after >= last:
        raise UsageError(f"position {after + 1:,} is beyond the last one, {last:,}; there is nothing to redecode")

    async def mark(types: set[int], position: int) -> None:
        affected = [one.name for one in projections if one.handles & types]
        await state_changes.mark_redecoded(conn, affected, known, position)

    await delete_all_positions(conn)  # interrupted rebuilds folded the old columns
    async with changing_events(conn) as distributed:
        result = await redecode(conn, after=after, on_progress=on_progress, changed=mark, is_distributed=distributed)
    return result, await state_changes.find_needing_rebuild(conn, known)
