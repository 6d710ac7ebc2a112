"""Silent streams: reconnected under one contract, only a warning under the other."""

from __future__ import annotations

import time

from psycopg import AsyncConnection
from structlog.testing import capture_logs

from projections.sandbox.simulator import Fault, FaultKind, SimulatorSettings
from tests.fault.proxy import TcpProxy
from tests.fix_simulator import SimulatorFactory
from tests.following import follower, following, log_of, payloads, quick_waits, stored_payloads
from tests.store import CHAT, PCS

SILENT = quick_waits(silence=0.06)


async def test_a_silent_pcs_stream_is_reconnected(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(6)
    simulator = await simulator_factory(log, SimulatorSettings(keep_alive=0.02))
    simulator.inject(Fault(FaultKind.SILENCE, after=2, times=2))
    one = follower(database_url, simulator.address, contract=PCS, waits=SILENT)
    with capture_logs() as logs:
        async with following(one, waits=SILENT) as running:
            await running.wait_until(lambda: one.stored == 6, "all of them")
    assert len(simulator.calls) >= 3
    assert sum("sent nothing for too long" in str(line.get("error")) for line in logs) >= 2
    assert await stored_payloads(conn) == payloads(log, PCS)


async def test_keep_alives_keep_a_stream_open(database_url: str, simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(log_of(1), SimulatorSettings(keep_alive=0.04))
    waits = quick_waits(silence=1)
    one = follower(database_url, simulator.address, contract=PCS, waits=waits)
    async with following(one, waits=waits):
        await simulator.wait_for(lambda: bool(simulator.calls) and simulator.calls[0].keep_alives_sent >= 30)
    assert len(simulator.calls) == 1


async def test_time_in_which_the_process_was_frozen_is_not_silence(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(1), SimulatorSettings(keep_alive=0.04))
    waits = quick_waits(silence=1)
    one = follower(database_url, simulator.address, contract=PCS, waits=waits)

    def keep_alives() -> int:
        return sum(call.keep_alives_sent for call in simulator.calls)

    async with following(one, waits=waits) as running:
        for sent in (5, 20):
            await running.wait_until(lambda: keep_alives() >= sent, "keep-alives")  # noqa: B023 - in this round
            time.sleep(1.5)  # noqa: ASYNC251 - freezes the process on purpose
        await running.wait_until(lambda: keep_alives() >= 40, "more keep-alives")
    assert len(simulator.calls) == 1


async def test_a_silent_chat_stream_is_kept_with_one_warning(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(3)
    simulator = await simulator_factory(log[:2])
    one = follower(database_url, simulator.address, waits=SILENT)
    with capture_logs() as logs:

        def warnings() -> int:
            return sum(line["event"] == "the stream is silent" for line in logs)

        async with following(one, waits=SILENT) as running:
            await running.wait_until(warnings, "the warning")
            await simulator.append(log[2])
            await running.wait_until(lambda: one.stored == 3, "the event after the silence")
    assert (len(simulator.calls), warnings()) == (1, 1)
    assert await stored_payloads(conn) == payloads(log, CHAT)


async def test_a_chat_stream_whose_server_vanished_is_noticed_by_the_ping(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(4)
    simulator = await simulator_factory(log[:3])
    waits = quick_waits(ping=0.3, ping_timeout=0.3)
    async with TcpProxy("127.0.0.1", simulator.port) as proxy:
        one = follower(database_url, f"http://127.0.0.1:{proxy.port}", waits=waits)
        async with following(one, waits=waits) as running:
            await running.wait_until(lambda: one.stored == 3, "the first events")
            proxy.pause()
            await running.wait_until(lambda: not one.is_quiet, "the lost server to be noticed")
            proxy.cut()
            proxy.resume()
            await simulator.append(log[3])
            await running.wait_until(lambda: one.stored == 4, "the later event")
    assert await stored_payloads(conn) == payloads(log, CHAT)
