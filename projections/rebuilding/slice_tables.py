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
# Autovacuum would read them for nothing, and hold up the step that empties or attaches them for up to a second each.
_ALONE = sql.SQL("WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)")
_CREATE_SLICE = sql.SQL("CREATE UNLOGGED TABLE {} PARTITION OF {} FOR VALUES WITH (MODULUS {}, REMAINDER {}) {}")
_CREATE_ROWS = sql.SQL("CREATE UNLOGGED TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES EXCLUDING COMMENTS) {}")
_ADD_KEY = sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})")
_ATTACH = sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES WITH (MODULUS {}, REMAINDER {})")
_TRUNCATE = sql.SQL("TRUNCATE {}")
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
        statements = [_CREATE_EVENTS.format(self.events, texts, of), self._mark(self.events)]
        for number in range(slices):
            name = self.events_of(number)
            statements += [_CREATE_SLICE.format(name, self.events, slices, number, _ALONE), self._mark(name)]
        await conn.execute(_in_one_message(statements))

    async def create_rows(self, conn: AsyncConnection[Any], number: int, copies: Sequence[Table]) -> None:
        """Create the tables for the rows of one slice, without keys."""
        statements = []
        for rows, copy in zip(self.rows_of(number, len(copies)), copies, strict=True):
            statements += [_CREATE_ROWS.format(rows, _of_shadow(copy), _ALONE), self._mark(rows)]
        await conn.execute(_in_one_message(statements))

    async def attach(self, conn: AsyncConnection[Any], number: int, copies: Sequence[Table], slices: int) -> None:
        """Build the keys of the rows of a slice, empty its events, and make the rows partitions of the shadow's tables.

        Postgres checks that the rows belong there.

        Raises:
            psycopg.errors.UniqueViolation: two rows have the same key.

        """
        tables = list(zip(self.rows_of(number, len(copies)), copies, strict=True))
        keys = [_ADD_KEY.format(rows, _key_of(copy)) for rows, copy in tables]
        # The locks of these are on tables that other sessions need too, so they come last.
        empty = _TRUNCATE.format(self.events_of(number))
        attached = [_ATTACH.format(_of_shadow(copy), rows, slices, number) for rows, copy in tables]
        await conn.execute(_in_one_message([*keys, empty, *attached]))

    def mark_steps(self) -> sql.Composed:
        """Return the statement that gives the table of the steps the shadow's comment."""
        return self._mark(self.steps)

    def _mark(self, name: sql.Identifier) -> sql.Composed:
        return _COMMENT.format(name, self._comment)

    def _name(self, of: str) -> sql.Identifier:
        return sql.Identifier(SHADOW_SCHEMA, f"{self._prefix}_{of}")


def _of_shadow(copy: Table) -> sql.Identifier:
    return sql.Identifier(SHADOW_SCHEMA, copy.name)


def _key_of(copy: Table) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column.name) for column in copy.primary_key.columns)


def _in_one_message(statements: Sequence[sql.Composed]) -> sql.Composed:
    """Return statements as one text, which is sent in one message; each still has the whole statement_timeout."""
    return sql.SQL("; ").join(statements)
