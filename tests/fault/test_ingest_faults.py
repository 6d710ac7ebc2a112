"""Whatever fails, the table in the end has every event that was sent, exactly once, byte for byte."""

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


async def everything(conn: AsyncConnection, simulator: Simulator, contract: Contract = CHAT) -> None:
    """All that was sent lies in the table, once, as it came and in its order, and the cursor is at its end."""
    sent = simulator.entries(contract)
    assert len(sent) == COUNT
    assert await stored_payloads(conn) == payloads(sent, contract)
    assert await store.quarantine_rows(conn) == []
    assert (await cursor_row(conn))["cursor"] == sent[-1].event_id


async def all_stored(conn: AsyncConnection, running: Running, simulator: Simulator, contract: Contract = CHAT) -> None:
    """Wait for the last event, and for the cursor to be there again after what came twice.

    The follower's own count may miss a commit whose answer was lost.
    """

    async def complete() -> bool:
        assert not running._task.done()
        if await count_events(conn) < COUNT:
            return False
        return bool((await cursor_row(conn))["cursor"] == simulator.entries(contract)[-1].event_id)

    await store.wait_until(complete, "all of them")


@pytest.mark.parametrize("contract", Contract)
async def test_the_connection_to_the_upstream_is_cut(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    *log, last = log_of(COUNT)
    simulator = await simulator_factory(log, FLOW)
    async with TcpProxy("127.0.0.1", simulator.port) as proxy:
        one = follower(database_url, f"http://127.0.0.1:{proxy.port}", contract=contract)
        async with following(one) as running:
            for dials, least in enumerate((20, 100, 250), start=1):

                async def there() -> bool:
                    # Not what it counted: a commit may be cut off from its answer.
                    return await count_events(conn) >= least  # noqa: B023 - in this round

                await proxy.connected(dials)
                await store.wait_until(there, f"{least} events")
                proxy.cut()
            await proxy.connected(4)

            async def all_but_one() -> bool:
                return await count_events(conn) == COUNT - 1

            await store.wait_until(all_but_one, "all but the last event")
            # A dial that brings nothing new leaves the cursor at an event that came twice.
            await simulator.append(last)
            await all_stored(conn, running, simulator, contract)
    await everything(conn, simulator, contract)


async def test_the_upstream_s_server_is_killed_and_restarted_later(
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
        await all_stored(conn, running, second)
    await everything(conn, second)


async def test_the_connections_to_the_database_are_cut(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(COUNT), FLOW)
    async with TcpProxy(*target_of(database_url)) as proxy:
        one = follower(through(database_url, proxy.port), simulator.address, waits=WAITS)
        async with following(one, waits=WAITS) as running:
            for dials, least in enumerate((20, 100, 250), start=1):

                async def there() -> bool:
                    # Not what it counted: a commit may be cut off from its answer.
                    return await count_events(conn) >= least  # noqa: B023 - in this round

                await proxy.connected(dials)
                await store.wait_until(there, f"{least} events")
                proxy.cut()
            await proxy.connected(4)
            await all_stored(conn, running, simulator)
    await everything(conn, simulator)


CUTS = {
    "before a COPY's data": (b"d", True),
    "behind a COPY's data": (b"c", True),
    "before the commit": (b"Q", True),
    "behind a commit, whose answer is lost": (b"Q", False),
}


@pytest.mark.parametrize("cut", CUTS)
async def test_the_connection_is_cut_in_the_middle_of_a_batch(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, cut: str
) -> None:
    kind, before = CUTS[cut]
    simulator = await simulator_factory(log_of(COUNT), FLOW)
    cuts = 0
    copying = False

    def hook(_n: int, this: bytes) -> bool:
        nonlocal cuts, copying
        copying = copying or this == b"d"
        if not copying or this != kind or cuts >= 4:
            return True
        cuts, copying = cuts + 1, False
        if not before:
            asyncio.get_running_loop().call_soon(proxy.cut)
        return not before

    async with PostgresProxy(*target_of(database_url), hook) as proxy:
        one = follower(through(database_url, proxy.port), simulator.address, waits=WAITS)
        async with following(one, waits=WAITS) as running:
            await all_stored(conn, running, simulator)
            await running.wait_until(lambda: cuts == 4 or one.is_quiet, "the last cut")
    assert cuts > 0
    await everything(conn, simulator)


async def test_the_backends_are_terminated_by_an_administrator(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(COUNT), FLOW)
    one = follower(database_url, simulator.address, waits=WAITS)
    async with following(one, waits=WAITS) as running:
        for least in (20, 100, 250):
            await running.wait_until(lambda: one.stored >= least, f"{least} events")  # noqa: B023 - in this round
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await all_stored(conn, running, simulator)
    await everything(conn, simulator)


def kill(server: EmbeddedPostgres) -> None:
    """SIGKILL for the postmaster; its children notice by themselves."""
    pid = server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def outlive(server: EmbeddedPostgres, one: Follower, running: Running, least: int) -> None:
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
            await outlive(server, one, running, 50)
            await outlive(server, one, running, 151)
            async with store.connection(url) as conn:
                await all_stored(conn, running, simulator)
        async with store.connection(url) as conn:
            await everything(conn, simulator)


async def test_an_append_that_can_not_get_a_lock_is_rolled_back_and_retried(
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

            await running.wait_until(lambda: not one.can_commit, "the append gives up")
            assert await count_events(conn) == 5
        await running.wait_until(lambda: one.stored == 10, "the rest")
    assert await stored_payloads(conn) == payloads(log, CHAT)
