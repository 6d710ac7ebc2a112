"""Proves that a read model equals the log: a shadow is folded to the checkpoint and compared, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, errors

from eventstore.locks import rebuild_lock
from eventstore.postgres.session_lock import hold_lock, run_while_held, session_name
from eventstore.postgres.session_settings import ONE_SNAPSHOT
from eventstore.waits import Waits
from projections.errors import ProjectionsError
from projections.projection import Projection
from projections.rebuilding.difference import Changes, Difference, Sample
from projections.rebuilding.rebuild_history import next_run_id
from projections.rebuilding.replay import Progress, checkpoint_of, refuse_ahead_of_log, replaying
from projections.rebuilding.shadow import STAYS, Shadow
from projections.running import checkpoint
from projections.settings import ReplaySettings

SAMPLES = 10


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification found: at ``position``, what a rebuild would change, and the first rows of it."""

    name: str
    position: int
    changes: tuple[Changes, ...]
    samples: tuple[Sample, ...]

    @property
    def equal(self) -> bool:
        """Whether the read model is what the log says."""
        return not any(one.total for one in self.changes)


async def verify(
    url: str, projection: Projection, *, waits: Waits, settings: ReplaySettings, progress: Progress
) -> Verified:
    """Compare a projection's tables with what the log says at their checkpoint. Nothing of theirs is changed or locked.

    Raises:
        LockHeld: a rebuild, verify or as-of of the projection is at work; the message names it.
        LockLost, RebuildLost: another took over meanwhile.
        CannotFold: an event can't be folded; the message says which.
        ProjectionsError: it has not run yet, or its rows are of another version than this code.
        psycopg.Error: the database failed, or the connection.

    """
    what = f"projection {projection.name}"
    name = session_name(f"verify {projection.name}")
    async with hold_lock(url, rebuild_lock(projection.name), name=name, what=what, waits=waits) as lock:
        work = _verify(url, projection, waits, settings, progress)
        return await run_while_held(lock, waits, what, work)


async def _verify(
    url: str, projection: Projection, waits: Waits, settings: ReplaySettings, progress: Progress
) -> Verified:
    async with replaying(url, f"verify {projection.name}", waits, settings) as conn:
        at = await checkpoint_of(conn, projection)
        refuse_ahead_of_log(projection, at)
        # Of its own version's rows newer code says that they wait: for its own rebuild.
        if at.version != projection.version:
            raise ProjectionsError(
                f"{projection.name} waits for a rebuild: its rows are of version {at.version}, this code is version"
                f" {projection.version}: run projections rebuild {projection.name}"
            )
        skipped = await checkpoint.read_skips(conn, projection.name, projection.version)
        shadow = Shadow(conn, projection, skipped, run=await next_run_id(conn), fold_timeout=settings.fold_timeout)
        difference = Difference(conn, shadow)
        await shadow.begin()
        await difference.check()
        while at.position - shadow.position > (settings.rest if shadow.position else 0):
            progress.phase("folding", position=shadow.position, target=at.position)
            await shadow.fold_to(at.position, settings.window, progress.at)
            at = await checkpoint_of(conn, projection)
            refuse_ahead_of_log(projection, at)
        while True:
            progress.phase("comparing")
            try:
                found = await _compare(conn, projection, shadow, difference)
                break
            except errors.LockNotAvailable:
                progress.note(f"{projection.name}: somebody holds a table; trying again")
        if not await shadow.drop():
            progress.note(f"{projection.name}: {STAYS}")
        return found


async def _compare(
    conn: AsyncConnection[Any], projection: Projection, shadow: Shadow, difference: Difference
) -> Verified:
    async with conn.transaction():
        await conn.execute(ONE_SNAPSHOT)
        await shadow.hold()
        at = await checkpoint_of(conn, projection)
        refuse_ahead_of_log(projection, at)
        if at.version != projection.version or at.skipped != shadow.skipped:
            raise ProjectionsError(f"{projection.name}: its checkpoint was changed meanwhile: run it again")
        if at.position > shadow.position:
            await shadow.fold_within(at.position)
        await difference.compare(at.position)
        changes = await difference.changes()
        samples = await difference.samples(SAMPLES)
    return Verified(projection.name, at.position, tuple(changes), tuple(samples))
