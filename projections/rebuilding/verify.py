"""Checks that a read model equals the log: folds a shadow up to the checkpoint and compares it with the tables.

What verify compares: every row of every table of the projection, column by column and by its bytes, with the rows
that the same fold makes of the log up to the checkpoint, without the events that the projection skips. Computed
columns are left out, since they follow from the others. It is a rebuild's run without the apply: see
:mod:`~projections.rebuilding.shadow_run`. Rows are compared in several snapshots, and those that later events may have
changed are compared once more in the last one. Nothing is changed, and no table or checkpoint is locked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from eventstore.archiving.archived_events import open_archived_events
from projections.errors import ProjectionsError
from projections.projection import Projection
from projections.rebuilding.exclusive_run import run_exclusively, start_over_after_erasures
from projections.rebuilding.replay_checkpoint import read_checkpoint_in_log
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.row_changes import Changes, Sample
from projections.rebuilding.shadow import Shadow
from projections.rebuilding.shadow_run import ShadowRun, new_shadow


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification found at ``position``: what a rebuild would change, and the first rows that differ."""

    name: str
    position: int
    changes: tuple[Changes, ...]
    samples: tuple[Sample, ...]

    @property
    def equal(self) -> bool:
        """Whether the read model equals the log."""
        return not any(one.total for one in self.changes)


async def verify(context: ReplayContext, projection: Projection) -> Verified:
    """Compare a projection's tables with the rows that the log gives at their checkpoint.

    Raises:
        LockHeld: another rebuild, verify, as-of or redecode of the projection runs; the message names it.
        LockLost, RebuildLost: another took over meanwhile.
        EventsArchived, ArchiveError: archived events can't be read; the message says which, and nothing was done.
        CannotFold: an event can't be folded; the message says which.
        ProjectionsError: it has not run yet, or its rows are of another version than this code.
        psycopg.Error: the database failed, or the connection.

    """
    session = f"verify {projection.name}"

    async def work() -> Verified:
        return await _verify(context, projection, session)

    async with context.slots.slot():
        return await run_exclusively(context, [projection], session, work)


async def _verify(context: ReplayContext, projection: Projection, session: str) -> Verified:
    async with context.connection(session, values_in_text=True) as conn:

        async def attempt(*, is_first: bool) -> Verified:  # noqa: ARG001 - a verification is never resumed
            return await _fold_and_compare(conn, context, projection)

        return await start_over_after_erasures(conn, context, projection.name, attempt)


async def _fold_and_compare(conn: AsyncConnection[Any], context: ReplayContext, projection: Projection) -> Verified:
    archived = await open_archived_events(conn)
    at = await read_checkpoint_in_log(conn, projection)
    # Newer code marks rows of this version as waiting: for its own rebuild. So the version decides, not the state.
    if at.version != projection.version:
        raise ProjectionsError(
            f"{projection.name} needs a rebuild: its rows are of version {at.version}, this code is version"
            f" {projection.version}; run projections rebuild {projection.name}"
        )
    shadow = await new_shadow(conn, context, projection, archived=archived)
    steps = ShadowRun(conn, context, shadow, read_checkpoint_in_log, f"verify {projection.name}")
    await steps.start(at.position)
    await steps.catch_up(at.position)
    await steps.retry(steps.compare, "a table")

    async def finish() -> Verified:
        await steps.narrow()
        return await _finish(projection, steps, shadow)

    found = await steps.retry(finish, "a table")
    await steps.end()
    return found


async def _finish(projection: Projection, steps: ShadowRun, shadow: Shadow) -> Verified:
    async with steps.snapshot() as at:
        if at.version != projection.version or at.skipped != shadow.skipped:
            raise ProjectionsError(f"{projection.name}: its checkpoint changed during the verification; run it again")
        position = await steps.finish(at)
        changes = await steps.changes()
        samples = await steps.samples()
    return Verified(projection.name, position, tuple(changes), tuple(samples))
