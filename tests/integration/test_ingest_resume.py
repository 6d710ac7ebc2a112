"""Resuming a stream: repeated cuts, duplicates, late and bogus ULIDs, garbage, expired cursors."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from eventstore import ulid
from eventstore.appending.duplicates import OTHER_BYTES
from eventstore.contracts import Contract, decode
from eventstore.contracts.framing import NOT_A_FRAME
from projections.sandbox.simulator import Fault, FaultKind, SimulatedEvent, SimulatorSettings
from tests import store, wire
from tests.fix_full_matrix import in_turns
from tests.fix_simulator import SimulatorFactory, count_faults_left
from tests.following import cursor_row, follower, following, ingest, log_entry, log_of, payloads, stored_payloads
from tests.store import APP, CHAT, PCS

END_AT_END = SimulatorSettings(end_at_log_end=True)


@pytest.mark.parametrize(
    ("kind", "disorder", "contract"),
    in_turns(
        [(FaultKind.END, 1), (FaultKind.END, 7), (FaultKind.UNAVAILABLE, 7), (FaultKind.UNAVAILABLE, 1)],
        [(one,) for one in Contract],
        "the next call's cursor depends on the events that came and on the contract, not on how the call ended; each"
        " contract has both orders of events and both ends",
    ),
)
async def test_a_stream_cut_on_every_call_gets_to_its_end(
    database_url: str,
    conn: AsyncConnection,
    simulator_factory: SimulatorFactory,
    kind: FaultKind,
    disorder: int,
    contract: Contract,
) -> None:
    dense = log_of(28)  # all of them within the overlap
    log = [item for at in range(0, 28, disorder) for item in reversed(dense[at : at + disorder])]
    simulator = await simulator_factory(log)
    simulator.inject(Fault(kind, after=3, times=10_000))
    one = follower(database_url, simulator.address, contract=contract)
    async with following(one) as running:
        await running.wait_until(lambda: one.stored == len(log), "the end")
    assert await stored_payloads(conn) == payloads(log, contract)
    known = {item.event_id for item in log}
    assert all(call.after_event_id in known for call in simulator.calls[1:])


@pytest.mark.parametrize("contract", Contract)
async def test_duplicates_are_counted_and_change_nothing(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    log = log_of(10)
    simulator = await simulator_factory(log)
    simulator.inject(Fault(FaultKind.DUPLICATES, after=5, count=4), Fault(FaultKind.DUPLICATES, after=10, count=3))
    outcome = await ingest(follower(database_url, simulator.address, contract=contract))
    assert (outcome.stored, outcome.duplicates, outcome.quarantined) == (10, 7, 0)
    assert await stored_payloads(conn) == payloads(log, contract)


async def test_a_second_run_resumes_with_an_overlap_and_stores_only_new_events(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(20, spacing_ms=1_000)
    first = await simulator_factory(log[:15])
    await ingest(follower(database_url, first.address))
    second = await simulator_factory(log)
    outcome = await ingest(follower(database_url, second.address))
    assert second.calls[0].after_event_id == log[9].event_id, "5 s before log[14], the last received one"
    assert (outcome.stored, outcome.duplicates) == (5, 5)
    assert await stored_payloads(conn) == payloads(log, CHAT)


@pytest.mark.parametrize("contract", Contract)
async def test_late_ulids_are_stored_where_they_arrive(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    simulator = await simulator_factory(log_of(10))
    simulator.inject(Fault(FaultKind.LATE_ULID, after=5), Fault(FaultKind.LATE_ULID, after=10))
    outcome = await ingest(follower(database_url, simulator.address, contract=contract))
    assert outcome.stored == 12
    assert await stored_payloads(conn) == payloads(simulator.entries(contract), contract)
    assert (await cursor_row(conn))["cursor"] == simulator.entries(contract)[-1].event_id


@pytest.mark.parametrize("contract", Contract)
async def test_other_bytes_under_a_stored_id_are_quarantined_and_the_first_event_stays(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    log = log_of(10)
    simulator = await simulator_factory(log)
    simulator.inject(Fault(FaultKind.OTHER_BYTES, after=5))
    outcome = await ingest(follower(database_url, simulator.address, contract=contract))
    assert (outcome.stored, outcome.quarantined) == (10, 1)
    assert await stored_payloads(conn) == payloads(log, contract)
    (kept,) = await store.quarantine_rows(conn)
    assert kept[:3] == (log[4].event_id, simulator.calls[0].injected[0], OTHER_BYTES)


@pytest.mark.parametrize("contract", Contract)
async def test_garbage_is_quarantined_unchanged_and_does_not_move_the_cursor(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    log = log_of(5)
    simulator = await simulator_factory(log)
    simulator.inject(Fault(FaultKind.GARBAGE, after=2), Fault(FaultKind.GARBAGE, after=5, times=2))
    outcome = await ingest(follower(database_url, simulator.address, contract=contract))
    assert (outcome.stored, outcome.quarantined, len(simulator.calls)) == (5, 3, 1)
    assert await stored_payloads(conn) == payloads(log, contract)
    kept = await store.quarantine_rows(conn)
    assert sorted(item.payload for item in kept) == sorted(simulator.calls[0].injected)
    assert {item.event_id for item in kept} == {None}
    assert all((item.reason == NOT_A_FRAME) == (contract is PCS) for item in kept)
    assert (await cursor_row(conn))["cursor"] == log[-1].event_id


@pytest.mark.parametrize("contract", Contract)
async def test_garbage_alone_leaves_no_cursor(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    simulator = await simulator_factory()
    simulator.inject(Fault(FaultKind.GARBAGE))
    one = follower(database_url, simulator.address, contract=contract)
    async with following(one) as running:
        await running.wait_until(lambda: one.quarantined == 1, "the quarantine")
    assert (await cursor_row(conn))["cursor"] is None


async def test_a_quarantined_message_moves_the_cursor_if_its_id_is_a_ulid(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(3)
    (bad,) = log_of(1, ago=60)
    payload = wire.event(bad.event_id, send_request_id="x" * 300)
    simulator = await simulator_factory([*log, SimulatedEvent(bad.event_id, "", {CHAT: payload})], END_AT_END)
    one = follower(database_url, simulator.address)
    async with following(one) as running:
        await simulator.wait_for_calls(5)
        await running.stop()
    assert [(item.event_id, item.payload) for item in await store.quarantine_rows(conn)] == [(bad.event_id, payload)]
    assert (await cursor_row(conn))["cursor"] == bad.event_id
    assert simulator.calls[1].after_event_id in {item.event_id for item in log}


def with_too_long_text(item: SimulatedEvent) -> SimulatedEvent:
    """Return the entry with a text that is too long to be stored."""
    return SimulatedEvent(
        item.event_id, "", {contract: wire.event(item.event_id, send_request_id="x" * 300) for contract in Contract}
    )


async def test_a_run_of_quarantined_messages_does_not_block_a_stream_that_is_cut_on_every_call(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(20)
    log[5:12] = [with_too_long_text(item) for item in log[5:12]]
    simulator = await simulator_factory(log)
    simulator.inject(Fault(FaultKind.END, after=3, times=10_000))
    one = follower(database_url, simulator.address)
    async with following(one) as running:
        await running.wait_until(lambda: one.stored == 13, "the end")
    assert {item.event_id for item in await store.quarantine_rows(conn)} == {item.event_id for item in log[5:12]}


async def test_failed_calls_in_between_do_not_block_the_stream(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(12)
    simulator = await simulator_factory(log)
    for _ in range(100):
        simulator.inject(Fault(FaultKind.END, after=3), Fault(FaultKind.UNAVAILABLE))
    one = follower(database_url, simulator.address)
    async with following(one) as running:
        await running.wait_until(lambda: one.stored == len(log), "the end")
    assert await stored_payloads(conn) == payloads(log, CHAT)


async def test_a_cursor_that_expires_again_before_any_event_extends_the_same_gap(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    before = await simulator_factory(log_of(3, ago=300), SimulatorSettings(replay_window=600))
    since = ulid.first_ulid_at(datetime.now(UTC) - timedelta(seconds=500))
    await ingest(follower(database_url, before.address, contract=PCS, since=since))
    simulator = await simulator_factory(before.entries(PCS), SimulatorSettings(replay_window=60))
    await ingest(follower(database_url, simulator.address, contract=PCS))
    ((first,)) = (await cursor_row(conn))["holes"]
    simulator = await simulator_factory(before.entries(PCS), SimulatorSettings(replay_window=0.001))
    simulator.inject(Fault(FaultKind.CURSOR_EXPIRED, times=2))
    await ingest(follower(database_url, simulator.address, contract=PCS))
    ((second,)) = (await cursor_row(conn))["holes"]
    assert second["lower"] == first["lower"]
    assert second["upper"] > first["upper"]


async def test_a_clock_that_is_behind_the_platform_s_loses_nothing(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    ahead = timedelta(hours=2)
    log = log_of(6, ago=60 - ahead.total_seconds())
    settings = SimulatorSettings(now=lambda: time.time() + ahead.total_seconds())
    simulator = await simulator_factory(log[:3], settings)
    since = ulid.first_ulid_at(datetime.now(UTC))
    await ingest(follower(database_url, simulator.address, contract=PCS, since=since))
    await simulator.append(*log[3:])
    with capture_logs() as logs:
        await ingest(follower(database_url, simulator.address, contract=PCS))
    assert await stored_payloads(conn) == payloads(log, PCS)
    assert (await cursor_row(conn))["holes"] == []
    assert any("clock is behind" in line["event"] for line in logs)


@pytest.mark.parametrize("contract", Contract)
@pytest.mark.parametrize("after", [1, 4])
async def test_a_bogus_future_ulid_is_stored_and_no_event_after_it_is_missed(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, contract: Contract, after: int
) -> None:
    log = log_of(8)
    simulator = await simulator_factory(log[:4])
    simulator.inject(Fault(FaultKind.FUTURE_ULID, after=after), Fault(FaultKind.END, after=after))
    one = follower(database_url, simulator.address, contract=contract)
    async with following(one) as running:
        await running.wait_until(lambda: one.stored == 5, "four events and a bogus one")
        for item in log[4:]:
            await simulator.append(item)
            simulator.inject(Fault(FaultKind.END, after=1))
        await running.wait_until(lambda: one.stored == 9, "the rest")
    bogus = decode(simulator.calls[0].injected[0], APP, contract)
    assert sorted(await stored_payloads(conn)) == sorted([*payloads(log, contract), bogus.payload])
    assert bogus.event_id not in {call.after_event_id for call in simulator.calls}


async def test_a_bogus_future_ulid_as_the_first_event_is_not_sent_either(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    bogus = log_entry(wire.ulid_at(datetime(9000, 1, 1, tzinfo=UTC)))
    log = log_of(3)
    simulator = await simulator_factory([bogus])
    simulator.inject(Fault(FaultKind.END, after=1, times=2))
    one = follower(database_url, simulator.address)
    async with following(one) as running:
        await simulator.wait_for_calls(3)
        await simulator.append(*log)
        await running.wait_until(lambda: one.stored == 4, "all of them")
    assert {call.after_event_id for call in simulator.calls} == {None}
    assert await stored_payloads(conn) == payloads([bogus, *log], CHAT)


async def test_an_expired_cursor_makes_a_gap_whose_end_is_sent_until_a_newer_event_is_stored(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    before = await simulator_factory(log_of(3, ago=300), SimulatorSettings(replay_window=600))
    since = ulid.first_ulid_at(datetime.now(UTC) - timedelta(seconds=500))
    await ingest(follower(database_url, before.address, contract=PCS, since=since))
    assert before.calls[0].after_event_id == since

    simulator = await simulator_factory(before.entries(PCS), SimulatorSettings(replay_window=60))
    simulator.inject(Fault(FaultKind.END, times=3))
    one = follower(database_url, simulator.address, contract=PCS)
    async with following(one) as running:
        await simulator.wait_for_calls(4)
        (gap,) = (await cursor_row(conn))["holes"]
        sent = [call.after_event_id for call in simulator.calls]
        assert sent == [gap["lower"], *[gap["upper"]] * 3]
        assert gap["lower"] == before.entries(PCS)[0].event_id
        upper = ulid.time_of(gap["upper"])
        assert upper is not None
        noticed = datetime.fromisoformat(gap["noticed_at"])
        assert timedelta(0) <= noticed - timedelta(seconds=5) - upper <= timedelta(milliseconds=1)
        assert "replay window" in gap["detail"]

        (newer,) = log_of(1, ago=0)
        await simulator.append(newer)
        await running.wait_until(lambda: one.stored == 1, "the event after the gap")
        simulator.inject(Fault(FaultKind.END))
        assert (await simulator.wait_for_calls(5)).after_event_id == newer.event_id
    assert (await cursor_row(conn))["holes"] == [gap]


async def test_a_gap_s_position_is_after_the_events_that_the_same_stream_brought_before_it(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(500))
    simulator.inject(Fault(FaultKind.CURSOR_EXPIRED, after=500))
    one = follower(database_url, simulator.address, contract=PCS)
    async with following(one) as running:
        await running.wait_until(lambda: one.stored == 500, "the events")

        async def has_gap() -> bool:
            return bool((await cursor_row(conn))["holes"])

        await store.wait_until(has_gap, "the gap")
    (gap,) = (await cursor_row(conn))["holes"]
    assert gap["position"] == 500


@pytest.mark.parametrize("contract", Contract)
async def test_first_contact_starts_at_since_or_as_far_back_as_possible(
    database_url: str, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    simulator = await simulator_factory()
    await ingest(follower(database_url, simulator.address, contract=contract))
    since = wire.ulid_at(datetime.now(UTC) - timedelta(days=2), 1)
    await ingest(follower(database_url, simulator.address, contract=contract, since=since))
    default, wished = (call.after_event_id for call in simulator.calls)
    assert wished == since
    if contract is CHAT:
        assert default is None
    else:
        moment = ulid.time_of(default or "")
        assert moment is not None
        assert timedelta(days=6, hours=22) < datetime.now(UTC) - moment < timedelta(days=7)


async def test_a_stream_that_reports_an_expired_cursor_twice_has_one_gap(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(4)
    simulator = await simulator_factory(log[:2])
    simulator.inject(Fault(FaultKind.CURSOR_EXPIRED, after=2), Fault(FaultKind.CURSOR_EXPIRED, after=3))
    one = follower(database_url, simulator.address, contract=PCS)
    async with following(one) as running:
        await running.wait_until(lambda: one.stored == 2, "the earlier events")
        for number in (2, 3):
            await simulator.append(log[number])
            await running.wait_until(lambda: one.stored == number + 1, "the next")  # noqa: B023 - called in this round only
    assert count_faults_left(simulator) == 0
    assert len((await cursor_row(conn))["holes"]) == 1
