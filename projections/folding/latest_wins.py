"""Writes rows that carry their event_id: each one replaces the stored row only if its event_id is greater."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, LiteralString, TypeAlias

from psycopg import AsyncConnection
from sqlalchemy import Table, bindparam
from sqlalchemy.dialects.postgresql import insert

from eventstore.redaction.redact import redact
from projections.errors import InvalidProjection
from projections.folding.sql_text import DIALECT, Schemas, compile_statement

EVENT_ID = "event_id"
DELETED = "deleted"

LatestRows: TypeAlias = dict[tuple[Any, ...], tuple[str, Mapping[str, Any]]]
"""The greatest event_id and its row's values, by primary key."""


class LatestWinsTable:
    """A table in which the row with the greatest event_id wins.

    Args:
        table: a table with the columns ``event_id`` and ``deleted``.
        schemas: another schema for the table's; None for none.

    """

    def __init__(self, table: Table, schemas: Schemas | None = None) -> None:
        self._table = table
        self._schemas = schemas
        self._key = [column.name for column in table.primary_key.columns]
        # Postgres itself computes the computed columns.
        self._columns = [column.name for column in table.c if column.computed is None]
        self._allowed = frozenset(self._columns) - {EVENT_ID, DELETED}
        self._to_driver = {name: _to_driver(table, name) for name in self._columns}
        self._statements: dict[tuple[str, ...], LiteralString] = {}

    def key_of(self, values: Mapping[str, Any], *, is_tombstone: bool) -> tuple[Any, ...]:
        """Return the values of the primary key.

        Args:
            values: a row's values, by column name.
            is_tombstone: whether the row may have only key columns.

        Raises:
            InvalidProjection: the row has a column that it may not have, or lacks one of the key.

        """
        name = self._table.name
        extra = [column for column in values if column not in (self._key if is_tombstone else self._allowed)]
        if extra:
            names = ", ".join(redact(column) for column in sorted(extra))  # whatever handle made of the event
            if is_tombstone:
                raise InvalidProjection(f"a tombstone of {name} sets {names}, which is not in the primary key")
            raise InvalidProjection(f"a row of {name} sets {names}, which handle may not set")
        missing = [column for column in self._key if values.get(column) is None]
        if missing:
            raise InvalidProjection(f"a row of {name} must set {', '.join(missing)} of the primary key")
        return tuple(values[column] for column in self._key)

    async def write(self, conn: AsyncConnection[Any], rows: LatestRows) -> None:
        """Write the rows that are newer than the stored ones; works inside a pipeline.

        Raises:
            psycopg.Error: the database failed, or refuses a row.

        """
        batches: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for event_id, values in rows.values():
            row = {**values, EVENT_ID: event_id}
            columns = tuple(name for name in self._columns if name in row)
            batches.setdefault(columns, []).append({name: self._to_driver[name](row[name]) for name in columns})
        async with conn.cursor() as cursor:
            for columns, batch in batches.items():
                await cursor.executemany(self._statement(columns), batch)

    def _statement(self, columns: tuple[str, ...]) -> LiteralString:
        known = self._statements.get(columns)
        if known is not None:
            return known
        parameters = {name: bindparam(name, None, type_=self._table.c[name].type) for name in columns}
        new = insert(self._table).values(parameters)
        # Columns that the row leaves out are set to their defaults, so that nothing of an older row stays.
        upsert = new.on_conflict_do_update(
            index_elements=self._key,
            set_={name: new.excluded[name] for name in self._columns if name not in self._key},
            where=self._table.c.event_id < new.excluded.event_id,
        )
        statement, _ = compile_statement(upsert, self._schemas)
        self._statements[columns] = statement
        return statement


def _to_driver(table: Table, name: str) -> Callable[[Any], Any]:
    processor = table.c[name].type.dialect_impl(DIALECT).bind_processor(DIALECT)
    if processor is not None:
        return processor
    return lambda value: value.value if isinstance(value, Enum) else value
