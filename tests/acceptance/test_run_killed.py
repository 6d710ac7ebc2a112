"""Two ``projections run`` on one database under load, the older one killed repeatedly: each event is folded once."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime

from psycopg import AsyncConnection

from projections.migrating.metadata import READ_MODELS
from projections.sandbox.simulator import SimulatedEvent, Simulator, World, build_log
from tests import folding, store
from tests.acceptance.command import PATIENT, QUICK, Commands, RunningCommand
from tests.acceptance.stored_events import read_stored
from tests.fix_simulator import TOKEN, SimulatorFactory
from tests.store import CHAT

KILLS = 7
NAMES = [projection.name for projection in READ_MODELS]
ENVIRONMENT = {
    **QUICK,
    **PATIENT,
    "PROJECTIONS_TOKEN": TOKEN,
    "PROJECTIONS_POLL": "0.05",
    "PROJECTIONS_BATCH_SIZE": "5",
}
EVENTS_PER_APPEND = 10


class Load:
    """Sends events while it is enabled: a few at a time, after all earlier ones are stored.

    Attributes:
        sent: the events that it has sent.
        enabled: whether it sends more.

    """

    def __init__(self, simulator: Simulator, conn: AsyncConnection) -> None:
        story = World(recipients=1000).events()
        self._log = [entry for entry in build_log(story, ends=datetime.now(UTC)) if CHAT in entry.payloads]
        self.sent: list[SimulatedEvent] = []
        self.enabled = asyncio.Event()
        self._simulator = simulator
        self._conn = conn

    async def run(self) -> None:
        """Send the log, until it is cancelled."""
        while more := self._log[len(self.sent) : len(self.sent) + EVENTS_PER_APPEND]:
            await self.enabled.wait()
            await store.wait_until(self._all_stored, f"{len(self.sent)} events stored")
            await self._simulator.append(*more)
            self.sent += more

    async def _all_stored(self) -> bool:
        head = await store.value(self._conn, "SELECT coalesce(max(position), 0) FROM eventstore.events")
        return int(str(head)) >= len(self.sent)


async def wait_for_processes(conn: AsyncConnection, processes: int) -> None:
    """Wait until so many processes have a session for every projection."""

    async def all_connected() -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE ANY(%s)"
        found = await store.value(conn, query, [f"projections run {name} %" for name in NAMES])
        return int(str(found)) >= processes * len(NAMES)

    await store.wait_until(all_connected, f"{processes} processes that fold")


async def wait_for_more_windows(conn: AsyncConnection, more: int) -> None:
    """Wait until so many more windows are folded."""
    query = "SELECT coalesce(sum(windows), 0) FROM projections.checkpoints"
    before = int(str(await store.value(conn, query)))

    async def enough() -> bool:
        return int(str(await store.value(conn, query))) >= before + more

    await store.wait_until(enough, f"{more} more windows than {before}")


async def test_every_event_is_folded_once_whichever_process_is_killed(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory([])
    environment = {**ENVIRONMENT, "DATABASE_URL": database_url, "PCS_EXTERNAL_API_URL": simulator.address}
    async with store.connection(database_url) as conn, store.connection(database_url) as other:
        load = Load(simulator, other)
        loading = asyncio.create_task(load.run())
        running: list[RunningCommand] = [await commands.start("run", **environment)]
        for _ in range(KILLS):
            running.append(await commands.start("run", **environment))
            await wait_for_processes(conn, 2)
            load.enabled.set()
            await wait_for_more_windows(conn, 20)
            result = await running.pop(0).kill()
            assert result.code == -signal.SIGKILL
            assert "Traceback" not in result.err
            await wait_for_more_windows(conn, 20)  # by the other process, which follows the app now
            assert not loading.done(), "the log is too short for this many kills"
            load.enabled.clear()
        loading.cancel()
        await asyncio.wait([loading])
        for name in NAMES:
            await folding.wait_until_folded(conn, name, len(load.sent))
        (last,) = running
        last.send(signal.SIGTERM)
        result = await last.wait()
        assert result.code == 0, result.transcript
        assert (await read_stored(database_url)).payloads == [entry.payloads[CHAT] for entry in load.sent]
        for name in NAMES:
            now = await folding.checkpoint_row(conn, name)
            assert (now.state, now.position, now.events, now.failures) == ("running", len(load.sent), len(load.sent), 0)
        await folding.assert_rows_match_oracle(conn)
