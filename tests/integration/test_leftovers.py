"""The search finds a number in every kind of column, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from eventstore.erasure.number_finder import FEW, NumberFinder
from projections.erasing import leftovers
from projections.erasing.clean_up import vacuum_changed_tables
from projections.erasing.leftovers import Leftover, find_leftovers
from projections.read_models.consent_registry import ConsentRegistry
from tests import folding, rebuilding, store, wire
from tests.databases import Server
from tests.erasing import erase

NUMBER = "12300000000"
MANY = [NUMBER, *(f"4179{number:07}" for number in range(FEW * 20))]


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url) as conn:
        yield conn


@pytest.mark.parametrize("numbers", [[NUMBER], MANY], ids=["one", "many"])
async def test_a_number_is_found_in_every_kind_of_column(
    conn: AsyncConnection, numbers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "SLICE_BYTES", 2 * 8192)
    await conn.execute("CREATE SCHEMA theirs")
    await conn.execute("CREATE TYPE theirs.pair AS (a text, b integer)")
    await conn.execute("CREATE DOMAIN theirs.phone AS text")
    await conn.execute(
        "CREATE TABLE theirs.everything (id bigint PRIMARY KEY, a text, b varchar(40), c char(20), d json, e jsonb,"
        " f bytea, g text[], h jsonb[], i theirs.pair, j theirs.phone, k bigint, empty text)"
    )
    fields = f"'{NUMBER}'"
    filler = "SELECT i, repeat('x', 400) FROM generate_series(1, 99) i"
    await conn.execute(f"INSERT INTO theirs.everything (id, a) {filler}".encode())
    await conn.execute(
        "INSERT INTO theirs.everything VALUES (100, %(a)s, %(n)s::text, %(n)s::text, %(d)s::json, %(e)s, %(f)s,"
        " %(g)s, %(h)s, row(%(n)s::text, 1), %(n)s::text, 12300000000, '')",
        {
            "a": f"call {NUMBER}!",
            "n": NUMBER,
            "d": f'{{"call {NUMBER}": 1}}',
            "e": Jsonb({"deep": [{"number": NUMBER}]}),
            "f": wire.recipient(NUMBER),
            "g": ["x", f"+{NUMBER}"],
            "h": [Jsonb(fields)],
        },
    )
    await conn.execute("CREATE MATERIALIZED VIEW theirs.copies AS SELECT a FROM theirs.everything WHERE id = 100")
    done = await find_leftovers(conn, numbers)
    assert done.found == [
        Leftover("theirs.copies", "a", 1),
        *(Leftover("theirs.everything", column, 1) for column in "abcdefghij"),
    ]
    assert done.unreadable == []
    assert done.tables > 20
    assert (await find_leftovers(conn, ["99999999999", *numbers[1:]])).found == []


@pytest.mark.folded
async def test_nothing_is_left_of_an_erased_person(database_url: str, conn: AsyncConnection) -> None:
    tables = {one.table for one in (await find_leftovers(conn, [NUMBER])).found}
    done = await erase(database_url, NUMBER)
    assert tables == {name for name, rows in done.tables.items() if rows}
    found = await find_leftovers(conn, [NUMBER])
    assert found.found == []
    assert await vacuum_changed_tables(conn, tables) == []
    samples = "SELECT count(*) FROM pg_stats WHERE histogram_bounds::text LIKE %s OR most_common_vals::text LIKE %s"
    assert await store.value(conn, samples, f"%{NUMBER}%", f"%{NUMBER}%") == 0


async def test_columns_that_the_role_may_not_read_are_reported(
    database_url: str, conn: AsyncConnection, postgres: Server
) -> None:
    await conn.execute("CREATE TABLE theirs (a text)")
    async with rebuilding.role(postgres, database_url) as other:
        await conn.execute(sql.SQL("GRANT SELECT ON theirs TO {}").format(sql.Identifier(other.name)))
        async with store.connection(other.url) as session:
            done = await find_leftovers(session, [NUMBER])
    assert done.tables == 1
    assert "eventstore.events.payload" in done.unreadable
    assert "public.theirs.a" not in done.unreadable


async def test_nothing_counts_as_searched_that_was_not(conn: AsyncConnection) -> None:
    await conn.execute("CREATE TABLE hidden (a text)")
    await conn.execute("INSERT INTO hidden VALUES (%s)", [NUMBER])
    await conn.execute("ALTER TABLE hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    await conn.execute("CREATE TABLE rights AS SELECT '{=r/postgres}'::aclitem[] AS a")
    await conn.execute("CREATE MATERIALIZED VIEW unfilled AS SELECT 'x' AS a WITH NO DATA")
    done = await find_leftovers(conn, [NUMBER, "1234"])
    assert (done.unreadable, done.found, done.too_short) == (["public.hidden.a", "public.rights.a"], [], 1)


async def test_in_one_app_only_its_rows_are_searched(conn: AsyncConnection) -> None:
    await conn.execute("CREATE TABLE calls (app text, number text)")
    await conn.execute("CREATE TABLE notes (note text)")
    await conn.execute("INSERT INTO calls VALUES ('a', %(n)s), ('b', %(n)s), ('b', 'x')", {"n": NUMBER})
    await conn.execute("INSERT INTO notes VALUES (%s)", [NUMBER])
    notes = Leftover("public.notes", "note", 1)
    for app, found, shared in (
        (None, [Leftover("public.calls", "number", 2), notes], []),
        ("a", [Leftover("public.calls", "number", 1)], [notes]),
        ("c", [], [notes]),
    ):
        done = await find_leftovers(conn, [NUMBER], app=app)
        assert (done.found, done.shared) == (found, shared)


def test_numbers_that_begin_like_others_are_found() -> None:
    numbers = ["41790000001", "4179000000", "+41790000002", "not a number", *MANY]
    finder = NumberFinder(numbers, varints=True)
    for number in numbers:
        assert finder.is_in(b"\0" + number.encode() + b"9")
        assert finder.is_in(number.encode())
    assert not finder.is_in(b"417900000 12300000001 \0\xff")
    assert not NumberFinder(["1234"]).is_in(b"1234")
    assert finder.is_in(wire.number_field(9, int("41790000001")))


@pytest.mark.folded
async def test_errors_and_rebuilds_keep_no_number(database_url: str, conn: AsyncConnection) -> None:
    """A fold that fails for a person, and a rebuild that shows rows of the person, name the event and nothing else."""
    number = folding.DIVIDES_BY_ZERO
    await folding.create_watched_table(conn)
    await folding.append(conn, folding.new_record(ppnum=number))
    await folding.fold_all(database_url)
    one = folding.worker(database_url, folding.Watched())
    async with folding.worker_connection(one) as own:
        await folding.fold(one, own)
    assert (await folding.checkpoint_row(conn, "watched")).last_error is not None
    await conn.execute("UPDATE consent_registry SET consent_status = 'denied'")
    shown = await rebuilding.rebuild(database_url, ConsentRegistry(), dry_run=True)
    assert shown.samples
    schemas = {found.table.partition(".")[0] for found in (await find_leftovers(conn, [number])).found}
    assert schemas == {"eventstore", "public"}
