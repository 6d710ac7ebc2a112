"""Folds a projection's shadow and compares it with the tables: the steps that rebuild and verify share.

The steps, in order. Each is a method of :class:`ShadowRun`, which alone drives the shadow and the difference.

1. ``start``: create an empty shadow, or resume an interrupted one, and check that the tables can be compared.
2. ``catch_up``: fold the log into the shadow in short committed windows, up to a target, and on to the checkpoint,
   which moves meanwhile.
3. ``compare``: compare all rows without a lock, large tables in several short transactions, and keep the keys of the
   rows that differ.
4. ``narrow``: repeat step 2, and add the keys of rows that events since step 3 may have changed, until few are left.
5. ``estimate``: in one snapshot, fold what is left and count what would change.
6. ``finish``: in a transaction of the caller, fold what is left up to its checkpoint and complete the keys. Only then
   are ``changes``, ``samples`` and ``apply`` exact.

A rebuild runs all of them, and step 6 under the checkpoint's lock; a dry run and ``verify`` run 1 to 4, and step 6 in a
snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, TypeVar

from psycopg import AsyncConnection

from eventstore.archiving.archived_events import ArchivedEvents
from eventstore.distributed_log import wait_for_commits
from eventstore.erasure.erasure_rows import read_last_erasure
from eventstore.postgres.lock_retry import retry_on_lock
from eventstore.postgres.session_settings import ONE_SNAPSHOT
from projections.folding.compiled_once import compile_once
from projections.projection import Projection
from projections.rebuilding import rebuild_history
from projections.rebuilding.difference import Difference
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.row_changes import Changes, Sample
from projections.rebuilding.shadow import SHADOW_STAYS, Shadow, Slices
from projections.rebuilding.slice_fold import SliceFold, find_slice_fold
from projections.rebuilding.slice_run import NotSliced, SliceRun
from projections.running import checkpoint
from projections.running.checkpoint import Checkpoint

T = TypeVar("T")
ReadCheckpoint = Callable[[AsyncConnection[Any], Projection], Awaitable[Checkpoint]]

SAMPLES = 10
"""Rows that differ which are shown, at the most."""
MOST_SLICES = 200
"""Slices of a log, at the most: each has a table for each table of the projection, which all are locked at the end."""
FIRST_RANGES = 4
QUICK_SECONDS, LONG_SECONDS = 1.0, 3.0
"""A comparison begins with so many ranges of keys in a transaction; it takes more after a quick one, fewer after a long
one."""
ROUNDS = 5
"""How often ``narrow`` looks at what was folded meanwhile."""


async def new_shadow(
    conn: AsyncConnection[Any],
    context: ReplayContext,
    projection: Projection,
    *,
    archived: ArchivedEvents,
    is_rebuild: bool = False,
    logged: bool = False,
) -> Shadow:
    """Return a shadow under a run id of its own, which skips the events that the projection skips now.

    Its tables don't exist yet. The arguments are those of :class:`Shadow`.
    """
    erasures = await read_last_erasure(conn)
    skipped = await checkpoint.read_skips(conn, projection.name, projection.version)
    run = await rebuild_history.next_run_id(conn)
    timeout = context.settings.fold_timeout
    return Shadow(
        conn,
        projection,
        skipped,
        run=run,
        erasures=erasures,
        is_rebuild=is_rebuild,
        logged=logged,
        fold_timeout=timeout,
        archived=archived,
    )


class ShadowRun:
    """One run of the steps.

    Args:
        conn: the connection that fills the shadow, in autocommit.
        context: settings, and who receives the progress.
        shadow: the projection's shadow.
        read_checkpoint: reads the projection's checkpoint, and refuses those that this run can't work with.
        session: what this run is; part of its sessions' application_name.

    Attributes:
        fold_seconds: how long the log was folded in committed windows.
        compare_seconds: how long whole tables were compared.

    """

    def __init__(
        self,
        conn: AsyncConnection[Any],
        context: ReplayContext,
        shadow: Shadow,
        read_checkpoint: ReadCheckpoint,
        session: str,
    ) -> None:
        self.fold_seconds = 0.0
        self.compare_seconds = 0.0
        self._conn = conn
        self._context = context
        self._projection = shadow.projection
        self._settings = context.settings
        self._progress = context.progress
        self._shadow = shadow
        self._difference = Difference(conn, shadow)
        self._read_checkpoint = read_checkpoint
        self._compared_at = 0
        self._session = session

    async def start(self, target: int, *, resume: bool = False) -> None:
        """Step 1: create the shadow, or resume an interrupted one if it is still valid; check the tables.

        Args:
            target: the position to which step 2 folds at least; it decides whether the log is sliced.
            resume: whether to resume.

        Raises:
            ProjectionsError: the shadow can't be created, or the tables can't be compared.

        """
        why_not = await self._shadow.resume() if resume else ""
        if why_not is None:
            self._note(await self._describe_resumed())
        else:
            if why_not:
                self._note(f"{why_not}; starting over")
            await self._shadow.begin(self._plan_slices(target))
        await self._difference.check()

    async def catch_up(self, target: int) -> None:
        """Step 2: fold up to a target, and on to the checkpoint, which moves meanwhile."""
        began = perf_counter()
        if self._shadow.is_sliced:
            await self._fold_slices()
        while self._shadow.position < target:
            self._progress.phase("folding", position=self._shadow.position, target=target)
            await self._shadow.fold_to(target, self._settings.window, self._progress.at)
            at = await self.checkpoint()
            if at.position - self._shadow.position > self._settings.rest:
                target = at.position
        self.fold_seconds += perf_counter() - began

    async def compare(self) -> None:
        """Step 3: compare all rows, in transactions of one to three seconds."""
        self._progress.phase("comparing")
        began = perf_counter()
        await self._difference.measure()
        is_first, ranges = True, FIRST_RANGES
        while is_first or not self._difference.is_compared:
            began_part = perf_counter()
            async with self.snapshot() as at:
                if is_first:
                    await self._difference.begin(at.position)
                    is_first, self._compared_at = False, at.position
                await self._difference.compare_next(ranges)
            seconds = perf_counter() - began_part
            if seconds < QUICK_SECONDS:
                ranges *= 2
            elif seconds > LONG_SECONDS:
                ranges = max(ranges // 2, 1)
        self.compare_seconds = perf_counter() - began

    async def narrow(self) -> None:
        """Step 4: leave so little to steps 5 and 6 that the checkpoint is held for a short time."""
        for _ in range(ROUNDS):
            at = await self.checkpoint()
            if max(at.position, self._shadow.position) - self._difference.since <= self._settings.rest:
                return
            if at.position > self._shadow.position:
                await self.catch_up(at.position)
            before = self._difference.since
            async with self.snapshot() as at:
                await self._difference.narrow(at.position, self._shadow.position)
            if self._difference.since == before:
                return  # the checkpoint stands still, so there is nothing to wait for

    @asynccontextmanager
    async def estimate(self) -> AsyncIterator[tuple[Checkpoint, list[Changes]]]:
        """Step 5: fold what is left, in one snapshot, and yield its checkpoint and what would change.

        Whatever the block raises rolls the folding back. Everything is counted at one position, or else the rows of
        what was folded since the comparison would count as rows to be removed.
        """
        async with self.snapshot() as at:
            position = await self._add_rest(at)
            yield at, await self._difference.changes()
        self._shadow.advance(position)
        self._difference.advance(at.position)

    async def finish(self, at: Checkpoint) -> int:
        """Step 6: fold up to a checkpoint, inside the caller's transaction, and complete the keys.

        Older code may have folded since the comparison. This code's ``partition_by`` may be narrower than the older
        one's, and then an event has changed rows of partitions that this code doesn't know: so all is compared again.

        Returns:
            The position that the shadow is at.

        """
        position = await self._add_rest(at)
        if at.version != self._projection.version and at.position != self._compared_at:
            await self._difference.compare_again()
        return position

    async def changes(self) -> list[Changes]:
        """Count what differs, inside the caller's transaction."""
        return await self._difference.changes()

    async def samples(self) -> list[Sample]:
        """Return the first rows that differ, inside the caller's transaction."""
        return await self._difference.samples(SAMPLES)

    async def apply(self) -> list[Changes]:
        """Make the tables equal to the shadow, inside the caller's transaction that holds the checkpoint."""
        return await self._difference.apply()

    async def end(self) -> None:
        """Drop the shadow, or report that it stays."""
        if not await self._shadow.drop():
            self._note(SHADOW_STAYS)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Checkpoint]:
        """Open a transaction that is one snapshot, in which the shadow is this run's; yield its checkpoint.

        Raises:
            RebuildLost: another run has taken over.
            PersonErased: a person was erased since the shadow began.

        """
        async with self._conn.transaction():
            if self._shadow.is_distributed:
                await checkpoint.hold_up_folding(self._conn, self._projection.name)
                await wait_for_commits(self._conn)
            else:
                await self._conn.execute(ONE_SNAPSHOT)
            await self._shadow.lock()
            await self._shadow.check_erasures()
            yield await self.checkpoint()

    async def checkpoint(self) -> Checkpoint:
        """Read the projection's checkpoint."""
        return await self._read_checkpoint(self._conn, self._projection)

    async def retry(
        self, step: Callable[[], Awaitable[T]], locked: str, before_retry: Callable[[], Awaitable[None]] | None = None
    ) -> T:
        """Run a step, and run it again for as long as another session has locked something that it needs.

        Args:
            step: is awaited for each attempt.
            locked: what the other session has locked, in the note to the user.
            before_retry: is awaited before each attempt but the first.

        """

        async def note() -> None:
            self._note(f"another session has locked {locked}; trying again")
            if before_retry is not None:
                await before_retry()

        return await retry_on_lock(step, before_retry=note)

    def _plan_slices(self, target: int) -> Slices | None:
        """Return how to slice the log up to a position; None to fold it window by window."""
        settings = self._settings
        number = min(-(-target // settings.slice), MOST_SLICES)
        if self._shadow.reads_archived_events:  # they are loaded into one session, window by window
            return None
        if number < 2 or (fold := self._find_slice_fold()) is None:
            return None
        return Slices(fold, number, target, settings.slice)

    def _find_slice_fold(self) -> SliceFold | None:
        return compile_once(self._projection, "slice", lambda: find_slice_fold(self._projection))

    async def _fold_slices(self) -> None:
        """Fold slices; if that is impossible, start over window by window."""
        fold = self._find_slice_fold()
        try:
            if fold is not None:
                await SliceRun(self._conn, self._context, self._shadow, fold, self._session).run()
                return
            why = "its fold has changed"
        except NotSliced as error:
            why = str(error)
        self._note(f"slices can't be folded by themselves ({why}); folding window by window")
        await self._shadow.record_slices(None, None)
        await self._shadow.begin()

    async def _describe_resumed(self) -> str:
        if not self._shadow.is_sliced:
            return f"resuming at position {self._shadow.position:,}"
        steps = await self._shadow.steps.read(self._conn)
        slices = [step for step in steps if step.slice is not None]
        return f"resuming; {sum(step.done for step in slices)} of {len(slices)} slices are folded"

    async def _add_rest(self, at: Checkpoint) -> int:
        if at.position > self._shadow.position:
            await self._shadow.fold_within(at.position)
        position = max(at.position, self._shadow.position)
        await self._difference.add_touched(position)
        return position

    def _note(self, line: str) -> None:
        self._progress.note(f"{self._projection.name}: {line}")
