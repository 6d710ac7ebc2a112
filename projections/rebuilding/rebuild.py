"""Rebuilds a read model by replay, without downtime: it is read and folded meanwhile.

Invariants. Everything is folded into a shadow first, in short committed windows. Shadow and tables are compared without
a lock. Then the checkpoint is locked, the rest is folded, and the rows that differ are deleted, updated and inserted,
in one transaction with the checkpoint's move: readers see the old rows or the new ones. Only rows change, so grants,
views, comments, indexes and oids stay. No other rebuild, verify, as-of or redecode of the projection runs meanwhile.

What holds when a rebuild is killed. In steps 1 to 5 of :mod:`~projections.rebuilding.shadow_run` and before the commit
of step 6, the tables and the checkpoint are untouched; after that commit, both are new. What was folded stays in the
shadow with its position, and ``resume`` continues there if the code, the tables and the skipped events are the same. A
frozen rebuild that wakes up can't apply a shadow that another run has taken over. The projection's next rebuild or
as-of marks the killed one as abandoned.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any

from psycopg import AsyncConnection

from eventstore.archiving.archived_events import open_archived_events
from eventstore.distributed_log import wait_for_commits
from eventstore.postgres.session_lock import session_name
from eventstore.postgres.session_settings import COMMIT_DURABLY
from projections.errors import ProjectionsError, RebuildRefused
from projections.projection import Projection
from projections.rebuilding import rebuild_history
from projections.rebuilding.exclusive_run import run_exclusively, start_over_after_erasures
from projections.rebuilding.replay_checkpoint import read_checkpoint_clamped_to_head
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.row_changes import Changes, Sample
from projections.rebuilding.shadow import Shadow
from projections.rebuilding.shadow_run import ShadowRun, new_shadow
from projections.running import checkpoint, state_changes
from projections.running.checkpoint import Checkpoint, ProjectionState

REMOVABLE = 0.10
"""The share of a table's rows that a rebuild may remove without permission."""
CATCH_UP_SECONDS = 2.0
"""How long to wait, at the most, for workers to fold what they couldn't meanwhile: longer than they sleep."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a rebuild may change.

    Attributes:
        max_changed: the share of a table's rows (0.001 for 0.1%) that may be added, removed or changed; None for any.
        removal: whether more than a tenth of a table's rows may be removed.

    """

    max_changed: float | None = None
    removal: bool = False


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that the parts of a rebuild took; ``apply`` is how long the checkpoint was locked."""

    fold: float = 0.0
    compare: float = 0.0
    apply: float = 0.0


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild changed, or would change, in each table, and the position of the rows.

    ``samples`` are the first rows that differ, of a dry run.
    """

    name: str
    version: int
    position: int
    dry_run: bool
    changes: tuple[Changes, ...]
    timings: Timings
    samples: tuple[Sample, ...] = ()


async def rebuild(
    context: ReplayContext,
    projection: Projection,
    *,
    limits: Limits | None = None,
    dry_run: bool = False,
    resume: bool = False,
) -> Rebuilt:
    """Rebuild a projection's tables from the log, or show what that would change.

    Args:
        context: the database, settings, and who receives the progress.
        projection: which.
        limits: what it may change.
        dry_run: apply nothing.
        resume: continue with the shadow of an interrupted rebuild, if it is still this code's.

    Raises:
        LockHeld: another rebuild, verify, as-of or redecode of the projection runs; the message names it.
        LockLost, RebuildLost: another took over meanwhile; nothing was applied.
        EventsArchived, ArchiveError: archived events can't be read; the message says which, and nothing was done.
        CannotFold: an event can't be folded; the message says which.
        RebuildRefused: it would change more than the limits allow; nothing was applied.
        ProjectionsError: the rows are of a newer version than this code.
        psycopg.Error: the database failed, or the connection; the tables are as they were.

    """

    async def work() -> Rebuilt:
        async with context.connection(_session(projection), values_in_text=True) as conn:

            async def attempt(*, is_first: bool) -> Rebuilt:
                run = _Rebuild(conn, context, projection, limits or Limits(), dry_run=dry_run)
                return await run.run(resume=resume and is_first)

            return await start_over_after_erasures(conn, context, projection.name, attempt)

    async with context.slots.slot():
        return await run_exclusively(context, [projection], _session(projection), work)


def _session(projection: Projection) -> str:
    return f"rebuild {projection.name}"


class _Rebuild:
    """One rebuild."""

    def __init__(
        self,
        conn: AsyncConnection[Any],
        context: ReplayContext,
        projection: Projection,
        limits: Limits,
        *,
        dry_run: bool,
    ) -> None:
        self._conn = conn
        self._context = context
        self._progress = context.progress
        self._projection = projection
        self._limits = limits
        self._dry_run = dry_run
        self._locked_since: float | None = None
        self._shadow: Shadow
        self._steps: ShadowRun

    async def run(self, *, resume: bool) -> Rebuilt:
        archived = await open_archived_events(self._conn)
        if not self._dry_run:
            await checkpoint.create_if_missing(self._conn, self._projection.name, self._projection.version)
        at = await read_checkpoint_clamped_to_head(self._conn, self._projection)
        self._shadow = shadow = await new_shadow(
            self._conn, self._context, self._projection, archived=archived, is_rebuild=True
        )
        session = _session(self._projection)
        self._steps = ShadowRun(self._conn, self._context, self._shadow, read_checkpoint_clamped_to_head, session)
        holder = session_name(session)
        await rebuild_history.record_start(
            self._conn, shadow.run_id, self._projection, shadow.fingerprint, holder, dry_run=self._dry_run
        )
        try:
            result = await self._run_steps(at, resume=resume)
        except RebuildRefused as error:
            await rebuild_history.record_run_failure(self._conn, self._shadow.run_id, "refused", error)
            raise
        except BaseException as error:
            await rebuild_history.record_run_failure(self._conn, self._shadow.run_id, "failed", error)
            raise
        if self._dry_run and resume:
            self._progress.note(f"{self._projection.name}: the shadow is kept; --resume continues with it")
        else:
            await self._steps.end()
        return result

    async def _run_steps(self, at: Checkpoint, *, resume: bool) -> Rebuilt:
        steps = self._steps
        # Rows of this version are compared where they are. The position of others doesn't say how far to fold.
        is_current = at.version == self._projection.version and at.state != ProjectionState.FAILED and at.position
        target = at.position if is_current else at.head
        await steps.start(target, resume=resume)
        await steps.catch_up(target)
        await steps.retry(steps.compare, "a table")
        if self._dry_run:
            return await steps.retry(self._preview, "a table")
        return await steps.retry(self._apply, "the checkpoint or a row", before_retry=self._let_workers_fold)

    async def _let_workers_fold(self) -> None:
        """Leave the checkpoint to the workers for as long as the failed attempt locked it, and until they caught up."""
        if self._locked_since is None:
            return
        await asyncio.sleep(monotonic() - self._locked_since)
        self._locked_since = None
        deadline = monotonic() + CATCH_UP_SECONDS
        while monotonic() < deadline:
            at = await self._steps.checkpoint()
            if at.position >= at.head:
                return
            await asyncio.sleep(CATCH_UP_SECONDS / 50)

    async def _preview(self) -> Rebuilt:
        await self._steps.narrow()
        self._progress.phase("counting")
        async with self._steps.snapshot() as at:
            position = await self._steps.finish(at)
            changes = await self._steps.changes()
            samples = await self._steps.samples()
            timings = self._timings()
            await self._record_done(changes, position, timings)
        return self._result(position, changes, timings, samples)

    async def _apply(self) -> Rebuilt:
        await self._steps.narrow()
        self._progress.phase("applying the difference")
        # What would change is known well enough to refuse it before anything is locked.
        async with self._steps.estimate() as (at, changes):
            self._refuse_beyond_limits(at, changes)
        async with self._conn.transaction():
            await self._conn.execute(COMMIT_DURABLY)
            await self._shadow.lock()
            locked = await self._lock_checkpoint()
            began = perf_counter()
            position = await self._steps.finish(locked)
            changes = await self._steps.apply()
            self._refuse_beyond_limits(locked, changes)
            await state_changes.record_rebuild(self._conn, self._projection.name, self._projection.version, position)
            timings = self._timings(perf_counter() - began)
            await self._record_done(changes, position, timings)
        return self._result(position, changes, timings)

    async def _lock_checkpoint(self) -> Checkpoint:
        name, version = self._projection.name, self._projection.version
        locked = await checkpoint.lock(self._conn, name)
        self._locked_since = monotonic()
        if locked is None or locked.version > version:
            raise ProjectionsError(f"the checkpoint of {name} changed during the rebuild; run it again")
        if locked.is_distributed:
            await wait_for_commits(self._conn)
        await self._shadow.check_erasures()  # an erasure holds every checkpoint, so none can commit from here on
        same_version = locked.version == version
        skipped = locked.skipped if same_version else await checkpoint.read_skips(self._conn, name, version)
        if skipped != self._shadow.skipped:
            raise ProjectionsError(f"{name}: events were skipped during the rebuild; run it again")
        return locked._replace(position=locked.within_log)

    def _refuse_beyond_limits(self, at: Checkpoint, changes: list[Changes]) -> None:
        name = self._projection.name
        may_remove = self._limits.removal or at.version != self._projection.version
        for one in changes:
            before = max(one.before, 1)
            if self._limits.max_changed is not None and one.total > self._limits.max_changed * before:
                raise RebuildRefused(
                    f"{name}: {one.total:,} of {one.before:,} rows of {one.table} would change, more than --max-changed"
                    " allows; look at the changes with --dry-run --resume, then run it with --resume and a higher limit"
                    " or none"
                )
            if not may_remove and one.before and one.removed > REMOVABLE * one.before:
                raise RebuildRefused(
                    f"{name}: {one.removed:,} of {one.before:,} rows of {one.table} would be removed; look at the"
                    " changes with --dry-run --resume, then allow it with --resume --yes"
                )

    def _timings(self, apply_seconds: float = 0.0) -> Timings:
        return Timings(self._steps.fold_seconds, self._steps.compare_seconds, apply_seconds)

    def _result(
        self, position: int, changes: list[Changes], timings: Timings, samples: list[Sample] | None = None
    ) -> Rebuilt:
        name, version = self._projection.name, self._projection.version
        return Rebuilt(name, version, position, self._dry_run, tuple(changes), timings, tuple(samples or ()))

    async def _record_done(self, changes: list[Changes], position: int, timings: Timings) -> None:
        await rebuild_history.record_done(
            self._conn,
            self._shadow.run_id,
            position,
            changes,
            fold_seconds=timings.fold,
            compare_seconds=timings.compare,
            apply_seconds=timings.apply,
        )
