"""Moves the rows of erased persons from the number to the token, in the tables of projections that declare how.

Invariants. A projection that declares its personal columns only copies an event's number and message_id into them, and
compares numbers. So putting a token that nobody else has in place of the number, in the events and in these columns,
gives the same rows as folding the changed events. The caller holds all checkpoints: the rows are those of the events up
to the checkpoint, and no fold sees one of the two changes without the other.

Rows are found by the partitions of the person's events, archived ones included, so that a table needs no index on the
number.

The column by which Citus distributes a table can't be updated. If it has the number, the rows are added with the token,
in all tables of the projection, and then those with the number are removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql
from sqlalchemy import Table

from eventstore.postgres.queries import fetch_all, fetch_value
from projections.projection import READ_MODEL_SCHEMA, Projection, number_keys

_PARTITIONS = sql.SQL("""(
    SELECT p.person, p.ppnum AS number, p.token, {partition}
    FROM pg_temp.erasing_persons AS p JOIN pg_temp.erasing_events AS f ON f.person = p.person
    JOIN eventstore.events AS e ON e.position = f.position
    WHERE p.person = ANY(%(persons)s)
    UNION
    SELECT p.person, p.ppnum, p.token, {partition}
    FROM pg_temp.erasing_persons AS p JOIN pg_temp.erasing_archived AS e ON e.ppnum = p.ppnum
    WHERE p.person = ANY(%(persons)s)) AS d
    {on} {same_partition} AND t.{number} = d.number""")
_MOVE = sql.SQL("""
WITH moved AS (
    UPDATE {table} AS t SET {changes} FROM {partitions} RETURNING d.person
)
SELECT person, count(*) FROM moved GROUP BY person
""")
_ADD = sql.SQL("INSERT INTO {table} ({columns}) SELECT {values} FROM {table} AS t JOIN {partitions}")
_REMOVE = sql.SQL("""
WITH removed AS (
    DELETE FROM {table} AS t USING {partitions} RETURNING d.person
)
SELECT person, count(*) FROM removed GROUP BY person
""")
_COUNT = sql.SQL("""
SELECT d.person, count(*) FROM {table} AS t
JOIN (SELECT p.person, p.ppnum AS number, {partition}
      FROM pg_temp.erasing_persons AS p JOIN pg_temp.erasing_events AS f ON f.person = p.person
      JOIN eventstore.events AS e ON e.position = f.position
      UNION
      SELECT p.person, p.ppnum, {partition}
      FROM pg_temp.erasing_persons AS p JOIN pg_temp.erasing_archived AS e ON e.ppnum = p.ppnum) AS d
  ON {same_partition} AND t.{number} = d.number
GROUP BY d.person
""")


def splits_by_app(projection: Projection) -> bool:
    """Return whether each row belongs to one app, so that a person can be erased in one app only."""
    return "app" in projection.partition_by


def can_move(projection: Projection, app: str | None, versions: Mapping[str, int]) -> bool:
    """Return whether a projection's rows can be moved by key when persons are erased in an app, or in all (None).

    Rows of another version than the code's may have other columns, and may depend on numbers in another way.
    """
    is_of_this_code = versions.get(projection.name, projection.version) == projection.version
    return projection.personal_columns is not None and is_of_this_code and (app is None or splits_by_app(projection))


class _Statements(NamedTuple):
    """The statements for one copy of the number in one table: those that change rows, and the one that counts them.

    ``add`` is only for a column that can't be updated; ``change`` then removes what ``add`` has copied.
    """

    table: str
    add: sql.Composed | None
    change: sql.Composed
    total: sql.Composed


class RowMoves:
    """The statements that move or count the rows of persons in the tables of one projection.

    Args:
        projection: it declares its personal columns.
        distributed_by: the columns by which tables are distributed, by the table's name; None on one server.

    """

    def __init__(self, projection: Projection, distributed_by: Mapping[str, str] | None = None) -> None:
        self._statements: list[_Statements] = []
        tables = {table.name: table for table in projection.tables}
        for table, columns in (projection.personal_columns or {}).items():
            partition = projection.partition_of(tables[table])
            numbers = [name for name, copied in columns.items() if copied == "ppnum"]
            # Those by which the rows are found come last.
            numbers = [*(one for one in numbers if one not in partition), *(one for one in numbers if one in partition)]
            fixed = (distributed_by or {}).get(f"{READ_MODEL_SCHEMA}.{table}")
            # All copies of the number are in the rows that are added.
            for number in [fixed] if fixed in numbers else numbers:
                can_update = number != fixed
                self._statements.append(_compose(tables[table], columns, partition, number, can_update=can_update))

    async def move(self, conn: AsyncConnection[Any], persons: Sequence[int]) -> dict[int, Counter[str]]:
        """Move the rows of prepared persons, inside the caller's transaction; returns how many, by person and table.

        Must run before the events are changed.
        """
        found: dict[int, Counter[str]] = {}
        values = {"persons": list(persons)}
        # In between, rows may refer to others that have the token already.
        await conn.execute("SET CONSTRAINTS ALL DEFERRED")
        for one in self._statements:
            if one.add is not None:
                await conn.execute(one.add, values)
        updates = [one for one in self._statements if one.add is None]
        removals = [one for one in self._statements if one.add is not None]
        for one in (*updates, *reversed(removals)):
            _add(found, one.table, await fetch_all(conn, one.change, values))
        return found

    async def count(self, conn: AsyncConnection[Any]) -> dict[int, Counter[str]]:
        """Count the rows of all prepared persons, by person and table."""
        found: dict[int, Counter[str]] = {}
        for one in self._statements:
            _add(found, one.table, await fetch_all(conn, one.total))
        return found


def _compose(
    table: Table, columns: Mapping[str, str], partition: Sequence[str], number: str, *, can_update: bool
) -> _Statements:
    messages = [name for name, copied in columns.items() if copied == "message_id"]
    clears = messages if number in number_keys(table, columns) else []
    parts = {
        "table": sql.Identifier(READ_MODEL_SCHEMA, table.name),
        "number": sql.Identifier(number),
        "partition": sql.SQL(", ").join(sql.SQL("e.{}").format(sql.Identifier(one)) for one in partition),
        "same_partition": sql.SQL(" AND ").join(
            sql.SQL("t.{0} = d.{0}").format(sql.Identifier(one)) for one in partition
        ),
    }
    where, on = (_PARTITIONS.format(on=sql.SQL(word), **parts) for word in ("WHERE", "ON"))
    add = None
    if can_update:
        changes = [sql.SQL("{} = d.token").format(sql.Identifier(number))]
        changes += [sql.SQL("{} = NULL").format(sql.Identifier(one)) for one in clears]
        change = _MOVE.format(table=parts["table"], changes=sql.SQL(", ").join(changes), partitions=where)
    else:
        names = [one.name for one in table.columns if one.computed is None]
        copies = {name for name, copied in columns.items() if copied == "ppnum"}
        values = [_value(name, is_copy=name in copies, is_cleared=name in clears) for name in names]
        add = _ADD.format(
            table=parts["table"],
            columns=sql.SQL(", ").join(map(sql.Identifier, names)),
            values=sql.SQL(", ").join(values),
            partitions=on,
        )
        change = _REMOVE.format(table=parts["table"], partitions=where)
    return _Statements(f"{READ_MODEL_SCHEMA}.{table.name}", add, change, _COUNT.format(**parts))


def _value(name: str, *, is_copy: bool, is_cleared: bool) -> sql.Composable:
    if is_cleared:
        return sql.NULL
    column = sql.SQL("t.{}").format(sql.Identifier(name))
    return sql.SQL("CASE {0} WHEN d.number THEN d.token ELSE {0} END").format(column) if is_copy else column


def _add(found: dict[int, Counter[str]], table: str, rows: Iterable[tuple[int, int]]) -> None:
    for person, count in rows:
        found.setdefault(person, Counter())[table] += count


async def existing_tables_only(
    conn: AsyncConnection[Any], projections: Mapping[str, Projection]
) -> dict[str, Projection]:
    """Return the projections whose tables all exist."""
    found = {}
    for name, projection in projections.items():
        names = [sql.Identifier(READ_MODEL_SCHEMA, table.name).as_string(conn) for table in projection.tables]
        missing = await fetch_value(
            conn, "SELECT count(*) FROM unnest(%s::text[]) AS t (name) WHERE to_regclass(name) IS NULL", [names]
        )
        if not missing:
            found[name] = projection
    return found
