"""The partitions of the log, and how an event is found by its id, whether the log is partitioned or not.

Invariants. A log is partitioned if and only if ``eventstore.partitions`` has a row. Partitions follow each other
without a gap, and there is no default one: positions have no gaps either, so each next position belongs into a
partition that is there. One whole partition is made ahead of the one that the head is in.

No event_id is stored twice. Each partition has a key on it, which refuses an id of its own; for other ids of a batch a
trigger looks into those partitions whose ids reach into the batch's. The ids of archived events stay in
``eventstore.event_ids``, where the trigger looks too. So do the ids of partitions that were made before revision 0031:
they have no key. They are the oldest, so the first partition with a key divides the log: ids before it are in
``event_ids``, all others in the events. The view ``eventstore.event_positions`` has the position of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, LiteralString, NamedTuple

from psycopg import AsyncConnection, sql

from eventstore.postgres.queries import fetch_all

BY_ID = sql.SQL(
    "eventstore.event_positions AS i LEFT JOIN LATERAL"
    " (SELECT * FROM eventstore.events AS e WHERE e.position = i.position OFFSET 0) AS e ON true"
)
"""What follows FROM to find events by ``i.event_id``: the columns of ``e`` are NULL if the event is archived.

OFFSET 0 keeps the planner from reading whole partitions: each event is found by index in the partition that it is in.
"""

BY_ID_IN_MODE: Mapping[bool, Mapping[str, sql.SQL]] = MappingProxyType(
    {
        False: {"id": sql.SQL("i.event_id"), "by_id": BY_ID},
        True: {"id": sql.SQL("e.event_id"), "by_id": sql.SQL("eventstore.events AS e")},
    }
)
"""The same, and the column of the id, by whether the log is distributed: then events of several servers aren't joined
by position, and the log isn't partitioned."""

# OFFSET 0 as above; and the planner can't join the view of a partitioned log by an index.
_EVENTS_WITH_ID: Mapping[bool, sql.SQL] = MappingProxyType(
    {
        False: sql.SQL(
            "JOIN LATERAL (SELECT position FROM eventstore.event_positions WHERE event_id = {id} OFFSET 0) AS i ON true"
            " JOIN LATERAL (SELECT * FROM eventstore.events WHERE position = i.position OFFSET 0) AS e ON true"
        ),
        True: sql.SQL("JOIN eventstore.events AS e ON e.event_id = {id}"),
    }
)

FIRST_PARTITION_CHECK = "events_first_partition_check"
"""The check by which a table can become a partition without being read; it is there for a moment only."""

LAST_PARTITION = sql.SQL(
    "(SELECT first_position, last_position FROM eventstore.partitions ORDER BY last_position DESC LIMIT 1)"
)
MAKE_PARTITIONS: LiteralString = "SELECT eventstore.make_partitions(%s)"

_LIST = "SELECT name, first_position, last_position, has_key FROM eventstore.partitions ORDER BY first_position"


def joining_by_id(statement: LiteralString, table: LiteralString) -> Mapping[bool, sql.Composed]:
    """Return a statement by whether the log is distributed, with ``{events}`` replaced by a join of stored events.

    Args:
        statement: the events are ``e`` in it.
        table: the name in the statement of what has the ``event_id`` of each.

    """
    of_table = sql.Identifier(table, "event_id")
    return {mode: sql.SQL(statement).format(events=join.format(id=of_table)) for mode, join in _EVENTS_WITH_ID.items()}


class Partition(NamedTuple):
    """A table ``eventstore.NAME``, and the first and the last position that belong into it.

    Without ``has_key``, the ids of its events are in ``eventstore.event_ids``.
    """

    name: str
    first_position: int
    last_position: int
    has_key: bool


async def list_partitions(conn: AsyncConnection[Any]) -> list[Partition]:
    """Return the partitions of the log in order of position; none if it is one table.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    return [Partition(*row) for row in await fetch_all(conn, _LIST)]
