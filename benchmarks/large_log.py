"""``python -m benchmarks.large_log [EVENTS]`` (20,000,000): what each thing costs on a big log, as its users run it.

It has no reference: rates, sizes and times are printed as they are, a line each, and are for docs/performance.md. The
log is rounds of the simulator's events, each round with its own ids, requests and persons; payloads stay as they were.
Commands are started as processes, which report their own peak memory.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator, Sequence
from statistics import median
from time import perf_counter

import psycopg
import structlog
from psycopg import sql

from benchmarks.append import append_in_batches
from benchmarks.commands import measure_command
from benchmarks.events import decoded, simulated
from benchmarks.harness import server
from benchmarks.rebuilds import fold_log
from eventstore.contracts import Event
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.people import People
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.settings import WorkerSettings

EVENTS = 20_000_000
ROUND = 1_000_000
READ_MODELS = (RequestStatus(), ConsentRegistry(), PollTallies(), People())

_SIZES = """
SELECT c.relname, pg_table_size(c.oid), pg_indexes_size(c.oid), c.reltuples::bigint
FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.oid = ANY(%s::regclass[]) ORDER BY 2 DESC
"""
_SOMEBODY = """
SELECT ppnum, send_request_id FROM eventstore.events
WHERE event_type = 3 AND position > (SELECT max(position) / 2 FROM eventstore.events) ORDER BY position LIMIT 1
"""


def say(what: str, value: str) -> None:
    """Print one figure at once."""
    print(f"{what}: {value}", flush=True)


def rounds(count: int) -> Iterator[list[Event]]:
    """Yield the events in rounds; the ids of each round follow those of the one before."""
    events = decoded(simulated(ROUND))
    for number in range(-(-count // ROUND)):
        yield [
            event._replace(
                event_id=f"0{number:02}{event.event_id[3:]}",
                send_request_id=event.send_request_id and f"{event.send_request_id}-{number}",
                ppnum=event.ppnum and f"{event.ppnum[:-2]}{number:02}{event.ppnum[-2:]}",
            )
            for event in events[: count - number * ROUND]
        ]


def fill(url: str, count: int) -> None:
    """Append the events; say how fast the first and the last round were, and the one in the middle."""
    rates = [len(events) / asyncio.run(append_in_batches(url, events)) for events in rounds(count)]
    say("append", f"{median(rates):,.0f} events/s (first round {rates[0]:,.0f}, last {rates[-1]:,.0f})")
    began = perf_counter()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("VACUUM ANALYZE eventstore.events")
    say("VACUUM ANALYZE of the log", f"{perf_counter() - began:,.0f} s")


def fold(url: str, count: int) -> None:
    """Fold each read model from the start of the log, with the settings that `projections run` has."""
    for projection in READ_MODELS:
        began = perf_counter()
        windows = asyncio.run(fold_log(url, projection, WorkerSettings()))
        seconds = perf_counter() - began
        say(f"fold {projection.name}", f"{count / seconds:,.0f} events/s, {seconds:,.0f} s, {windows:,} windows")


def command(url: str, *arguments: str) -> None:
    """Run a command; say how long it took and how much memory it used."""
    done = measure_command(url, *arguments)
    say(f"projections {' '.join(arguments)}", f"{done.seconds:,.2f} s, {done.peak_mb:,.0f} MB")


def sizes(url: str, tables: Sequence[str]) -> None:
    """Say how large the tables are."""
    with psycopg.connect(url, autocommit=True) as conn:
        for table in tables:
            conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(*table.split("."))))
        for name, table, indexes, rows in conn.execute(_SIZES, [list(tables)]).fetchall():
            say(name, f"{rows:,} rows, table {table / 2**20:,.0f} MB, indexes {indexes / 2**20:,.0f} MB")


def search(url: str, column: str, value: str) -> None:
    """Find the events of one person or request, with a new session as a BI tool has it."""
    statement = sql.SQL("SELECT * FROM eventstore.events WHERE {} = %s").format(sql.Identifier(column))
    with psycopg.connect(url) as conn:
        began = perf_counter()
        found = len(conn.execute(statement, [value]).fetchall())
        say(f"events by {column}", f"{1000 * (perf_counter() - began):,.1f} ms, {found} events")


def main(count: int) -> None:
    """Measure everything once."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with server() as postgres, postgres.database() as url:
        fill(url, count)
        fold(url, count)
        sizes(url, ["eventstore.events", *(f"public.{one.name}" for each in READ_MODELS for one in each.tables)])
        command(url, "status")
        for one in READ_MODELS:
            command(url, "rebuild", one.name, "--yes")
        command(url, "rebuild", "request_status", "--yes", "--jobs", "2")
        for one in READ_MODELS:
            command(url, "verify", one.name)
        with psycopg.connect(url) as conn:
            row = conn.execute(_SOMEBODY).fetchone()
        ppnum, request = row or ("", "")
        for _ in range(3):
            search(url, "ppnum", ppnum)
            search(url, "send_request_id", request)
            command(url, "explain", "consent_registry", ppnum)
            command(url, "explain", "request_status", request)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else EVENTS)
