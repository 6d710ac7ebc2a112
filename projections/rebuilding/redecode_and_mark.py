"""Redecodes the log while no rebuild, verification or as-of of any projection runs, and says which to rebuild then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.event_reader import read_head
from eventstore.postgres.connection import connect
from eventstore.postgres.queries import fetch_value
from eventstore.postgres.session_lock import run_under_locks, session_name
from eventstore.redecode import Redecoded, redecode
from eventstore.waits import Waits
from projections.errors import UsageError
from projections.projection import SHADOW_POSITIONS, Projection
from projections.rebuilding.replay import rebuild_locks
from projections.rebuilding.shadow import SHADOW_SCHEMA
from projections.running import state_changes


async def redecode_and_mark(
    url: str, projections: Sequence[Projection], *, after: int, waits: Waits, on_progress: Callable[[int, int], None]
) -> tuple[Redecoded, list[str]]:
    """Redecode; returns what that did, and the names of the projections whose rows may come out otherwise now.

    Those are noted with each page, so that whoever is killed in the middle owes nothing to memory.

    Raises:
        UsageError: no event lies behind that position.
        LockHeld: a rebuild, verify or as-of is at work; nothing was done.
        psycopg.Error: the database failed, or the connection, or the role may not do it.

    """
    return await run_under_locks(
        url,
        rebuild_locks(projections),
        name=session_name("redecode"),
        waits=waits,
        work=lambda: _redecode(url, projections, after, waits, on_progress),
    )


async def _redecode(
    url: str, projections: Sequence[Projection], after: int, waits: Waits, on_progress: Callable[[int, int], None]
) -> tuple[Redecoded, list[str]]:
    known = [one.name for one in projections]
    async with await connect(url, name=session_name("redecode"), waits=waits) as conn:
        last = await read_head(conn)
        if after and after >= last:
            raise UsageError(f"position {after + 1:,} is beyond the last one, {last:,}: nothing is to be read again")

        async def changed(types: set[int], position: int) -> None:
            affected = [one.name for one in projections if one.handles & types]
            await state_changes.mark_redecoded(conn, affected, known, position)

        await _forget_shadows(conn)
        result = await redecode(conn, after=after, on_progress=on_progress, changed=changed)
        return result, await state_changes.find_needing_rebuild(conn, known)


async def _forget_shadows(conn: AsyncConnection[Any]) -> None:
    """Let no interrupted rebuild go on with what it folded from the columns of before."""
    positions = sql.Identifier(SHADOW_SCHEMA, SHADOW_POSITIONS)
    if await fetch_value(conn, "SELECT to_regclass(%s)", [positions.as_string(conn)]) is not None:
        await conn.execute(sql.SQL("DELETE FROM {}").format(positions))
