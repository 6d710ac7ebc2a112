"""Two processes for one app: one takes over when the other is frozen or killed; waking up changes nothing."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from eventstore.appending.cursor_move import CursorMove
from eventstore.errors import LeadershipLost
from projections.sandbox.simulator import Simulator
from tests import store
from tests.fault.following import Child, child
from tests.fault.proxy import PostgresProxy, target_of, through
from tests.fix_simulator import SimulatorFactory
from tests.following import (
    count_events,
    cursor_row,
    follower,
    following,
    log_of,
    payloads,
    quick_waits,
    stored_payloads,
)
from tests.store import APP, CHAT, new_events

FROZEN = quick_waits(leader_timeout=2, append_lock=0.4)
"""Of the process that is frozen: Postgres frees its app soon."""
WAITS = quick_waits(leader_timeout=60, append_lock=0.4)
LOG = log_of(40)
COPY_DATA, COPY_DONE = b"d", b"c"


class Trap:
    """Stops a process before its next message of a type gets through to Postgres; nothing gets through after it."""

    def __init__(self, proxy: PostgresProxy, kind: bytes, number: signal.Signals) -> None:
        self._proxy = proxy
        self._kind = kind
        self._number = number
        self.process: Child | None = None
        self.sprung = 0
        proxy.before = self._before

    def set(self, process: Child) -> None:
        self.process = process

    def _before(self, _n: int, kind: bytes) -> bool:
        if kind == self._kind and self.process is not None and not self.sprung:
            self.sprung += 1
            self.process.send(self._number)
            self._proxy.pause()
        return True


async def reached(conn: AsyncConnection, count: int) -> None:
    """Wait until so many events are stored."""

    async def there() -> bool:
        return await count_events(conn) == count

    await store.wait_until(there, f"{count} events")


async def contract_kept(conn: AsyncConnection) -> dict[str, Any]:
    """Wait until the app's row has its contract, which is kept by a statement of its own; returns the row."""

    async def kept() -> dict[str, Any] | None:
        row = await cursor_row(conn)
        return row if row["contract"] else None

    return await store.wait_until(kept, "the contract") or {}


async def frozen(conn: AsyncConnection, process: Child, trap: Trap, simulator: Simulator) -> None:
    """Freeze it in the middle of an append of what comes second."""
    await reached(conn, 10)
    trap.set(process)
    await simulator.append(*LOG[10:20])

    async def sprung() -> bool:
        return bool(trap.sprung)

    await store.wait_until(sprung, "the trap")


@pytest.mark.parametrize("kind", [COPY_DATA, COPY_DONE], ids=["before the data", "before its end"])
async def test_a_frozen_process_is_replaced_and_changes_nothing_when_it_wakes_up(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, kind: bytes
) -> None:
    simulator = await simulator_factory(LOG[:10])
    async with (
        PostgresProxy(*target_of(database_url)) as proxy,
        child(through(database_url, proxy.port), simulator.address, FROZEN) as process,
    ):
        await frozen(conn, process, Trap(proxy, kind, signal.SIGSTOP), simulator)
        first = (await cursor_row(conn))["epoch"]

        one = follower(database_url, simulator.address, waits=WAITS)
        async with following(one, waits=WAITS) as running:
            await reached(conn, 20)
            await simulator.append(*LOG[20:30])
            await reached(conn, 30)
            before = await contract_kept(conn)
            assert (before["epoch"], before["cursor"]) == (first + 1, LOG[29].event_id)

            proxy.resume()
            process.send(signal.SIGCONT)
            await process.until("standing by")
            assert await cursor_row(conn) == before
            assert await stored_payloads(conn) == payloads(LOG[:30], CHAT)
            await running.stop()

        await simulator.append(*LOG[30:])
        await reached(conn, 40)
        process.send(signal.SIGTERM)
        assert await process.end() == 0
    after = await cursor_row(conn)
    assert after["cursor"] == LOG[-1].event_id
    assert after["epoch"] > before["epoch"]
    assert await stored_payloads(conn) == payloads(LOG, CHAT)


async def test_a_killed_process_is_replaced_at_once(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(LOG[:10])
    async with (
        PostgresProxy(*target_of(database_url)) as proxy,
        child(through(database_url, proxy.port), simulator.address, WAITS) as process,
    ):
        trap = Trap(proxy, COPY_DONE, signal.SIGKILL)
        await frozen(conn, process, trap, simulator)
        assert await process.end() == -signal.SIGKILL
        proxy.resume()
        one = follower(database_url, simulator.address, waits=WAITS)
        async with following(one, waits=WAITS):
            await reached(conn, 20)
    row = await cursor_row(conn)
    assert (row["epoch"], row["cursor"]) == (2, LOG[19].event_id)
    assert await stored_payloads(conn) == payloads(LOG[:20], CHAT)


async def test_an_append_under_an_old_epoch_writes_nothing(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(LOG[:10])
    one = follower(database_url, simulator.address)
    async with following(one) as running:
        await running.wait_until(lambda: one.stored == 10, "the events")
        before = await contract_kept(conn)
        late = new_events(1)
        with pytest.raises(LeadershipLost):
            await Appender(conn, WAITS).append(late, cursor=CursorMove(APP, before["epoch"] - 1, late[0].event_id))
        assert await cursor_row(conn) == before
    assert await stored_payloads(conn) == payloads(LOG[:10], CHAT)


async def test_a_follower_that_lost_its_app_stops_reading_and_writing(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(LOG[:10])
    one = follower(database_url, simulator.address, waits=WAITS)
    async with following(one, waits=WAITS) as running:
        await running.wait_until(lambda: one.stored == 10, "the events")
        await conn.execute("UPDATE eventstore.cursors SET epoch = 7")
        await simulator.append(*LOG[10:20])
        await running.wait_until(lambda: one.stored == 20, "the rest, under an epoch of its own")
        assert (await cursor_row(conn))["epoch"] == 8
    assert await stored_payloads(conn) == payloads(LOG[:20], CHAT)
