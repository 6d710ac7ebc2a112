"""What rebuild, verify and as-of share: one of them at a time for a projection, on a connection set up for replay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from psycopg import AsyncConnection

from eventstore.locks import rebuild_lock
from eventstore.postgres.connection import connect
from eventstore.postgres.session_lock import Lock, session_name
from eventstore.postgres.session_settings import FOLDING
from eventstore.waits import Waits
from projections.errors import ProjectionsError
from projections.folding.text_dates import load_odd_dates_as_text
from projections.projection import Projection
from projections.running import checkpoint
from projections.running.checkpoint import Checkpoint
from projections.running.state_changes import describe_ahead_of_log
from projections.settings import ReplaySettings


class Progress(Protocol):
    """Whoever is told how a replay goes on."""

    def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
        """Something else begins; with a target, positions up to it will be told."""

    def at(self, position: int) -> None:
        """Every event up to here is folded."""

    def note(self, line: str) -> None:
        """Say what people should know at once."""


class Silent:
    """Tells nobody."""

    def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
        """Say nothing."""

    def at(self, position: int) -> None:
        """Say nothing."""

    def note(self, line: str) -> None:
        """Say nothing."""


def rebuild_locks(projections: Iterable[Projection]) -> list[Lock]:
    """Return these locks of several projections, in the one order in which they are taken."""
    names = sorted(projection.name for projection in projections)
    return [Lock(rebuild_lock(name), f"projection {name}") for name in names]


@asynccontextmanager
async def replaying(url: str, work: str, waits: Waits, settings: ReplaySettings) -> AsyncIterator[AsyncConnection[Any]]:
    """Open a connection for replay, in autocommit.

    Raises:
        psycopg.Error: the database is away.

    """
    session = {**FOLDING, "work_mem": settings.work_mem, "lock_timeout": f"{int(settings.lock_timeout * 1000)}ms"}
    conn = await connect(url, name=session_name(work), waits=waits, settings=session)
    try:
        load_odd_dates_as_text(conn)
        yield conn
    finally:
        await conn.close()


async def checkpoint_of(conn: AsyncConnection[Any], projection: Projection) -> Checkpoint:
    """Read the checkpoint of a projection whose rows are not newer than this code.

    Raises:
        ProjectionsError: there is none yet, or the rows are of a newer version.

    """
    at = await checkpoint.read(conn, projection.name)
    if at is None:
        raise ProjectionsError(
            f"{projection.name} has not run yet: start projections run, or run projections rebuild {projection.name}"
        )
    if at.version > projection.version:
        raise ProjectionsError(
            f"the rows of {projection.name} are of version {at.version}, this code is version {projection.version}:"
            " update this installation"
        )
    return at


def refuse_ahead_of_log(projection: Projection, at: Checkpoint) -> None:
    """Refuse a checkpoint that is ahead of the log: what its rows were folded from is not there any more.

    Raises:
        ProjectionsError: it is; the message says what to do.

    """
    if at.is_ahead:
        said = describe_ahead_of_log(projection.name, at.position, at.head)
        raise ProjectionsError(f"{projection.name}: {said}")
