"""Measures appending decoded events, and appending them again; the reference is a bare binary COPY."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.events import EVENTS, MIX, decoded, simulated
from benchmarks.harness import Postgres, Result, interleaved, result
from eventstore.appending.append import Appender
from eventstore.contracts import Event
from eventstore.postgres.connection import connect
from eventstore.waits import Waits

BATCH = 5_000
TABLE_DDL = "CREATE TABLE public.bare (LIKE eventstore.events INCLUDING ALL)"
TRIGGERS = (
    """CREATE TRIGGER refuse_change_statement BEFORE UPDATE OR DELETE OR TRUNCATE ON public.bare
       FOR EACH STATEMENT EXECUTE FUNCTION eventstore.refuse_change()""",
    """CREATE TRIGGER refuse_change_row BEFORE UPDATE OR DELETE ON public.bare
       FOR EACH ROW EXECUTE FUNCTION eventstore.refuse_change()""",
    "ALTER TABLE public.bare ENABLE ALWAYS TRIGGER refuse_change_statement",
    "ALTER TABLE public.bare ENABLE ALWAYS TRIGGER refuse_change_row",
)
COLUMNS = (*Event._fields, "position", "received_at")
COPY = sql.SQL("COPY public.bare ({}) FROM STDIN (FORMAT binary)").format(
    sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
)
TYPES = {
    "event_type": "int4",
    "poll_options": "text[]",
    "poll_options_dropped": "int4",
    "summary_status": "int4",
    "total_recipients": "int4",
    "delivered": "int4",
    "failed": "int4",
    "pending_consent": "int4",
    "occurred_at": "timestamptz",
    "payload": "bytea",
    "recipient_created_at": "timestamptz",
    "summary_created_at": "timestamptz",
    "summary_completed_at": "timestamptz",
    "position": "int8",
    "received_at": "timestamptz",
}
REFERENCE = "bare psycopg binary COPY"


def append(postgres: Postgres) -> Result:
    """Append 200,000 decoded events in batches of 5,000, with a commit for each batch."""
    return _measure("append", postgres, again=False)


def append_duplicates(postgres: Postgres) -> Result:
    """Append the same events again: each of them is a duplicate."""
    return _measure("append_duplicates", postgres, again=True)


def _measure(name: str, postgres: Postgres, *, again: bool) -> Result:
    events = decoded(simulated())

    def ours(_round: int) -> float:
        with postgres.database() as url:
            if again:
                asyncio.run(append_in_batches(url, events))
            return len(events) / asyncio.run(append_in_batches(url, events))

    def reference(_round: int) -> float:
        with postgres.database() as url:
            return len(events) / _copy(url, events)

    mine, theirs = interleaved(ours, reference)
    detail: dict[str, Any] = {
        "events": EVENTS,
        "mix": MIX,
        "batch": BATCH,
        "reference_code": "benchmarks/append.py: _copy (sync psycopg, cursor.copy + write_row, types set, autocommit)",
        "reference_ddl": [TABLE_DDL, *TRIGGERS],
        "settings": postgres.settings(),
        "versions": postgres.versions(),
    }
    return result(name, "events/s", REFERENCE, mine, theirs, detail)


async def append_in_batches(url: str, events: Sequence[Event]) -> float:
    """Append events with one appender; return the seconds."""
    conn = await connect(url, name="bench", waits=Waits())
    appender = Appender(conn, Waits())
    began = perf_counter()
    for start in range(0, len(events), BATCH):
        await appender.append(events[start : start + BATCH])
    elapsed = perf_counter() - began
    await conn.close()
    return elapsed


def _copy(url: str, events: Sequence[Event]) -> float:
    received_at = datetime.now(UTC)
    types = [TYPES.get(column, "text") for column in COLUMNS]
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(TABLE_DDL)
        for statement in TRIGGERS:
            conn.execute(statement)
        began = perf_counter()
        for start in range(0, len(events), BATCH):
            with conn.cursor() as cursor, cursor.copy(COPY) as copy:
                copy.set_types(types)
                for position, event in enumerate(events[start : start + BATCH], start + 1):
                    copy.write_row((*event, position, received_at))
        return perf_counter() - began
