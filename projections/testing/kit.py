"""Folds the events of a test with a projection, in any order and in windows of any size, in tables of the test's own.

Invariants. The kit works in schemas of its own, in one transaction that is never committed. So it neither reads nor
changes anything in the database, blocks nobody, and leaves nothing behind, however a test ends. The fold is the one
that workers run; only the schemas of its tables differ, as in a rebuild.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from psycopg import AsyncConnection
from psycopg.rows import dict_row
from sqlalchemy import Connection, MetaData, Table, bindparam, insert, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from eventstore.contracts import Event
from eventstore.postgres.connection import connect
from eventstore.postgres.queries import fetch_all
from eventstore.schema import SCHEMA as EVENTSTORE_SCHEMA
from eventstore.schema import events as events_table
from eventstore.waits import Waits
from projections.database import resolve_database_url
from projections.folding.latest_wins import DELETED
from projections.folding.python_projection import PythonProjection
from projections.folding.sql_text import compile_statement
from projections.folding.table_copies import plain_copy
from projections.folding.window_fold import WindowFold, build_fold
from projections.migrating.missing_tables import create_tables
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.rules import check_projection

Order: TypeAlias = Literal["given", "reversed", "shuffled"] | Sequence[int]
"""An order of events: a name, or the indices of the events in that order."""

Rows: TypeAlias = list[dict[str, Any]]

SHUFFLES = 3
_RECEIVED = datetime(2026, 1, 1, tzinfo=UTC)
_INSERT = insert(events_table).values(
    {column.name: bindparam(column.name, None, type_=column.type) for column in events_table.c}
)
_PATIENT = Waits(idle_in_transaction=86_400.0)  # a debugger may stop a test for long


class ProjectionKit:
    """Folds events with one projection and returns the rows; an async context manager.

    Args:
        url: a database in which the role may create schemas; it need not be migrated. None for the database in
            DATABASE_URL, or for the embedded one, which is then started.
        projection: the projection; it is checked against the rules for registration.

    Raises:
        InvalidProjection: on entering, if it breaks a rule.
        psycopg.OperationalError: on entering, if the database can't be reached.

    """

    def __init__(self, url: str | None, projection: Projection) -> None:
        self.projection = projection
        self._url = url
        name = f"kit_{secrets.token_hex(6)}"
        self._schemas = {READ_MODEL_SCHEMA: name, EVENTSTORE_SCHEMA: f"{name}_events"}
        self._open = AsyncExitStack()
        self._conn: AsyncConnection[Any]
        self._fold: WindowFold

    async def __aenter__(self) -> Self:
        check_projection(self.projection)
        self._fold = build_fold(self.projection, self._schemas)
        url = self._url
        if url is None:
            url = await asyncio.to_thread(resolve_database_url, start=True)
        async with AsyncExitStack() as opening:
            self._conn = await connect(url, name="projections test kit", waits=_PATIENT, autocommit=False)
            opening.push_async_callback(self._conn.close)
            await self._make_tables(opening)
            await self._conn.execute("SAVEPOINT nothing_given")
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def given(
        self,
        events: Iterable[Event],
        *,
        order: Order = "given",
        seed: int = 1,
        batch_size: int | None = None,
        twice: bool = True,
        skipped: Sequence[str] = (),
    ) -> None:
        """Remove the events and rows of earlier calls, and fold these events.

        Args:
            events: the events; of several with the same event_id only the first counts, as in the event store.
            order: the order in which they arrive.
            seed: the seed of the shuffle, if ``order`` is ``shuffled``.
            batch_size: events in a window; None for all in one window.
            twice: fold each window twice, and in the end all events once more; the rows must be the same.
            skipped: event_ids that the projection skips.

        Raises:
            Exception: any error of the fold.

        """
        unique: dict[str, Event] = {}
        for event in events:
            unique.setdefault(event.event_id, event)
        arrived = _in_order(list(unique.values()), order, seed)
        await self._conn.execute("ROLLBACK TO SAVEPOINT nothing_given")
        await self._append(arrived)
        size, head = batch_size or max(len(arrived), 1), len(arrived)
        windows = [(lo, min(lo + size, head)) for lo in range(0, head, size)]
        if twice:
            windows = [window for window in windows for _ in range(2)] + [(0, head)]
        for lo, hi in windows:
            async with self._conn.pipeline() if self._fold.in_pipeline else nullcontext():
                await self._fold.run(self._conn, lo, hi, skipped)

    async def rows(self, table: Table, *, deleted: bool = False) -> Rows:
        """Return a table's rows as dictionaries, ordered by primary key.

        Args:
            table: one of the projection's tables.
            deleted: whether to return tombstones too, if the projection folds in Python.

        """
        query = select(table).order_by(*table.primary_key.columns)
        if isinstance(self.projection, PythonProjection) and not deleted:
            query = query.where(~table.c[DELETED])
        statement, constants = compile_statement(query, self._schemas)
        async with self._conn.cursor(row_factory=dict_row) as cursor:
            return await fetch_all(cursor, statement, constants)

    async def assert_same_for_every_order(
        self, events: Sequence[Event], expected: Mapping[Table, Iterable[Mapping[str, Any]]] | None = None
    ) -> None:
        """Fold the events in several orders, window sizes and repetitions; the rows must be the same each time.

        Args:
            events: the events, at least two for the order to matter.
            expected: the rows of each named table without tombstones, in any order. Each row has the primary key;
                columns that it leaves out are not compared.

        Raises:
            AssertionError: the rows differ; the message has the order, window size and repetition, and shows the rows.

        """
        first: dict[str, Rows] | None = None
        for order, seed, batch_size, twice in _variants(len(events)):
            await self.given(events, order=order, seed=seed, batch_size=batch_size, twice=twice)
            how = f"order={order!r}, seed={seed}, batch_size={batch_size}, twice={twice}"
            for table, rows in (expected or {}).items():
                _compare(table, await self.rows(table), list(rows), how)
            result = {table.name: await self.rows(table, deleted=True) for table in self.projection.tables}
            first = first or result
            for name, rows in result.items():
                if rows != first[name]:
                    raise AssertionError(
                        f"{name} depends on order, window size or repetition ({how}): {rows} != {first[name]}"
                    )

    async def _make_tables(self, opening: AsyncExitStack) -> None:
        async def conn() -> AsyncConnection[Any]:
            return self._conn

        engine = create_async_engine("postgresql+psycopg://", async_creator=conn, poolclass=NullPool)
        opening.push_async_callback(engine.dispose)
        made = await opening.enter_async_context(engine.connect())
        metadata = MetaData()
        copies = [plain_copy(table, metadata) for table in self.projection.tables]
        await made.run_sync(_make_tables, self._schemas, [events_table, *copies])

    async def _append(self, events: list[Event]) -> None:
        statement, _ = compile_statement(_INSERT, self._schemas)
        rows = [
            {**event._asdict(), "position": position, "received_at": _RECEIVED}
            for position, event in enumerate(events, start=1)
        ]
        async with self._conn.cursor() as cursor:
            await cursor.executemany(statement, rows)


def _make_tables(connection: Connection, schemas: dict[str, str], tables: list[Table]) -> None:
    for schema in schemas.values():
        connection.execute(CreateSchema(schema))
    create_tables(connection.execution_options(schema_translate_map=schemas), tables)


def _in_order(events: list[Event], order: Order, seed: int) -> list[Event]:
    if order == "given":
        return events
    if order == "reversed":
        return events[::-1]
    if order == "shuffled":
        return random.Random(seed).sample(events, len(events))  # noqa: S311 - a shuffle for a test, not a secret
    indices = [index for index in order if isinstance(index, int)]
    if sorted(indices) != list(range(len(events))):
        raise ValueError(f"order must have the index of each of the {len(events)} events once, from 0")
    return [events[index] for index in indices]


def _variants(count: int) -> Iterator[tuple[Order, int, int | None, bool]]:
    yield "given", 0, None, False
    for batch_size in dict.fromkeys((1, 2, max(count // 2, 1), None)):
        yield "given", 0, batch_size, True
        yield "reversed", 0, batch_size, batch_size != 1
    for seed in range(1, SHUFFLES + 1):
        yield "shuffled", seed, seed, True


def _compare(table: Table, rows: Rows, expected: list[Mapping[str, Any]], how: str) -> None:
    key = [column.name for column in table.primary_key.columns]
    wanted = {tuple(row[name] for name in key): dict(row) for row in expected}
    found = {tuple(row[name] for name in key): row for row in rows}
    named = {at: {name: row[name] for name in wanted.get(at, row) if name in row} for at, row in found.items()}
    if named != wanted or len(wanted) != len(expected):
        raise AssertionError(f"{table.name} ({how}): {rows} != {expected}")
