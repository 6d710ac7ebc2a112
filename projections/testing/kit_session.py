"""The kit's session: schemas of its own, the events of a test, and folds over them, all in one transaction.

Invariants. The transaction is never committed. Every fold begins where no event and no row is: a savepoint, to which
the session goes back first. The events are sent to the database once, into a table beside the log; a fold copies those
that it needs into the log, in the order in which they arrive. So a fold costs few statements, and they are sent
together, in one pipeline, unless the projection folds in Python.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self, TypeAlias

from psycopg import AsyncConnection, AsyncCursor, errors, sql
from psycopg.rows import dict_row
from sqlalchemy import Connection, Executable, MetaData, Table
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
from projections.folding.sql_text import compile_statement
from projections.folding.table_copies import plain_copy
from projections.folding.window_fold import build_fold
from projections.migrating.missing_tables import create_tables
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.testing.fold_cases import FoldCase

RowTexts: TypeAlias = Mapping[str, Sequence[str]]
"""The rows of each table as Postgres writes them, by primary key; ``NaN`` equals itself, and 1.5 differs from 1.50."""

KIT_TABLES = (events_table.name, "kit_events")
"""The log of a session, and the events that were sent to the database."""
_TEMPORARY = "pg_temp"
_PATIENT = Waits(idle_in_transaction=86_400.0)  # a debugger may stop a test for long
# A case has few rows, and planning its statements anew would take longer than running them.
_SETTINGS = {"plan_cache_mode": "force_generic_plan"}
_RECEIVED = datetime(2026, 1, 1, tzinfo=UTC)
_SAVEPOINT = b"SAVEPOINT nothing_given"
_BACK = b"ROLLBACK TO SAVEPOINT nothing_given"
_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, Event._fields))


class KitSession:
    """A session in which one projection folds; an async context manager.

    Args:
        url: a database in which the role may create schemas; None for the one that commands use.
        projection: the projection.
        temporary: whether to fold in temporary tables, for a role that may not create schemas; no table of the
            projection may be named like one of :data:`KIT_TABLES` then.

    """

    def __init__(self, url: str | None, projection: Projection, *, temporary: bool = False) -> None:
        self._url = url
        self._tables = projection.tables
        name = _TEMPORARY if temporary else f"kit_{secrets.token_hex(6)}"
        of_events = _TEMPORARY if temporary else f"{name}_events"
        self.schemas = {READ_MODEL_SCHEMA: name, EVENTSTORE_SCHEMA: of_events}
        self._fold = build_fold(projection, self.schemas)
        self._errors = 0
        self._open = AsyncExitStack()
        self.conn: AsyncConnection[Any]
        self._sent: dict[int, tuple[int, Event]] = {}  # by identity; it keeps the event, and so its identity
        log, sent = (sql.Identifier(of_events, table) for table in KIT_TABLES)
        self._create_sent = sql.SQL("CREATE TABLE {} (LIKE {}, PRIMARY KEY (position))").format(sent, log)
        self._send = sql.SQL("INSERT INTO {} (position, received_at, {}) VALUES ({})").format(
            sent, _COLUMNS, sql.SQL(", ").join([sql.Placeholder()] * (2 + len(Event._fields)))
        )
        self._append = sql.SQL(
            # When an event is received depends on the order, so a fold that uses it fails.
            "INSERT INTO {} (position, received_at, {}) SELECT arrived.position,"
            " received_at + arrived.position * interval '1 hour' + arrived.number * interval '1 second', {}"
            " FROM unnest(%s::bigint[]) WITH ORDINALITY AS arrived (number, position) JOIN {} AS sent"
            " ON sent.position = arrived.number"
        ).format(log, _COLUMNS, _COLUMNS, sent)
        self._texts = {
            table.name: sql.SQL("SELECT projections_row::text FROM {} AS projections_row ORDER BY {}").format(
                sql.Identifier(name, table.name),
                sql.SQL(", ").join(sql.Identifier(column.name) for column in table.primary_key.columns),
            )
            for table in self._tables
        }

    async def __aenter__(self) -> Self:
        url = self._url
        if url is None:
            url = await asyncio.to_thread(resolve_database_url, start=True, create=True)
        async with AsyncExitStack() as opening:
            self.conn = await connect(
                url, name="projections test kit", waits=_PATIENT, autocommit=False, settings=_SETTINGS
            )
            opening.push_async_callback(self.conn.close)
            await self._make_tables(opening)
            await self.conn.execute(self._create_sent)
            await self.conn.execute(_SAVEPOINT)
            self._open = opening.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def fold(self, case: FoldCase, skipped: Sequence[str] = ()) -> None:
        """Remove the events and rows of earlier folds, and fold a case.

        Raises:
            Exception: any error of the fold; the session can be used again.

        """
        await self._send_new(case.events)
        await self._together(partial(self._fold_case, case, skipped))

    async def fold_to_texts(self, case: FoldCase) -> RowTexts:
        """Fold a case as :meth:`fold` does, and return the rows of all tables."""
        await self._send_new(case.events)
        cursors: dict[str, AsyncCursor[Any]] = {}
        await self._together(partial(self._fold_case, case, (), cursors))
        return {name: [text for (text,) in await cursor.fetchall()] for name, cursor in cursors.items()}

    async def fetch(self, query: Executable) -> list[dict[str, Any]]:
        """Return the rows of a query over the projection's tables, by column."""
        statement, constants = compile_statement(query, self.schemas)
        async with self.conn.cursor(row_factory=dict_row) as cursor:
            return await fetch_all(cursor, statement, constants)

    async def _together(self, work: Callable[[], Awaitable[None]]) -> None:
        """Send the statements of a fold in one pipeline, if it allows that; an error leaves the session usable."""
        try:
            if self._fold.in_pipeline:
                await self._in_pipeline(work)
            else:
                await work()
        except BaseException:
            if not self.conn.closed:
                await self.conn.execute(_BACK)
                # Psycopg takes those statements for prepared that it sent after the error. It forgets them after this
                # statement, but only if it hasn't seen the same text before.
                self._errors += 1
                await self.conn.execute(b"DEALLOCATE ALL -- after error %d" % self._errors)
            raise

    async def _in_pipeline(self, work: Callable[[], Awaitable[None]]) -> None:
        error: Exception | None = None
        try:
            async with self.conn.pipeline():
                try:
                    await work()
                except Exception as raised:  # noqa: BLE001 - raised below; psycopg logs a warning if it goes through here
                    error = raised
        except errors.PipelineAborted:
            if error is None:
                raise
        if error is not None:
            raise error

    async def _fold_case(
        self, case: FoldCase, skipped: Sequence[str], texts: dict[str, AsyncCursor[Any]] | None = None
    ) -> None:
        """Fold a case; if ``texts`` is given, put cursors there that have the rows of each table."""
        await self.conn.execute(_BACK)
        await self.conn.execute(self._append, [[self._sent[id(event)][0] for event in case.events]])
        for lo, hi in case.positions():
            await self._fold.run(self.conn, lo, hi, skipped)
        if texts is not None:
            for name, query in self._texts.items():
                texts[name] = await self.conn.execute(query)

    async def _send_new(self, events: Sequence[Event]) -> None:
        new = {id(event): event for event in events if id(event) not in self._sent}
        if not new:
            return
        numbered = dict(zip(new, enumerate(new.values(), len(self._sent) + 1), strict=True))
        await self.conn.execute(_BACK)
        async with self.conn.cursor() as cursor:
            rows = [(number, _RECEIVED, *event) for number, event in numbered.values()]
            await cursor.executemany(self._send, rows)
        await self.conn.execute(b"RELEASE SAVEPOINT nothing_given")
        await self.conn.execute(_SAVEPOINT)
        self._sent.update(numbered)

    async def _make_tables(self, opening: AsyncExitStack) -> None:
        async def conn() -> AsyncConnection[Any]:
            return self.conn

        engine = create_async_engine(
            "postgresql+psycopg://", async_creator=conn, poolclass=NullPool, use_native_hstore=False
        )
        engine.dialect.supports_comments = False  # a statement for each column, and nobody reads the comments here
        opening.push_async_callback(engine.dispose)
        made = await opening.enter_async_context(engine.connect())
        metadata = MetaData()
        copies = [plain_copy(table, metadata) for table in self._tables]
        await made.run_sync(_make_schemas, self.schemas, [events_table, *copies])


def _make_schemas(connection: Connection, schemas: dict[str, str], tables: list[Table]) -> None:
    for schema in {*schemas.values()} - {_TEMPORARY}:
        connection.execute(CreateSchema(schema))
    create_tables(connection.execution_options(schema_translate_map=schemas), tables)
