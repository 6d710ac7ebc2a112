"""From a stream to the table: both contracts, byte for byte, and detecting the contract."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from eventstore.contracts import Contract
from eventstore.ingest.follower import FollowerState
from projections.sandbox.simulator import Fault, FaultKind, SimulatorSettings
from tests import store, wire
from tests.fix_simulator import SimulatorFactory
from tests.following import (
    count_events,
    cursor_row,
    follower,
    following,
    ingest,
    log_entry,
    log_of,
    payloads,
    quick_waits,
    stored_payloads,
)
from tests.scripted import Context, scripted_server, stays_open
from tests.store import APP, CHAT, PCS


@pytest.mark.parametrize("contract", Contract)
async def test_every_payload_is_stored_byte_for_byte_in_the_order_of_the_stream(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    odd = [
        wire.bytes_field(5000, bytes(range(256))),
        wire.number_field(3, 2) + wire.fixed64_field(77, 1),
        wire.varint(3 << 3) + b"\x81\x80\x00",  # a varint that is longer than necessary
        wire.group_field(90, wire.number_field(1, 1)),
        wire.bytes_field(6000, bytes(200_000)),
    ]
    log = [*log_of(300), *(log_entry(item.event_id, more=odd[at]) for at, item in enumerate(log_of(5, ago=60)))]
    simulator = await simulator_factory(log)
    outcome = await ingest(follower(database_url, simulator.address, contract=contract))
    assert (outcome.stored, outcome.duplicates, outcome.quarantined, outcome.refused) == (305, 0, 0, {})
    assert await stored_payloads(conn) == payloads(log, contract)
    row = await cursor_row(conn)
    assert row == {"contract": contract, "cursor": log[-1].event_id, "holes": [], "epoch": 1, "error": None}


@pytest.mark.parametrize("contract", Contract)
async def test_events_appended_upstream_are_received_while_the_stream_is_open(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    log = log_of(6)
    simulator = await simulator_factory(log[:2])
    one = follower(database_url, simulator.address, contract=contract)
    async with following(one) as running:
        for count in range(2, 7):
            await running.wait_until(lambda: one.stored == count, f"{count} events")  # noqa: B023 - called in this round
            assert await stored_payloads(conn) == payloads(log[:count], contract)
            await simulator.append(*log[count : count + 1])
        outcome = await running.stop()
    assert (outcome.stored, outcome.uncommitted, len(simulator.calls)) == (6, (), 1)


async def test_the_state_text_shows_whether_the_upstream_is_connected(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(3))
    one = follower(database_url, simulator.address)
    async with following(one) as running:
        await running.wait_until(lambda: one.state_text == "following", "a stream")
        await simulator.stop()
        await running.wait_until(lambda: one.state_text == "connecting", "the end of the stream")
        assert one.state is FollowerState.FOLLOWING


@pytest.mark.parametrize("prefix", ["", "/ext", "/a/b"])
async def test_a_path_prefix_comes_before_the_method(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, prefix: str
) -> None:
    simulator = await simulator_factory(log_of(3), SimulatorSettings(prefix=prefix))
    await ingest(follower(database_url, simulator.address))
    assert await count_events(conn) == 3


@pytest.mark.parametrize("served", Contract)
async def test_auto_detects_the_contract_and_saves_it(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, served: Contract
) -> None:
    log = log_of(3)
    simulator = await simulator_factory(log, SimulatorSettings(contracts=frozenset({served})))
    await ingest(follower(database_url, simulator.address, contract=None))
    assert await stored_payloads(conn) == payloads(log, served)
    assert (await cursor_row(conn))["contract"] == served

    both = await simulator_factory(log)
    await ingest(follower(database_url, both.address, contract=None))
    assert [call.contract for call in both.calls] == [served]


async def test_auto_uses_the_first_contract_of_a_server_with_both(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(3))
    await ingest(follower(database_url, simulator.address, contract=None))
    assert (await cursor_row(conn))["contract"] == CHAT
    assert {call.contract for call in simulator.calls} == {CHAT}


@pytest.mark.parametrize("prefix", ["", "/ext"])
async def test_a_server_with_neither_contract_is_refused_with_what_to_check(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, prefix: str
) -> None:
    simulator = await simulator_factory(log_of(3), SimulatorSettings(prefix="/elsewhere"))
    address = f"http://127.0.0.1:{simulator.port}{prefix}"
    outcome = await ingest(follower(database_url, address, contract=None))
    assert f"no such service under {address}, check the path" in outcome.refused[APP]
    row = await cursor_row(conn)
    assert (row["contract"], row["error"]) == (None, outcome.refused[APP])


@pytest.mark.parametrize("contract", Contract)
async def test_a_configured_contract_that_is_not_served_is_refused(
    database_url: str, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    (other,) = set(Contract) - {contract}
    simulator = await simulator_factory(log_of(3), SimulatorSettings(contracts=frozenset({other})))
    outcome = await ingest(follower(database_url, simulator.address, contract=contract))
    assert f"no such service under {simulator.address}, check the path" in outcome.refused[APP]
    assert simulator.calls == []


@pytest.mark.parametrize("wished", [None, PCS])
async def test_a_service_that_worked_before_and_is_missing_now_is_retried(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, wished: Contract | None
) -> None:
    log = log_of(4)
    before = await simulator_factory(log[:2], SimulatorSettings(contracts=frozenset({PCS})))
    await ingest(follower(database_url, before.address, contract=wished))
    port = before.port
    await before.stop()

    gone = await simulator_factory([], SimulatorSettings(port=port, prefix="/elsewhere"))
    one = follower(database_url, before.address, contract=wished)
    async with following(one) as running:

        async def has_error() -> bool:
            return "no such service" in ((await cursor_row(conn))["error"] or "")

        await store.wait_until(has_error, "the error in the table")
        await gone.stop()
        await simulator_factory(log, SimulatorSettings(port=port))
        await running.wait_until(lambda: one.stored == 2, "the rest")
    assert await stored_payloads(conn) == payloads(log, PCS)
    assert (await cursor_row(conn))["error"] is None


async def test_a_stream_that_is_cut_early_still_decides_the_contract(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(4)
    simulator = await simulator_factory(log, SimulatorSettings(contracts=frozenset({PCS})))
    simulator.inject(Fault(FaultKind.UNAVAILABLE, after=1, times=3))
    await ingest(follower(database_url, simulator.address, contract=None))
    assert (await cursor_row(conn))["contract"] == PCS
    assert await stored_payloads(conn) == payloads(log, PCS)


async def test_frames_that_are_not_events_do_not_move_the_cursor_and_do_no_harm(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(2), SimulatorSettings(keep_alive=0.01))
    simulator.inject(Fault(FaultKind.GARBAGE, after=2, data=wire.unknown_frame()))
    one = follower(database_url, simulator.address, contract=PCS)
    async with following(one) as running:
        await running.wait_until(lambda: one.stored == 2, "the events")
        await simulator.wait_for(lambda: simulator.calls[0].keep_alives_sent >= 5)
        outcome = await running.stop()
    assert (outcome.stored, outcome.quarantined, len(simulator.calls)) == (2, 0, 1)
    assert await store.quarantine_rows(conn) == []


async def test_a_call_that_is_open_without_an_answer_and_refused_later_decides_no_contract(
    database_url: str, conn: AsyncConnection
) -> None:
    waits = quick_waits(healthy_after=0.05)

    async def refuse_late(context: Context) -> None:
        await asyncio.sleep(4 * (waits.healthy_after + waits.settle))
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no")

    async with scripted_server(refuse_late) as upstream:
        one = follower(database_url, upstream.address, contract=None, waits=waits)
        outcome = await ingest(one, waits=waits, until_idle=20)
    assert [call.contract for call in upstream.calls] == [CHAT, PCS]
    assert "no such service" in outcome.refused[APP]
    assert (await cursor_row(conn))["contract"] is None


async def test_the_contract_is_saved_even_while_an_append_has_locked_the_cursor(
    database_url: str, conn: AsyncConnection
) -> None:
    waits = quick_waits(append_lock=0.1)
    held = asyncio.Event()

    async def answer_later(context: Context) -> None:
        await held.wait()
        await stays_open()(context)

    async with scripted_server(answer_later) as upstream, store.connection(database_url, "slow") as slow:
        one = follower(database_url, upstream.address, contract=None, waits=waits)
        with capture_logs() as logs:
            async with following(one, waits=waits) as running:
                await running.wait_until(lambda: one.state is FollowerState.FOLLOWING, "the lease")
                async with slow.transaction():
                    await slow.execute("SELECT FROM eventstore.cursors FOR UPDATE")
                    held.set()
                    await running.wait_until(
                        lambda: any("has locked the cursor" in line["event"] for line in logs), "the retry"
                    )

                async def is_saved() -> bool:
                    return (await cursor_row(conn))["contract"] is not None

                await store.wait_until(is_saved, "the contract")
    assert (await cursor_row(conn))["contract"] == CHAT


async def test_a_gap_detail_of_megabytes_is_cut(database_url: str, conn: AsyncConnection) -> None:
    event = wire.event(store.next_ulid(), occurred_at=wire.timestamp_of(store.OCCURRED))
    words = "gone 12300000001 " * 1_000_000
    async with scripted_server(stays_open(wire.cursor_expired(words), wire.frame(event))) as upstream:
        one = follower(database_url, upstream.address, contract=PCS)
        async with following(one) as running:
            await running.wait_until(lambda: one.stored == 1, "the event after the gap")
    ((gap,)) = (await cursor_row(conn))["holes"]
    assert gap["detail"].startswith("gone [hidden] gone [hidden]")
    assert len(gap["detail"]) <= 300
