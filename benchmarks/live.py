"""Measures the time from an event's commit until all projections have folded it; the reference is one plain upsert."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from multiprocessing.connection import Connection
from time import monotonic

import psycopg

from benchmarks.events import decoded, simulated
from benchmarks.harness import Postgres, Result
from eventstore.appending.append import Appender
from eventstore.appending.notify_channel import LISTEN
from eventstore.postgres.connection import connect
from eventstore.waits import Waits
from projections.registry import find_valid_projections
from projections.running.garbage_collection import tune_garbage_collection
from projections.running.run_context import RunContext
from projections.running.run_parts import RunParts
from projections.running.wakeup import AppendListener
from projections.running.window_step import Step
from projections.running.worker import Worker
from projections.settings import WorkerSettings

PER_SECOND = 200
SECONDS = 60
REFERENCE = "p99 of a plain LISTEN loop with one upsert"
TABLE = "CREATE TABLE public.plain (app text PRIMARY KEY, position bigint NOT NULL)"
UPSERT = (
    "INSERT INTO public.plain AS p (app, position) SELECT app, max(position) FROM eventstore.events"
    " WHERE position > %s GROUP BY app ON CONFLICT (app) DO UPDATE SET position = excluded.position RETURNING position"
)

Folded = list[tuple[float, int]]
"""Pairs of a time (monotonic, in seconds; one clock for all processes of a machine) and the position reached then."""


def live_p99(postgres: Postgres) -> Result:
    """Append 200 events a second for a minute, one by one; measure each until the last projection's commit."""
    ours = delays_until_folded(postgres, fold)
    plain = delays_until_folded(postgres, _listen)
    detail = {
        "events": len(ours),
        "per_second": PER_SECOND,
        "p50_ms": round(percentile(ours, 50), 2),
        "reference_p50_ms": round(percentile(plain, 50), 2),
        "reference_code": "benchmarks/live.py: _listen (async psycopg, synchronous_commit off as in our workers)",
        "reference_ddl": [TABLE, UPSERT],
        "settings": postgres.settings(),
        "versions": postgres.versions(),
    }
    print(f"  p50: {detail['p50_ms']} ms, the plain loop's: {detail['reference_p50_ms']} ms")
    value, reference = percentile(ours, 99), percentile(plain, 99)
    return Result("live_p99", value, "ms (less is better)", REFERENCE, reference, value / reference, detail)


def percentile(delays: list[float], percent: int) -> float:
    """Return the delay that so many percent of the delays are below."""
    return sorted(delays)[len(delays) * percent // 100]


def delays_until_folded(postgres: Postgres, follow: Callable[[str, int, Connection], Awaitable[None]]) -> list[float]:
    """Return for each event the milliseconds from its commit to the commit of the last fold that includes it."""
    count = PER_SECOND * SECONDS
    with postgres.database() as url:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(TABLE)
        here, there = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_child, args=(follow, url, count, there))
        process.start()
        here.recv()  # it listens
        committed = asyncio.run(_append(url, count))
        lines: list[Folded] = here.recv()
        process.join()
    delays = [0.0] * count
    for line in lines:
        reached = iter(sorted(line, key=lambda entry: entry[1]))
        moment, position = next(reached)
        for index in range(count):
            while position < index + 1:
                moment, position = next(reached)
            delays[index] = max(delays[index], 1000 * (moment - committed[index]))
    return delays


def _child(follow: Callable[[str, int, Connection], Awaitable[None]], url: str, count: int, pipe: Connection) -> None:
    async def main() -> None:
        await follow(url, count, pipe)

    asyncio.run(main())


async def _append(url: str, count: int) -> list[float]:
    events = decoded(simulated(count=count))
    conn = await connect(url, name="bench", waits=Waits())
    appender = Appender(conn, Waits())
    committed: list[float] = []
    began = monotonic()
    for number, event in enumerate(events):
        await asyncio.sleep(max(0.0, began + number / PER_SECOND - monotonic()))
        await appender.append([event])
        committed.append(monotonic())
    await conn.close()
    return committed


async def fold(url: str, count: int, pipe: Connection) -> None:
    """Fold with all projections until the last event; sends over the pipe when each worker reached which position."""
    await fold_beside(url, count, pipe, lambda _parts: nullcontext())


async def fold_beside(
    url: str, count: int, pipe: Connection, beside: Callable[[RunParts], AbstractAsyncContextManager[object]]
) -> None:
    """Do the same while something else runs beside it, which is given the parts of the run."""
    context = RunContext(url, Waits(), WorkerSettings())
    workers = [_TimedWorker(context, one) for one in find_valid_projections().values()]
    listener = AppendListener(context)  # as projections run has it
    async with beside(RunParts(workers, listener=listener)):
        tune_garbage_collection()  # as projections run does
        works = (listener.run(), *(worker.run(listener) for worker in workers))
        running = [asyncio.create_task(work) for work in works]
        while any(worker.last is None for worker in workers):  # noqa: ASYNC110 - polling costs the least here
            await asyncio.sleep(0.05)
        pipe.send("ready")
        while any(worker.position < count for worker in workers):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.2)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    pipe.send([worker.folded for worker in workers])


class _TimedWorker(Worker):
    """A worker that records when it reached which position."""

    folded: Folded

    async def step(self, conn: psycopg.AsyncConnection[tuple[object, ...]]) -> Step:
        """Fold a window, and record the time after its commit."""
        before = self.windows
        step = await super().step(conn)
        if self.windows > before:
            self.__dict__.setdefault("folded", []).append((monotonic(), self.position))
        return step


async def _listen(url: str, count: int, pipe: Connection) -> None:
    folded: Folded = []
    conn = await connect(url, name="plain", waits=Waits())
    await conn.execute("SET synchronous_commit = off")
    await conn.execute(LISTEN)
    pipe.send("ready")
    position = 0
    while position < count:
        async for _ in conn.notifies(stop_after=1, timeout=1.0):
            pass
        row = await (await conn.execute(UPSERT, [position])).fetchone()
        if row is not None:
            position = row[0]
            folded.append((monotonic(), position))
    await conn.close()
    pipe.send([folded])
