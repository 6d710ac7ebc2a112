"""The database loses committed events while a process runs: they are received again, and the loss is recorded."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection

from projections.migrating.metadata import READ_MODELS
from projections.sandbox.simulator import SimulatedEvent, Simulator, World, build_log
from tests import folding, store
from tests.acceptance.command import QUICK, Commands, RunningCommand
from tests.fault.failover_cluster import DATABASE, Cluster, Server
from tests.fault.proxy import TcpProxy
from tests.fix_simulator import TOKEN, SimulatorFactory
from tests.store import CHAT

DELAYS = (0, 0.3, 1, 3)
"""Seconds during which clients reach no server."""
ROUNDS = 10
ROUNDS_WITHOUT_NEW_EVENTS = (3, 6)
"""Rounds in which no event follows the lost ones: only the session that holds the app notices the failover."""
APP = "default"
EVENTS_PER_ROUND = 60
ENVIRONMENT = {
    **QUICK,
    "PROJECTIONS_TOKEN": TOKEN,
    "PROJECTIONS_POLL": "0.2",
}


@cache  # not when the tests are collected, which each process does
def log() -> Sequence[SimulatedEvent]:
    """Return what the platform sends, in order."""
    entries = build_log(World(recipients=1_400).events(), ends=datetime.now(UTC))
    return [entry for entry in entries if CHAT in entry.payloads]


class Setup:
    """A process that follows and folds through a proxy, which forwards it to one of several servers.

    Attributes:
        sent: how many events the platform has sent so far.
        server: the server that the proxy forwards to.

    """

    def __init__(self, server: Server, proxy: TcpProxy, simulator: Simulator, running: RunningCommand) -> None:
        self.server = server
        self.proxy = proxy
        self.running = running
        self.sent = 0
        self._simulator = simulator

    async def send(self, count: int = EVENTS_PER_ROUND) -> None:
        """Send more events from the platform."""
        await self._simulator.append(*log()[self.sent : self.sent + count])
        self.sent = min(self.sent + count, len(log()))

    async def wait_until_stored(self, server: Server | None = None) -> None:
        """Wait until a server has all events that were sent."""
        await wait_for_count(server or self.server, self.sent)

    async def switch(self, server: Server, delay: float = 0) -> None:
        """Forward the process to another server, after so many seconds without any server."""
        self.proxy.refuse()
        await asyncio.sleep(delay)  # the delay is the fault itself
        self.server = server
        self.proxy.resume()
        self.proxy.switch("127.0.0.1", server.port)
        self.proxy.accept()

    async def recorded_losses(self) -> list[dict[str, Any]]:
        """Read the losses that the current server has recorded."""
        async with connected(self.server) as conn:
            found = await store.value(conn, "SELECT went_back FROM eventstore.cursors WHERE app = %s", APP)
        assert isinstance(found, list)
        return found

    async def assert_complete(self) -> None:
        """Assert that all sent events are stored once, unchanged and in order, and that the read models are right."""
        async with connected(self.server) as conn:
            payloads = [event.payload for event in await store.stored_events(conn)]
            assert payloads == [entry.payloads[CHAT] for entry in log()[: self.sent]]
            await store.positions(conn)
            assert await store.quarantine_rows(conn) == []
            for projection in READ_MODELS:
                await folding.wait_until_folded(conn, projection.name, self.sent)
            await folding.assert_rows_match_oracle(conn)
            await store.wait_until(lambda: self._follows(conn), "the process to follow again")
        self.running.send(signal.SIGTERM)
        result = await self.running.wait()
        assert result.code == 0, result.transcript
        assert "Traceback" not in result.err

    async def _follows(self, conn: AsyncConnection) -> bool:
        """Return whether the process has noticed the last end of the server and follows again."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projections ingest %%'"
        if not await store.value(conn, query):
            return False
        lines = "".join(self.running.stderr_lines)  # it reports that it lost the lease before it connects again
        return lines.rfind("following") > lines.rfind("lost the lease of the app")


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[AsyncConnection]:
    async with store.connection(server.superuser_url, "observer") as conn:
        yield conn


async def wait_for_count(server: Server, count: int) -> None:
    """Wait until a server, which may be a standby, has so many events, on one connection if it lives."""
    conn: AsyncConnection | None = None

    async def is_reached() -> bool:
        nonlocal conn
        try:
            if conn is None or conn.closed:
                conn = await AsyncConnection.connect(server.superuser_url, autocommit=True)
            rows = await conn.execute("SELECT coalesce(max(position), 0) FROM eventstore.events")
            return bool((await rows.fetchone() or (0,))[0] >= count)
        except psycopg.Error:  # it is starting, or has not replayed the creation of the tables
            return False

    try:
        await store.wait_until(is_reached, f"{count} events at port {server.port}")
    finally:
        if conn is not None:
            await conn.close()


@asynccontextmanager
async def set_up(servers: Cluster, simulator_factory: SimulatorFactory, folder: Path) -> AsyncIterator[Setup]:
    server = await servers.primary()
    simulator = await simulator_factory([])
    async with TcpProxy("127.0.0.1", server.port) as proxy, AsyncExitStack() as stack:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{DATABASE}?sslmode=disable&gssencmode=disable"
        environment = {**ENVIRONMENT, "DATABASE_URL": url, "PCS_EXTERNAL_API_URL": simulator.address}
        running = await Commands(folder, stack).start("run", **environment)
        yield Setup(server, proxy, simulator, running)


def test_the_log_is_long_enough() -> None:
    assert len(log()) >= EVENTS_PER_ROUND * 3 * ROUNDS


async def test_a_standby_without_the_last_events_is_promoted(
    servers: Cluster, simulator_factory: SimulatorFactory, tmp_path: Path
) -> None:
    async with set_up(servers, simulator_factory, tmp_path) as test:
        lost = []
        for number in range(ROUNDS):
            primary = test.server
            async with TcpProxy("127.0.0.1", primary.port) as replication:
                standby = await primary.backup(servers.new_folder(), standby_of=replication.port)
                await standby.start()
                await test.send()
                await test.wait_until_stored()
                await test.wait_until_stored(standby)
                replication.pause()
                kept = test.sent
                await test.send()
                await test.wait_until_stored()
                lost.append((test.sent, kept))
                replication.refuse()
                await standby.promote()
                test.proxy.pause()
                if number not in ROUNDS_WITHOUT_NEW_EVENTS:  # the process holds more events in memory
                    await test.send()
                await primary.stop(signal.SIGQUIT)
                await test.switch(standby, DELAYS[number % len(DELAYS)])
                await test.wait_until_stored()
        assert [(one["from"], one["to"]) for one in await test.recorded_losses()] == lost
        await test.assert_complete()
    assert sum("the database lost committed events" in line for line in test.running.stderr_lines) == ROUNDS


async def test_a_restored_backup_replaces_the_database(
    servers: Cluster, simulator_factory: SimulatorFactory, tmp_path: Path
) -> None:
    async with set_up(servers, simulator_factory, tmp_path) as test:
        await test.send()
        await test.wait_until_stored()
        backup = await test.server.backup(servers.new_folder())
        for _ in range(3):
            await test.send()
            await test.wait_until_stored()
        await test.server.stop(signal.SIGINT)
        test.proxy.refuse()
        await backup.start()
        await test.send()
        await test.switch(backup)
        await test.wait_until_stored()
        assert [(one["from"], one["to"]) for one in await test.recorded_losses()] == [
            (4 * EVENTS_PER_ROUND, EVENTS_PER_ROUND)
        ]
        await test.assert_complete()


async def test_a_database_that_commits_asynchronously_crashes(
    servers: Cluster, simulator_factory: SimulatorFactory, tmp_path: Path
) -> None:
    """Appends are durable whatever the database's setting; folds that are lost are folded again."""
    async with set_up(servers, simulator_factory, tmp_path) as test:
        for _ in range(3):
            async with connected(test.server) as conn:
                await conn.execute(f"ALTER DATABASE {DATABASE} SET synchronous_commit = off".encode())
                await conn.execute("ALTER ROLE postgres SET synchronous_commit = off")
                await conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid()"
                )
            await test.send()
            await test.wait_until_stored()
            await test.send()
            await test.wait_until_stored()
            async with connected(test.server) as conn:
                await folding.wait_until_folded(conn, READ_MODELS[0].name, test.sent)
            await test.server.stop(signal.SIGQUIT)
            await test.server.start()
            await test.switch(test.server)
            await wait_for_count(test.server, test.sent)
            await test.send()
            await test.wait_until_stored()
        assert await test.recorded_losses() == []
        await test.assert_complete()
