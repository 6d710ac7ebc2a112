"""Measures whole rebuilds of tables that already match the log: their speed, how their cost grows, and their memory."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from functools import partial
from time import perf_counter
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.commands import measure_command
from benchmarks.events import MIX
from benchmarks.folds import EVENTS, REFERENCE, create_reference, empty, filled
from benchmarks.harness import Benchmark, Postgres, Result, interleaved, result
from benchmarks.references import REFERENCES, SESSION
from eventstore.waits import Waits
from projections.projection import Projection
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.people import People
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.rebuilding.job_slots import JobSlots
from projections.rebuilding.rebuild import Timings, rebuild
from projections.rebuilding.replay_context import ReplayContext
from projections.running.run_context import RunContext
from projections.running.window_step import Step
from projections.running.worker import Worker
from projections.settings import ReplaySettings, WorkerSettings

SERIAL = "-c max_parallel_workers_per_gather=0 -c max_parallel_maintenance_workers=0"
SMALL, LARGE = 500_000, 5_000_000
SHADOW = "shadows are unlogged, as they always are; the reference's tables are logged, as CREATE TABLE AS makes them"
OPEN_REQUESTS, RECIPIENTS = 100, 50
"""The synthetic log: how many requests are open at any time, and how many recipients each has, besides a completion."""
MAX_RSS_MB = 150.0
WHOLE_LOG = WorkerSettings(batch_size=200_000)
"""For a log that is folded only to be there."""
JOBS = 2

# Takes one recipient of each open request in turn; the last event of a request is its completion.
_INTERLEAVED = """
INSERT INTO eventstore.events (event_id, position, app, contract, event_type, send_request_id, ppnum, message_id,
    summary_status, total_recipients, delivered, failed, pending_consent, occurred_at, received_at, payload)
SELECT lpad(p::text, 26, '0'), p, 'default', 'chat.external', CASE WHEN done THEN 6 ELSE 1 + (p %% 11 = 0)::integer END,
       'request ' || request, CASE WHEN NOT done THEN '123' || lpad((p %% 250000)::text, 9, '0') END,
       CASE WHEN NOT done THEN 'message ' || p END, CASE WHEN done THEN 3 END, CASE WHEN done THEN %(recipients)s END,
       CASE WHEN done THEN %(recipients)s END, CASE WHEN done THEN 0 END, CASE WHEN done THEN 0 END,
       '2026-01-01Z'::timestamptz + p * interval '1 ms', '2026-01-01Z'::timestamptz + p * interval '1 ms',
       decode(repeat('ab', 120), 'hex')
FROM (SELECT p, (p - 1) / (%(open)s * (%(recipients)s + 1)) * %(open)s + (p - 1) %% %(open)s AS request,
             (p - 1) / %(open)s %% (%(recipients)s + 1) = %(recipients)s AS done
      FROM generate_series(1, %(events)s::bigint) AS p) AS made
"""


def serial(url: str) -> str:
    """Return the URL with settings that switch parallel plans off."""
    return make_conninfo(url, options=SERIAL)


def rebuilt(url: str, projection: Projection, jobs: int = 1) -> tuple[float, Timings]:
    """Rebuild without parallel plans, with the default settings; return the seconds of the whole and of its parts."""
    began = perf_counter()
    context = ReplayContext(serial(url), Waits(), ReplaySettings(), slots=JobSlots(jobs))
    done = asyncio.run(rebuild(context, projection))
    seconds = perf_counter() - began
    if any(one.total for one in done.changes):
        raise RuntimeError("the tables did not match the log before the rebuild")
    return seconds, done.timings


def _measure(projection: Projection, postgres: Postgres) -> Result:
    with filled(postgres) as url:
        empty(url, projection)
        asyncio.run(fold_log(url, projection))
        parts: list[dict[str, float]] = []

        def ours(_round: int) -> float:
            seconds, timings = rebuilt(url, projection)
            known = asdict(timings)
            parts.append({**known, "other": seconds - sum(known.values())})
            return EVENTS / seconds

        def reference(_round: int) -> float:
            return EVENTS / create_reference(url, REFERENCES[projection.name])

        mine, theirs = interleaved(ours, reference)
    # The parts of the median run, so that they add up.
    middle = sorted(parts, key=lambda one: sum(one.values()))[len(parts) // 2]
    seconds = {name: round(one, 2) for name, one in middle.items()}
    print(f"  parts, in seconds: {seconds}")
    detail: dict[str, Any] = {
        "events": EVENTS,
        "mix": MIX,
        "parts_seconds": seconds,
        "rebuild_settings": ReplaySettings().model_dump(),
        "rebuild_session": SERIAL,
        "rebuild_tables": SHADOW,
        "reference_code": "benchmarks/references.py, run by benchmarks/folds.py: create_reference",
        "reference_ddl": list(REFERENCES[projection.name]),
        "settings": {**postgres.settings(), "reference_session": SESSION},
        "versions": postgres.versions(),
    }
    return result(f"rebuild_{projection.name}", "events/s", REFERENCE, mine, theirs, detail)


def rebuild_jobs(postgres: Postgres) -> Result:
    """Compare a rebuild by two jobs with the same by one."""
    projection = RequestStatus()
    with filled(postgres) as url:
        empty(url, projection)
        asyncio.run(fold_log(url, projection))

        def ours(_round: int) -> float:
            return EVENTS / rebuilt(url, projection, JOBS)[0]

        def reference(_round: int) -> float:
            return EVENTS / rebuilt(url, projection)[0]

        mine, theirs = interleaved(ours, reference)
    detail = {
        "events": EVENTS,
        "mix": MIX,
        "jobs": JOBS,
        "rebuild_settings": ReplaySettings().model_dump(),
        "rebuild_session": SERIAL,
        "settings": postgres.settings(),
        "versions": postgres.versions(),
    }
    return result("rebuild_jobs", "events/s", "one job", mine, theirs, detail)


def rebuild_rss_mb(postgres: Postgres) -> Result:
    """Measure the peak memory of ``projections rebuild --all`` with a million events."""
    with filled(postgres) as url:
        command = ("rebuild", "--all", "--yes")
        sizes = [measure_command(url, *command).peak_mb for _ in range(3)]
        of_jobs = measure_command(url, *command, "--jobs", str(JOBS)).peak_mb
    print(f"  with {JOBS} jobs: {of_jobs:,.0f} MB", file=sys.stderr)
    detail = {
        "events": EVENTS,
        "mix": MIX,
        "command": "projections rebuild --all --yes",
        f"peak_mb_of_{JOBS}_jobs": round(of_jobs, 1),
        "settings": postgres.settings(),
        "versions": postgres.versions(),
    }
    return result("rebuild_rss_mb", "MB", "the limit", sizes, [MAX_RSS_MB], detail)


def rebuild_scale(postgres: Postgres) -> Result:
    """Compare the cost of an event in the rebuild of a large log with that of a log of a tenth of its size."""
    projection = RequestStatus()
    with postgres.database() as small, postgres.database() as large:
        for url, events in ((small, SMALL), (large, LARGE)):
            _fill_interleaved(url, events)
            asyncio.run(fold_log(url, projection))
            _vacuum(url, projection)

        def ours(_round: int) -> float:
            return 1e6 * rebuilt(large, projection)[0] / LARGE

        def reference(_round: int) -> float:
            return 1e6 * rebuilt(small, projection)[0] / SMALL

        mine, theirs = interleaved(ours, reference)
    detail = {
        "events": [SMALL, LARGE],
        "mix": f"{OPEN_REQUESTS} requests interleaved, {RECIPIENTS} recipients and a completion each",
        "rebuild_settings": ReplaySettings().model_dump(),
        "rebuild_session": SERIAL,
        "settings": postgres.settings(),
        "versions": postgres.versions(),
    }
    return result("rebuild_scale", "µs/event", f"the same at {SMALL:,} events", mine, theirs, detail)


def _fill_interleaved(url: str, events: int) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        values = {"events": events, "open": OPEN_REQUESTS, "recipients": RECIPIENTS}
        conn.execute(_INTERLEAVED, values)
        conn.execute("VACUUM ANALYZE eventstore.events")


def _vacuum(url: str, projection: Projection) -> None:
    """Do what autovacuum would do to the rows that were just folded, or it would do it during one of the runs."""
    with psycopg.connect(url, autocommit=True) as conn:
        for table in projection.tables:
            conn.execute(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(table.schema or "public", table.name)))


async def fold_log(url: str, projection: Projection, settings: WorkerSettings = WHOLE_LOG) -> int:
    """Fold the whole log; return how many windows it took."""
    worker = Worker(RunContext(url, Waits(), settings), projection)
    conn = await worker.connect()
    try:
        while await worker.step(conn) is Step.FOLDED:
            pass
    finally:
        await conn.close()
    return worker.windows


REBUILDS: dict[str, Benchmark] = {
    **{
        f"rebuild_{projection.name}": partial(_measure, projection)
        for projection in (RequestStatus(), ConsentRegistry(), PollTallies(), People())
    },
    "rebuild_jobs": rebuild_jobs,
    "rebuild_rss_mb": rebuild_rss_mb,
}
LARGE_ONES: dict[str, Benchmark] = {"rebuild_scale": rebuild_scale}
"""The slow ones: ``make bench-large``."""
