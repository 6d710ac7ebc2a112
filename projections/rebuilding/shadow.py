"""Shadows: copies of a projection's tables in a schema of their own, filled by replay.

Invariants. A shadow's position moves with its rows in one transaction, and names the run that fills it: see
:mod:`~projections.rebuilding.shadow_position`. Each window is such a transaction, so no snapshot lasts longer than a
window. A frozen run that wakes up can neither fold into a shadow that another run has taken over, nor apply it. A
window is folded only from the position where this process stopped: if the shadow's position was reset (unlogged tables
are empty after a crash of the server), folding stops.

Erasing a person changes events that a shadow may have folded. Each erasure has a number that rises, and a shadow knows
the last one before its first window: while that number is the same, every window has seen the same events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

from psycopg import AsyncConnection, errors, sql
from sqlalchemy import MetaData

from eventstore.archiving.archived_events import TEMPORARY, WINDOW, ArchivedEvents
from eventstore.distributed_log import begin_distributed_fold, is_distributed, require_window, wait_for_commits
from eventstore.erasure.erasure_rows import read_last_erasure
from eventstore.event_reader import read_head
from eventstore.locks import SHADOW_LOCK, WAIT_FOR_TRANSACTION_LOCK
from eventstore.postgres.session_settings import RESET_STATEMENT_TIMEOUT, milliseconds
from eventstore.schema import SCHEMA
from eventstore.whole_window import LOG
from projections.errors import CannotFold, PersonErased, ProjectionsError, RebuildLost
from projections.folding.python_fold import OnProgress
from projections.folding.table_copies import plain_copy
from projections.folding.window_fold import build_fold
from projections.folding.window_size import Cause, WindowFailure, WindowSize
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.rebuilding import rebuild_history
from projections.rebuilding.distributed_tables import distribute_like
from projections.rebuilding.fingerprint import compute_fingerprint
from projections.rebuilding.shadow_position import ShadowPosition, positions_exist
from projections.rebuilding.shadow_tables import (
    SHADOW_SCHEMA,
    create_shadow_schema,
    create_shadow_tables,
    drop_shadow_tables,
    table_exists,
    tables_are_ours,
)
from projections.rebuilding.slice_fold import SliceFold
from projections.rebuilding.slice_steps import SliceSteps
from projections.rebuilding.slice_tables import SliceTables
from projections.settings import FOLD_TIMEOUT


@dataclass(frozen=True, slots=True)
class Slices:
    """How a shadow folds the log by slices.

    Attributes:
        fold: what folds a slice.
        number: how many slices there are.
        target: the last position to fold.
        window: positions that are spread over the slices in one transaction.

    """

    fold: SliceFold
    number: int
    target: int
    window: int


SHADOW_STAYS = f"another session reads {SHADOW_SCHEMA}, so the shadow's tables stay until the next run"
"""The note to the user when :meth:`Shadow.drop` returns False."""


class Shadow:
    """A projection's tables in ``projections_shadow``.

    Args:
        conn: an autocommit connection that nobody else uses meanwhile.
        projection: whose tables.
        skipped: the event_ids that its fold skips.
        erasures: the id of the log's newest erasure, read before anything is folded.
        run: an id that no other run has.
        is_rebuild: whether ``run`` is the id of a row in ``projections.rebuilds``, which then shows the position too.
        logged: whether the tables survive a crash of the server; tables that are dropped in the end need not.
        fold_timeout: seconds that a statement of the fold may take, or ``handle`` for one event.
        archived: the archived events, which are read from their files; None if the log has all events.

    Attributes:
        position: every event up to here is folded.
        run_id: the id of the run that fills it.
        is_sliced: whether slices are left to fold.
        slice_tables: the tables of its slices.
        steps: what is left to do, while it is sliced.
        comment: the comment of its tables.
        is_distributed: whether the log is distributed, as far as the shadow was begun or resumed.

    """

    def __init__(  # noqa: PLR0913 - one for each thing that its rows depend on
        self,
        conn: AsyncConnection[Any],
        projection: Projection,
        skipped: Sequence[str],
        *,
        run: int,
        erasures: int = 0,
        is_rebuild: bool = False,
        logged: bool = False,
        fold_timeout: float = FOLD_TIMEOUT,
        archived: ArchivedEvents | None = None,
    ) -> None:
        self.projection = projection
        self.skipped = list(skipped)
        self.erasures = erasures
        self.position = 0
        self.tables = tuple(plain_copy(table, MetaData(), SHADOW_SCHEMA, logged=logged) for table in projection.tables)
        self.run_id = run
        self.is_distributed = False
        self._conn = conn
        self._row = ShadowPosition(conn, projection.name, run)
        self._is_rebuild = is_rebuild
        self.comment = f"projections: shadow of {projection.name}"
        self.is_sliced = False
        self.slice_tables = SliceTables(projection.name, self.comment)
        self.steps = SliceSteps(self.slice_tables.steps)
        schemas = {READ_MODEL_SCHEMA: SHADOW_SCHEMA}
        self._folds = {LOG: build_fold(projection, schemas, handle_timeout=fold_timeout)}
        self._archived = archived
        if self.reads_archived_events:
            schemas |= {SCHEMA: TEMPORARY}
            self._folds[TEMPORARY] = build_fold(projection, schemas, handle_timeout=fold_timeout)
        self._budget = fold_timeout

    async def begin(self, slices: Slices | None = None) -> None:
        """Create the tables, empty; drop those of an earlier run.

        Args:
            slices: how the log is sliced; None to fold it window by window.

        Raises:
            ProjectionsError: the role may not create the schema, or another session reads the earlier run's tables.

        """
        with self._explaining_locks():
            self.is_distributed = await is_distributed(self._conn)
            if self.is_distributed:
                await wait_for_commits(self._conn)  # so that the erasures known so far are visible on every server
            # A slice's tables are on one server.
            await self._begin(None if self.is_distributed else slices)

    @contextmanager
    def _explaining_locks(self) -> Iterator[None]:
        try:
            yield
        except errors.LockNotAvailable as error:
            raise ProjectionsError(
                f"{self.projection.name}: another session reads or creates tables in {SHADOW_SCHEMA}, as a dump of the"
                " database does; try again when it is finished"
            ) from error

    async def _begin(self, slices: Slices | None) -> None:
        if not await positions_exist(self._conn):  # usually an earlier run has created the table
            async with self._conn.transaction():
                await self._conn.execute(WAIT_FOR_TRANSACTION_LOCK, [SHADOW_LOCK])
                await create_shadow_schema(self._conn)
                await self._row.create_table()
        async with self._conn.transaction():
            # The row comes first: if a run that seemed dead still has anything locked, it is that row.
            await self._row.start(self.projection.version, self.fingerprint)
            await drop_shadow_tables(self._conn, self.tables, self.comment)
            partition = slices.fold.partition if slices else ()
            await create_shadow_tables(self._conn, self.tables, self.comment, partition)
            if slices is not None:
                columns = slices.fold.columns
                await self.slice_tables.create_events(self._conn, columns, partition, slices.number)
                mark = self.slice_tables.mark_steps()
                await self.steps.create(self._conn, slices.target, slices.window, slices.number, mark=mark)
            if self.is_distributed:
                await distribute_like(self._conn, zip(self.tables, self.projection.tables, strict=True))
        self.position = 0
        self.is_sliced = slices is not None

    async def resume(self) -> str | None:
        """Continue with the shadow of an interrupted rebuild; returns None, or why that is impossible.

        Raises:
            ProjectionsError: another session has locked it, as the backend of a killed process may for a while.

        """
        with self._explaining_locks():
            self.is_distributed = await is_distributed(self._conn)
            return await self._resume()

    async def _resume(self) -> str | None:
        if not await positions_exist(self._conn):
            return "no interrupted rebuild found"
        async with self._conn.transaction():
            earlier = await self._row.read_earlier()
            if earlier is None:
                return "no interrupted rebuild found"
            if earlier.version != self.projection.version:
                return f"the interrupted rebuild was of version {earlier.version}"
            if earlier.fingerprint != self.fingerprint:
                return (
                    "the code, a table, the skipped events, the erased persons or the archive changed since the"
                    " interrupted rebuild"
                )
            if (why := await self._why_unusable(earlier.run_id, earlier.position)) is not None:
                return why
            await self._row.take_over()
            await self._record(earlier.position)
            self.is_sliced = await table_exists(self._conn, self.slice_tables.steps)
        self.position = earlier.position
        return None

    async def lock(self) -> None:
        """Lock the shadow for the caller's transaction, and make sure that it is this run's.

        Raises:
            RebuildLost: another run started over.

        """
        try:
            is_ours = await self._row.lock()
        except errors.SerializationFailure as error:  # it started over just now
            raise RebuildLost(self.projection.name) from error
        if not is_ours:
            raise RebuildLost(self.projection.name)

    async def check_erasures(self) -> None:
        """Make sure that nobody was erased since the shadow began, as the caller's transaction sees it.

        Raises:
            PersonErased: somebody was.

        """
        if await read_last_erasure(self._conn) != self.erasures:
            raise PersonErased(self.projection.name)

    async def fold_to(self, up_to: int, window: int, on_progress: OnProgress | None = None) -> None:
        """Fold up to a position, in committed windows.

        Args:
            up_to: the last position to fold.
            window: positions in a window, at the most.
            on_progress: is called with the position after each window, and from time to time within a long one.

        Raises:
            CannotFold: an event can't be folded, or a position is missing; the message says which.
            RebuildLost: another run started over.
            psycopg.OperationalError: the database failed, or the connection.

        """
        size = WindowSize(window, self._budget, "PROJECTIONS_REBUILD_FOLD_TIMEOUT")
        while self.position < up_to:
            hi, schema = await self._next_window(min(self.position + size.positions, up_to))
            began = monotonic()
            try:
                async with self._conn.transaction():
                    await self._fold_window(hi, schema, on_progress)
                self.position = hi
            except (RebuildLost, errors.LockNotAvailable):
                raise
            except Exception as error:  # a fold written in Python may raise anything
                if self._conn.broken or self._conn.closed:
                    raise
                failure = await size.failed(self._conn, self.position, hi, error, monotonic() - began, schema)
                if failure.cause in (Cause.WINDOW_TOO_LONG, Cause.SLOW_ONCE):
                    continue
                raise CannotFold(self._explain(failure)) from error
            size.succeeded(monotonic() - began)
            if on_progress is not None:
                on_progress(hi)

    async def share(self, conn: AsyncConnection[Any]) -> None:
        """Make sure that the shadow is this run's while a session's transaction lasts, and limit its statements.

        They may read whole tables.

        Raises:
            RebuildLost: another run started over.

        """
        if not await self._row.share(conn, milliseconds(self._budget)):
            raise RebuildLost(self.projection.name)

    async def record_slices(self, slices: int | None, folded: int | None) -> None:
        """Show how many slices there are, and how many of them are folded; None if the log is not sliced any more."""
        if self._is_rebuild:
            await rebuild_history.record_slices(self._conn, self.run_id, slices, folded)

    async def record_folded_slice(self, conn: AsyncConnection[Any]) -> None:
        """Show that one more slice is folded, inside the transaction of the session that folded it."""
        if self._is_rebuild:
            await rebuild_history.record_folded_slice(conn, self.run_id)

    async def finish_slices(self, target: int) -> None:
        """Move the position to the target when every slice is folded, and drop what only the slices needed.

        Raises:
            RebuildLost: another run started over.

        """
        async with self._conn.transaction():
            if not await self._row.jump(target):
                raise RebuildLost(self.projection.name)
            await self._record(target)
            await self._conn.execute(
                sql.SQL("DROP TABLE {}, {}").format(self.slice_tables.steps, self.slice_tables.events)
            )
        self.position, self.is_sliced = target, False

    async def fold_within(self, hi: int) -> None:
        """Fold up to a position, inside the caller's transaction; :attr:`position` stays until :meth:`advance`.

        Raises:
            CannotFold, RebuildLost, psycopg.OperationalError: as :meth:`fold_to` raises them.

        """
        position = self.position
        try:
            await self.fold_to(hi, hi - position)
            await self._conn.execute(RESET_STATEMENT_TIMEOUT)
        finally:
            self.position = position

    def advance(self, position: int) -> None:
        """Note that the transaction of :meth:`fold_within` committed."""
        self.position = position

    async def drop(self) -> bool:
        """Drop the tables, if they are still this run's.

        Returns:
            False if they stay, because another session reads them.

        """
        try:
            async with self._conn.transaction():
                if await self._row.delete():
                    await drop_shadow_tables(self._conn, self.tables, self.comment)
        except errors.LockNotAvailable:
            await self._row.delete()
            return False
        return True

    @property
    def fingerprint(self) -> str:
        """A digest of what the rows depend on besides the log: the fold's code, the tables, and the skipped events.

        Together with the newest erasure and the last archived position: a shadow that was begun before isn't resumed.
        """
        digest = compute_fingerprint(self.projection, self.skipped)
        archived = f":archived {self._archived.up_to}" if self.reads_archived_events and self._archived else ""
        return f"{digest}:{self.erasures}{archived}" if self.erasures or archived else digest

    @property
    def reads_archived_events(self) -> bool:
        """Whether the first events of the log are read from files."""
        return self._archived is not None and self._archived.up_to > 0

    async def _next_window(self, hi: int) -> tuple[int, str]:
        """Return the end of the next window, ``hi`` or earlier, and where its events are; load archived ones."""
        if self._archived is None or self.position >= self._archived.up_to:
            return hi, LOG
        hi = min(hi, self._archived.up_to, self.position + WINDOW)
        await self._archived.load(self.position, hi)
        return hi, TEMPORARY

    async def _fold_window(self, hi: int, schema: str, on_progress: OnProgress | None) -> None:
        lo = self.position
        if self.is_distributed:
            await require_window(self._conn, lo, hi)
        is_counted = self.is_distributed
        if not await self._row.move(lo, hi, milliseconds(self._budget), schema, is_counted=is_counted):
            raise RebuildLost(self.projection.name)
        if self.is_distributed:
            await begin_distributed_fold(self._conn)
        await self._folds[schema].run(self._conn, lo, hi, self.skipped, on_progress)
        await self._record(hi)

    def _explain(self, failure: WindowFailure) -> str:
        name = self.projection.name
        if failure.event_id is None:
            return f"{name}: {failure.message}"
        return (
            f"{name}: {failure.message}; fix the projection, or run projections skip {name}"
            f" --event-id {failure.event_id} --why '…'"
        )

    async def _why_unusable(self, run_id: int, position: int) -> str | None:
        recorded = await rebuild_history.read_position(self._conn, run_id)
        names = [sql.Identifier(SHADOW_SCHEMA, table.name) for table in self.tables]
        is_whole = recorded == position and position <= await read_head(self._conn)
        if not is_whole or not all([await table_exists(self._conn, name) for name in names]):
            return "the shadow doesn't match what the interrupted rebuild recorded"
        return None if await tables_are_ours(self._conn, self.tables) else "the shadow belongs to another role"

    async def _record(self, position: int) -> None:
        if self._is_rebuild:
            await rebuild_history.record_position(self._conn, self.run_id, position)
