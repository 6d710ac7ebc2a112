"""``--until-idle``: which time counts as idle, and how the run ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from eventstore.ingest.follower import FollowerState
from projections.sandbox.simulator import Fault, FaultKind, SimulatorSettings
from tests import store
from tests.fault.proxy import TcpProxy, target_of, through
from tests.fix_simulator import SimulatorFactory, count_faults_left
from tests.following import Running, follower, following, ingest, log_of, quick_waits
from tests.store import PCS

SHORT = 0.15


async def still_runs(running: Running) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.shield(running._task)
    return not running._task.done()


async def test_a_stream_without_any_event_is_idle(database_url: str, simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory([], SimulatorSettings(keep_alive=0.01))
    outcome = await ingest(follower(database_url, simulator.address, contract=PCS), until_idle=SHORT)
    assert (outcome.stored, outcome.refused, outcome.uncommitted) == (0, {}, ())


async def test_all_events_of_the_upstream_are_stored_before_the_idle_time_counts(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(3_000))
    outcome = await ingest(follower(database_url, simulator.address), until_idle=1)
    assert (outcome.stored, outcome.uncommitted) == (3_000, ())


async def test_duplicates_do_not_delay_the_end(database_url: str, simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(log_of(5), SimulatorSettings(keep_alive=0.01))
    one = follower(database_url, simulator.address, contract=PCS)

    async def repeat() -> None:
        while True:
            simulator.inject(Fault(FaultKind.DUPLICATES, after=5, count=1))
            await simulator.wait_for(lambda: not count_faults_left(simulator))
            await asyncio.sleep(0.03)

    async with following(one, until_idle=0.3) as running:
        repeating = asyncio.create_task(repeat())
        outcome = await running.outcome()
        repeating.cancel()
    assert outcome.stored == 5
    assert outcome.duplicates > 0


async def test_a_stream_that_ended_normally_counts_as_open(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(3), SimulatorSettings(end_at_log_end=True))
    waits = quick_waits(backoff_first=60, backoff_cap=60, normal_end_cap=60)
    outcome = await ingest(follower(database_url, simulator.address, waits=waits), waits=waits, until_idle=SHORT)
    assert (outcome.stored, len(simulator.calls)) == (3, 1)


@pytest.mark.parametrize("seconds", [0.0, 0.02])
async def test_time_without_a_connection_does_not_count(
    database_url: str, simulator_factory: SimulatorFactory, seconds: float
) -> None:
    simulator = await simulator_factory()
    await simulator.stop()
    one = follower(database_url, simulator.address)
    with capture_logs() as logs:
        async with following(one, until_idle=seconds) as running:
            await running.wait_until(
                lambda: sum(line["event"] == "the stream failed" for line in logs) >= 10, "ten attempts to connect"
            )
            assert await still_runs(running)
            await simulator_factory(log_of(3), SimulatorSettings(port=simulator.port))
            outcome = await running.outcome()
    assert (outcome.refused, outcome.uncommitted) == ({}, ())


async def test_a_stream_that_failed_does_not_count_as_open(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(3))
    simulator.inject(Fault(FaultKind.UNAVAILABLE, after=3, times=1))
    waits = quick_waits(backoff_first=60, backoff_cap=60)
    one = follower(database_url, simulator.address, waits=waits)
    with capture_logs() as logs:
        async with following(one, waits=waits, until_idle=SHORT) as running:
            await running.wait_until(lambda: any(line["event"] == "the stream failed" for line in logs), "the failure")
            assert not one.is_quiet
            assert await still_runs(running)


async def test_a_database_outage_does_not_count(database_url: str, simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(log_of(3))
    async with TcpProxy(*target_of(database_url)) as proxy:
        one = follower(through(database_url, proxy.port), simulator.address, waits=quick_waits(leader_heartbeat=0.02))
        with capture_logs() as logs:
            async with following(one, until_idle=0.6) as running:
                await running.wait_until(lambda: one.stored == 3, "the events")
                proxy.refuse()
                await running.wait_until(
                    lambda: one.state is FollowerState.DATABASE_UNAVAILABLE, "the outage to be noticed"
                )
                away = len(logs)
                await running.wait_until(lambda: len(logs) >= away + 20, "twenty attempts to connect")
                assert not one.is_quiet
                assert await still_runs(running)
                proxy.accept()
                outcome = await running.outcome()
    assert (outcome.stored, outcome.uncommitted) == (3, ())


async def test_uncommitted_events_delay_the_end(database_url: str, simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(log_of(3))
    one = follower(database_url, simulator.address)
    async with store.connection(database_url) as conn:
        await conn.execute("BEGIN")
        await conn.execute("LOCK TABLE eventstore.events IN SHARE MODE")
        async with following(one, until_idle=0.5) as running:
            await running.wait_until(lambda: len(one._buffer), "a batch to append")
            await conn.execute("SELECT pg_sleep(1.5)")  # three times the idle time
            assert not one.is_quiet
            assert await still_runs(running)
            await conn.execute("COMMIT")
            outcome = await running.outcome()
    assert (outcome.stored, outcome.uncommitted) == (3, ())


async def test_a_stop_while_the_database_is_unavailable_names_the_apps_with_uncommitted_events(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(3))
    async with TcpProxy(*target_of(database_url)) as proxy:
        one = follower(through(database_url, proxy.port), simulator.address)
        async with following(one) as running:
            await running.wait_until(lambda: one.stored == 3, "the events")
            proxy.refuse()
            await running.wait_until(
                lambda: one.state is FollowerState.DATABASE_UNAVAILABLE, "the outage to be noticed"
            )
            assert (await running.stop()).uncommitted == ("app",)


async def test_received_events_are_committed_before_a_stop(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(2_000), SimulatorSettings(rate=4_000))
    waits = quick_waits(shutdown=30)
    one = follower(database_url, simulator.address, waits=waits)
    async with following(one, waits=waits) as running:
        await running.wait_until(lambda: len(one._buffer), "an uncommitted event")
        outcome = await running.stop()
    assert outcome.uncommitted == ()
    assert not one.has_uncommitted
    assert outcome.stored > 0
