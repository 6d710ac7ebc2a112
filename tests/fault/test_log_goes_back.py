"""The database loses what was committed, under a living process: everything is received again, and it is recorded."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection

from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import upgrade
from projections.sandbox.simulator import Simulator, World, build_log
from tests import folding, store
from tests.acceptance.command import QUICK, Commands, Running
from tests.fault.cluster import DATABASE, Cluster, Server, cluster
from tests.fault.proxy import TcpProxy
from tests.fix_simulator import TOKEN, SimulatorFactory
from tests.store import CHAT

DELAYS = (0, 0.3, 1, 3)
"""Seconds in which clients reach no server."""
ROUNDS = 10
SILENT = (3, 6)
"""Rounds in which no event follows those that are lost: the connection that holds the app notices the failover."""
APP = "default"
SLICE = 60
ENVIRONMENT = {
    **QUICK,
    "PROJECTIONS_TOKEN": TOKEN,
    "PROJECTIONS_POLL": "0.2",
}
LOG = [entry for entry in build_log(World(recipients=1_400).events(), ends=datetime.now(UTC)) if CHAT in entry.payloads]


class Setup:
    """A process that follows and folds, through a proxy that decides which server it reaches.

    Attributes:
        sent: how many events the platform has sent so far.
        server: the one that the proxy leads to.

    """

    def __init__(self, server: Server, proxy: TcpProxy, simulator: Simulator, running: Running) -> None:
        self.server = server
        self.proxy = proxy
        self.running = running
        self.sent = 0
        self._simulator = simulator

    async def send(self, count: int = SLICE) -> None:
        """Let the platform send more events."""
        await self._simulator.append(*LOG[self.sent : self.sent + count])
        self.sent = min(self.sent + count, len(LOG))

    async def stored(self, server: Server | None = None) -> None:
        """Wait until a server has all that was sent."""
        await has(server or self.server, self.sent)

    async def switch(self, server: Server, delay: float = 0) -> None:
        """Let the process reach another server, after so many seconds without any."""
        self.proxy.refuse()
        await asyncio.sleep(delay)  # the fault itself, not a wait for something
        self.server = server
        self.proxy.resume()
        self.proxy.switch("127.0.0.1", server.port)
        self.proxy.accept()

    async def setbacks(self) -> list[dict[str, Any]]:
        """What is recorded in the database that the process reaches now."""
        async with connected(self.server) as conn:
            found = await store.value(conn, "SELECT went_back FROM eventstore.cursors WHERE app = %s", APP)
        assert isinstance(found, list)
        return found

    async def holds(self) -> None:
        """All that was sent is stored once, in order and as it came, and every read model is what the oracle says."""
        async with connected(self.server) as conn:
            payloads = [event.payload for event in await store.stored_events(conn)]
            assert payloads == [entry.payloads[CHAT] for entry in LOG[: self.sent]]
            await store.positions(conn)
            assert await store.quarantine_rows(conn) == []
            for projection in READ_MODELS:
                await folding.wait_until_folded(conn, projection.name, self.sent)
            await folding.assert_rows_match_oracle(conn)
            await store.wait_until(lambda: self._follows(conn), "a stream that goes on")
        self.running.send(signal.SIGTERM)
        ended = await self.running.ended()
        assert ended.code == 0, ended.said
        assert "Traceback" not in ended.err

    async def _follows(self, conn: AsyncConnection) -> bool:
        """Whether the process has noticed the server's last end, and has followed since."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projections ingest %%'"
        if not await store.value(conn, query):
            return False
        said = "".join(self.running.lines)  # it reports that it lost the lease before it connects again
        return said.rfind("following") > said.rfind("lost the lease of the app")


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[AsyncConnection]:
    async with store.connection(server.superuser_url, "looking") as conn:
        yield conn


async def has(server: Server, count: int) -> None:
    """Wait until a server, a standby perhaps, has so many events."""

    async def there() -> bool:
        try:
            async with await psycopg.AsyncConnection.connect(server.superuser_url, autocommit=True) as conn:
                rows = await conn.execute("SELECT coalesce(max(position), 0) FROM eventstore.events")
                return bool((await rows.fetchone() or (0,))[0] >= count)
        except psycopg.Error:  # it is starting, or has not replayed the tables yet
            return False

    await store.wait_until(there, f"{count} events at port {server.port}")


@asynccontextmanager
async def set_up(place: Cluster, simulator_factory: SimulatorFactory, folder: Path) -> AsyncIterator[Setup]:
    server = await place.primary()
    await asyncio.to_thread(upgrade, server.superuser_url, projections=())
    simulator = await simulator_factory([])
    async with TcpProxy("127.0.0.1", server.port) as proxy, AsyncExitStack() as stack:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{DATABASE}?sslmode=disable&gssencmode=disable"
        environment = {**ENVIRONMENT, "DATABASE_URL": url, "PCS_EXTERNAL_API_URL": simulator.address}
        running = await Commands(folder, stack).start("run", **environment)
        yield Setup(server, proxy, simulator, running)


def test_the_log_is_long_enough() -> None:
    assert len(LOG) >= SLICE * 3 * ROUNDS


async def test_a_standby_is_promoted_that_lacks_the_last_events(
    simulator_factory: SimulatorFactory, tmp_path: Path
) -> None:
    async with cluster() as place, set_up(place, simulator_factory, tmp_path) as test:
        lost = []
        for number in range(ROUNDS):
            primary = test.server
            async with TcpProxy("127.0.0.1", primary.port) as replication:
                standby = await primary.backup(place.new_folder(), standby_of=replication.port)
                await standby.start()
                await test.send()
                await test.stored()
                await test.stored(standby)
                replication.pause()
                kept = test.sent
                await test.send()
                await test.stored()
                lost.append((test.sent, kept))
                replication.refuse()
                await standby.promote()
                test.proxy.pause()
                if number not in SILENT:  # more events are on their way, which the process holds in memory
                    await test.send()
                await primary.end(signal.SIGQUIT)
                await test.switch(standby, DELAYS[number % len(DELAYS)])
                await test.stored()
        assert [(one["from"], one["to"]) for one in await test.setbacks()] == lost
        await test.holds()
    assert sum("the database lost committed events" in line for line in test.running.lines) == ROUNDS


async def test_a_restored_backup_takes_the_place_of_the_database(
    simulator_factory: SimulatorFactory, tmp_path: Path
) -> None:
    async with cluster() as place, set_up(place, simulator_factory, tmp_path) as test:
        await test.send()
        await test.stored()
        backup = await test.server.backup(place.new_folder())
        for _ in range(3):
            await test.send()
            await test.stored()
        await test.server.end(signal.SIGINT)
        test.proxy.refuse()
        await backup.start()
        await test.send()
        await test.switch(backup)
        await test.stored()
        assert [(one["from"], one["to"]) for one in await test.setbacks()] == [(4 * SLICE, SLICE)]
        await test.holds()


async def test_a_database_that_commits_asynchronously_crashes(
    simulator_factory: SimulatorFactory, tmp_path: Path
) -> None:
    """Appends are durable whatever the database prefers; what folds lose is folded again."""
    async with cluster() as place, set_up(place, simulator_factory, tmp_path) as test:
        for _ in range(3):
            async with connected(test.server) as conn:
                await conn.execute(f"ALTER DATABASE {DATABASE} SET synchronous_commit = off".encode())
                await conn.execute("ALTER ROLE postgres SET synchronous_commit = off")
                await conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid()"
                )
            await test.send()
            await test.stored()
            await test.send()
            await test.stored()
            async with connected(test.server) as conn:
                await folding.wait_until_folded(conn, READ_MODELS[0].name, test.sent)
            await test.server.end(signal.SIGQUIT)
            await test.server.start()
            await test.switch(test.server)
            await has(test.server, test.sent)
            await test.send()
            await test.stored()
        assert await test.setbacks() == []
        await test.holds()
