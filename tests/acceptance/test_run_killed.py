"""Two ``projections run`` on one database under load, the older one killed over and over: all is folded, once."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime

from psycopg import AsyncConnection

from projections.migrating.metadata import READ_MODELS
from projections.sandbox.simulator import Simulator, World, build_log
from tests import folding, store
from tests.acceptance.command import QUICK, Commands, Running
from tests.acceptance.stored import stored
from tests.fix_simulator import TOKEN, SimulatorFactory
from tests.store import CHAT

KILLS = 7
NAMES = [projection.name for projection in READ_MODELS]
ENVIRONMENT = {
    **QUICK,
    "PROJECTIONS_TOKEN": TOKEN,
    "PROJECTIONS_POLL": "0.05",
    "PROJECTIONS_BATCH_SIZE": "5",
}
LOG = [entry for entry in build_log(World(recipients=1000).events(), ends=datetime.now(UTC)) if CHAT in entry.payloads]
AT_ONCE = 10


class Load:
    """Events that come, while it flows, a few at a time, each once those before them are stored.

    Attributes:
        came: how many came so far.

    """

    def __init__(self, simulator: Simulator, conn: AsyncConnection) -> None:
        self.came = 0
        self.flows = asyncio.Event()
        self._simulator = simulator
        self._conn = conn

    async def run(self) -> None:
        """Go on until the log is over."""
        while self.came < len(LOG):
            await self.flows.wait()
            await store.wait_until(self._all_stored, f"{self.came} events stored")
            await self._simulator.append(*LOG[self.came : self.came + AT_ONCE])
            self.came = min(self.came + AT_ONCE, len(LOG))

    async def _all_stored(self) -> bool:
        head = await store.value(self._conn, "SELECT coalesce(max(position), 0) FROM eventstore.events")
        return int(str(head)) >= self.came


async def at_work(conn: AsyncConnection, processes: int) -> None:
    """Wait until so many processes run every projection."""

    async def here() -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE ANY(%s)"
        found = await store.value(conn, query, [f"projections run {name} %" for name in NAMES])
        return int(str(found)) >= processes * len(NAMES)

    await store.wait_until(here, f"{processes} processes at work")


async def more_folded(conn: AsyncConnection, more: int) -> None:
    """Wait until so many windows more are folded."""
    query = "SELECT coalesce(sum(windows), 0) FROM projections.checkpoints"
    before = int(str(await store.value(conn, query)))

    async def there() -> bool:
        return int(str(await store.value(conn, query))) >= before + more

    await store.wait_until(there, f"{more} windows more than {before}")


async def test_whoever_is_killed_everything_is_folded_once(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory([])
    environment = {**ENVIRONMENT, "DATABASE_URL": database_url, "PCS_EXTERNAL_API_URL": simulator.address}
    async with store.connection(database_url) as conn, store.connection(database_url) as other:
        load = Load(simulator, other)
        loading = asyncio.create_task(load.run())
        running: list[Running] = [await commands.start("run", **environment)]
        for _ in range(KILLS):
            running.append(await commands.start("run", **environment))
            await at_work(conn, 2)
            load.flows.set()
            await more_folded(conn, 20)
            ended = await running.pop(0).kill()
            assert ended.code == -signal.SIGKILL
            assert "Traceback" not in ended.err
            await more_folded(conn, 20)  # by the other, which follows the app now
            assert not loading.done(), "the log is too short for so many kills"
            load.flows.clear()
        load.flows.set()
        await loading
        for name in NAMES:
            await folding.wait_until_folded(conn, name, len(LOG))
        (last,) = running
        last.send(signal.SIGTERM)
        ended = await last.ended(within=5)
        assert ended.code == 0, ended.said
        assert (await stored(database_url)).payloads == [entry.payloads[CHAT] for entry in LOG]
        for name in NAMES:
            now = await folding.checkpoint_row(conn, name)
            assert (now.state, now.position, now.events, now.failures) == ("running", len(LOG), len(LOG), 0)
        await folding.assert_rows_match_oracle(conn)
