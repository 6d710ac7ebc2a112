"""Copies the events of a group into the session, so that any number of them can be folded at once, in any order.

Invariants. A fold reads events from a table ``events``, by position. Here that is a view of the copy that shows the
chosen events only, with the positions that they have in the log, so a fold gives the rows that it gives from the log.
The copy costs in proportion to the group's events, whatever the size of the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from psycopg import AsyncConnection, sql

from eventstore.schema import SCHEMA, events

TEMPORARY = "pg_temp"
COPY, VIEW = "explained_events", events.name
LAST_POSITION = 2**63 - 1
COPIED_AT_ONCE = 10_000
"""Events that one statement copies."""

_COLUMNS = sql.SQL(", ").join(sql.Identifier(column.name) for column in events.columns)
_CREATE_COPY = sql.SQL(
    "CREATE TEMPORARY TABLE {} AS SELECT 0::bigint AS place, {} FROM eventstore.events WITH NO DATA"
).format(sql.Identifier(COPY), _COLUMNS)
_CREATE_INDEX = sql.SQL("CREATE INDEX ON {} (place)").format(sql.Identifier(TEMPORARY, COPY))
_CREATE_VIEW = sql.SQL(
    "CREATE TEMPORARY VIEW {} AS SELECT {} FROM {} WHERE place > current_setting('projections.explained_after')::bigint"
    " AND place <= current_setting('projections.explained_up_to')::bigint"
).format(sql.Identifier(VIEW), _COLUMNS, sql.Identifier(TEMPORARY, COPY))
_INSERT = sql.SQL(
    "INSERT INTO {} SELECT chosen.place, {} FROM unnest(%s::bigint[], %s::bigint[]) AS chosen (place, at)"
    " JOIN eventstore.events AS e ON e.position = chosen.at"
).format(
    sql.Identifier(TEMPORARY, COPY),
    sql.SQL(", ").join(sql.Identifier("e", column.name) for column in events.columns),
)
_CHOOSE = (
    "SELECT set_config('projections.explained_after', %s::text, false),"
    " set_config('projections.explained_up_to', %s::text, false)"
)


class HasPosition(Protocol):
    """What is needed of an event here."""

    @property
    def position(self) -> int: ...  # noqa: D102 - as in the log


class GroupEvents(NamedTuple):
    """The copy; its places are 1, 2, 3 and so on, in the order in which the events were given."""

    conn: AsyncConnection[Any]

    @property
    def schemas(self) -> dict[str, str]:
        """The schema from which a fold has to read events."""
        return {SCHEMA: TEMPORARY}

    async def choose(self, after: int, up_to: int) -> None:
        """Let the fold see the events at the places after < p <= up_to.

        Raises:
            psycopg.Error: the database failed, or the connection.

        """
        await self.conn.execute(_CHOOSE, [after, up_to])


async def copy_group_events(conn: AsyncConnection[Any], found: Sequence[HasPosition]) -> GroupEvents:
    """Copy these events, and choose none.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    await conn.execute(_CREATE_COPY)
    await conn.execute(_CREATE_INDEX)
    for start in range(0, len(found), COPIED_AT_ONCE):
        part = found[start : start + COPIED_AT_ONCE]
        places = list(range(start + 1, start + len(part) + 1))
        await conn.execute(_INSERT, [places, [one.position for one in part]])
    copied = GroupEvents(conn)
    await copied.choose(0, 0)
    await conn.execute(_CREATE_VIEW)
    return copied
