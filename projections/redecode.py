"""Redecodes the log while no rebuild, verification or as-of of any projection runs, and says which to rebuild then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.connection import connect
from eventstore.redecode import Redecoded, redecode
from eventstore.session_lock import session_name, while_all_held
from eventstore.waits import Waits
from projections.projection import SHADOW_POSITIONS, Projection
from projections.replay import rebuild_locks
from projections.shadow import SHADOW_SCHEMA


async def redecode_log(
    url: str, projections: Sequence[Projection], *, after: int, waits: Waits, told: Callable[[int, int], None]
) -> tuple[Redecoded, list[str]]:
    """Redecode; returns what that did, and the names of the projections whose rows may come out otherwise now.

    Raises:
        LockHeld: a rebuild, verify or as-of is at work; nothing was done.
        psycopg.Error: the database failed, or the connection, or the role may not do it.

    """
    result = await while_all_held(
        url,
        rebuild_locks(projections),
        name=session_name("redecode"),
        waits=waits,
        work=lambda: _redecode(url, after, waits, told),
    )
    return result, [one.name for one in projections if one.handles & result.types]


async def _redecode(url: str, after: int, waits: Waits, told: Callable[[int, int], None]) -> Redecoded:
    async with await connect(url, name=session_name("redecode"), waits=waits) as conn:
        await _forget_shadows(conn)
        return await redecode(conn, after=after, told=told)


async def _forget_shadows(conn: AsyncConnection[Any]) -> None:
    """Let no interrupted rebuild go on with what it folded from the columns of before."""
    positions = sql.Identifier(SHADOW_SCHEMA, SHADOW_POSITIONS)
    row = await (await conn.execute("SELECT to_regclass(%s)", [positions.as_string(conn)])).fetchone()
    if row and row[0] is not None:
        await conn.execute(sql.SQL("DELETE FROM {}").format(positions))
