"""Rebuilds a read model by replay, while it is read and folded, and without anyone noticing.

Invariants. Everything is folded into a shadow first, in short committed windows. Shadow and table are compared without
a lock; then the checkpoint is held, the rest is folded, and the rows that differ are deleted, updated and inserted, in
one transaction with the checkpoint's move: readers see the old rows or the new ones. Nothing but rows of the tables
changes, so grants, views, comments, indexes and oids stay. A process killed at any point leaves the tables untouched,
and a shadow that ``resume`` may go on with. No other rebuild, verification or as-of of the projection runs meanwhile,
and one that was taken for dead can't apply a shadow that isn't its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from time import monotonic, perf_counter
from typing import Any, TypeVar

from psycopg import AsyncConnection, errors

from eventstore.locks import rebuild_lock
from eventstore.postgres.session_lock import hold_lock, run_while_held, session_name
from eventstore.postgres.session_settings import COMMIT_DURABLY, ONE_SNAPSHOT
from eventstore.waits import Waits
from projections.errors import ProjectionsError, RebuildRefused
from projections.projection import Projection
from projections.rebuilding import rebuild_history
from projections.rebuilding.difference import Changes, Difference, Sample
from projections.rebuilding.replay import Progress, checkpoint_of, replaying
from projections.rebuilding.shadow import STAYS, Shadow
from projections.running import checkpoint, state_changes
from projections.running.checkpoint import Checkpoint, State
from projections.settings import ReplaySettings

T = TypeVar("T")

SAMPLES = 10
REMOVABLE = 0.10
"""The share of a table's rows that a rebuild may remove without being told that it may."""
ROUNDS = 5
"""How often what came meanwhile is looked at before the checkpoint is held."""
WORKERS_SECONDS = 2.0
"""How long workers are waited for, at the most, to fold what they couldn't meanwhile: longer than they sleep."""

_DONE = (
    "UPDATE projections.rebuilds SET state = 'done', error = NULL, finished_at = clock_timestamp(),"
    " position = %(position)s, rows_before = %(before)s, rows_added = %(added)s,"
    " rows_removed = %(removed)s, rows_changed = %(changed)s, fold_seconds = %(fold_seconds)s,"
    " compare_seconds = %(compare_seconds)s, apply_seconds = %(apply_seconds)s WHERE id = %(id)s"
)


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
    """Seconds that the parts of a rebuild took; ``apply`` is how long the checkpoint was held."""

    fold: float = 0.0
    compare: float = 0.0
    apply: float = 0.0


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did, or would do: the position of the rows, and what changed in each table.

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
    url: str,
    projection: Projection,
    *,
    waits: Waits,
    settings: ReplaySettings,
    progress: Progress,
    limits: Limits | None = None,
    dry_run: bool = False,
    resume: bool = False,
) -> Rebuilt:
    """Rebuild a projection's tables from the log, or show what that would change.

    Args:
        url: the database.
        projection: which.
        waits: of the event store.
        settings: windows and locks.
        progress: is told how it goes on.
        limits: what it may change.
        dry_run: apply nothing.
        resume: go on with the shadow of an interrupted rebuild, if it is still this code's.

    Raises:
        LockHeld: another rebuild, verify or as-of of the projection is at work; the message names it.
        LockLost, RebuildLost: another took over meanwhile; nothing was applied.
        CannotFold: an event can't be folded; the message says which.
        RebuildRefused: it would change more than it may; nothing was applied.
        ProjectionsError: the rows are of a newer version than this code.
        psycopg.Error: the database failed, or the connection; the tables are as they were.

    """
    name = session_name(f"rebuild {projection.name}")
    what = f"projection {projection.name}"
    async with hold_lock(url, rebuild_lock(projection.name), name=name, what=what, waits=waits) as lock:
        work = _Rebuild(projection, settings, progress, limits or Limits(), dry_run=dry_run)
        return await run_while_held(lock, waits, what, work.run(url, waits, resume=resume))


class _Rebuild:
    """One run."""

    def __init__(
        self, projection: Projection, settings: ReplaySettings, progress: Progress, limits: Limits, *, dry_run: bool
    ) -> None:
        self._projection = projection
        self._settings = settings
        self._progress = progress
        self._limits = limits
        self._dry_run = dry_run
        self._timings = Timings()
        self._run = 0
        self._compared = 0
        self._held_since: float | None = None
        self._conn: AsyncConnection[Any]
        self._shadow: Shadow
        self._difference: Difference

    async def run(self, url: str, waits: Waits, *, resume: bool) -> Rebuilt:
        async with replaying(url, f"rebuild {self._projection.name}", waits, self._settings) as conn:
            self._conn = conn
            if not self._dry_run:
                await checkpoint.create_if_missing(conn, self._projection.name, self._projection.version)
            at = await self._checkpoint()
            await self._begin()
            try:
                result = await self._rebuild(at, resume=resume)
            except RebuildRefused as error:
                await rebuild_history.record_failure(conn, self._run, "refused", error)
                raise
            except BaseException as error:
                await rebuild_history.record_failure(conn, self._run, "failed", error)
                raise
            if self._dry_run and resume:
                self._progress.note(f"{self._projection.name}: what is folded stays: --resume goes on with it")
            elif not await self._shadow.drop():
                self._progress.note(f"{self._projection.name}: {STAYS}")
            return result

    async def _begin(self) -> None:
        projection = self._projection
        skipped = await checkpoint.read_skips(self._conn, projection.name, projection.version)
        self._run = await rebuild_history.next_run_id(self._conn)
        self._shadow = Shadow(
            self._conn, projection, skipped, run=self._run, is_rebuild=True, fold_timeout=self._settings.fold_timeout
        )
        self._difference = Difference(self._conn, self._shadow)
        holder = session_name(f"rebuild {projection.name}")
        await rebuild_history.record_start(
            self._conn, self._run, projection, self._shadow.fingerprint, holder, dry_run=self._dry_run
        )

    async def _rebuild(self, at: Checkpoint, *, resume: bool) -> Rebuilt:
        amiss = await self._shadow.resume() if resume else ""
        if amiss is None:
            self._progress.note(f"{self._projection.name}: goes on at position {self._shadow.position:,}")
        else:
            if amiss:
                self._progress.note(f"{self._projection.name}: {amiss}, so from the beginning")
            await self._shadow.begin()
        await self._difference.check()
        # Rows that are this version's are compared where they are; others tell nothing of how far to go.
        stands = at.version == self._projection.version and at.state != State.FAILED and at.position
        await self._catch_up(at.position if stands else at.head)
        await self._patiently(self._compare, "a table")
        if self._dry_run:
            return await self._patiently(self._show, "a table")
        return await self._patiently(self._apply, "the checkpoint or a row")

    async def _patiently(self, work: Callable[[], Awaitable[T]], held: str) -> T:
        """Do what waits for locks, and try again for as long as somebody holds one."""
        while True:
            try:
                return await work()
            except errors.LockNotAvailable:
                self._progress.note(f"{self._projection.name}: somebody holds {held}; trying again")
            await self._let_workers_fold()

    async def _let_workers_fold(self) -> None:
        """Leave the checkpoint to the workers for as long as it was held in vain, and until they have caught up."""
        if self._held_since is None:
            return
        await asyncio.sleep(monotonic() - self._held_since)
        self._held_since = None
        enough = monotonic() + WORKERS_SECONDS
        while monotonic() < enough:
            at = await self._checkpoint()
            if at.position >= at.head:
                return
            await asyncio.sleep(WORKERS_SECONDS / 50)

    async def _catch_up(self, target: int) -> None:
        """Fold to a target, and on to the checkpoint, which moves meanwhile."""
        began = perf_counter()
        while self._shadow.position < target:
            self._progress.phase("folding", position=self._shadow.position, target=target)
            await self._shadow.fold_to(target, self._settings.window, self._progress.at)
            at = await self._checkpoint()
            if at.position - self._shadow.position > self._settings.rest:
                target = at.position
        self._timings = replace(self._timings, fold=self._timings.fold + perf_counter() - began)

    async def _compare(self) -> None:
        self._progress.phase("comparing")
        began = perf_counter()
        async with self._conn.transaction():
            at = await self._snapshot()
            await self._difference.compare(at.position)
            self._compared = at.position
        self._timings = replace(self._timings, compare=perf_counter() - began)

    async def _narrow(self) -> None:
        """Let what happened since the comparison become little, so that the checkpoint is held for a short time."""
        for _ in range(ROUNDS):
            at = await self._checkpoint()
            if max(at.position, self._shadow.position) - self._difference.since <= self._settings.rest:
                return
            if at.position > self._shadow.position:
                await self._catch_up(at.position)
            before = self._difference.since
            async with self._conn.transaction():
                at = await self._snapshot()
                await self._difference.narrow(at.position, self._shadow.position)
            if self._difference.since == before:
                return  # it stands still at its checkpoint, and there is nothing to wait for

    async def _show(self) -> Rebuilt:
        await self._narrow()
        self._progress.phase("counting")
        async with self._conn.transaction():
            at = await self._snapshot()
            final = await self._fold_rest(at)
            await self._compare_again(at)
            changes = await self._difference.changes()
            samples = await self._difference.samples(SAMPLES)
            await self._note_done(changes, final)
        return self._result(final, changes, samples)

    async def _apply(self) -> Rebuilt:
        await self._narrow()
        self._progress.phase("applying the difference")
        # What it would do is known well enough to refuse it before anything is locked; but only at one position, or
        # else what is folded since would count as rows to be removed.
        async with self._conn.transaction():
            at = await self._snapshot()
            position = await self._fold_rest(at)
            self._refuse_beyond_limits(at, await self._difference.changes())
        self._shadow.position = position
        self._difference.since = at.position
        async with self._conn.transaction():
            await self._conn.execute(COMMIT_DURABLY)
            await self._shadow.hold()
            held = await checkpoint.lock(self._conn, self._projection.name)
            self._held_since = monotonic()
            if held is None or held.version > self._projection.version:
                raise ProjectionsError(f"the checkpoint of {self._projection.name} was changed meanwhile: run it again")
            held = held._replace(position=held.within_log)
            skipped = await checkpoint.read_skips(self._conn, self._projection.name, self._projection.version)
            if skipped != self._shadow.skipped:
                raise ProjectionsError(f"{self._projection.name}: events were skipped meanwhile: run it again")
            began = perf_counter()
            final = await self._fold_rest(held)
            await self._compare_again(held)
            changes = await self._difference.apply()
            self._refuse_beyond_limits(held, changes)
            await state_changes.record_rebuild(self._conn, self._projection.name, self._projection.version, final)
            self._timings = replace(self._timings, apply=perf_counter() - began)
            await self._note_done(changes, final)
        return self._result(final, changes, [])

    async def _snapshot(self) -> Checkpoint:
        """Make the caller's transaction one snapshot, in which the shadow is ours, and read the checkpoint in it."""
        await self._conn.execute(ONE_SNAPSHOT)
        await self._shadow.hold()
        return await self._checkpoint()

    async def _checkpoint(self) -> Checkpoint:
        """Read the checkpoint; one that is ahead of the log counts as at its head.

        Rows of events that the log lost are found by the comparison, which is of whole tables.
        """
        at = await checkpoint_of(self._conn, self._projection)
        return at._replace(position=at.within_log)

    async def _fold_rest(self, at: Checkpoint) -> int:
        """Fold to the checkpoint, inside the caller's transaction, and add what was touched; returns how far it is."""
        if at.position > self._shadow.position:
            await self._shadow.fold_within(at.position)
        final = max(at.position, self._shadow.position)
        await self._difference.add_touched(final)
        return final

    async def _compare_again(self, at: Checkpoint) -> None:
        """Compare anew, inside the caller's transaction, what older code has folded since: which rows only it knows.

        This code's ``partition_by`` may be narrower than the older one's, and then an event has changed rows of other
        partitions than this code knows of.
        """
        if at.version != self._projection.version and at.position != self._compared:
            await self._difference.compare_again()

    def _refuse_beyond_limits(self, at: Checkpoint, changes: list[Changes]) -> None:
        may_remove = self._limits.removal or at.version != self._projection.version
        for one in changes:
            before = max(one.before, 1)
            if self._limits.max_changed is not None and one.total > self._limits.max_changed * before:
                raise RebuildRefused(
                    f"{self._projection.name}: {one.total:,} of {one.before:,} rows of {one.table} would change,"
                    " more than --max-changed allows: look at it with --dry-run --resume, then --resume with a higher"
                    " limit, or none"
                )
            if not may_remove and one.before and one.removed > REMOVABLE * one.before:
                raise RebuildRefused(
                    f"{self._projection.name}: {one.removed:,} of {one.before:,} rows of {one.table} would be removed:"
                    " look at it with --dry-run --resume, then give --resume --yes"
                )

    def _result(self, position: int, changes: list[Changes], samples: list[Sample]) -> Rebuilt:
        name, version = self._projection.name, self._projection.version
        return Rebuilt(name, version, position, self._dry_run, tuple(changes), self._timings, tuple(samples))

    async def _note_done(self, changes: list[Changes], position: int) -> None:
        row = {
            "id": self._run,
            "position": position,
            "before": sum(one.before for one in changes),
            "added": sum(one.added for one in changes),
            "removed": sum(one.removed for one in changes),
            "changed": sum(one.changed for one in changes),
            "fold_seconds": self._timings.fold,
            "compare_seconds": self._timings.compare,
            "apply_seconds": self._timings.apply,
        }
        await self._conn.execute(_DONE, row)
