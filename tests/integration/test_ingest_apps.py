"""Several apps in one process, two apps of one stream, and two processes for one app."""

from __future__ import annotations

import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from eventstore.ingest.follower import FollowerState
from projections.sandbox.simulator import Fault, FaultKind
from tests import store
from tests.fault.proxy import TcpProxy, target_of, through
from tests.fix_simulator import SimulatorFactory
from tests.following import cursor_row, follower, following, ingest, log_of, payloads, quick_waits, stored_payloads
from tests.store import CHAT, PCS


async def test_several_apps_are_followed_at_once_and_a_refused_one_ends_alone(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    logs = [log_of(20, ago=3600 * hours) for hours in (1, 2, 3)]
    shop, clinic, bad = [await simulator_factory(log) for log in logs]
    bad.inject(Fault(FaultKind.PERMISSION_DENIED, after=5))
    followers = [
        follower(database_url, shop.address, app="shop"),
        follower(database_url, clinic.address, app="clinic", contract=PCS),
        follower(database_url, bad.address, app="bad"),
    ]
    async with following(*followers) as running:
        await running.wait_until(lambda: followers[2].state is FollowerState.REFUSED, "the refusal")
        (late,) = log_of(1, ago=0)
        await shop.append(late)
        await running.wait_until(lambda: followers[0].stored == 21, "the event after the refusal")
        await running.wait_until(lambda: followers[1].stored == 20, "the other's events")
        outcome = await running.stop()
    assert list(outcome.refused) == ["bad"]
    assert outcome.uncommitted == ()
    assert await stored_payloads(conn, "shop") == payloads([*logs[0], late], CHAT)
    assert await stored_payloads(conn, "clinic") == payloads(logs[1], PCS)
    assert await stored_payloads(conn, "bad") == payloads(logs[2][:5], CHAT)


async def test_an_ingest_is_idle_when_all_running_apps_are(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    good, bad = await simulator_factory(log_of(5)), await simulator_factory()
    bad.inject(Fault(FaultKind.NOT_FOUND))
    outcome = await ingest(
        follower(database_url, good.address, app="good"), follower(database_url, bad.address, app="bad")
    )
    assert (outcome.stored, list(outcome.refused)) == (5, ["bad"])


@pytest.mark.oldest
async def test_until_idle_ends_once_all_apps_are_refused(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory()
    simulator.inject(Fault(FaultKind.PERMISSION_DENIED, times=2))
    followers = [follower(database_url, simulator.address, app=app) for app in "ab"]
    async with following(*followers, until_idle=60) as running:
        outcome = await running.outcome()
    assert sorted(outcome.refused) == ["a", "b"]


async def test_the_second_of_two_apps_of_one_stream_is_refused_and_writes_nothing(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(10)
    simulator = await simulator_factory(log)
    first = follower(database_url, simulator.address, app="first")
    async with following(first) as running:
        await running.wait_until(lambda: first.stored == 10, "the first's events")
        outcome = await ingest(follower(database_url, simulator.address, app="second"), until_idle=60)
        (late,) = log_of(1, ago=0)
        await simulator.append(late)
        await running.wait_until(lambda: first.stored == 11, "the later event")
    sentence = outcome.refused["second"]
    assert f"event {log[0].event_id} is already stored under app 'first'" in sentence
    assert await stored_payloads(conn, "second") == []
    row = await cursor_row(conn, "second")
    assert (row["cursor"], row["error"]) == (None, sentence)
    assert await store.quarantine_rows(conn) == []


async def test_the_second_of_two_followers_of_one_app_stands_by_and_takes_over(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(12)
    simulator = await simulator_factory(log[:6])
    first, second = (follower(database_url, simulator.address) for _ in range(2))
    with capture_logs() as logs:
        async with following(first) as one:
            await one.wait_until(lambda: first.stored == 6, "the first's events")
            async with following(second) as other:
                await other.wait_until(lambda: any(line["event"] == "standing by" for line in logs), "standing by")
                assert second.state is FollowerState.STANDING_BY
                assert not second.is_quiet
                (line,) = [line for line in logs if line["event"] == "standing by"]
                assert line["app"] == "app"
                assert line["holder"].startswith("projections ingest app ")
                assert len(simulator.calls) == 1
                await one.stop()
                await simulator.append(*log[6:])
                await other.wait_until(lambda: second.stored == 6, "the second's events")
                assert (await cursor_row(conn))["epoch"] == 2
    assert await stored_payloads(conn) == payloads(log, CHAT)
    assert sum(line["event"] == "standing by" for line in logs) == 1


async def test_an_outage_ends_once_the_follower_stands_by(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(3))
    async with TcpProxy(*target_of(database_url)) as proxy:
        proxy.refuse()
        first = follower(database_url, simulator.address)
        second = follower(through(database_url, proxy.port), simulator.address)
        with capture_logs() as logs:
            async with following(first) as one:
                await one.wait_until(lambda: first.stored == 3, "the first's events")
                async with following(second) as other:
                    for outages in (1, 2):
                        await other.wait_until(lambda: second.state is FollowerState.DATABASE_UNAVAILABLE, "the outage")
                        proxy.accept()
                        await other.wait_until(lambda: second.state is FollowerState.STANDING_BY, "standing by")
                        changes = [line["event"] for line in logs if line["event"].startswith("database")]
                        assert changes.count("database available again") == outages
                        proxy.refuse()
    unavailable = [line for line in logs if line["event"] == "database unavailable" and line["log_level"] == "warning"]
    assert len(unavailable) in (2, 3), "each outage is reported by itself; the third one may begin before the end"


async def test_a_follower_that_stands_by_can_be_stopped(database_url: str, simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(log_of(3))
    first, second = (follower(database_url, simulator.address) for _ in range(2))
    with capture_logs() as logs:
        async with following(first) as one:
            await one.wait_until(lambda: first.stored == 3, "the first's events")
            async with following(second) as other:
                await other.wait_until(lambda: any(line["event"] == "standing by" for line in logs), "standing by")
                outcome = await other.stop()
    assert (outcome.stored, outcome.uncommitted, outcome.refused) == (0, (), {})


async def test_a_bug_in_one_app_ends_only_that_app(database_url: str, simulator_factory: SimulatorFactory) -> None:
    class Broken:
        async def token(self) -> str:
            raise LookupError("a mistake")

        async def renew(self) -> bool:
            return False

    simulator = await simulator_factory(log_of(3))
    good = follower(database_url, simulator.address, app="good")
    bad = follower(database_url, simulator.address, app="bad", tokens=Broken())
    with capture_logs() as logs:
        outcome = await ingest(good, bad)
    assert (outcome.stored, list(outcome.refused)) == (3, ["bad"])
    assert "a mistake" in outcome.refused["bad"]
    (line,) = (line for line in logs if line["event"] == "bug in this program: please report it")
    assert any("test_ingest_apps.py" in place for place in line["where"])


async def test_apps_with_uncommitted_events_are_named_when_the_database_is_lost(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    """Also if the app's lock was lost with the connection: as far as we know, nobody else follows the app."""
    log = log_of(6)
    simulator = await simulator_factory(log[:3])
    waits = quick_waits(leader_timeout=0.4, shutdown=0.3)
    async with TcpProxy(*target_of(database_url)) as proxy:
        one = follower(through(database_url, proxy.port), simulator.address, waits=waits)
        with capture_logs() as logs:
            async with following(one, waits=waits) as running:
                await running.wait_until(lambda: one.stored == 3, "the first events")
                proxy.pause()
                seen_lines = len(logs)
                await simulator.append(*log[3:])
                await running.wait_until(
                    lambda: any(line["event"] == "lost the lease of the app" for line in logs[seen_lines:]),
                    "the lost lease",
                )
                outcome = await running.stop()
    assert outcome.uncommitted == ("app",)
