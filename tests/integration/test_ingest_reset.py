"""``cursor reset``: the stream starts where the reset says; stored events are received again and change nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from eventstore import ulid
from eventstore.appending.cursor_move import CursorMove
from eventstore.contracts import Contract
from eventstore.errors import LeadershipLost, LockHeld
from eventstore.ingest.apps import forget_app, next_resume_point, read_apps, reset_cursor
from eventstore.ingest.context import IngestContext
from eventstore.ingest.first_contact import REPLAY_WINDOW
from eventstore.locks import app_lock
from eventstore.transfer.export import export_events
from eventstore.transfer.importing import import_events
from projections.sandbox.simulator import Fault, FaultKind, SimulatorSettings
from tests import store, wire
from tests.fix_simulator import SimulatorFactory
from tests.following import (
    QUICK,
    count_events,
    cursor_row,
    follower,
    following,
    ingest,
    log_entry,
    log_of,
    payloads,
    stored_payloads,
)
from tests.store import APP, CHAT, PCS

HOUR = 3600.0


def cursor_at(seconds_ago: float) -> str:
    return wire.ulid_at(datetime.now(UTC) - timedelta(seconds=seconds_ago))


@pytest.mark.parametrize("contract", Contract)
async def test_a_reset_receives_events_that_were_missed_and_stores_nothing_twice(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    log = log_of(40, spacing_ms=60_000, ago=2 * HOUR)
    first = await simulator_factory(log[20:])
    await ingest(follower(database_url, first.address, contract=contract))
    to = cursor_at(3 * HOUR)
    await reset_cursor(IngestContext(database_url, QUICK), APP, to)
    assert (await cursor_row(conn))["cursor"] is None
    simulator = await simulator_factory(log)
    outcome = await ingest(follower(database_url, simulator.address, contract=contract))
    assert simulator.calls[0].after_event_id == to
    assert (outcome.stored, outcome.duplicates) == (20, 20)
    assert sorted(await stored_payloads(conn)) == sorted(payloads(log, contract))
    assert (await cursor_row(conn))["cursor"] == log[-1].event_id


async def test_a_reset_without_a_time_starts_where_a_first_contact_does(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(3))
    for contract in Contract:
        await ingest(follower(database_url, simulator.address, contract=contract))
        await reset_cursor(IngestContext(database_url, QUICK), APP, None)
        await ingest(follower(database_url, simulator.address, contract=contract))
    sent = [call.after_event_id for call in simulator.calls]
    assert sent[1] is None, "all events"
    moment = ulid.time_of(sent[3] or "")
    assert moment is not None
    assert timedelta(0) <= datetime.now(UTC) - moment - REPLAY_WINDOW < timedelta(minutes=5)
    assert await count_events(conn) == 3


@pytest.mark.oldest
async def test_a_replay_that_is_cut_on_every_call_gets_to_its_end(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(30, spacing_ms=10_000, ago=HOUR)
    first = await simulator_factory(log)
    await ingest(follower(database_url, first.address))
    await reset_cursor(IngestContext(database_url, QUICK), APP, cursor_at(2 * HOUR))
    new = log_of(1, ago=60)
    simulator = await simulator_factory([*log, *new])
    simulator.inject(Fault(FaultKind.END, after=7, times=10_000))
    one = follower(database_url, simulator.address)
    async with following(one) as running:
        await running.wait_until(lambda: one.stored, "the new event")
        await running.stop()
    assert await stored_payloads(conn) == payloads([*log, *new], CHAT)
    assert len(simulator.calls) < 10, "the replay doesn't start over with each call"


@pytest.mark.parametrize("among", ["a late event", "an id that can't be stored"])
async def test_a_process_that_starts_during_a_replay_misses_nothing(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, among: str
) -> None:
    """The replay sends the last event early, or a message with a current id; then another process continues."""
    log = log_of(40, spacing_ms=10_000, ago=HOUR)
    early = log[39] if among == "a late event" else log_entry(cursor_at(0), CHAT, more=b"\x0f")
    order = [*log[:5], early, *(one for one in log[5:] if one is not early)]
    first = await simulator_factory([one for one in order if one not in log[10:20] and one in log])
    await ingest(follower(database_url, first.address))
    assert await count_events(conn) == 30
    await reset_cursor(IngestContext(database_url, QUICK), APP, cursor_at(2 * HOUR))
    begun = await simulator_factory(order[:6])
    await ingest(follower(database_url, begun.address))
    simulator = await simulator_factory(order)
    await ingest(follower(database_url, simulator.address))
    assert set(await stored_payloads(conn)) == set(payloads(log, CHAT))


async def test_an_import_does_not_change_a_reset(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory, tmp_path: Path
) -> None:
    log = log_of(40, spacing_ms=10_000, ago=HOUR)
    first = await simulator_factory(log[20:])
    await ingest(follower(database_url, first.address))
    await export_events(conn, tmp_path / "log", lambda _done, _of: None)
    await reset_cursor(IngestContext(database_url, QUICK), APP, cursor_at(2 * HOUR))
    await import_events(IngestContext(database_url, QUICK), tmp_path / "log", on_progress=lambda _done, _of: None)
    assert (await cursor_row(conn))["cursor"] is None
    simulator = await simulator_factory(log)
    await ingest(follower(database_url, simulator.address))
    assert await count_events(conn) == 40


async def test_once_a_new_event_is_stored_the_stream_resumes_there(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(4, ago=HOUR)
    first = await simulator_factory(log)
    await ingest(follower(database_url, first.address))
    await reset_cursor(IngestContext(database_url, QUICK), APP, cursor_at(2 * HOUR))
    new = log_of(1, ago=60)
    simulator = await simulator_factory([*log, *new])
    await ingest(follower(database_url, simulator.address))
    await ingest(follower(database_url, simulator.address))
    assert simulator.calls[-1].after_event_id == new[0].event_id
    assert await count_events(conn) == 5


async def test_a_reset_before_the_replay_window_is_moved_into_it(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(3, ago=HOUR)
    simulator = await simulator_factory(log)
    await ingest(follower(database_url, simulator.address, contract=PCS))
    await reset_cursor(IngestContext(database_url, QUICK), APP, cursor_at(30 * 24 * HOUR))
    outcome = await ingest(follower(database_url, simulator.address, contract=PCS))
    assert outcome.duplicates == 3
    assert (await cursor_row(conn))["holes"] == []


async def test_gaps_stay_and_a_later_gap_ends_the_reset(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    before = await simulator_factory(log_of(3, ago=300))
    await ingest(follower(database_url, before.address, contract=PCS))
    expired = await simulator_factory(settings=SimulatorSettings(replay_window=60))
    await ingest(follower(database_url, expired.address, contract=PCS))
    await reset_cursor(IngestContext(database_url, QUICK), APP, cursor_at(600))
    assert len((await cursor_row(conn))["holes"]) == 1
    again = await simulator_factory(settings=SimulatorSettings(replay_window=60))
    one = follower(database_url, again.address, contract=PCS)
    async with following(one) as running:

        async def has_second_gap() -> bool:
            return len((await cursor_row(conn))["holes"]) == 2

        await store.wait_until(has_second_gap, "the second gap")
        await running.stop()
    second = (await cursor_row(conn))["holes"][1]
    await ingest(follower(database_url, again.address, contract=PCS))
    assert again.calls[-1].after_event_id == second["upper"]
    assert len((await cursor_row(conn))["holes"]) == 2


async def test_the_cursor_of_a_followed_app_is_not_reset(database_url: str, conn: AsyncConnection) -> None:
    await store.set_epoch(conn)
    async with store.connection(database_url, "projections ingest app host:1") as other:
        await other.execute("SELECT pg_advisory_lock(%s)", [app_lock(APP)])
        for change in (
            reset_cursor(IngestContext(database_url, QUICK), APP, None),
            forget_app(IngestContext(database_url, QUICK), APP),
        ):
            with pytest.raises(LockHeld, match="app 'app': held by projections ingest app host:1; try again later"):
                await change
    assert (await cursor_row(conn))["epoch"] == 1


async def test_a_follower_that_froze_before_a_reset_cannot_move_the_cursor_afterwards(
    database_url: str, conn: AsyncConnection
) -> None:
    await store.set_epoch(conn)
    await reset_cursor(IngestContext(database_url, QUICK), APP, None)
    async with store.appender(database_url) as appender:
        with pytest.raises(LeadershipLost):
            await appender.append(store.new_events(1), cursor=CursorMove(APP, 1, store.next_ulid()))
    assert await count_events(conn) == 0


async def test_a_forgotten_app_keeps_its_events_and_can_be_followed_again(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(5, spacing_ms=10_000)
    simulator = await simulator_factory(log)
    await ingest(follower(database_url, simulator.address))
    async with store.appender(database_url) as appender:
        await appender.append([], rejected=[store.garbage(1)])
    await forget_app(IngestContext(database_url, QUICK), APP)
    left = (await read_apps(conn))[APP]
    assert (left.has_cursor, left.last_event_id, left.quarantined) == (False, None, 1)
    assert await stored_payloads(conn) == payloads(log, CHAT)
    await ingest(follower(database_url, simulator.address))
    assert simulator.calls[-1].after_event_id == log[3].event_id, "the end of the stored events, minus the overlap"
    assert (await read_apps(conn))[APP].has_cursor


async def test_the_shown_resume_point_is_the_one_that_is_sent(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(5, spacing_ms=10_000))
    since = cursor_at(2 * HOUR)
    await store.set_epoch(conn)
    reasons = []
    for step in ("first", "stored", "reset"):
        if step == "reset":
            await reset_cursor(IngestContext(database_url, QUICK), APP, cursor_at(1.5 * HOUR))
        app = (await read_apps(conn))[APP]
        contract, resume_point = await next_resume_point(conn, app, contract=None, since=since, waits=QUICK)
        await ingest(follower(database_url, simulator.address, since=since))
        assert (contract, resume_point.event_id) == (CHAT, simulator.calls[-1].after_event_id)
        reasons.append(resume_point.why)
    assert reasons[0] == "nothing is stored; starting with the events after `since`"
    assert reasons[1] == "the newest recent event at least 5 s before the last event_id received"
    assert reasons[2] == "the cursor was reset; starting with the events after `since`"
