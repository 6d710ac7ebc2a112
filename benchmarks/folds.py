"""Measures folding a million events in windows; the reference creates the same tables with one statement each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from benchmarks.events import MIX, decoded, simulated
from benchmarks.harness import Benchmark, Postgres, Result, interleaved, result
from benchmarks.references import REFERENCES, SESSION
from eventstore.appending.append import Appender
from eventstore.postgres.connection import connect
from eventstore.waits import Waits
from projections.projection import Projection
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.people import People
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.running.run_context import RunContext
from projections.running.window_step import Step
from projections.running.worker import Worker
from projections.settings import WorkerSettings

EVENTS = 1_000_000
WINDOW = 10_000
REFERENCE = "one-statement CREATE TABLE AS + primary keys, serial"

_filled: dict[Postgres, str] = {}


@contextmanager
def filled(postgres: Postgres) -> Iterator[str]:
    """Yield the URL of a database with a million events; all folds of a run use the same one."""
    if postgres not in _filled:
        _filled[postgres] = postgres.create()
        asyncio.run(_fill(_filled[postgres]))
    yield _filled[postgres]


async def _fill(url: str) -> None:
    conn = await connect(url, name="bench", waits=Waits())
    appender = Appender(conn, Waits())
    events = decoded(simulated(count=EVENTS))
    for start in range(0, len(events), 5_000):
        await appender.append(events[start : start + 5_000])
    await conn.execute("VACUUM ANALYZE eventstore.events")
    await conn.close()


def _measure(projection: Projection, postgres: Postgres) -> Result:
    with filled(postgres) as url:
        single: list[float] = []

        def ours(_round: int) -> float:
            empty(url, projection)
            return EVENTS / asyncio.run(_fold(url, projection, single))

        def reference(_round: int) -> float:
            return EVENTS / create_reference(url, REFERENCES[projection.name])

        mine, theirs = interleaved(ours, reference)
    detail: dict[str, Any] = {
        "events": EVENTS,
        "mix": MIX,
        "window": WINDOW,
        "window_of_one_ms": round(1000 * sorted(single)[len(single) // 2], 2),
        "reference_code": "benchmarks/references.py, run by benchmarks/folds.py: create_reference",
        "reference_ddl": list(REFERENCES[projection.name]),
        "settings": {**postgres.settings(), "reference_session": SESSION},
        "versions": postgres.versions(),
    }
    print(f"  window of one event: {detail['window_of_one_ms']} ms")
    return result(f"fold_{projection.name}", "events/s", REFERENCE, mine, theirs, detail)


async def _fold(url: str, projection: Projection, single: list[float]) -> float:
    """Fold all events in large windows, and the last hundred again one by one; return the seconds of the first part."""
    large = Worker(RunContext(url, Waits(), WorkerSettings(batch_size=WINDOW)), projection)
    small = Worker(RunContext(url, Waits(), WorkerSettings(batch_size=1)), projection)
    conn = await large.connect()
    try:
        await conn.execute("ANALYZE eventstore.events")
        await conn.commit()
        began = perf_counter()
        while await large.step(conn) is Step.FOLDED:
            pass
        elapsed = perf_counter() - began
        await conn.execute("UPDATE projections.checkpoints SET position = position - 100")
        await conn.commit()
        for _ in range(100):
            began = perf_counter()
            await small.step(conn)
            single.append(perf_counter() - began)
    finally:
        await conn.close()
    if small.windows != 100:
        raise RuntimeError("windows of one event were not folded")
    return elapsed


def empty(url: str, projection: Projection) -> None:
    """Empty a projection's tables, and delete all checkpoints."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DELETE FROM projections.checkpoints")
        for table in projection.tables:
            conn.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(table.schema or "public", table.name)))


def create_reference(url: str, statements: Sequence[LiteralString]) -> float:
    """Create the reference's tables from the whole log; return the seconds that it took."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DROP SCHEMA IF EXISTS reference CASCADE")
        conn.execute("CREATE SCHEMA reference")
        conn.execute(SESSION)
        began = perf_counter()
        for statement in statements:
            conn.execute(statement)
        return perf_counter() - began


def _named(projection: Projection) -> Benchmark:
    return partial(_measure, projection)


FOLDS: dict[str, Benchmark] = {
    f"fold_{projection.name}": _named(projection)
    for projection in (RequestStatus(), ConsentRegistry(), PollTallies(), People())
}
