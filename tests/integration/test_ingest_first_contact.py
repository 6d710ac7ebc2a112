"""First contact: where a stream starts, and what happens if the upstream can't replay from there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from structlog.testing import capture_logs

from eventstore import ulid
from eventstore.ingest.first_contact import REPLAY_WINDOW, RETRY_WINDOW
from eventstore.ingest.since_setting import parse_since
from projections.sandbox.simulator import SimulatedEvent, Simulator, SimulatorSettings
from tests import store, wire
from tests.fix_simulator import SimulatorFactory
from tests.following import cursor_row, follower, following, ingest, log_of, payloads, stored_payloads
from tests.store import APP, CHAT, PCS

DAY = 24 * 3600.0


def since(text: str) -> str:
    return parse_since(text, datetime.now(UTC))


def is_made_up_for(event_id: str | None, ago: timedelta) -> bool:
    """Return whether a cursor was made up for this long ago, give or take the duration of a test."""
    moment = ulid.time_of(event_id or "0" * 26)
    assert moment is not None
    return timedelta(0) <= datetime.now(UTC) - moment - ago < timedelta(minutes=5)


def log_of_ages(*days: float) -> list[SimulatedEvent]:
    return [log_of(1, ago=days_ago * DAY)[0] for days_ago in days]


async def gaps_of(conn: AsyncConnection) -> list[dict[str, Any]]:
    found = (await cursor_row(conn))["holes"]
    assert isinstance(found, list)
    return found


def sent_cursors(simulator: Simulator) -> list[str | None]:
    return [call.after_event_id for call in simulator.calls]


async def test_since_7d_receives_what_the_replay_window_still_has(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of_ages(6.9, 3, 0.1)
    simulator = await simulator_factory(log)
    with capture_logs() as logs:
        await ingest(follower(database_url, simulator.address, contract=PCS, since=since("7d")))
    assert await stored_payloads(conn) == payloads(log, PCS)
    assert await gaps_of(conn) == []
    assert is_made_up_for(sent_cursors(simulator)[0], REPLAY_WINDOW)
    (warning,) = [line for line in logs if "since" in line["event"]]
    assert (warning["log_level"], warning["app"]) == ("warning", APP)
    assert warning["asked"] < warning["starting_at"]


async def test_a_since_of_any_age_is_sent_unchanged_to_a_contract_without_a_replay_window(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of_ages(300, 3)
    simulator = await simulator_factory(log)
    asked = since("400d")
    with capture_logs() as logs:
        await ingest(follower(database_url, simulator.address, contract=CHAT, since=asked))
    assert sent_cursors(simulator) == [asked]
    assert await stored_payloads(conn) == payloads(log, CHAT)
    assert not [line for line in logs if "since" in line["event"]]


async def test_while_the_contract_is_unknown_each_is_called_within_its_own_window(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of_ages(6.9, 3)
    simulator = await simulator_factory(log, SimulatorSettings(contracts=frozenset({PCS})))
    await ingest(follower(database_url, simulator.address, contract=None, since=since("9d")))
    assert await stored_payloads(conn) == payloads(log, PCS)
    assert is_made_up_for(sent_cursors(simulator)[-1], REPLAY_WINDOW)


@pytest.mark.oldest
async def test_if_the_platform_s_clock_is_ahead_a_later_event_id_is_sent_and_one_gap_is_recorded(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    """The platform's window begins two hours after ours: only events before that are lost."""
    log = log_of_ages(5.5, 3)
    simulator = await simulator_factory(log, SimulatorSettings(replay_window=7 * DAY - 2 * 3600))
    await ingest(follower(database_url, simulator.address, contract=PCS, since=since("7d")))
    assert await stored_payloads(conn) == payloads(log, PCS)
    first, second = sent_cursors(simulator)
    assert is_made_up_for(first, REPLAY_WINDOW)
    assert is_made_up_for(second, RETRY_WINDOW)
    (gap,) = await gaps_of(conn)
    assert (gap["lower"], gap["upper"]) == (first, second)


async def test_a_much_shorter_window_makes_one_gap_and_the_stream_continues_at_the_live_edge(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of_ages(0.5), SimulatorSettings(replay_window=60))

    async def is_at_the_live_edge() -> bool:
        gaps = await gaps_of(conn)
        return bool(gaps) and is_made_up_for(gaps[-1]["upper"], timedelta(0))

    for start in range(1, 4):
        one = follower(database_url, simulator.address, contract=PCS, since=since("7d"))
        async with following(one) as running:
            await simulator.wait_for_calls(2 * start)
            await store.wait_until(is_at_the_live_edge, "the live edge")
            await running.stop()
        assert len(await gaps_of(conn)) == 1
    sent = sent_cursors(simulator)
    assert [is_made_up_for(event_id, REPLAY_WINDOW) for event_id in sent] == [True, False] * 3
    assert is_made_up_for(sent[1], RETRY_WINDOW)
    assert sent[3] == sent[5] == (await gaps_of(conn))[0]["upper"]
    (new,) = log_of(1, ago=0)
    await simulator.append(new)
    await ingest(follower(database_url, simulator.address, contract=PCS))
    assert await stored_payloads(conn) == payloads([new], PCS)
    assert len(await gaps_of(conn)) == 1


async def test_first_contact_is_repeated_at_every_start_while_nothing_is_stored(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    empty = await simulator_factory()
    await ingest(follower(database_url, empty.address, contract=PCS, since=since("1h")))
    log = log_of_ages(3, 1)
    simulator = await simulator_factory(log)
    await ingest(follower(database_url, simulator.address, contract=PCS, since=since("4d")))
    assert await stored_payloads(conn) == payloads(log, PCS)


@pytest.mark.oldest
async def test_a_gap_that_an_older_version_recorded_before_anything_was_stored_is_replayed_and_shortened(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    lower, upper = (wire.ulid_at(datetime.now(UTC) - timedelta(days=days)) for days in (8, 1))
    gap = {"lower": lower, "upper": upper, "noticed_at": datetime.now(UTC).isoformat(), "detail": "old", "position": 0}
    await conn.execute(
        "INSERT INTO eventstore.cursors (app, contract, epoch, holes) VALUES (%s, %s, 1, %s)",
        [APP, PCS.value, Jsonb([gap])],
    )
    log = log_of_ages(5, 0.5)
    simulator = await simulator_factory(log)
    await ingest(follower(database_url, simulator.address, contract=PCS, since=since("7d")))
    assert await stored_payloads(conn) == payloads(log, PCS)
    (left,) = await gaps_of(conn)
    assert left == {**gap, "upper": sent_cursors(simulator)[0]}


async def test_a_gap_after_stored_events_is_not_requested_again(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    before = await simulator_factory(log_of_ages(0.1))
    await ingest(follower(database_url, before.address, contract=PCS))
    simulator = await simulator_factory(settings=SimulatorSettings(replay_window=60))
    await ingest(follower(database_url, simulator.address, contract=PCS, since=since("7d")))
    (gap,) = await gaps_of(conn)
    again = await simulator_factory(settings=SimulatorSettings(replay_window=60))
    await ingest(follower(database_url, again.address, contract=PCS, since=since("7d")))
    assert sent_cursors(again) == [gap["upper"]]
