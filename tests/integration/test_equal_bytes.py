"""A read model and its shadow are compared by bytes, whatever the types of the columns call equal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
from psycopg import AsyncConnection, sql
from sqlalchemy import (
    CHAR,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import TypeEngine

from projections.folding.run_statement import execute_and_count
from projections.folding.sql_text import compile_ddl, compile_with_numbered_parameters
from projections.folding.table_copies import plain_copy
from projections.rebuilding.shadow_tables import create_shadow_schema
from projections.rebuilding.table_difference import TableDifference
from tests.queries import fetch_all

_TIMES = ("infinity", "-infinity", "2026-01-01", "2026-01-01 00:00:00.000001", "0044-03-15 BC")
KINDS: dict[str, tuple[TypeEngine[Any], Sequence[str]]] = {
    "text": (Text(), ("", "a", "A", "a ", "é", "e\u0301", "long" * 3000, "long" * 2999 + "lonG")),
    "collated": (Text(collation="C"), ("", "a", "A", "a ")),
    "varchar": (String(20), ("", "a", "A", "a ")),
    "char": (CHAR(4), ("", "a", "A", "ab")),
    "boolean": (Boolean(), ("true", "false")),
    "smallint": (SmallInteger(), ("0", "1", "-1")),
    "integer": (Integer(), ("0", "1", "-1")),
    "bigint": (BigInteger(), ("0", "1", "4294967297", "-1")),
    "numeric": (Numeric(), ("0", "0.0", "1", "1.0", "1.00", "NaN")),
    "double": (Double(), ("0.0", "-0.0", "1", "NaN", "1e-300")),
    "timestamptz": (DateTime(timezone=True), _TIMES),
    "timestamp": (DateTime(), _TIMES),
    "date": (Date(), ("infinity", "2026-01-01", "0044-03-15 BC")),
    "interval": (Interval(), ("1 day", "24 hours", "1 month", "30 days")),
    "bytea": (LargeBinary(), ("", "\\x00", "\\x0000", "\\x01")),
    "uuid": (Uuid(), ("00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000001")),
    "texts": (ARRAY(Text()), ("{}", '{""}', "{NULL}", "{a}", "{A}", "[0:0]={a}")),
    "numerics": (ARRAY(Numeric()), ("{1.0}", "{1.00}")),
    "json": (JSON(), ("1", "1 ", "1.0")),
    "jsonb": (JSONB(), ("1", "1.0", '"1"', '{"a": 1}', '{"a": 1.0}')),
}
"""By type: values that differ in their bytes; of some types they are equal all the same."""

kinds = Table(
    "kinds",
    MetaData(schema="public"),
    Column("key", Text(collation="C"), primary_key=True),
    *(Column(f"a {name}", kind) for name, (kind, _) in KINDS.items()),
)
only_a_key = Table("only_a_key", MetaData(schema="public"), Column("key", Text(collation="C"), primary_key=True))


async def tables(conn: AsyncConnection, live: Table) -> TableDifference:
    """Create a table and its shadow."""
    await create_shadow_schema(conn)
    copy = plain_copy(live, MetaData(), "projections_shadow", logged=False)
    difference = TableDifference("differing", live, copy)
    for table in (live, copy, difference.keys):
        await conn.execute(compile_ddl(CreateTable(table)).encode())
    return difference


async def differing(conn: AsyncConnection, difference: TableDifference) -> list[str]:
    count = await execute_and_count(conn, difference.insert_differing_keys())
    keys = [key for (key,) in await fetch_all(conn, "SELECT key FROM pg_temp.differing ORDER BY key")]
    assert count == len(keys)
    return keys


async def insert(conn: AsyncConnection, table: Table, column: str, rows: Sequence[tuple[str, str | None]]) -> None:
    statement = sql.SQL("INSERT INTO {} (key, {}) VALUES (%s, %s)").format(
        sql.Identifier(str(table.schema), table.name), sql.Identifier(column)
    )
    async with conn.cursor() as cursor:
        await cursor.executemany(statement, rows)


@pytest.mark.oldest
async def test_values_are_compared_by_their_bytes(conn: AsyncConnection) -> None:
    difference = await tables(conn, kinds)
    expected = ["extra", "missing"]
    await insert(conn, difference.live, "a text", [("extra", None)])
    await insert(conn, difference.copy, "a text", [("missing", None)])
    for name, (_, values) in KINDS.items():
        pairs = {f"{name} {number}": pair for number, pair in enumerate(product((None, *values), repeat=2))}
        await insert(conn, difference.live, f"a {name}", [(key, old) for key, (old, _) in pairs.items()])
        await insert(conn, difference.copy, f"a {name}", [(key, new) for key, (_, new) in pairs.items()])
        expected += [key for key, (old, new) in pairs.items() if old != new]
    assert await differing(conn, difference) == sorted(expected)


async def test_rows_that_are_only_a_key_are_compared(conn: AsyncConnection) -> None:
    difference = await tables(conn, only_a_key)
    await conn.execute("INSERT INTO public.only_a_key VALUES ('extra'), ('both')")
    await conn.execute("INSERT INTO projections_shadow.only_a_key VALUES ('both'), ('missing')")
    assert await differing(conn, difference) == ["extra", "missing"]


def test_texts_are_compared_under_a_collation_that_only_equal_bytes_are_equal_in() -> None:
    """The owner may have given a column another collation than the code has; servers without ICU have none to try."""
    difference = TableDifference("differing", kinds, plain_copy(kinds, MetaData(), "projections_shadow"))
    statement, _ = compile_with_numbered_parameters(difference.insert_differing_keys(), {})
    for name in ("text", "collated", "varchar"):
        assert statement.count(f'kinds."a {name}" COLLATE "C") ') == 2, statement
