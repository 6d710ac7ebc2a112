"""Moves the rows of erased persons from the number to the token, in the tables of projections that declare how.

Invariants. A projection that declares its personal columns only copies an event's number and message_id into them, and
compares numbers. So putting a token that nobody else has in place of the number, in the events and in these columns,
gives the same rows as folding the changed events. The caller holds all checkpoints: the rows are those of the events up
to the checkpoint, and no fold sees one of the two changes without the other.

Rows are found by the partitions of the person's events, archived ones included, so that a table needs no index on the
number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.postgres.queries import fetch_all, fetch_value
from projections.projection import READ_MODEL_SCHEMA, Projection, number_keys

_MOVE = sql.SQL("""
WITH moved AS (
    UPDATE {table} AS t SET {changes}
    FROM (SELECT p.person, p.ppnum AS number, p.token, {partition}
          FROM pg_temp.erasing_persons AS p JOIN pg_temp.erasing_events AS f ON f.person = p.person
          JOIN eventstore.events AS e ON e.position = f.position
          WHERE p.person = ANY(%(persons)s)
          UNION
          SELECT p.person, p.ppnum, p.token, {partition}
          FROM pg_temp.erasing_persons AS p JOIN pg_temp.erasing_archived AS e ON e.ppnum = p.ppnum
          WHERE p.person = ANY(%(persons)s)) AS d
    WHERE {same_partition} AND t.{number} = d.number
    RETURNING d.person
)
SELECT person, count(*) FROM moved GROUP BY person
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


class RowMoves:
    """The statements that move or count the rows of persons in the tables of one projection.

    Args:
        projection: it declares its personal columns.

    """

    def __init__(self, projection: Projection) -> None:
        self._statements: list[tuple[str, sql.Composed, sql.Composed]] = []
        tables = {table.name: table for table in projection.tables}
        for table, columns in (projection.personal_columns or {}).items():
            partition = projection.partition_of(tables[table])
            messages = [name for name, copied in columns.items() if copied == "message_id"]
            keys = number_keys(tables[table], columns)
            for number in (name for name, copied in columns.items() if copied == "ppnum"):
                parts = {
                    "table": sql.Identifier(READ_MODEL_SCHEMA, table),
                    "number": sql.Identifier(number),
                    "partition": sql.SQL(", ").join(sql.SQL("e.{}").format(sql.Identifier(one)) for one in partition),
                    "same_partition": sql.SQL(" AND ").join(
                        sql.SQL("t.{0} = d.{0}").format(sql.Identifier(one)) for one in partition
                    ),
                    "changes": sql.SQL(", ").join(
                        [
                            sql.SQL("{} = d.token").format(sql.Identifier(number)),
                            *(sql.SQL("{} = NULL").format(sql.Identifier(one)) for one in messages if number in keys),
                        ]
                    ),
                }
                name = f"{READ_MODEL_SCHEMA}.{table}"
                self._statements.append((name, _MOVE.format(**parts), _COUNT.format(**parts)))

    async def move(self, conn: AsyncConnection[Any], persons: Sequence[int]) -> dict[int, Counter[str]]:
        """Move the rows of prepared persons, inside the caller's transaction; returns how many, by person and table.

        Must run before the events are changed.
        """
        found: dict[int, Counter[str]] = {}
        # In between, rows may refer to others that have the token already.
        await conn.execute("SET CONSTRAINTS ALL DEFERRED")
        for table, statement, _ in self._statements:
            _add(found, table, await fetch_all(conn, statement, {"persons": list(persons)}))
        return found

    async def count(self, conn: AsyncConnection[Any]) -> dict[int, Counter[str]]:
        """Count the rows of all prepared persons, by person and table."""
        found: dict[int, Counter[str]] = {}
        for table, _, statement in self._statements:
            _add(found, table, await fetch_all(conn, statement))
        return found


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
