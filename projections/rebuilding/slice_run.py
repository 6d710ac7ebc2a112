"""Folds the log into a sliced shadow, with several sessions: spreads the events over slices, then folds each slice.

Invariants. Each step is one short transaction, in which the shadow is this run's and the step is marked as done. The
windows of the log are spread only if they are whole. A slice is folded when all windows are spread. The shadow's
position stays 0 until every slice is folded and attached: then it moves to the target at once. Whatever goes wrong in a
step, other than the loss of a connection or of the shadow, the shadow starts over without slices, which finds the event
that can't be folded, or folds what slices can't.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor, errors, sql

from eventstore.postgres.lock_retry import retry_on_lock
from eventstore.postgres.queries import fetch_column, fetch_value
from eventstore.whole_window import hi_if_whole
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.shadow import Shadow
from projections.rebuilding.slice_fold import SliceFold
from projections.rebuilding.slice_steps import SliceStep

Do = Callable[[AsyncConnection[Any], SliceStep], Awaitable[None]]

MOST_EVENTS = 8
"""How many times the events of a slice as it was planned one may have; a partition may be large by itself."""
# The only place where slices read events. Both statements are one message.
_SPREAD = sql.SQL(
    "SELECT {hi_if_whole}; INSERT INTO {into} ({columns}) SELECT {columns} FROM eventstore.events WHERE position > {lo}"
    " AND position <= {hi} AND event_id <> ALL({skipped}::text[]) AND event_type IN ({types}) AND {named}"
)
_BYTES = "SELECT pg_relation_size(name::regclass) FROM unnest(%s::text[]) AS t (name)"


class NotSliced(Exception):
    """The shadow can't be folded by slices; the message says why."""


class SliceRun:
    """The steps of one sliced shadow.

    Args:
        conn: the connection of the replay, in autocommit; further sessions are opened if there are free slots.
        context: the database, settings, slots, and who receives the progress.
        shadow: the shadow, which was created with slices.
        fold: what folds a slice.
        session: what the sessions work on; part of their application_name.

    """

    def __init__(
        self, conn: AsyncConnection[Any], context: ReplayContext, shadow: Shadow, fold: SliceFold, session: str
    ) -> None:
        self._conn = conn
        self._context = context
        self._shadow = shadow
        self._fold = fold
        self._session = session
        self._slices = 0

    async def run(self) -> None:
        """Do all steps that are not done, and move the shadow's position to the target.

        Raises:
            NotSliced: a step failed; the shadow has to start over without slices.
            RebuildLost: another run started over.
            psycopg.OperationalError: the database failed, or the connection.

        """
        steps = await self._shadow.steps.read(self._conn)
        windows, slices = [one for one in steps if one.slice is None], [one for one in steps if one.slice is not None]
        self._slices = len(slices)
        await self._shadow.record_slices(len(slices), sum(one.done for one in slices))
        target = max(one.hi or 0 for one in windows)
        await self._do_all("spreading", windows, self._spread, target)
        if not any(one.done for one in slices):
            await self._check_sizes(slices)
        await self._do_all("folding", slices, self._fold_slice, target)
        await self._shadow.finish_slices(target)

    async def _do_all(self, phase: str, steps: list[SliceStep], do: Do, target: int) -> None:
        todo = deque(one for one in steps if not one.done)
        done = len(steps) - len(todo)
        progress = self._context.progress
        progress.phase(phase, position=target * done // len(steps), target=target)

        failures: list[Exception] = []

        async def drain(conn: AsyncConnection[Any]) -> None:
            nonlocal done
            while todo:
                await self._do(conn, todo.popleft(), do)
                done += 1
                progress.at(target * done // len(steps))

        waiting: set[asyncio.Task[Any] | None] = set()

        async def help_out() -> None:
            async with self._context.slots.slot():
                waiting.discard(asyncio.current_task())
                with _ending_all(todo, failures):
                    if todo:
                        async with self._context.connection(self._session, values_in_text=True) as conn:
                            await drain(conn)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._context.slots.jobs, len(todo)) - 1):
                waiting.add(group.create_task(help_out()))
            with _ending_all(todo, failures):
                await drain(self._conn)
            # Nothing is left to do. Who still waits for a slot may wait for a replay that takes hours.
            for task in filter(None, waiting):
                task.cancel()
        if failures:
            raise failures[0]

    async def _do(self, conn: AsyncConnection[Any], step: SliceStep, do: Do) -> None:
        """Do a step, and again for as long as another session, such as a dump, has locked a table of the shadow."""

        async def note() -> None:
            name = self._shadow.projection.name
            self._context.progress.note(f"{name}: another session has locked a table of the shadow; trying again")

        await retry_on_lock(lambda: self._attempt(conn, step, do), before_retry=note)

    async def _attempt(self, conn: AsyncConnection[Any], step: SliceStep, do: Do) -> None:
        try:
            async with conn.transaction():
                await self._shadow.share(conn)
                await do(conn, step)
                await self._shadow.steps.mark_done(conn, step)
        except errors.LockNotAvailable:
            raise
        except psycopg.Error as error:
            if conn.broken or conn.closed:
                raise
            raise NotSliced(type(error).__name__) from error

    async def _spread(self, conn: AsyncConnection[Any], step: SliceStep) -> None:
        fold, lo, hi = self._fold, sql.Literal(step.lo), sql.Literal(step.hi)
        statements = _SPREAD.format(
            hi_if_whole=hi_if_whole(lo, hi),
            into=self._shadow.slice_tables.events,
            columns=_names(column.name for column in fold.columns),
            lo=lo,
            hi=hi,
            skipped=sql.Literal(self._shadow.skipped),
            types=sql.SQL(", ").join(sql.Literal(int(one)) for one in sorted(fold.handles)),
            named=sql.SQL(" AND ").join(
                sql.SQL("{} <> ''").format(sql.Identifier(name)) for name in fold.partition if name != "app"
            ),
        )
        if await fetch_value(conn, statements) is None:
            raise NotSliced("positions are missing")

    async def _check_sizes(self, slices: list[SliceStep]) -> None:
        tables = self._shadow.slice_tables
        names = [tables.events_of(int(one.slice or 0)).as_string() for one in slices]
        sizes = await fetch_column(self._conn, _BYTES, [names])
        if max(sizes) > MOST_EVENTS * max(sum(sizes) // len(sizes), 2**20):
            raise NotSliced("one request or person has too many events")

    async def _fold_slice(self, conn: AsyncConnection[Any], step: SliceStep) -> None:
        number, tables, copies = int(step.slice or 0), self._shadow.slice_tables, self._shadow.tables
        rows, events = tables.rows_of(number, len(copies)), tables.events_of(number)
        await tables.create_rows(conn, number, copies)
        async with AsyncRawCursor(conn) as cursor:
            for statement in self._fold.statements(events, rows):
                await cursor.execute(statement)
        await tables.attach(conn, number, copies, self._slices)
        await self._shadow.record_folded_slice(conn)


@contextmanager
def _ending_all(todo: deque[SliceStep], failures: list[Exception]) -> Iterator[None]:
    """Note a failure, and leave nothing to do for the other sessions: each ends the step that it is at.

    They are not cancelled. A connection whose statement is cancelled may be lost, and a shadow that has to start over
    needs the replay's own.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it is raised when the other sessions have ended
        todo.clear()
        failures.append(error)


def _names(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
