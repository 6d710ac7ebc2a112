"""The tables of a sliced replay, beside the shadow's: the events of each slice, their rows, and the steps.

Invariants. The shadow's tables are partitioned by the same hash of the same columns as the events are, so the rows of a
slice are those of one partition. All tables have the shadow's comment: whoever drops the shadow drops them too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection, sql
from sqlalchemy import Column, MetaData, Table
from sqlalchemy.schema import CreateTable

from projections.folding.sql_text import compile_ddl
from projections.rebuilding.shadow_tables import SHADOW_SCHEMA

_CREATE_EVENTS = sql.SQL("CREATE TABLE {} ({}) PARTITION BY HASH ({})")
_CREATE_SLICE = sql.SQL("CREATE UNLOGGED TABLE {} PARTITION OF {} FOR VALUES WITH (MODULUS {}, REMAINDER {})")
_CREATE_ROWS = sql.SQL("CREATE UNLOGGED TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES EXCLUDING COMMENTS)")
_ADD_KEY = sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})")
_ATTACH = sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES WITH (MODULUS {}, REMAINDER {})")
_COMMENT = sql.SQL("COMMENT ON TABLE {} IS {}")


class SliceTables:
    """The names of the tables of one projection's slices, and the statements that create them.

    Args:
        projection: the projection's name.
        comment: the comment of the shadow's tables.

    Attributes:
        events: the table of the events of all slices.
        steps: the table of the steps.

    """

    def __init__(self, projection: str, comment: str) -> None:
        self._prefix = f"slices_{hashlib.sha256(projection.encode()).hexdigest()[:16]}"
        self._comment = comment
        self.events = self._name("events")
        self.steps = self._name("steps")

    def events_of(self, number: int) -> sql.Identifier:
        """Return the table of the events of a slice."""
        return self._name(f"events_{number}")

    def rows_of(self, number: int, tables: int) -> list[sql.Identifier]:
        """Return the tables of the rows of a slice, in the order of the projection's tables."""
        return [self._name(f"rows_{table}_{number}") for table in range(tables)]

    async def create_events(
        self, conn: AsyncConnection[Any], columns: Sequence[Column[object]], partition: Sequence[str], slices: int
    ) -> None:
        """Create the tables of the slices' events, empty."""
        shape = Table("slice_of_events", MetaData(), *(Column(column.name, column.type) for column in columns))
        texts = sql.SQL(compile_ddl(CreateTable(shape)).partition("(")[2].rpartition(")")[0])
        of = sql.SQL(", ").join(map(sql.Identifier, partition))
        await conn.execute(_CREATE_EVENTS.format(self.events, texts, of))
        await self._mark(conn, self.events)
        for number in range(slices):
            name = self.events_of(number)
            await conn.execute(_CREATE_SLICE.format(name, self.events, sql.Literal(slices), sql.Literal(number)))
            await self._mark(conn, name)

    async def create_rows(self, conn: AsyncConnection[Any], rows: sql.Identifier, copy: Table) -> None:
        """Create a table for rows of one slice, without a key."""
        await conn.execute(_CREATE_ROWS.format(rows, _of_shadow(copy)))
        await self._mark(conn, rows)

    async def add_key(self, conn: AsyncConnection[Any], rows: sql.Identifier, copy: Table) -> None:
        """Build the key of a table of rows.

        Raises:
            psycopg.errors.UniqueViolation: two rows have the same key.

        """
        key = sql.SQL(", ").join(sql.Identifier(column.name) for column in copy.primary_key.columns)
        await conn.execute(_ADD_KEY.format(rows, key))

    async def attach(
        self, conn: AsyncConnection[Any], rows: sql.Identifier, copy: Table, slices: int, number: int
    ) -> None:
        """Make a table of rows a partition of the shadow's table; Postgres checks that its rows belong there."""
        await conn.execute(_ATTACH.format(_of_shadow(copy), rows, sql.Literal(slices), sql.Literal(number)))

    async def _mark(self, conn: AsyncConnection[Any], name: sql.Identifier) -> None:
        await conn.execute(_COMMENT.format(name, sql.Literal(self._comment)))

    async def mark_steps(self, conn: AsyncConnection[Any]) -> None:
        """Give the table of the steps the shadow's comment."""
        await self._mark(conn, self.steps)

    def _name(self, of: str) -> sql.Identifier:
        return sql.Identifier(SHADOW_SCHEMA, f"{self._prefix}_{of}")


def _of_shadow(copy: Table) -> sql.Identifier:
    return sql.Identifier(SHADOW_SCHEMA, copy.name)
