"""Finds the events of one person or one request by index, so that their cost hardly grows with the log.

Invariants. The index is never needed: without it the log is read in ranges of positions, each a statement of its own,
so that no snapshot lasts longer than one. With it, one statement finds all events. The planner doesn't know how
selective the filters of the index are, and without statistics it would rather read the log or another index. So the
condition that the index serves stands alone, in a subquery that no other condition gets into, in a session with
``SEARCHING``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from psycopg import AsyncConnection
from sqlalchemy import Subquery, Text, any_, func, literal, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY

from eventstore.postgres.queries import fetch_column
from eventstore.schema import events

PERSON_REQUEST_INDEX = "events_person_request_idx"
SEARCHED_COLUMNS = ("ppnum", "send_request_id")
"""The columns that the index serves; that which has fewer events with one value comes first."""

# Any index will do that finds a value of the column, such as one that the owner created instead of ours.
_INDEXED = """
SELECT DISTINCT a.attname FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS k ON k.oid = i.indexrelid
JOIN pg_catalog.pg_am AS m ON m.oid = k.relam
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
WHERE i.indrelid = 'eventstore.events'::pg_catalog.regclass AND i.indisvalid AND i.indpred IS NULL
  AND a.attname = ANY(%s) AND (m.amname = 'brin' OR i.indkey[0] = a.attnum)
"""


async def read_indexed_columns(conn: AsyncConnection[Any]) -> frozenset[str]:
    """Return those of :data:`SEARCHED_COLUMNS` by whose values an index finds events."""
    return frozenset(await fetch_column(conn, _INDEXED, [list(SEARCHED_COLUMNS)]))


def choose_indexed_value(values: Mapping[str, Any], indexed: Collection[str]) -> tuple[str, str] | None:
    """Return the column, and its value, by which events with all these values are found; None if there is none.

    Args:
        values: columns of events, and the values that they must have.
        indexed: the columns that have an index.

    """
    return next(((name, values[name]) for name in SEARCHED_COLUMNS if name in indexed and values.get(name)), None)


def events_with_value(column: str, value: str) -> Subquery:
    """Return the events that have a value, found by index, with all columns of ``eventstore.events``."""
    values = func.array(select(literal(value, Text)).scalar_subquery(), type_=ARRAY(Text))
    return (
        select(events).where(events.c[column] == any_(values)).offset(literal_column("0")).subquery("events_with_value")
    )
