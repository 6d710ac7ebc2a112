"""``--until-idle`` with ``--give-up-after``: a run ends even if it can't become idle, and names what it waited for."""

from __future__ import annotations

import asyncio

from eventstore.locks import app_lock
from projections.running import checkpoint
from projections.running import supervisor as running
from projections.running.supervisor import RunOutcome
from projections.running.worker import Worker
from tests import folding, store
from tests.fault.proxy import TcpProxy, target_of, through
from tests.fix_simulator import SimulatorFactory
from tests.folding import NEVER, Watched, append, new_record, worker
from tests.following import follower, following, ingest, log_of

DOWN = "http://127.0.0.1:1"
SHORT = 0.3


async def run(url: str, *workers: Worker, give_up_after: float) -> RunOutcome:
    async with asyncio.timeout(store.GIVE_UP):
        return await running.run_projections(
            folding.run_context(url),
            workers,
            [],
            stop=asyncio.Event(),
            until_idle=0.0,
            give_up_after=give_up_after,
        )


async def test_a_run_gives_up_on_an_upstream_that_is_down_and_names_it(database_url: str) -> None:
    outcome = await ingest(follower(database_url, DOWN), until_idle=NEVER, give_up_after=SHORT)
    assert outcome.gave_up is not None
    assert outcome.gave_up.startswith("gave up after 0.3 s: app 'app' waits for its upstream")
    assert (outcome.stored, outcome.refused, outcome.uncommitted) == (0, {}, ())


async def test_one_of_two_upstreams_that_is_down_is_enough(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(3))
    up, down = follower(database_url, simulator.address, app="up"), follower(database_url, DOWN, app="down")
    async with following(up, down, until_idle=NEVER, give_up_after=1.0) as ingest:
        outcome = await ingest.outcome()
    assert outcome.gave_up is not None
    assert "app 'down' waits for its upstream" in outcome.gave_up
    assert "app 'up'" not in outcome.gave_up


async def test_a_run_does_not_give_up_on_a_silent_upstream_that_is_up(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(3))
    one = follower(database_url, simulator.address)
    async with following(one, until_idle=1.5) as connected:
        await connected.wait_until(lambda: one.is_quiet, "an open stream")
    outcome = await ingest(follower(database_url, simulator.address), until_idle=1.5, give_up_after=store.GIVE_UP)
    assert outcome.gave_up is None


async def test_a_run_gives_up_on_an_app_that_another_process_follows(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(3))
    async with store.connection(database_url, "other") as other:
        await other.execute("SELECT pg_advisory_lock(%s)", [app_lock("app")])
        outcome = await ingest(follower(database_url, simulator.address), until_idle=NEVER, give_up_after=SHORT)
    assert outcome.gave_up == "gave up after 0.3 s: app 'app' waits for the process that follows it"


async def test_a_run_gives_up_on_an_unavailable_database(database_url: str) -> None:
    nowhere = database_url.rpartition("/")[0] + "/there_is_no_such_database"
    outcome = await ingest(follower(nowhere, DOWN), until_idle=NEVER, give_up_after=SHORT)
    assert outcome.gave_up == "gave up after 0.3 s: app 'app' waits for the database"


async def test_a_run_gives_up_on_folds_that_another_session_blocks_and_names_them(database_url: str) -> None:
    async with store.connection(database_url, "holder") as holder:
        await folding.create_watched_table(holder)
        await append(holder, new_record(), new_record())
        await checkpoint.create_if_missing(holder, "watched", 1)
        async with holder.transaction():
            await holder.execute("SELECT FROM projections.checkpoints FOR UPDATE")
            outcome = await run(database_url, worker(database_url, Watched()), give_up_after=SHORT)
        assert outcome.gave_up == "gave up after 0.3 s: watched is stuck at position 0 of 2"
        outcome = await run(database_url, worker(database_url, Watched()), give_up_after=store.GIVE_UP)
        assert outcome == RunOutcome(None)


async def test_a_run_gives_up_on_a_database_that_becomes_unavailable_while_folding(database_url: str) -> None:
    async with (
        TcpProxy(*target_of(database_url)) as proxy,
        store.connection(database_url, "holder") as holder,
        store.connection(database_url, "reading") as conn,
    ):
        await folding.create_watched_table(holder)
        await append(holder, new_record())
        await checkpoint.create_if_missing(holder, "watched", 1)
        url = through(database_url, proxy.port)
        async with holder.transaction():
            await holder.execute("SELECT FROM projections.checkpoints FOR UPDATE")
            ending = asyncio.create_task(run(url, worker(url, Watched()), give_up_after=2.0))
            looking = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'projections run'"

            async def has_polled() -> object:
                return await store.value(conn, looking)

            await store.wait_until(has_polled, "the first poll of the checkpoints")
            proxy.refuse()
            proxy.cut()
            outcome = await ending
    assert outcome.gave_up == "gave up after 2 s: the database is unavailable"
