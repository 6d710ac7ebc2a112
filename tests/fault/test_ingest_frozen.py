"""A second process takes over when the first is frozen or killed; a frozen one changes nothing when it continues."""

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
from tests.fault.follow_child import FollowChild, follow_child
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
"""Timeouts of the process that is frozen: Postgres releases its app soon."""
WAITS = quick_waits(leader_timeout=60, append_lock=0.4)
LOG = log_of(40)
COPY_DATA, COPY_DONE = b"d", b"c"


class SignalAtMessage:
    """Sends a signal to a process before its next message of a type to Postgres, and pauses the proxy before it."""

    def __init__(self, proxy: PostgresProxy, kind: bytes, number: signal.Signals) -> None:
        self._proxy = proxy
        self._kind = kind
        self._number = number
        self.process: FollowChild | None = None
        self.sent = 0
        proxy.before = self._before

    def set(self, process: FollowChild) -> None:
        self.process = process

    def _before(self, _n: int, kind: bytes) -> bool:
        if kind == self._kind and self.process is not None and not self.sent:
            self.sent += 1
            self.process.send(self._number)
            self._proxy.pause()
        return True


async def wait_for_count(conn: AsyncConnection, count: int) -> None:
    """Wait until exactly so many events are stored."""

    async def is_reached() -> bool:
        return await count_events(conn) == count

    await store.wait_until(is_reached, f"{count} events")


async def wait_for_contract(conn: AsyncConnection) -> dict[str, Any]:
    """Wait until the app's row has its contract, which a separate statement saves; returns the row."""

    async def saved() -> dict[str, Any] | None:
        row = await cursor_row(conn)
        return row if row["contract"] else None

    return await store.wait_until(saved, "the contract") or {}


async def stop_during_append(
    conn: AsyncConnection, process: FollowChild, signal_at_message: SignalAtMessage, simulator: Simulator
) -> None:
    """Wait for the first events; then stop the process in the middle of the append of the next ones."""
    await wait_for_count(conn, 10)
    signal_at_message.set(process)
    await simulator.append(*LOG[10:20])

    async def triggered() -> bool:
        return bool(signal_at_message.sent)

    await store.wait_until(triggered, "the signal to be sent")


@pytest.mark.parametrize("kind", [COPY_DATA, COPY_DONE], ids=["before the data", "before the end of the data"])
async def test_a_frozen_process_is_replaced_and_changes_nothing_when_it_continues(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, kind: bytes
) -> None:
    simulator = await simulator_factory(LOG[:10])
    async with (
        PostgresProxy(*target_of(database_url)) as proxy,
        follow_child(through(database_url, proxy.port), simulator.address, FROZEN) as process,
    ):
        await stop_during_append(conn, process, SignalAtMessage(proxy, kind, signal.SIGSTOP), simulator)
        first = (await cursor_row(conn))["epoch"]

        one = follower(database_url, simulator.address, waits=WAITS)
        async with following(one, waits=WAITS) as running:
            await wait_for_count(conn, 20)
            await simulator.append(*LOG[20:30])
            await wait_for_count(conn, 30)
            before = await wait_for_contract(conn)
            assert (before["epoch"], before["cursor"]) == (first + 1, LOG[29].event_id)

            proxy.resume()
            process.send(signal.SIGCONT)
            await process.wait_for_line("standing by")
            assert await cursor_row(conn) == before
            assert await stored_payloads(conn) == payloads(LOG[:30], CHAT)
            await running.stop()

        await simulator.append(*LOG[30:])
        await wait_for_count(conn, 40)
        process.send(signal.SIGTERM)
        assert await process.wait() == 0
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
        follow_child(through(database_url, proxy.port), simulator.address, WAITS) as process,
    ):
        signal_at_message = SignalAtMessage(proxy, COPY_DONE, signal.SIGKILL)
        await stop_during_append(conn, process, signal_at_message, simulator)
        assert await process.wait() == -signal.SIGKILL
        proxy.resume()
        one = follower(database_url, simulator.address, waits=WAITS)
        async with following(one, waits=WAITS):
            await wait_for_count(conn, 20)
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
        before = await wait_for_contract(conn)
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
        await running.wait_until(lambda: one.stored == 20, "the rest, under a new epoch")
        assert (await cursor_row(conn))["epoch"] == 8
    assert await stored_payloads(conn) == payloads(LOG[:20], CHAT)
