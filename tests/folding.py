"""Shared by tests of projections: appends records as real bytes, runs workers step by step, and reads rows.

``Watched`` is a projection for tests. Its fold fails on purpose for certain phone numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, ClassVar, NamedTuple

from psycopg import AsyncConnection, sql
from psycopg.rows import class_row, dict_row
from sqlalchemy import CheckConstraint, Column, Executable, Integer, MetaData, Table, Text, case, cast, insert, select
from sqlalchemy.schema import CreateIndex, CreateTable

from eventstore.appending.append import Appended, Appender
from eventstore.contracts import Contract, Event, decode
from eventstore.waits import Waits
from projections.folding.sql_text import DIALECT, compile_ddl
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection, Window
from projections.running.run_context import RunContext
from projections.running.wakeup import AppendListener
from projections.running.window_step import Step
from projections.running.worker import Worker
from projections.settings import WorkerSettings
from tests import oracle, store, stories, wire
from tests.oracle import Record, Row, Summary
from tests.queries import fetch_all, fetch_row

QUICK = Waits(
    append_lock=30,
    database_backoff_cap=0.05,
    database_connect=60,
    idle_in_transaction=600,
    leader_heartbeat=0.5,
    leader_timeout=600,
)
SETTINGS = WorkerSettings(poll=0.02, retry_first=0.01, retry_cap=0.02)
NEVER = 600.0
"""Seconds: longer than any test."""
HALF_HOUR = 1800.0

DIVIDES_BY_ZERO, TOO_LONG, NUMBER_TOO_LARGE = "12300000666", "12300000667", "12300000668"
"""Phone numbers that ``Watched`` can't fold: a division by zero, a constraint, and a number that is too large."""

watched = Table(
    "watched",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True),
    Column("event_id", Text(collation="C"), primary_key=True),
    Column("ppnum", Text),
    Column("value", Integer),
    CheckConstraint(f"ppnum <> '{TOO_LONG}'", name="watched_check"),
)


class Watched(Projection):
    """Inserts each delivery once: a second insert would fail."""

    name: ClassVar[str] = "watched"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.DELIVERED})
    tables: ClassVar[tuple[Table, ...]] = (watched,)
    partition_by: ClassVar[tuple[str, ...]] = ("app",)

    def fold(self, window: Window) -> Sequence[Executable]:
        e = window.events
        value = case(
            (e.c.ppnum == DIVIDES_BY_ZERO, 1 / (e.c.event_type - oracle.DELIVERED)),
            (e.c.ppnum == NUMBER_TOO_LARGE, cast(e.c.ppnum, Integer)),
            else_=0,
        )
        rows = select(e.c.app, e.c.event_id, e.c.ppnum, value)
        return [insert(watched).from_select(["app", "event_id", "ppnum", "value"], rows)]


class NewerWatched(Watched):
    """The same projection, one version later."""

    version: ClassVar[int] = 2


async def create_watched_table(conn: AsyncConnection) -> None:
    """Create the table of ``Watched``."""
    await conn.execute(str(CreateTable(watched).compile(dialect=DIALECT)).encode())


async def create_tables_of(conn: AsyncConnection, projection: type[Projection]) -> None:
    """Create the tables of a projection that isn't installed, with their indexes; only a test collects statistics."""
    for table in projection.tables:
        await conn.execute(compile_ddl(CreateTable(table)).encode())
        for index in table.indexes:
            await conn.execute(compile_ddl(CreateIndex(index)).encode())
        name = sql.Identifier(str(table.schema), table.name)
        await conn.execute(sql.SQL("ALTER TABLE {} SET (autovacuum_enabled = false)").format(name))


# Events

_milliseconds = count(1_767_225_600_000)


def new_record(
    event_type: int = oracle.DELIVERED,
    ppnum: str | None = "12300000001",
    *,
    app: str = store.APP,
    request: str | None = "request 1",
    options: tuple[str, ...] | None = None,
    summary: Summary | None = None,
) -> Record:
    """Return a new event whose event_id is greater than all earlier ones."""
    milliseconds = next(_milliseconds)
    return Record(
        event_id=wire.ulid_of(milliseconds),
        app=app,
        contract=stories.CHAT,
        event_type=event_type,
        occurred_at=wire.EPOCH + timedelta(milliseconds=milliseconds),
        send_request_id=request,
        ppnum=ppnum,
        poll_id=None if options is None else "poll 1",
        poll_options=options,
        summary=summary,
    )


def decode_record(record: Record) -> Event:
    """Return the event that the project decodes from a record's bytes."""
    return decode(stories.payload(record), record.app, Contract(record.contract))


async def append(conn: AsyncConnection, *records: Record) -> Appended:
    """Append records as the bytes that an upstream would send."""
    return await Appender(conn, QUICK).append([decode_record(record) for record in records])


async def append_in_new_session(url: str, *records: Record) -> Appended:
    """Append records on a new connection, so that several appends can run at the same time."""
    async with store.connection(url, "appending") as conn:
        return await append(conn, *records)


async def insert_at(conn: AsyncConnection, position: int, record: Record, *, received_in: float = 0) -> None:
    """Insert an event at any position, without the appender and without NOTIFY; ``received_in`` is seconds from now."""
    columns = (*Event._fields, "position", "received_at")
    statement = sql.SQL("INSERT INTO eventstore.events ({}) VALUES ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(sql.Placeholder() * len(columns))
    )
    received_at = datetime.now(UTC) + timedelta(seconds=received_in)
    await conn.execute(statement, [*decode_record(record), position, received_at])


async def stored_records(conn: AsyncConnection) -> list[Record]:
    """Return all stored events as the oracle's records, made from the columns."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        rows = await fetch_all(cursor, "SELECT * FROM eventstore.events ORDER BY position")
    return [_record(row) for row in rows]


_RECORD_FIELDS = frozenset(field.name for field in fields(Record))


def _record(row: Mapping[str, Any]) -> Record:
    plain = {name: value for name, value in row.items() if name in _RECORD_FIELDS}
    if plain["poll_options"] is not None:
        plain["poll_options"] = tuple(plain["poll_options"])
    if row["summary_status"] is not None:
        counts = (row["total_recipients"], row["delivered"], row["failed"], row["pending_consent"])
        times = (row["summary_created_at"], row["summary_completed_at"])
        plain["summary"] = Summary(row["summary_status"], *counts, *times)
    return Record(**plain)


# Workers


def run_context(url: str, **settings: float) -> RunContext:
    """What workers share, with short waits, and these settings."""
    return RunContext(url, QUICK, SETTINGS.model_copy(update=settings))


def worker(url: str, projection: Projection, **settings: float) -> Worker:
    """A worker with short waits, and these settings."""
    return Worker(run_context(url, **settings), projection)


@asynccontextmanager
async def worker_connection(one: Worker) -> AsyncIterator[AsyncConnection]:
    """Yield a connection for a worker's steps."""
    conn = await one.connect()
    try:
        yield conn
    finally:
        await conn.close()


@asynccontextmanager
async def running_workers(url: str, *workers: Worker) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run workers and their listener during the block; yields the workers' tasks."""
    listener = AppendListener(run_context(url))
    tasks = [asyncio.create_task(one.run(listener)) for one in workers]
    listening = asyncio.create_task(listener.run())
    try:
        yield tasks
    finally:
        for task in (*tasks, listening):
            task.cancel()
        await asyncio.gather(*tasks, listening, return_exceptions=True)


async def fold(one: Worker, conn: AsyncConnection) -> Step:
    """Run steps until a step folds nothing; return the result of that step."""
    while (step := await one.step(conn)) is Step.FOLDED:
        pass
    return step


@asynccontextmanager
async def open_workers(
    url: str, projections: Iterable[type[Projection]] = READ_MODELS, **settings: float
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Yield a function that folds every projection to the head, each time with the same workers and connections."""
    async with AsyncExitStack() as stack:
        workers = [worker(url, projection(), **settings) for projection in projections]
        opened = [(one, await stack.enter_async_context(worker_connection(one))) for one in workers]

        async def fold_to_head() -> None:
            for one, conn in opened:
                assert await fold(one, conn) is Step.AT_HEAD, one

        yield fold_to_head


async def fold_all(url: str, projections: Iterable[type[Projection]] = READ_MODELS, **settings: float) -> None:
    """Fold every projection to the head, each with its own worker."""
    for projection in projections:
        one = worker(url, projection(), **settings)
        async with worker_connection(one) as conn:
            assert await fold(one, conn) is Step.AT_HEAD, projection.name


# Rows


async def read_model_rows(
    conn: AsyncConnection, apps: Collection[str] | None = None, *, names: Iterable[str] = oracle.COLUMNS
) -> dict[str, list[Row]]:
    """Return all rows of read models and views, all or those of some names and apps, as the oracle returns them."""
    found: dict[str, list[Row]] = {}
    for name in names:
        columns = sql.SQL(", ").join(map(sql.Identifier, oracle.COLUMNS[name]))
        query = sql.SQL("SELECT {} FROM public.{} WHERE %s::text[] IS NULL OR app = ANY(%s)").format(
            columns, sql.Identifier(name)
        )
        given = None if apps is None else list(apps)
        found[name] = oracle.sorted_rows(name, await fetch_all(conn, query, [given, given]))
    return found


async def assert_rows_match_oracle(conn: AsyncConnection) -> None:
    """Assert that every read model has the rows that the oracle computes from the stored events."""
    found, expected = await read_model_rows(conn), oracle.read_models(await stored_records(conn))
    for name in oracle.COLUMNS:
        assert found[name] == expected[name], name


class CheckpointRow(NamedTuple):
    """A row of ``projections.checkpoints``."""

    version: int
    position: int
    state: str
    last_error: str | None
    failures: int
    windows: int
    events: int
    wait: timedelta | None = None


async def checkpoint_row(conn: AsyncConnection, name: str) -> CheckpointRow:
    """Return a projection's checkpoint; ``wait`` is the time from its error to the next attempt."""
    async with conn.cursor(row_factory=class_row(CheckpointRow)) as cursor:
        query = (
            "SELECT version, position, state, last_error, failures, windows, events, retry_at - last_error_at AS wait"
            " FROM projections.checkpoints WHERE name = %s"
        )
        row = await fetch_row(cursor, query, [name])
    assert row is not None, f"{name} has no checkpoint"
    return row


async def count_rows(conn: AsyncConnection, table: str) -> int:
    """Return the number of rows of a table in ``public``."""
    query = sql.SQL("SELECT count(*) FROM public.{}").format(sql.Identifier(table))
    row = await fetch_row(conn, query)
    assert row is not None
    return int(row[0])


async def position(conn: AsyncConnection, name: str) -> int:
    """Return a projection's position; 0 before its first run."""
    found = await store.value(conn, "SELECT max(position) FROM projections.checkpoints WHERE name = %s", name)
    return int(str(found or 0))


async def wait_until_folded(conn: AsyncConnection, name: str, up_to: int) -> None:
    """Wait until a projection has folded up to this position."""

    async def is_reached() -> bool:
        return await position(conn, name) >= up_to

    await store.wait_until(is_reached, f"{name} at position {up_to}")


async def wait_for_state(conn: AsyncConnection, name: str, state: str) -> None:
    """Wait until a projection is in this state."""

    async def is_in_state() -> Any:  # noqa: ANN401 - only its truth counts
        query = "SELECT count(*) FROM projections.checkpoints WHERE name = %s AND state = %s"
        return await store.value(conn, query, name, state)

    await store.wait_until(is_in_state, f"{name} {state}")
