"""The database session of commands that read or change checkpoints: status, pause, resume, wait and skip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypedDict, TypeVar

from psycopg import AsyncConnection
from psycopg.errors import LockNotAvailable

from eventstore.errors import UsageError
from eventstore.postgres.connection import connect
from eventstore.waits import load_waits
from projections.cli.shared.open_database import migrated_database
from projections.errors import ProjectionsError
from projections.registry import find_projections
from projections.running import checkpoint

T = TypeVar("T")


class ChangedState(TypedDict):
    """The state that a command gave to a projection.

    Attributes:
        name: the projection.
        state: its new state.

    """

    name: str
    state: Literal["paused", "running"]


def change_checkpoint(name: str, change: Callable[[AsyncConnection[Any]], Awaitable[bool]]) -> None:
    """Pause or resume a projection. One that can't be loaded is accepted: it may run elsewhere.

    Raises:
        UsageError: there is no such projection, it has not run yet, or it waits for a rebuild.

    """
    registry = find_projections()
    if name not in registry.broken:
        registry.select([name])

    async def changed(conn: AsyncConnection[Any]) -> bool | None:
        return await change(conn) or (None if await checkpoint.exists(conn, name) else False)

    done = run_with_connection(changed)
    if done is None:
        raise UsageError(f"projection {name} needs a rebuild first: run projections rebuild {name}")
    if not done:
        raise UsageError(f"projection {name} has not run yet: start projections run first")


def run_with_connection(
    work: Callable[[AsyncConnection[Any]], Awaitable[T]], *, writes: bool = True, patience: float = 0.0
) -> T:
    """Run a command's work on a connection to the migrated database.

    Args:
        work: gets the connection.
        writes: whether it writes, which a standby doesn't allow.
        patience: seconds to wait for the database unless --wait-for-database says otherwise.

    Raises:
        ProjectionsError: a fold or a rebuild holds the checkpoint for too long.

    """
    waits = load_waits()
    url = migrated_database(waits, writes=writes, patience=patience)

    async def connected() -> T:
        async with await connect(url, name="projections", waits=waits, lock_timeout=waits.append_lock) as conn:
            return await work(conn)

    try:
        return asyncio.run(connected())
    except LockNotAvailable as error:
        raise ProjectionsError(
            f"a fold or a rebuild has held the checkpoint for more than {waits.append_lock:g} s: try again"
        ) from error
