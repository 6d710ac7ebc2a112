"""Each fault of the simulator as a client sees it, and the record of it."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from eventstore import ulid
from eventstore.contracts import Contract, FrameKind, decode, read_frame
from projections.sandbox.simulator import Fault, FaultKind, SimulatedEvent, SimulatorSettings
from tests.fix_simulator import (
    BEGINNING,
    LOG,
    SimulatorFactory,
    count_faults_left,
    entries_of,
    final_status,
    open_stream,
    payloads,
    read_events,
    read_message,
)

CHAT, PCS = Contract.CHAT_EXTERNAL, Contract.PCS_EXTERNAL_V1
QUICK = SimulatorSettings(keep_alive=0.02)


@pytest.mark.parametrize("contract", Contract)
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (FaultKind.END, grpc.StatusCode.OK),
        (FaultKind.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
        (FaultKind.UNAUTHENTICATED, grpc.StatusCode.UNAUTHENTICATED),
        (FaultKind.PERMISSION_DENIED, grpc.StatusCode.PERMISSION_DENIED),
        (FaultKind.NOT_FOUND, grpc.StatusCode.NOT_FOUND),
        (FaultKind.INTERNAL, grpc.StatusCode.INTERNAL),
        (FaultKind.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_a_stream_ends_after_the_given_number_of_events_and_as_often_as_given(
    simulator_factory: SimulatorFactory, contract: Contract, kind: FaultKind, code: grpc.StatusCode
) -> None:
    simulator = await simulator_factory(LOG)
    simulator.inject(Fault(kind, after=7, times=2))
    for number in range(2):
        async with open_stream(simulator, contract, BEGINNING) as call:
            assert len(await read_events(call, contract, 7)) == 7
            assert await final_status(call) is code
        record = simulator.calls[number]
        assert (record.contract, record.events_sent, record.ended) == (contract, 7, code)
        assert (record.after_event_id, record.faults) == (BEGINNING, [kind])
    assert count_faults_left(simulator) == 0
    async with open_stream(simulator, contract, BEGINNING) as call:
        assert len(await read_events(call, contract, 20)) == 20


@pytest.mark.parametrize(
    ("fault", "metadata"),
    [
        (Fault(FaultKind.RESOURCE_EXHAUSTED, retry_after=2), ("retry-after", "2")),
        (Fault(FaultKind.RESOURCE_EXHAUSTED, retry_after_ms=250), ("retry-after-ms", "250")),
    ],
)
async def test_resource_exhausted_includes_how_long_to_wait(
    simulator_factory: SimulatorFactory, fault: Fault, metadata: tuple[str, str]
) -> None:
    simulator = await simulator_factory(LOG)
    simulator.inject(fault)
    async with open_stream(simulator, CHAT) as call:
        assert await final_status(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert metadata in {(name, value) for name, value in await call.trailing_metadata()}


async def test_a_fault_happens_on_a_stream_that_waits_at_the_end_of_the_log(
    simulator_factory: SimulatorFactory,
) -> None:
    simulator = await simulator_factory(LOG)
    async with open_stream(simulator, CHAT, LOG[-1].event_id) as call:
        await simulator.wait_for_calls(1)
        simulator.inject(Fault(FaultKind.UNAVAILABLE))
        assert await final_status(call) is grpc.StatusCode.UNAVAILABLE


async def test_silence_has_no_keep_alive_and_ends_when_the_client_leaves(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(LOG, QUICK)
    simulator.inject(Fault(FaultKind.SILENCE, after=3))
    async with open_stream(simulator, PCS, BEGINNING) as call:
        await read_events(call, PCS, 3)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read_message(call), 10 * QUICK.keep_alive)
    record = simulator.calls[0]
    await simulator.wait_for(lambda: record.ended is not None)
    assert (record.ended, record.faults) == (grpc.StatusCode.CANCELLED, [FaultKind.SILENCE])


async def test_a_client_that_disconnects_during_a_flood_is_noticed(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(SimulatedEvent(LOG[0].event_id, "", {CHAT: bytes(100_000)}) for _ in range(500))
    async with open_stream(simulator, CHAT) as call:
        await read_events(call, CHAT, 5)
    record = simulator.calls[0]
    await simulator.wait_for(lambda: record.ended is not None)
    assert record.ended is grpc.StatusCode.CANCELLED
    assert record.events_sent < 500


@pytest.mark.parametrize("contract", Contract)
async def test_duplicates_repeat_the_last_events(simulator_factory: SimulatorFactory, contract: Contract) -> None:
    simulator = await simulator_factory(LOG)
    simulator.inject(Fault(FaultKind.DUPLICATES, after=10, count=3))
    expected = payloads(entries_of(contract)[:11], contract)
    async with open_stream(simulator, contract, BEGINNING) as call:
        assert await read_events(call, contract, 14) == [*expected[:10], *expected[7:10], expected[10]]
    assert simulator.calls[0].injected == expected[7:10]


@pytest.mark.parametrize("contract", Contract)
async def test_a_late_ulid_is_older_than_one_sent_and_stays_in_the_log(
    simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    simulator = await simulator_factory(LOG)
    simulator.inject(Fault(FaultKind.LATE_ULID, after=10))
    expected = payloads(entries_of(contract)[:11], contract)
    async with open_stream(simulator, contract, BEGINNING) as call:
        first = await read_events(call, contract, 12)
    late = decode(first[10], "app", contract)
    assert first == [*expected[:10], late.payload, expected[10]]
    assert late.event_id < decode(expected[9], "app", contract).event_id
    async with open_stream(simulator, contract, decode(expected[9], "app", contract).event_id) as call:
        assert await read_events(call, contract, 2) == first[10:]
    async with open_stream(simulator, contract, late.event_id) as call:
        assert await read_events(call, contract, 1) == first[11:]


@pytest.mark.parametrize("contract", Contract)
async def test_other_bytes_are_sent_under_the_id_of_a_sent_event(
    simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    simulator = await simulator_factory(LOG)
    simulator.inject(Fault(FaultKind.OTHER_BYTES, after=10))
    async with open_stream(simulator, contract, BEGINNING) as call:
        known, other = (await read_events(call, contract, 11))[9:]
    assert other != known
    assert decode(other, "app", contract).event_id == decode(known, "app", contract).event_id
    assert simulator.calls[0].injected == [other]


@pytest.mark.parametrize("contract", Contract)
async def test_a_future_ulid_is_an_event_and_not_in_the_log(
    simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    simulator = await simulator_factory(LOG, QUICK)
    simulator.inject(Fault(FaultKind.FUTURE_ULID, after=10))
    async with open_stream(simulator, contract, BEGINNING) as call:
        bogus = decode((await read_events(call, contract, 12))[10], "app", contract)
    moment = ulid.time_of(bogus.event_id)
    assert moment is not None
    assert moment.year == 9000
    async with open_stream(simulator, contract, bogus.event_id) as call:  # a cursor that skips all events
        await simulator.wait_for_calls(2)
        await simulator.append(LOG[0])
        assert await read_events(call, contract, 1) == payloads(LOG[:1], contract)


@pytest.mark.parametrize("contract", Contract)
async def test_garbage_cannot_be_decoded(simulator_factory: SimulatorFactory, contract: Contract) -> None:
    simulator = await simulator_factory(LOG)
    simulator.inject(Fault(FaultKind.GARBAGE, times=2), Fault(FaultKind.GARBAGE, data=b"\x1a\x00"))
    async with open_stream(simulator, contract, BEGINNING) as call:
        messages = [await read_message(call) for _ in range(3)]
        assert await read_events(call, contract, 1) == payloads(LOG[:1], contract)
    assert simulator.calls[0].injected == messages
    assert len(set(messages)) == 3
    assert messages[2] == b"\x1a\x00"
    if contract is PCS:
        assert [read_frame(PCS, message).kind for message in messages[:2]] == [FrameKind.GARBAGE] * 2


async def test_an_expired_cursor_on_demand_skips_to_the_live_edge(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(LOG, QUICK)
    simulator.inject(Fault(FaultKind.CURSOR_EXPIRED))
    async with open_stream(simulator, CHAT) as call:
        assert await read_events(call, CHAT, 1) == payloads(LOG[:1], CHAT)
    assert count_faults_left(simulator) == 1  # the other contract has no such frame
    async with open_stream(simulator, PCS, BEGINNING) as call:
        kinds = [read_frame(PCS, await read_message(call)).kind for _ in range(2)]
    assert kinds == [FrameKind.CURSOR_EXPIRED, FrameKind.KEEP_ALIVE]
