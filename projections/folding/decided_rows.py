"""Writes rows that carry the event_id of the event that decides them: of each key, the latest or the first.

Invariants. In a table where the latest wins, a row replaces the stored one only if its event_id is greater; in a table
where the first wins, only if it is less. Nothing else decides, so rows don't depend on the order of events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal, LiteralString, TypeAlias, cast, get_args

from psycopg import AsyncConnection, AsyncCursor
from sqlalchemy import Table, bindparam
from sqlalchemy.dialects.postgresql import insert

from eventstore.redaction.redact import redact
from projections.errors import InvalidProjection
from projections.folding.sql_text import DIALECT, Schemas, compile_statement

EVENT_ID = "event_id"
DELETED = "deleted"

WINS = "wins"
"""The key of ``Table.info`` that says which event decides a row; without it, the latest."""

Wins: TypeAlias = Literal["latest", "first"]
"""Which event decides a row: the one with the greatest event_id, or the one with the least."""

DecidedRows: TypeAlias = dict[tuple[Any, ...], tuple[str, Mapping[str, Any]]]
"""The event_id that decides, and its row's values, by primary key."""


def which_wins(table: Table) -> Wins:
    """Return which event decides a row of a table.

    Raises:
        InvalidProjection: the table's ``info`` has another word than the two.

    """
    wins = table.info.get(WINS, "latest")
    if wins not in get_args(Wins):
        raise InvalidProjection(f"table {table.name}: info[{WINS!r}] must be 'latest' or 'first', not {wins!r}")
    return cast("Wins", wins)


class DecidedTable:
    """A table in which one event decides each row, by its event_id.

    Args:
        table: a table with the column ``event_id``, and with ``deleted`` if it takes tombstones.
        schemas: another schema for the table's; None for none.

    """

    def __init__(self, table: Table, schemas: Schemas | None = None) -> None:
        self._table = table
        self._first_wins = which_wins(table) == "first"
        self._takes_tombstones = DELETED in table.c
        self._schemas = schemas
        self._key = [column.name for column in table.primary_key.columns]
        # Postgres itself computes the computed columns.
        self._columns = [column.name for column in table.c if column.computed is None]
        self._allowed = frozenset(self._columns) - {EVENT_ID, DELETED}
        self._to_driver = {name: _to_driver(table, name) for name in self._columns}
        self._statements: dict[tuple[str, ...], LiteralString] = {}

    def add(self, rows: DecidedRows, event_id: str, values: Mapping[str, Any], *, is_tombstone: bool) -> None:
        """Add a row to those that are to be written, if no other event decides its key.

        Of two rows of one event for one key, the later one counts where the latest wins, and the earlier one where the
        first wins.

        Raises:
            InvalidProjection: as :meth:`key_of`.

        """
        key = self.key_of(values, is_tombstone=is_tombstone)
        known = rows.get(key)
        if known is None or (event_id < known[0] if self._first_wins else event_id >= known[0]):
            rows[key] = (event_id, {**values, DELETED: is_tombstone} if self._takes_tombstones else values)

    def key_of(self, values: Mapping[str, Any], *, is_tombstone: bool) -> tuple[Any, ...]:
        """Return the values of the primary key.

        Args:
            values: a row's values, by column name.
            is_tombstone: whether the row may have only key columns.

        Raises:
            InvalidProjection: the row has a column that it may not have, or lacks one of the key; or it is a tombstone
                and the table takes none.

        """
        name = self._table.name
        if is_tombstone and not self._takes_tombstones:
            raise InvalidProjection(f"{name} takes no tombstones, because it has no column {DELETED}")
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

    async def write(self, conn: AsyncConnection[Any], rows: DecidedRows) -> None:
        """Write the rows that win against the stored ones; works inside a pipeline.

        Raises:
            psycopg.Error: the database failed, or refuses a row.

        """
        batches: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for event_id, values in rows.values():
            row = {**values, EVENT_ID: event_id}
            columns = tuple(name for name in self._columns if name in row)
            batches.setdefault(columns, []).append({name: self._to_driver[name](row[name]) for name in columns})
        async with AsyncCursor(conn) as cursor:  # personal data may not be in a statement's text
            for columns, batch in batches.items():
                await cursor.executemany(self._statement(columns), batch)

    def _statement(self, columns: tuple[str, ...]) -> LiteralString:
        known = self._statements.get(columns)
        if known is not None:
            return known
        parameters = {name: bindparam(name, None, type_=self._table.c[name].type) for name in columns}
        new = insert(self._table).values(parameters)
        stored, theirs = self._table.c.event_id, new.excluded.event_id
        # Columns that the row leaves out are set to their defaults, so that nothing of an older row stays.
        upsert = new.on_conflict_do_update(
            index_elements=self._key,
            set_={name: new.excluded[name] for name in self._columns if name not in self._key},
            where=stored > theirs if self._first_wins else stored < theirs,
        )
        statement, _ = compile_statement(upsert, self._schemas)
        self._statements[columns] = statement
        return statement


def _to_driver(table: Table, name: str) -> Callable[[Any], Any]:
    processor = table.c[name].type.dialect_impl(DIALECT).bind_processor(DIALECT)
    if processor is not None:
        return processor
    return lambda value: value.value if isinstance(value, Enum) else value
