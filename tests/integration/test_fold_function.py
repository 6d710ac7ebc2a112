"""The usual window is one round trip to Postgres; for anything unusual the function folds nothing."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import ClassVar
from uuid import UUID

import pytest
from psycopg import AsyncConnection, AsyncRawCursor, ProgrammingError, sql
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Dialect,
    Enum,
    Executable,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    cast,
    func,
    literal,
    null,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.exc import InvalidRequestError

from projections.folding.sql_text import compile_fold_statement
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import upgrade
from projections.projection import Projection, Window
from projections.running import checkpoint, control
from projections.running.fold_function import FoldedWindow, FoldFunction
from projections.running.window_step import Step
from tests import folding, rebuilding, store
from tests.databases import Server
from tests.fault.proxy import PostgresProxy, target_of, through
from tests.folding import (
    DIVIDES_BY_ZERO,
    HALF_HOUR,
    NewerWatched,
    Watched,
    append,
    fold,
    insert_at,
    new_record,
    worker,
    worker_connection,
)
from tests.queries import fetch_all, fetch_row


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_watched_table(conn)
        yield conn


def fold_function(projection: Projection) -> FoldFunction:
    return FoldFunction(projection)


async def count_written(conn: AsyncConnection) -> int:
    return await folding.count_rows(conn, "watched")


@pytest.mark.parametrize("projection", [*READ_MODELS, Watched])
async def test_a_usual_window_is_one_round_trip(
    database_url: str, conn: AsyncConnection, projection: type[Projection]
) -> None:
    async with PostgresProxy(*target_of(database_url)) as proxy:
        one = worker(through(database_url, proxy.port), projection())
        sent: list[bytes] = []

        def listen(_n: int, kind: bytes) -> bool:
            sent.append(kind)
            return True

        async with worker_connection(one) as own:
            await append(conn, new_record())
            assert await fold(one, own) is Step.AT_HEAD
            await append(conn, new_record())
            assert await fold(one, own) is Step.AT_HEAD
            proxy.before = listen
            for _ in range(20):
                sent.clear()
                await append(conn, new_record())
                assert await one.step(own) is Step.AT_HEAD
                assert sent == [b"Q"]
            sent.clear()
            assert await one.step(own) is Step.AT_HEAD
            assert sent == [b"Q"], "there was nothing to fold"
    now = await folding.checkpoint_row(conn, projection.name)
    assert (now.state, now.position, now.windows, now.events) == ("running", 22, 22, 22)
    if projection in READ_MODELS:
        await folding.fold_all(database_url)
        await folding.assert_rows_match_oracle(conn)


async def test_a_window_goes_from_the_checkpoint_to_the_head(database_url: str, conn: AsyncConnection) -> None:
    await folding.fold_all(database_url, [Watched])
    fold = fold_function(Watched())
    async with store.connection(database_url, "folding") as own:
        assert await fold.fold(own, 10) == FoldedWindow(0, 0, 0)
        await append(conn, *(new_record() for _ in range(25)))
        assert await fold.fold(own, 10) == FoldedWindow(0, 10, 25)
        assert await count_written(conn) == 10
        assert await fold.fold(own, 10) == FoldedWindow(10, 20, 25)
        assert await fold.fold(own, 10) == FoldedWindow(20, 25, 25)
        assert await fold.fold(own, 10) == FoldedWindow(25, 25, 25)
    assert await count_written(conn) == 25
    assert (await folding.checkpoint_row(conn, "watched")).windows == 3


@pytest.mark.parametrize("state", ["paused", "failed"])
async def test_a_checkpoint_that_is_not_running_is_left_alone(
    database_url: str, conn: AsyncConnection, state: str
) -> None:
    await folding.fold_all(database_url, [Watched])
    await append(conn, new_record())
    await conn.execute("UPDATE projections.checkpoints SET state = %s", [state])
    async with store.connection(database_url, "folding") as own:
        assert await fold_function(Watched()).fold(own, 10) is None
    assert await count_written(conn) == (await folding.checkpoint_row(conn, "watched")).position == 0


async def test_a_checkpoint_of_another_version_a_locked_one_and_a_missing_one_are_left_alone(
    database_url: str, conn: AsyncConnection
) -> None:
    await folding.fold_all(database_url, [Watched])
    await append(conn, new_record())
    mine, newer = fold_function(Watched()), fold_function(NewerWatched())
    async with store.connection(database_url, "folding") as own:
        assert await newer.fold(own, 10) is None
    async with store.connection(database_url, "folding") as own:
        async with conn.transaction():
            await checkpoint.lock(conn, "watched")
            assert await mine.fold(own, 10) is None
        assert await mine.fold(own, 10) == FoldedWindow(0, 1, 1)
        await conn.execute("DELETE FROM projections.checkpoints")
        assert await mine.fold(own, 10) is None
    assert await count_written(conn) == 1


async def test_a_worker_reports_an_unusual_window_as_in_the_slow_path(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record())
    one = worker(database_url, Watched(), retry_first=HALF_HOUR)
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.AT_HEAD

        await append(conn, new_record(), poison := new_record(ppnum=DIVIDES_BY_ZERO), new_record())
        assert await fold(one, own) is Step.STOPPED
        now = await folding.checkpoint_row(conn, "watched")
        assert (now.state, now.position) == ("failed", 2)
        assert poison.event_id in (now.last_error or "")

        await control.skip(conn, "watched", poison.event_id, "it divides by zero", 1)
        assert await fold(one, own) is Step.AT_HEAD
        await append(conn, new_record(), new_record())
        assert await fold(one, own) is Step.AT_HEAD
        assert await count_written(conn) == 5

        await control.pause(conn, "watched")
        await append(conn, new_record())
        assert await fold(one, own) is Step.STOPPED
        await control.resume(conn, "watched")
        assert await fold(one, own) is Step.AT_HEAD

        await insert_at(conn, 9, new_record())
        assert await fold(one, own) is Step.STOPPED
        assert (await folding.checkpoint_row(conn, "watched")).last_error == "positions 8..8 missing"
        await insert_at(conn, 8, new_record())
        await control.resume(conn, "watched")
        assert await fold(one, own) is Step.AT_HEAD

        await conn.execute("UPDATE projections.checkpoints SET version = 2")
        await append(conn, new_record())
        assert await fold(one, own) is Step.STOPPED
    assert await count_written(conn) == 8


async def test_an_event_skipped_before_its_window_is_skipped_in_one_round_trip(
    database_url: str, conn: AsyncConnection
) -> None:
    await folding.fold_all(database_url, [Watched])
    await append(
        conn,
        new_record(),
        first := new_record(ppnum=DIVIDES_BY_ZERO),
        new_record(),
        second := new_record(ppnum=DIVIDES_BY_ZERO),
    )
    for poison in (first, second):
        await control.skip(conn, "watched", poison.event_id, "it divides by zero", 1)
    async with store.connection(database_url, "folding") as own:
        assert await fold_function(Watched()).fold(own, 10) == FoldedWindow(0, 4, 4)
    assert await count_written(conn) == 2


# Runs while a statement searches for the checkpoint's row: after it took its snapshot and before it locks the row.
_BLOCKED = """
CREATE FUNCTION held_up() RETURNS boolean LANGUAGE plpgsql AS
'BEGIN PERFORM pg_advisory_lock_shared(7); PERFORM pg_advisory_unlock_shared(7); RETURN true; END';
ALTER TABLE projections.checkpoints ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY held_up ON projections.checkpoints USING (held_up());
"""


@pytest.mark.parametrize("is_usual", [False, True])
async def test_a_skip_recorded_while_a_window_begins_holds_for_that_window(
    database_url: str, conn: AsyncConnection, is_usual: bool
) -> None:
    await append(conn, new_record())
    one = worker(database_url, Watched())
    async with worker_connection(one) as own:
        if is_usual:
            assert await fold(one, own) is Step.AT_HEAD
        await append(conn, poison := new_record())
        await conn.execute(_BLOCKED)
        for each in (own, conn):
            await each.execute("SET row_security = on")  # the policy pauses the statement
        await conn.execute("SELECT pg_advisory_lock(7)")
        folding_it = asyncio.create_task(fold(one, own))
        await store.wait_until_blocked(conn, own.info.backend_pid)
        await control.skip(conn, "watched", poison.event_id, "it must not count", 1)
        await conn.execute("SELECT pg_advisory_unlock(7)")
        assert await folding_it is Step.AT_HEAD
        assert (await folding.checkpoint_row(conn, "watched")).position == 2
    assert await count_written(conn) == 1


class Locking(Watched):
    """Has a fold statement that Postgres doesn't plan."""

    name: ClassVar[str] = "watched"

    def fold(self, window: Window) -> Sequence[Executable]:
        return [text("LOCK TABLE public.watched IN SHARE ROW EXCLUSIVE MODE"), *super().fold(window)]


@pytest.mark.oldest
async def test_any_kind_of_statement_runs(database_url: str, conn: AsyncConnection) -> None:
    await folding.fold_all(database_url, [Locking])
    one = fold_function(Locking())
    async with store.connection(database_url, "folding") as own:
        for number in range(1, 4):
            await append(conn, new_record())
            assert await one.fold(own, 10) == FoldedWindow(number - 1, number, number)
            assert await count_written(conn) == number


async def test_a_role_without_temporary_functions_folds_in_the_slow_path(
    database_url: str, conn: AsyncConnection, postgres: Server
) -> None:
    async with rebuilding.role(postgres, database_url) as owner:
        for whom in (sql.SQL("PUBLIC"), sql.Identifier(conn.info.user)):
            command = sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM {}")
            await owner.superuser.execute(command.format(sql.Identifier(conn.info.dbname), whom))
    one = worker(database_url, Watched())
    async with worker_connection(one) as own:
        for number in range(1, 4):
            await append(conn, new_record())
            assert await fold(one, own) is Step.AT_HEAD
            assert await count_written(conn) == number
        assert await fold_function(Watched()).fold(own, 10) is None


async def test_another_connection_gets_a_function_of_its_own(database_url: str, conn: AsyncConnection) -> None:
    one = worker(database_url, Watched())
    for number in range(1, 4):
        async with worker_connection(one) as own:
            for _ in range(2):
                await append(conn, new_record())
                assert await fold(one, own) is Step.AT_HEAD
            named = (
                "SELECT count(*) FROM pg_proc WHERE proname = 'projections_fold' AND pronamespace = pg_my_temp_schema()"
            )
            assert await store.value(own, named) == 1
        assert await count_written(conn) == 2 * number


seen = Table(
    "seen",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True),
    Column("event_id", Text(collation="C"), primary_key=True),
)
totals = Table("totals", seen.metadata, Column("app", Text, primary_key=True), Column("seen", BigInteger))


class Recounting(Watched):
    """Counts everything again in each window, which is slow but correct."""

    name: ClassVar[str] = "recounting"
    tables: ClassVar[tuple[Table, ...]] = (seen, totals)

    def fold(self, window: Window) -> Sequence[Executable]:
        e = window.events.c
        new = insert(seen).from_select(["app", "event_id"], select(e.app, e.event_id)).on_conflict_do_nothing()
        counted = insert(totals).from_select(["app", "seen"], select(seen.c.app, func.count()).group_by(seen.c.app))
        latest = counted.on_conflict_do_update(index_elements=["app"], set_={"seen": counted.excluded.seen})
        return [new.returning(seen.c.event_id), latest]


@pytest.mark.oldest
@pytest.mark.parametrize("why", ["held", "paused", "newer", "nothing new"])
async def test_no_fold_statement_runs_without_the_lock_or_without_handled_events(
    database_url: str, conn: AsyncConnection, why: str
) -> None:
    upgrade(database_url, projections=[Recounting()])
    one = worker(database_url, Recounting())
    async with worker_connection(one) as own:
        for number in range(1, 4):
            await append(conn, new_record())
            assert await fold(one, own) is Step.AT_HEAD
            assert await store.value(conn, "SELECT seen FROM totals") == number
        await conn.execute("UPDATE totals SET seen = 77")
        match why:
            case "paused":
                await control.pause(conn, "recounting")
                assert await one.step(own) is Step.STOPPED
            case "newer":
                await conn.execute("UPDATE projections.checkpoints SET version = 2")
                assert await one.step(own) is Step.STOPPED
            case "held":
                async with conn.transaction():
                    await checkpoint.lock(conn, "recounting")
                    assert await one.step(own) is Step.BUSY
            case _:
                assert await one.step(own) is Step.AT_HEAD
        assert await store.value(conn, "SELECT seen FROM totals") == 77


async def test_rows_marked_as_waiting_by_newer_code_are_still_folded(database_url: str, conn: AsyncConnection) -> None:
    await folding.fold_all(database_url, [Watched])
    await append(conn, new_record())
    async with worker_connection(newer := worker(database_url, NewerWatched())) as others:
        assert await newer.step(others) is Step.STOPPED
    assert (await folding.checkpoint_row(conn, "watched")).state == "waiting"
    async with store.connection(database_url, "folding") as own:
        assert await fold_function(Watched()).fold(own, 10) == FoldedWindow(0, 1, 1)
    assert (await folding.checkpoint_row(conn, "watched")).state == "running"


CONSTANTS = [
    "%(lo)s %(other)s % ( \\ %%",
    'it\'s \\ %s 100% $1 $2 :lo "quoted"',
    "",
    7,
    -(2**31),
    -(2**40),
    Decimal("1.50"),
    True,
    datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    date(2026, 1, 2),
    timedelta(days=1, seconds=2),
    b"\x00\xff'",
    UUID(int=7),
]


@pytest.mark.parametrize("value", CONSTANTS, ids=lambda value: type(value).__name__)
async def test_constants_are_literals_with_their_values(conn: AsyncConnection, value: object) -> None:
    statement, names = compile_fold_statement(
        select(literal(value).label("value"), bindparam("lo", None, type_=Integer))
    )
    assert names == ("lo",)
    async with AsyncRawCursor(conn) as cursor:
        assert await fetch_row(cursor, statement, [5]) == (value, 5)


class Decorated(TypeDecorator[int]):
    """A type that a user defines."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        """Add one."""
        assert dialect
        return None if value is None else value + 1


AS_BIG = bindparam("none", None, type_=Decorated())


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (func.round(literal(5) * literal(0.5)), 2.0),
        (cast(literal(3) * 0.1 * 3, Text), "0.9000000000000001"),
        (func.round(literal(Decimal(7)).op("/")(2), 2), Decimal("3.50")),
        (literal(2**31 - 1, Decorated()) + literal(1, BigInteger), 2**31 + 1),
        (func.pg_typeof(AS_BIG).cast(Text), "bigint"),
        (-literal(-1.5), 1.5),
        (-literal(Decimal("-1.5")), Decimal("1.5")),
        (-literal(-1), 1),
        (literal(7).op("- ")(literal(-7)), 14),
    ],
)
async def test_literals_have_the_types_of_the_parameters_they_replace(
    conn: AsyncConnection, expression: ColumnElement[object], value: object
) -> None:
    statement, _ = compile_fold_statement(select(expression))
    async with AsyncRawCursor(conn) as cursor:
        row = await fetch_row(cursor, statement)
    assert row == (value,)
    assert row is not None
    assert type(row[0]) is type(value)


async def test_lists_null_limits_and_values_are_literals_too(conn: AsyncConnection) -> None:
    given = ["a", "b,\"'c"]
    query = select(
        literal("b").in_(["a", "b"]), literal(given, ARRAY(Text)), literal(None, Text), null(), true()
    ).limit(3)
    statement, names = compile_fold_statement(query)
    assert names == ()
    assert "NULL::VARCHAR" in statement
    async with AsyncRawCursor(conn) as cursor:
        assert await fetch_row(cursor, statement) == (True, given, None, None, True)
    upsert = insert(folding.watched).values(app="it's", event_id="1", ppnum=None, value=3)
    statement, names = compile_fold_statement(
        upsert.on_conflict_do_update(index_elements=["app", "event_id"], set_={"value": 4})
    )
    assert names == ()
    for value in (3, 4):
        await conn.execute(statement.encode())
        rows = await fetch_all(conn, "SELECT app, ppnum, value FROM watched")
        assert rows == [("it's", None, value)]


def test_a_parameter_without_a_value_is_refused_when_the_fold_is_built() -> None:
    with pytest.raises(InvalidRequestError, match="mine"):
        compile_fold_statement(select(bindparam("mine", type_=Integer)))


class Mood(enum.Enum):
    """Is stored as the names of its members."""

    GOOD = 7


async def test_the_value_that_a_type_sends_is_the_literal(conn: AsyncConnection) -> None:
    statement, _ = compile_fold_statement(
        select(literal({"a": [1]}, JSONB), literal(Mood.GOOD, Enum(Mood, native_enum=False)))
    )
    async with AsyncRawCursor(conn) as cursor:
        assert await fetch_row(cursor, statement) == ({"a": [1]}, "GOOD")


def test_a_value_that_psycopg_cannot_send_is_refused_when_the_fold_is_built() -> None:
    with pytest.raises(ProgrammingError, match="object"):
        compile_fold_statement(select(literal(object(), Text)))
