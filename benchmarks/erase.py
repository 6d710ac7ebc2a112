"""Measures erasing a thousand persons in a log of a million events, while events are appended and folded beside it.

The reference changes the same kind and number of rows with one UPDATE for each table, in one session, with the triggers
switched off and nobody else working.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import LiteralString

import psycopg

from benchmarks.events import MIX, decoded, simulated
from benchmarks.folds import EVENTS, filled
from benchmarks.harness import ROUNDS, Postgres, Result, interleaved, result
from eventstore.appending.append import Appender
from eventstore.appending.quarantine_limits import DEFAULT_LIMITS
from eventstore.contracts import Event
from eventstore.postgres.connection import connect
from eventstore.waits import Waits
from projections.erasing.erase import erase_persons
from projections.erasing.erase_request import EraseRequest
from projections.migrating.metadata import READ_MODELS
from projections.rebuilding.replay_context import ReplayContext
from projections.running.run_context import RunContext
from projections.running.window_step import Step
from projections.running.worker import Worker
from projections.settings import ReplaySettings, WorkerSettings

PERSONS = 1_000
BATCH = 50
"""Events in each append beside the erasure."""
MORE = 20_000
REFERENCE = "one UPDATE for each table, no triggers, nothing else running"
MAX_PAUSE_SECONDS = 2.0

_CHOOSE = """
SELECT array_agg(ppnum) FROM (
    SELECT ppnum FROM people WHERE ppnum !~ '^erased:' ORDER BY md5(ppnum || %s) LIMIT %s) AS chosen
"""
_EVENTS = """
UPDATE eventstore.events AS t SET ppnum = p.token, message_id = NULL, payload = t.payload || ''::bytea
FROM reference_persons AS p WHERE t.ppnum = p.ppnum
"""
_RECIPIENTS = """
UPDATE public.request_recipients AS t SET ppnum = p.token, message_id = NULL
FROM reference_persons AS p WHERE t.ppnum = p.ppnum
"""
_REFERENCE: tuple[LiteralString, ...] = (
    _EVENTS,
    _RECIPIENTS,
    "UPDATE public.consent_registry AS t SET ppnum = p.token FROM reference_persons AS p WHERE t.ppnum = p.ppnum",
    "UPDATE public.poll_responses AS t SET ppnum = p.token FROM reference_persons AS p WHERE t.ppnum = p.ppnum",
    "UPDATE public.person_requests AS t SET ppnum = p.token FROM reference_persons AS p WHERE t.ppnum = p.ppnum",
    "UPDATE public.people AS t SET ppnum = p.token FROM reference_persons AS p WHERE t.ppnum = p.ppnum",
)


@dataclass
class Load:
    """Appends and folds beside an erasure, in a thread of its own.

    Attributes:
        appends: seconds of each append.
        folds: seconds of each fold of a window.

    """

    url: str
    events: Iterator[Event]
    appends: list[float] = field(default_factory=list)
    folds: list[float] = field(default_factory=list)
    ends: threading.Event = field(default_factory=threading.Event)

    async def run(self) -> None:
        """Append and fold until the end."""
        context = RunContext(self.url, Waits(), WorkerSettings())
        workers = [Worker(context, one()) for one in READ_MODELS]
        conn = await connect(self.url, name="bench", waits=Waits())
        folding = [await worker.connect() for worker in workers]
        appender = Appender(conn, Waits())
        while not self.ends.is_set():
            began = perf_counter()
            await appender.append([next(self.events) for _ in range(BATCH)])
            self.appends.append(perf_counter() - began)
            for worker, own in zip(workers, folding, strict=True):
                self.folds.append(await _seconds_to_head(worker, own))
        for each in (conn, *folding):
            await each.close()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Append and fold during the block."""
        thread = threading.Thread(target=lambda: asyncio.run(self.run()))
        thread.start()
        try:
            yield
        finally:
            self.ends.set()
            thread.join()


def erase(postgres: Postgres) -> Result:
    """Measure how many persons a second are erased."""
    with filled(postgres) as url:
        asyncio.run(_fold_all(url))
        more = iter(decoded(simulated(count=EVENTS + MORE)[EVENTS:]))
        longest: list[float] = []
        events: list[int] = []

        def ours(number: int) -> float:
            numbers = _choose(url, f"ours {number}")
            load = Load(url, more)
            with load.beside():
                seconds, changed = asyncio.run(_erase(url, numbers))
            longest.append(max(*load.appends, *load.folds))
            events.append(changed)
            return PERSONS / seconds

        def reference(number: int) -> float:
            return PERSONS / _update(url, _choose(url, f"reference {number}"))

        mine, theirs = interleaved(ours, reference)
    detail = {
        "persons": PERSONS,
        "events": EVENTS,
        "events_changed": events,
        "mix": MIX,
        "rounds": ROUNDS,
        "longest_pause_of_an_append_or_a_fold_seconds": [round(one, 3) for one in longest],
        "settings": postgres.settings(),
        "versions": postgres.versions(),
    }
    print(f"  longest pause of an append or a fold: {max(longest):.2f} s (limit {MAX_PAUSE_SECONDS:g} s)")
    return result("erase", "persons/s", REFERENCE, mine, theirs, detail)


async def _seconds_to_head(worker: Worker, conn: psycopg.AsyncConnection) -> float:
    began = perf_counter()
    while (step := await worker.step(conn)) in (Step.FOLDED, Step.BUSY):
        if step is Step.BUSY:
            await asyncio.sleep(0.001)
    return perf_counter() - began


async def _fold_all(url: str) -> None:
    for one in READ_MODELS:
        worker = Worker(RunContext(url, Waits(), WorkerSettings(batch_size=10_000)), one())
        conn = await worker.connect()
        while await worker.step(conn) is Step.FOLDED:
            pass
        await conn.close()
    async with await connect(url, name="bench", waits=Waits()) as conn:
        await conn.execute("VACUUM ANALYZE")


def _choose(url: str, seed: str) -> list[str]:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(_CHOOSE, [seed, PERSONS]).fetchone()
    return [] if row is None else row[0]


async def _erase(url: str, numbers: Sequence[str]) -> tuple[float, int]:
    context = ReplayContext(url, Waits(), ReplaySettings())
    request = EraseRequest(numbers, why="benchmark", system_user="benchmark")
    began = perf_counter()
    done = await erase_persons(context, {one.name: one() for one in READ_MODELS}, request, DEFAULT_LIMITS)
    return perf_counter() - began, done.tables["eventstore.events"]


def _update(url: str, numbers: Sequence[str]) -> float:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TEMPORARY TABLE reference_persons (ppnum text, token text)")
        # As long as the tokens of an erasure; the numbers stay apart.
        conn.execute(
            "INSERT INTO reference_persons SELECT ppnum, 'erased:01' || upper(left(md5(ppnum), 24))"
            " FROM unnest(%s::text[]) AS ppnum",
            [list(numbers)],
        )
        conn.execute("ANALYZE reference_persons")
        conn.execute("ALTER TABLE eventstore.events DISABLE TRIGGER USER")
        began = perf_counter()
        with conn.transaction():
            for statement in _REFERENCE:
                conn.execute(statement)
        seconds = perf_counter() - began
        conn.execute("ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER refuse_change_statement")
        conn.execute("ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER refuse_change_row")
    return seconds
