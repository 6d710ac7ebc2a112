"""``/metrics``: every metric that is listed, with the numbers of the database and of the process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg import AsyncConnection

from eventstore.locks import rebuild_lock
from projections.http import database_metrics, process_metrics
from projections.http.read_session import ReadSession
from projections.inspecting.read_live_status import read_live_status
from projections.registry import Registry, find_projections
from projections.sandbox.simulator import SimulatorSettings
from tests import folding, store
from tests.fix_simulator import SimulatorFactory
from tests.folding import DIVIDES_BY_ZERO, Watched, append, create_watched_table, new_record, worker
from tests.following import follower, log_of, quick_waits
from tests.queries import fetch_row
from tests.serving import Served, served_run
from tests.store import PCS

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(served: Served) -> Samples:
    """Return the samples by name and labels."""
    answer = await served.get("metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def sample(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def test_every_metric_is_scraped_with_the_numbers_of_the_log_and_of_the_process(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    await create_watched_table(conn)
    log = log_of(5)
    simulator = await simulator_factory(log[:3], SimulatorSettings(keep_alive=0.05))
    waits = quick_waits(silence=30)
    one = follower(database_url, simulator.address, contract=PCS, waits=waits)
    watching = worker(database_url, Watched(), retry_first=folding.HALF_HOUR, retry_cap=folding.HALF_HOUR)
    registry = Registry({"watched": Watched()}, {})
    async with served_run(database_url, workers=[watching], followers=[one], waits=waits, registry=registry) as served:
        await store.wait_until(lambda: _holds(watching.position == 3), "the first events to be folded")
        await simulator.wait_for(lambda: any(call.keep_alives_sent >= 3 for call in simulator.calls))
        # A projection that fails after the third event, and a rebuild that has folded two of the five.
        await append(conn, new_record(ppnum=DIVIDES_BY_ZERO), new_record())
        await store.wait_until(lambda: _holds(watching.counts.failures), "the failure")
        await conn.execute("SELECT pg_advisory_lock(%s)", [rebuild_lock("watched")])
        await conn.execute(
            "INSERT INTO projections.rebuilds"
            " (name, version, position, fingerprint, holder, state, dry_run, started_at)"
            " VALUES ('watched', 1, 2, '', 'test', 'running', false, clock_timestamp())"
        )
        await conn.execute(
            "INSERT INTO eventstore.consumers (name, position, created_at) VALUES ('billing', 0, clock_timestamp())"
        )
        await conn.execute(
            "INSERT INTO eventstore.erasures (token, erased_at, why, erased_by, position, rows)"
            " VALUES ('erased:01KE0000000000000000000000', clock_timestamp(), 'asked', 'tester', 3, '{}')"
        )
        samples = await scrape(served)

    names = {name.removesuffix("_count") for name, _ in samples}
    definitions = (*database_metrics.CATALOGUE.definitions, *process_metrics.CATALOGUE.definitions)
    assert [one.name for one in definitions if one.name not in names] == []
    assert sample(samples, "projections_database_up") == 1
    assert sample(samples, "projections_log_events_total") == 5
    watched = {"projection": "watched"}
    assert sample(samples, "projections_position", **watched) == 3
    assert sample(samples, "projections_lag_events", **watched) == 2
    assert 0 < sample(samples, "projections_lag_seconds", **watched) < store.GIVE_UP
    assert sample(samples, "projections_folded_events_total", **watched) == 3
    states = {dict(labels)["state"]: value for (name, labels), value in samples.items() if name == "projections_state"}
    assert states == {"new": 0, "running": 0, "paused": 0, "waiting": 0, "failed": 1}
    assert sample(samples, "projections_consecutive_failures", **watched) == 1
    assert sample(samples, "projections_window_failures_total", **watched) == 1
    assert sample(samples, "projections_folding_sessions", **watched) == 1
    assert sample(samples, "projections_window_seconds_count", **watched) == watching.windows
    assert sample(samples, "projections_window_seconds_bucket", le="+Inf", **watched) == watching.windows
    assert sample(samples, "projections_rebuild_progress_ratio", schema="", **watched) == pytest.approx(0.4)
    app = {"app": store.APP}
    assert sample(samples, "projections_app_followed", **app) == 1
    assert sample(samples, "projections_appended_events_total", **app) == 3
    assert sample(samples, "projections_upstream_frames_total", **app) >= 6
    assert sample(samples, "projections_upstream_connected", **app) == 1
    assert sample(samples, "projections_follower_state", state="following", **app) == 1
    received, frame = (
        sample(samples, f"projections_{name}_timestamp_seconds", **app)
        for name in ("app_last_event", "upstream_last_frame")
    )
    assert received <= frame
    assert sample(samples, "projections_database_connections", owner="projections", state="idle") >= 3
    assert sample(samples, "projections_database_max_connections") > 3
    assert sample(samples, "process_open_fds") > 0


async def _holds(condition: object) -> bool:
    return bool(condition)


async def test_the_numbers_of_what_went_wrong(database_url: str, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    await conn.execute(
        "UPDATE eventstore.cursors SET last_error = 'no', refused_at = clock_timestamp(),"
        """ holes = '[{}, {}]', went_back = '[{"from": 3, "to": 1}]'"""
    )
    await conn.execute(
        "INSERT INTO eventstore.quarantine_counts (app, reason, messages, not_kept, first_seen, last_seen)"
        " SELECT %s, reason, 4, 1, clock_timestamp(), clock_timestamp() FROM unnest(ARRAY['a', 'b']) AS r (reason)",
        [store.APP],
    )
    await conn.execute(
        "INSERT INTO eventstore.quarantine_usage (app, kept_rows, full_since) VALUES (%s, 6, clock_timestamp())",
        [store.APP],
    )
    await folding.fold_all(database_url)
    await conn.execute("UPDATE projections.checkpoints SET redecoded_at = clock_timestamp()")
    async with (
        served_run(database_url) as served,
        store.connection(database_url, "holder") as holder,
        store.connection(database_url, "waiter") as waiter,
    ):
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock(1)")
            waiting = asyncio.create_task(waiter.execute("SELECT pg_advisory_lock(1)"))
            await store.wait_until_blocked(conn, waiter.info.backend_pid)
            samples = await scrape(served)
        await waiting
    app = {"app": store.APP}
    assert sample(samples, "projections_app_failing", **app) == 1
    assert sample(samples, "projections_app_refused", **app) == 1
    assert sample(samples, "projections_app_followed", **app) == 0
    assert sample(samples, "projections_app_gaps", **app) == 2
    assert sample(samples, "projections_app_lost_commits", **app) == 1
    assert sample(samples, "projections_quarantined_messages_total", **app) == 8
    assert sample(samples, "projections_quarantine_kept_messages", **app) == 6
    assert sample(samples, "projections_quarantine_full", **app) == 1
    assert sample(samples, "projections_needs_rebuild", projection="poll_tallies") == 1
    assert sample(samples, "projections_folding_sessions", projection="poll_tallies") == 0
    assert sample(samples, "projections_database_lock_waits") == 1
    assert sample(samples, "projections_database_longest_lock_wait_seconds") >= 0


async def test_reading_the_status_reads_a_few_events_by_index_however_many_there_are(
    database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, *(new_record() for _ in range(300)))
    await folding.fold_all(database_url)
    await append(conn, *(new_record() for _ in range(300)))
    await conn.execute("ANALYZE eventstore.events")
    session = ReadSession(database_url, folding.QUICK, "test")
    async with session.session() as reading, reading.transaction():
        status = await read_live_status(reading, find_projections())
        counted = await fetch_row(
            reading,
            "SELECT seq_scan, seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables"
            " WHERE relid = 'eventstore.events'::regclass",
        )
    await session.close()
    assert (status.head, {one.events_behind for one in status.projections}) == (600, {300})
    assert counted is not None
    scans, scanned, fetched = counted
    assert (scans, scanned) == (0, 0)
    assert fetched <= 2 + 2 * len(status.projections)


async def test_openmetrics_is_answered_to_those_who_ask_for_it(database_url: str) -> None:
    async with served_run(database_url) as served:
        answer = await served.get("metrics", accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    helps = re.findall(r"^# HELP projections_\S+ (.*)$", answer.text, re.MULTILINE)
    assert helps
    assert all(text[0].isupper() or text[0].isdigit() for text in helps)
