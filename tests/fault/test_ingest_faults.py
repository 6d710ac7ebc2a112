"""After any failure the table has every event that was sent, exactly once, byte for byte."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from psycopg import AsyncConnection

from eventstore.contracts import Contract
from eventstore.ingest.follower import Follower, FollowerState
from projections.migrating.migrate import upgrade
from projections.sandbox.embedded import EmbeddedPostgres
from projections.sandbox.simulator import Simulator, SimulatorSettings
from tests import store
from tests.fault.proxy import PostgresProxy, TcpProxy, target_of, through
from tests.fix_simulator import SimulatorFactory
from tests.following import (
    Running,
    count_events,
    cursor_row,
    follower,
    following,
    log_of,
    payloads,
    quick_waits,
    stored_payloads,
)
from tests.servers import embedded, temporary_home
from tests.store import CHAT

COUNT = 400
FLOW = SimulatorSettings(rate=2_000)
WAITS = quick_waits(leader_heartbeat=0.05)


async def assert_everything_stored(conn: AsyncConnection, simulator: Simulator, contract: Contract = CHAT) -> None:
    """Assert that all sent events are stored once, unchanged and in order, and that the cursor is at the last one."""
    sent = simulator.entries(contract)
    assert len(sent) == COUNT
    assert await stored_payloads(conn) == payloads(sent, contract)
    assert await store.quarantine_rows(conn) == []
    assert (await cursor_row(conn))["cursor"] == sent[-1].event_id


async def wait_for_all(
    conn: AsyncConnection, running: Running, simulator: Simulator, contract: Contract = CHAT
) -> None:
    """Wait until all events are stored and the cursor is at the last one, also after duplicates.

    The follower's own count may miss a commit whose response was lost.
    """

    async def complete() -> bool:
        assert not running._task.done()
        if await count_events(conn) < COUNT:
            return False
        return bool((await cursor_row(conn))["cursor"] == simulator.entries(contract)[-1].event_id)

    await store.wait_until(complete, "all events stored and the cursor at the last one")


@pytest.mark.parametrize("contract", Contract)
async def test_the_connection_to_the_upstream_is_cut(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    *log, last = log_of(COUNT)
    simulator = await simulator_factory(log, FLOW)
    async with TcpProxy("127.0.0.1", simulator.port) as proxy:
        one = follower(database_url, f"http://127.0.0.1:{proxy.port}", contract=contract)
        async with following(one) as running:
            for connects, least in enumerate((20, 100, 250), start=1):

                async def is_reached() -> bool:
                    # The follower's own count may miss a commit whose response was lost.
                    return await count_events(conn) >= least  # noqa: B023 - called in this round only

                await proxy.wait_for_connections(connects)
                await store.wait_until(is_reached, f"{least} events")
                proxy.cut()
            await proxy.wait_for_connections(4)

            async def all_but_one() -> bool:
                return await count_events(conn) == COUNT - 1

            await store.wait_until(all_but_one, "all but the last event")
            # A call that receives nothing new leaves the cursor at a duplicate.
            await simulator.append(last)
            await wait_for_all(conn, running, simulator, contract)
    await assert_everything_stored(conn, simulator, contract)


async def test_the_upstreams_server_is_killed_and_restarted_later(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(COUNT)
    first = await simulator_factory(log[:250], FLOW)
    one = follower(database_url, first.address)
    async with following(one) as running:
        await running.wait_until(lambda: one.stored >= 50, "the first events")
        await first.stop()
        await running.wait_until(lambda: not one.is_quiet, "the end of the stream")
        second = await simulator_factory(log, SimulatorSettings(port=first.port))
        await wait_for_all(conn, running, second)
    await assert_everything_stored(conn, second)


async def test_the_connections_to_the_database_are_cut(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(COUNT), FLOW)
    async with TcpProxy(*target_of(database_url)) as proxy:
        one = follower(through(database_url, proxy.port), simulator.address, waits=WAITS)
        async with following(one, waits=WAITS) as running:
            for connects, least in enumerate((20, 100, 250), start=1):

                async def is_reached() -> bool:
                    # The follower's own count may miss a commit whose response was lost.
                    return await count_events(conn) >= least  # noqa: B023 - called in this round only

                await proxy.wait_for_connections(connects)
                await store.wait_until(is_reached, f"{least} events")
                proxy.cut()
            await proxy.wait_for_connections(4)
            await wait_for_all(conn, running, simulator)
    await assert_everything_stored(conn, simulator)


CUTS = {
    "before a COPY's data": (b"d", True),
    "after a COPY's data": (b"c", True),
    "before the commit": (b"Q", True),
    "after the commit, whose response is lost": (b"Q", False),
}


@pytest.mark.parametrize("cut", CUTS)
async def test_the_connection_is_cut_in_the_middle_of_a_batch(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, cut: str
) -> None:
    kind, before = CUTS[cut]
    simulator = await simulator_factory(log_of(COUNT), FLOW)
    cuts = 0
    copying = False

    def cut_connection(_n: int, sent: bytes) -> bool:
        nonlocal cuts, copying
        copying = copying or sent == b"d"
        if not copying or sent != kind or cuts >= 4:
            return True
        cuts, copying = cuts + 1, False
        if not before:
            asyncio.get_running_loop().call_soon(proxy.cut)
        return not before

    async with PostgresProxy(*target_of(database_url), cut_connection) as proxy:
        one = follower(through(database_url, proxy.port), simulator.address, waits=WAITS)
        async with following(one, waits=WAITS) as running:
            await wait_for_all(conn, running, simulator)
            await running.wait_until(lambda: cuts == 4 or one.is_quiet, "the last cut")
    assert cuts > 0
    await assert_everything_stored(conn, simulator)


async def test_the_backends_are_terminated_by_an_administrator(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(COUNT), FLOW)
    one = follower(database_url, simulator.address, waits=WAITS)
    async with following(one, waits=WAITS) as running:
        for least in (20, 100, 250):
            await running.wait_until(lambda: one.stored >= least, f"{least} events")  # noqa: B023 - called in this round only
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await wait_for_all(conn, running, simulator)
    await assert_everything_stored(conn, simulator)


def kill(server: EmbeddedPostgres) -> None:
    """Send SIGKILL to the postmaster; its children end by themselves."""
    pid = server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def stop_and_restart(server: EmbeddedPostgres, one: Follower, running: Running, least: int) -> None:
    """Stop or kill the server once so many events are stored, and start it when the follower has noticed."""
    await running.wait_until(lambda: one.stored >= least, f"{least} events")
    if least % 2:
        await asyncio.to_thread(server.stop, "immediate")
    else:
        kill(server)
    await running.wait_until(lambda: one.state is FollowerState.DATABASE_UNAVAILABLE, "the outage to be noticed")
    await asyncio.to_thread(server.start)


async def test_the_database_is_killed_and_restarted(simulator_factory: SimulatorFactory) -> None:
    with temporary_home() as home:
        server = embedded(home)
        url = await asyncio.to_thread(server.start)
        await asyncio.to_thread(upgrade, url)
        simulator = await simulator_factory(log_of(COUNT), SimulatorSettings(rate=500))
        one = follower(url, simulator.address, waits=WAITS)
        async with following(one, waits=WAITS) as running:
            await stop_and_restart(server, one, running, 50)
            await stop_and_restart(server, one, running, 151)
            async with store.connection(url) as conn:
                await wait_for_all(conn, running, simulator)
        async with store.connection(url) as conn:
            await assert_everything_stored(conn, simulator)


async def test_an_append_that_cannot_acquire_a_lock_is_rolled_back_and_retried(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(10)
    simulator = await simulator_factory(log[:5])
    waits = quick_waits(lock=0.05)
    one = follower(database_url, simulator.address, waits=waits)
    async with following(one, waits=waits) as running, store.connection(database_url, "owner") as owner:
        await running.wait_until(lambda: one.stored == 5, "the first")
        async with owner.transaction():
            await owner.execute("LOCK TABLE eventstore.events IN SHARE MODE")
            await simulator.append(*log[5:])

            await running.wait_until(lambda: not one.can_commit, "the append to give up")
            assert await count_events(conn) == 5
        await running.wait_until(lambda: one.stored == 10, "the rest")
    assert await stored_payloads(conn) == payloads(log, CHAT)
