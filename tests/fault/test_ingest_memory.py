"""Ingest while the database is slow or unavailable: memory is limited, and nothing is lost."""

from __future__ import annotations

import grpc
import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from eventstore.contracts import Contract
from eventstore.ingest import buffer
from eventstore.ingest.buffer import Buffer, Received
from eventstore.ingest.follower import FollowerState
from projections.sandbox.simulator import SimulatorSettings
from tests import wire
from tests.fault.proxy import TcpProxy, target_of, through
from tests.fix_simulator import SimulatorFactory
from tests.following import follower, following, log_of, payloads, quick_waits, stored_payloads
from tests.scripted import ends_with, scripted_server, stays_open
from tests.store import CHAT

MESSAGE = 2 * 2**20
WAITS = quick_waits(silence=2, append_lock=30, leader_timeout=60)


class Peak:
    """The largest size and number of events of all buffers so far."""

    def __init__(self) -> None:
        self.bytes = self.events = 0

    def note(self, held: Buffer) -> None:
        self.bytes = max(self.bytes, held.size)
        self.events = max(self.events, len(held))


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> Peak:
    """Record the peak of all buffers."""
    peak, put = Peak(), Buffer.put

    def watched(self: Buffer, received: Received) -> bool:
        room = put(self, received)
        peak.note(self)
        return room

    monkeypatch.setattr(Buffer, "put", watched)
    return peak


@pytest.mark.parametrize("contract", Contract)
async def test_a_slow_database_fills_the_buffer_to_its_limit_and_the_stream_waits(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, peak: Peak, contract: Contract
) -> None:
    # Much more than the buffers of sockets and libraries hold.
    log = log_of(60, more=wire.bytes_field(500, bytes(MESSAGE)))
    simulator = await simulator_factory(log, SimulatorSettings(keep_alive=0.02))
    one = follower(database_url, simulator.address, contract=contract, waits=WAITS)
    with capture_logs() as logs:
        async with following(one, waits=WAITS) as running:
            async with conn.transaction():
                await conn.execute("LOCK TABLE eventstore.events IN SHARE MODE")
                await running.wait_until(lambda: not one._buffer.has_room, "a full buffer")
                await conn.execute("SELECT pg_sleep(5)")  # more than twice the timeout for silence
                messages_so_far = [line["event"] for line in logs]
                assert simulator.calls[0].events_sent < len(log)
            await running.wait_until(lambda: one.stored == len(log), "all events stored")
    assert not {"the stream is silent", "the stream failed"} & {*messages_so_far}, (
        "a full buffer does not count as a silent stream"
    )
    assert len(simulator.calls) == 1
    assert 64 * 2**20 <= peak.bytes <= 64 * 2**20 + MESSAGE + 1024
    assert await stored_payloads(conn) == payloads(log, contract)


async def test_many_small_events_fill_the_buffer_by_their_number(
    database_url: str,
    conn: AsyncConnection,
    simulator_factory: SimulatorFactory,
    peak: Peak,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(buffer, "MAX_EVENTS", 300)
    monkeypatch.setattr(Buffer.__init__, "__defaults__", (300, 2**26))
    log = log_of(1_000)
    simulator = await simulator_factory(log)
    one = follower(database_url, simulator.address, waits=WAITS)
    async with following(one, waits=WAITS) as running:
        async with conn.transaction():
            await conn.execute("LOCK TABLE eventstore.events IN SHARE MODE")
            await running.wait_until(lambda: not one._buffer.has_room, "a full buffer")
        await running.wait_until(lambda: one.stored == len(log), "all events stored")
    assert peak.events == 300
    assert await stored_payloads(conn) == payloads(log, CHAT)


async def test_while_the_database_is_unavailable_nothing_is_kept_in_memory_and_nothing_is_lost(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, peak: Peak
) -> None:
    log = log_of(60, more=wire.bytes_field(500, bytes(2**16)))
    async with TcpProxy(*target_of(database_url)) as proxy:
        simulator = await simulator_factory(log[:20])
        one = follower(through(database_url, proxy.port), simulator.address)
        async with following(one) as running:
            await running.wait_until(lambda: one.stored == 20, "the first")
            proxy.refuse()
            await running.wait_until(
                lambda: one.state is FollowerState.DATABASE_UNAVAILABLE, "the outage to be noticed"
            )
            await simulator.append(*log[20:])
            assert not one.is_quiet
            open_streams = [call for call in simulator.calls if call.ended is None]
            await simulator.wait_for(lambda: all(call.ended is not None for call in open_streams))
            proxy.accept()
            await running.wait_until(lambda: one.stored == 60, "the rest")
    assert peak.bytes < 60 * 2**17
    assert await stored_payloads(conn) == payloads(log, CHAT)


async def test_a_normal_end_of_the_stream_does_not_disturb_a_long_append(
    database_url: str, conn: AsyncConnection
) -> None:
    messages = [wire.event(event_id) for event_id, _ in zip(wire.ulids(), range(50), strict=False)]
    waits = quick_waits(append_lock=0.05, settle=5, idle_in_transaction=60)
    async with scripted_server(ends_with(grpc.StatusCode.OK, *messages), stays_open()) as upstream:
        one = follower(database_url, upstream.address, waits=waits)
        with capture_logs() as logs:
            async with following(one, waits=waits) as running:
                async with conn.transaction():
                    await conn.execute("LOCK TABLE eventstore.events IN SHARE MODE")
                    await running.wait_until(lambda: len(one._buffer), "events in the buffer")
                    await conn.execute("SELECT pg_sleep(0.4)")  # eight times the lock timeout of the lease's statements
                await running.wait_until(lambda: one.stored == len(messages), "all events stored")
    assert {line["event"] for line in logs if line["log_level"] != "debug"} <= {"following"}
    assert await stored_payloads(conn) == messages
