"""Shadows: the tables of a projection once more, in a schema of their own, filled by replay.

Invariants. A shadow's position lies beside its rows, in a table that is as durable as they are, and moves with them in
one transaction: after a crash both are there or neither is. Each window is such a transaction, so no snapshot outlives
a window. The position also names the run that fills the shadow: a process that was taken for dead, and wakes up after
another began anew, can neither fold into the shadow nor apply it. A window is folded only from the position that this
process left: a shadow that went back is not folded any further.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from psycopg import AsyncConnection, errors, sql
from sqlalchemy import MetaData, Table
from sqlalchemy.schema import CreateIndex, CreateTable, DropTableComment, SetColumnComment, SetTableComment

from eventstore.event_reader import read_head
from eventstore.locks import SHADOW_LOCK, WAIT_FOR_TRANSACTION_LOCK
from eventstore.postgres.queries import fetch_all, fetch_row, fetch_value
from eventstore.postgres.session_settings import RESET_STATEMENT_TIMEOUT, STATEMENT_TIMEOUT
from projections.errors import CannotFold, ProjectionsError, RebuildLost
from projections.folding import fold_budget
from projections.folding.python_fold import OnProgress
from projections.folding.sql_text import compile_ddl
from projections.folding.table_copies import plain_copy
from projections.folding.whole_window import hi_if_whole
from projections.folding.window_fold import build_fold
from projections.folding.window_size import Cause, WindowFailure, WindowSize
from projections.projection import READ_MODEL_SCHEMA, SHADOW_POSITIONS, Projection
from projections.rebuilding.fingerprint import fingerprint
from projections.settings import FOLD_TIMEOUT

SHADOW_SCHEMA = "projections_shadow"
STAYS = f"somebody reads {SHADOW_SCHEMA}, and so what was made there stays until the next run"
"""What is said when :meth:`Shadow.drop` returns False."""

_POSITIONS = sql.Identifier(SHADOW_SCHEMA, SHADOW_POSITIONS)
_MAKE_POSITIONS = sql.SQL(
    "CREATE UNLOGGED TABLE IF NOT EXISTS {} (projection text PRIMARY KEY, run bigint NOT NULL,"
    " version integer NOT NULL, fingerprint text NOT NULL, position bigint NOT NULL)"
).format(_POSITIONS)
_BEGIN = sql.SQL(
    "INSERT INTO {} VALUES (%s, %s, %s, %s, 0) ON CONFLICT (projection) DO UPDATE SET run = excluded.run,"
    " version = excluded.version, fingerprint = excluded.fingerprint, position = 0"
).format(_POSITIONS)
_LEFT = sql.SQL("SELECT run, version, fingerprint, position FROM {} WHERE projection = %s").format(_POSITIONS)
_TAKE_OVER = sql.SQL("UPDATE {} SET run = %s WHERE projection = %s").format(_POSITIONS)
_FORGET = sql.SQL("DELETE FROM {} WHERE projection = %s AND run = %s").format(_POSITIONS)
_HOLD = sql.SQL("SELECT position FROM {} WHERE projection = %s AND run = %s FOR UPDATE").format(_POSITIONS)
_MOVE = sql.SQL(
    "UPDATE {} SET position = {} WHERE projection = %(name)s AND run = %(run)s AND position = %(lo)s RETURNING {}"
).format(_POSITIONS, hi_if_whole(sql.SQL("%(lo)s::bigint"), sql.SQL("%(hi)s::bigint")), sql.SQL(STATEMENT_TIMEOUT))
_NOTED = "SELECT position FROM projections.rebuilds WHERE id = %s AND into_schema IS NULL"
_NOTE = "UPDATE projections.rebuilds SET position = %s WHERE id = %s"
_MARKED = (
    "SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace(%s)"
    " AND relkind = 'r' AND obj_description(oid, 'pg_class') = %s"
)


class Shadow:
    """A projection's tables in ``projections_shadow``.

    Args:
        conn: an autocommit connection, used by nobody else meanwhile.
        projection: whose tables.
        skipped: the event_ids that its fold passes over.
        run: a number that no other run has.
        is_rebuild: whether ``run`` is the id of a row in ``projections.rebuilds``, which then shows the position too.
        logged: whether the tables survive a crash of the server; those that are thrown away need not.
        fold_timeout: seconds that a statement of the fold may take, or ``handle`` for one event.

    Attributes:
        position: every event up to here is folded.

    """

    def __init__(
        self,
        conn: AsyncConnection[Any],
        projection: Projection,
        skipped: Sequence[str],
        *,
        run: int,
        is_rebuild: bool = False,
        logged: bool = False,
        fold_timeout: float = FOLD_TIMEOUT,
    ) -> None:
        self.projection = projection
        self.skipped = list(skipped)
        self.position = 0
        self.tables = tuple(plain_copy(table, MetaData(), SHADOW_SCHEMA) for table in projection.tables)
        self._conn = conn
        self._run = run
        self._is_rebuild = is_rebuild
        self._logged = logged
        self._mark = f"projections: shadow of {projection.name}"
        self._fold = build_fold(projection, {READ_MODEL_SCHEMA: SHADOW_SCHEMA}, handle_timeout=fold_timeout)
        self._budget = fold_timeout

    async def begin(self) -> None:
        """Make the tables anew, empty; whatever was left of an earlier shadow goes.

        Raises:
            ProjectionsError: the role may not make the schema, or somebody reads what is left.

        """
        with self._locks_explained():
            await self._begin()

    @contextmanager
    def _locks_explained(self) -> Iterator[None]:
        try:
            yield
        except errors.LockNotAvailable as error:
            raise ProjectionsError(
                f"{self.projection.name}: somebody reads or makes tables in {SHADOW_SCHEMA}, as a dump of the database"
                " does: try again when that is done"
            ) from error

    async def _begin(self) -> None:
        async with self._conn.transaction():
            await self._conn.execute(WAIT_FOR_TRANSACTION_LOCK, [SHADOW_LOCK])
            await self._make_schema()
            await self._conn.execute(_MAKE_POSITIONS)
        async with self._conn.transaction():
            # First the row: it is what a run that was taken for dead still holds, if it holds anything.
            row = [self.projection.name, self._run, self.projection.version, self.fingerprint]
            await self._conn.execute(_BEGIN, row)
            await self._drop_tables()
            for table in self.tables:
                await make_table(self._conn, table, logged=self._logged)
                name = sql.Identifier(SHADOW_SCHEMA, table.name)
                await self._conn.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(name, sql.Literal(self._mark)))
        self.position = 0

    async def resume(self) -> str | None:
        """Go on with what an interrupted rebuild left; returns None, or why that can't be.

        Raises:
            ProjectionsError: somebody holds what is left, as the backend of a killed process may for a while.

        """
        with self._locks_explained():
            return await self._resume()

    async def _resume(self) -> str | None:
        if not await self._is_there(_POSITIONS):
            return "nothing is left of one"
        async with self._conn.transaction():
            row = await fetch_row(self._conn, _LEFT, [self.projection.name])
            if row is None:
                return "nothing is left of one"
            run, version, fingerprint, position = row
            if version != self.projection.version:
                return f"what is left is of version {version}"
            if fingerprint != self.fingerprint:
                return "the code, a table or the skipped events changed since"
            if not await self._is_whole(run, position):
                return "what is left is not what a rebuild of this log noted"
            await self._conn.execute(_TAKE_OVER, [self._run, self.projection.name])
            await self._note(position)
        self.position = position
        return None

    async def hold(self) -> None:
        """Make sure, for the caller's transaction, that this run's shadow is the one that is there.

        Raises:
            RebuildLost: another run began anew.

        """
        try:
            row = await fetch_row(self._conn, _HOLD, [self.projection.name, self._run])
        except errors.SerializationFailure as error:  # it began anew just now
            raise RebuildLost(self.projection.name) from error
        if row is None:
            raise RebuildLost(self.projection.name)

    async def fold_to(self, up_to: int, window: int, on_progress: OnProgress | None = None) -> None:
        """Fold up to a position, in committed windows of so many positions.

        Args:
            up_to: the last position to fold.
            window: positions in a window, at the most.
            on_progress: is called with the position after each window, and now and then within a long one.

        Raises:
            CannotFold: an event can't be folded, or a position is missing; the message says which.
            RebuildLost: another run began anew.
            psycopg.OperationalError: the database failed, or the connection.

        """
        size = WindowSize(window, self._budget, "PROJECTIONS_REBUILD_FOLD_TIMEOUT")
        while self.position < up_to:
            hi = min(self.position + size.positions, up_to)
            began = monotonic()
            try:
                async with self._conn.transaction():
                    await self._fold_window(hi, on_progress)
                self.position = hi
            except (RebuildLost, errors.LockNotAvailable):
                raise
            except Exception as error:  # a fold written in Python may raise anything
                if self._conn.broken or self._conn.closed:
                    raise
                failure = await size.failed(self._conn, self.position, hi, error, monotonic() - began)
                if failure.cause in (Cause.WINDOW_TOO_LONG, Cause.SLOW_ONCE):
                    continue
                raise CannotFold(self._explain(failure)) from error
            size.succeeded(monotonic() - began)
            if on_progress is not None:
                on_progress(hi)

    async def fold_within(self, hi: int) -> None:
        """Fold what is left up to a position, inside the caller's transaction; sets no :attr:`position`.

        Raises:
            CannotFold, RebuildLost, psycopg.OperationalError: as :meth:`fold_to` raises them.

        """
        position = self.position
        try:
            await self.fold_to(hi, hi - position)
            await self._conn.execute(RESET_STATEMENT_TIMEOUT)
        finally:
            self.position = position

    async def drop(self) -> bool:
        """Remove the tables, if they are still this run's; returns False when they stay, for somebody reads them."""
        mine = [self.projection.name, self._run]
        try:
            async with self._conn.transaction():
                if (await self._conn.execute(_FORGET, mine)).rowcount == 1:
                    await self._drop_tables()
        except errors.LockNotAvailable:
            await self._conn.execute(_FORGET, mine)
            return False
        return True

    @property
    def fingerprint(self) -> str:
        """A digest of what decides how rows come out: the fold's code, the tables, and the events passed over."""
        return fingerprint(self.projection, self.skipped)

    async def _fold_window(self, hi: int, on_progress: OnProgress | None) -> None:
        lo = self.position
        move = {"name": self.projection.name, "run": self._run, "lo": lo, "hi": hi}
        move["timeout"] = fold_budget.milliseconds(self._budget)
        moved = await self._conn.execute(_MOVE, move)
        if moved.rowcount != 1:
            raise RebuildLost(self.projection.name)
        await self._fold.run(self._conn, lo, hi, self.skipped, on_progress)
        await self._note(hi)

    def _explain(self, failure: WindowFailure) -> str:
        name = self.projection.name
        if failure.event_id is None:
            return f"{name}: {failure.message}"
        return (
            f"{name}: {failure.message}; fix the projection, or run projections skip {name}"
            f" --event-id {failure.event_id} --why '…'"
        )

    async def _is_whole(self, run: int, position: int) -> bool:
        noted = await fetch_row(self._conn, _NOTED, [run])
        if noted != (position,) or position > await read_head(self._conn):
            return False
        there = [await self._is_there(sql.Identifier(SHADOW_SCHEMA, table.name)) for table in self.tables]
        return all(there)

    async def _note(self, position: int) -> None:
        if self._is_rebuild:
            await self._conn.execute(_NOTE, [position, self._run])

    async def _make_schema(self) -> None:
        # IF NOT EXISTS would ask for the privilege even where the schema is there.
        if await fetch_value(self._conn, "SELECT to_regnamespace(%s)", [SHADOW_SCHEMA]) is not None:
            return
        try:
            await self._conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SHADOW_SCHEMA)))
        except errors.InsufficientPrivilege as error:
            raise ProjectionsError(
                f"this role may not create the schema {SHADOW_SCHEMA}: let the database's owner run"
                f" CREATE SCHEMA {SHADOW_SCHEMA} AUTHORIZATION (this role)"
            ) from error

    async def _drop_tables(self) -> None:
        names = {table.name for table in self.tables}
        # Another version may have had other tables.
        names |= {row[0] for row in await fetch_all(self._conn, _MARKED, [SHADOW_SCHEMA, self._mark])}
        tables = [sql.Identifier(SHADOW_SCHEMA, name) for name in sorted(names)]
        await self._conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.SQL(", ").join(tables)))

    async def _is_there(self, table: sql.Identifier) -> bool:
        return await fetch_value(self._conn, "SELECT to_regclass(%s)", [table.as_string(self._conn)]) is not None


async def make_table(conn: AsyncConnection[Any], table: Table, *, logged: bool) -> None:
    """Make a table with what a fold needs: its primary key, and unique indexes; no others, and no foreign keys."""
    await conn.execute(compile_ddl(CreateTable(table, include_foreign_key_constraints=[])))
    for index in table.indexes:
        if index.unique:
            await conn.execute(compile_ddl(CreateIndex(index)))
    if not logged:
        name = sql.Identifier(*([table.schema] if table.schema else []), table.name)
        await conn.execute(sql.SQL("ALTER TABLE {} SET UNLOGGED").format(name))


async def finish_table(conn: AsyncConnection[Any], table: Table) -> None:
    """Give a table that is to stay the rest: its indexes and comments."""
    for index in table.indexes:
        if not index.unique:
            await conn.execute(compile_ddl(CreateIndex(index)))
    # Without one of its own it gets none: the shadow's mark goes.
    await conn.execute(compile_ddl(DropTableComment(table) if table.comment is None else SetTableComment(table)))
    for column in table.c:
        if column.comment is not None:
            await conn.execute(compile_ddl(SetColumnComment(column)))
