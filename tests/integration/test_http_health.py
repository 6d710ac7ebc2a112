"""``/healthz`` and ``/readyz``, each problem made by a real fault."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit, urlunsplit

import pytest
from psycopg import AsyncConnection, sql

from projections.http import read_session
from projections.registry import Registry
from projections.running import control
from projections.running.run_parts import RunParts
from projections.sandbox.simulator import SimulatorSettings
from tests import folding, store
from tests.fault.proxy import TcpProxy, target_of, through
from tests.fix_simulator import SimulatorFactory
from tests.folding import DIVIDES_BY_ZERO, Watched, append, checkpoint_row, create_watched_table, new_record, worker
from tests.following import follower, log_of, quick_waits
from tests.queries import fetch_row
from tests.serving import served_run
from tests.store import CHAT, PCS

WATCHED = Registry({"watched": Watched()}, {})
SOON = 0.3
"""Seconds after which a projection counts as stalled."""


@pytest.fixture(autouse=True)
async def _watched_table(conn: AsyncConnection) -> None:
    await create_watched_table(conn)


async def test_a_database_that_is_gone_or_silent_is_not_ready_and_the_process_is_alive(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_session, "ANSWER_SECONDS", 1.5)
    async with TcpProxy(*target_of(database_url)) as proxy:
        url = through(database_url, proxy.port)
        async with served_run(url, workers=[worker(url, Watched())], registry=WATCHED) as served:
            await append(conn, new_record())
            await served.wait_until_ready()
            for fault, words in ((proxy.refuse, "database unavailable for"), (proxy.pause, "does not answer")):
                fault()
                await served.wait_for("readyz", 503, "not ready\n", words)
                alive = await served.get("healthz")
                assert (alive.status, alive.text) == (200, "alive\n")
                metrics = (await served.get("metrics")).text
                assert "projections_database_up 0.0" in metrics
                assert "projections_lag_events" not in metrics
                proxy.accept()
                proxy.resume()
                await served.wait_until_ready()


async def test_failed_and_paused_projections_are_not_ready_unless_nothing_is_left_to_fold(
    database_url: str, conn: AsyncConnection
) -> None:
    one = worker(database_url, Watched(), retry_first=folding.HALF_HOUR)
    async with served_run(database_url, workers=[one], registry=WATCHED, stalled_after=SOON) as served:
        await append(conn, new_record())
        await served.wait_until_ready()
        await control.pause(conn, "watched")
        await served.wait_until_ready()
        await append(conn, poison := new_record(ppnum=DIVIDES_BY_ZERO))
        await served.wait_for("readyz", 503, "watched is paused and 1 event behind", "projections resume watched")
        await control.resume(conn, "watched")
        answer = await served.wait_for("readyz", 503, "watched is failed: ", "projections resume watched")
        assert poison.event_id in answer.text
        assert DIVIDES_BY_ZERO not in answer.text
        as_json = await served.get("readyz", accept="application/json")
        assert (as_json.status, json.loads(as_json.text)["status"]) == (503, "not ready")
        await control.skip(conn, "watched", poison.event_id, "it divides by zero", 1)
        await control.resume(conn, "watched")
        await served.wait_for("readyz", 200)


async def test_a_worker_that_another_session_blocks_is_not_ready_although_it_is_running(
    database_url: str, conn: AsyncConnection
) -> None:
    one = worker(database_url, Watched())
    async with served_run(database_url, workers=[one], registry=WATCHED, stalled_after=SOON) as served:
        await append(conn, new_record())
        await served.wait_until_ready()
        async with store.connection(database_url, "frozen") as frozen, frozen.transaction():
            await fetch_row(frozen, "SELECT 1 FROM projections.checkpoints FOR UPDATE")
            await served.wait_until_ready()  # at the head, nothing has to move
            await append(conn, new_record(), new_record())
            words = (
                "watched has not moved for",
                "2 events behind at position 1",
                "another session holds its checkpoint",
            )
            await served.wait_for("readyz", 503, *words)
            assert (await served.get("healthz")).status == 200
        await served.wait_for("readyz", 200)


async def test_a_checkpoint_ahead_of_the_log_is_not_ready(database_url: str, conn: AsyncConnection) -> None:
    one = worker(database_url, Watched())

    async def is_noticed() -> bool:
        return (await checkpoint_row(conn, "watched")).version == 0

    async with served_run(database_url, workers=[one], registry=WATCHED) as served:
        await append(conn, new_record(), new_record())
        await served.wait_for("readyz", 200)
        await served.wait_for("metrics", 200, 'projections_position{projection="watched"} 2.0')
        # The state of a paused projection says nothing of the loss, before a worker has noticed it and after.
        await control.pause(conn, "watched")
        await store.lose_events(conn, 1)
        await served.wait_for("readyz", 503, "watched: its checkpoint (2) is ahead of the log (1)", "rebuild watched")
        await store.wait_until(is_noticed, "a worker to notice the loss")
        answer = await served.get("readyz")
        assert (answer.status, "rebuild watched" in answer.text) == (503, True), answer


async def test_a_listener_without_a_session_is_not_ready(database_url: str, conn: AsyncConnection) -> None:
    parts = urlsplit(database_url)
    async with (
        served_run(
            database_url, workers=[worker(database_url, Watched())], registry=WATCHED, stalled_after=SOON
        ) as served,
        store.connection(urlunsplit(parts._replace(path="/postgres")), "another database") as elsewhere,
    ):
        await append(conn, new_record())
        await served.wait_for("readyz", 200)
        allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format
        name = sql.Identifier(parts.path.removeprefix("/"))
        await elsewhere.execute(allow(name, sql.SQL("false")))
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE starts_with(application_name, 'projections listen ') AND datname = current_database()"
        )
        await served.wait_for("readyz", 503, "the session that wakes the workers is gone for", "polling")
        assert "projections_listener_connected 0.0" in (await served.get("metrics")).text
        await elsewhere.execute(allow(name, sql.SQL("true")))
        await served.wait_for("readyz", 200)


async def test_a_silent_upstream_is_not_ready_where_keep_alives_are_due(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    waits = quick_waits(silence=0.5)
    silent = await simulator_factory((), SimulatorSettings(keep_alive=600))
    one = follower(database_url, silent.address, contract=PCS, waits=waits)
    async with served_run(database_url, followers=[one], waits=waits) as served:
        await served.wait_for("readyz", 503, "the upstream has sent nothing for", "keep-alives")
        # The stream is opened again and again; that somebody tries is no sign of life.
        await silent.wait_for(lambda: len(silent.calls) >= 3)
        await served.wait_for("readyz", 503, "has sent nothing for")
    quiet = await simulator_factory((), SimulatorSettings(keep_alive=0.05))
    async with TcpProxy("127.0.0.1", quiet.port) as proxy:
        two = follower(database_url, f"http://127.0.0.1:{proxy.port}", app="two", contract=PCS, waits=waits)
        chat = follower(database_url, quiet.address, app="chat", contract=CHAT, waits=waits)
        async with served_run(database_url, followers=[two, chat], waits=waits) as served:
            await served.wait_for("readyz", 200)
            await quiet.wait_for(lambda: any(call.keep_alives_sent >= 20 for call in quiet.calls))
            await served.wait_until_ready()
            proxy.refuse()
            await served.wait_for("readyz", 503, "app 'two': no stream; waits for its upstream")
            proxy.accept()
            await served.wait_for("readyz", 200)


async def test_a_process_that_stands_by_is_ready_and_names_the_one_that_follows(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(1))
    leader = follower(database_url, simulator.address)
    async with served_run(database_url, followers=[leader]) as first:
        await first.wait_for("readyz", 200, "ready\n")
        async with served_run(database_url, followers=[follower(database_url, simulator.address)]) as second:
            await second.wait_for(
                "readyz", 200, "ready (standby)", "app 'app', which is followed by projections ingest"
            )


async def test_an_app_whose_events_cannot_be_stored_is_not_ready(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(3)
    simulator = await simulator_factory(log[:2])
    one = follower(database_url, simulator.address)
    async with served_run(database_url, followers=[one], stalled_after=SOON) as served:
        await served.wait_for("readyz", 200)
        await store.wait_until(lambda: _is(one.stored == 2), "the first events")
        async with conn.transaction():
            await conn.execute("LOCK TABLE eventstore.events IN SHARE MODE")
            await simulator.append(log[2])
            await served.wait_for("readyz", 503, "received events are not stored for")
        await served.wait_for("readyz", 200)


async def _is(condition: bool) -> bool:
    return condition


async def test_without_workers_and_followers_only_the_database_counts(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record())
    async with served_run(database_url, registry=WATCHED) as served:
        assert (await served.get("readyz")).text == "ready\n"
        text = (await served.get("metrics")).text
        assert 'projections_state{projection="watched",state="new"} 1.0' in text
        assert 'projections_lag_events{projection="watched"} 1.0' in text


async def test_a_task_that_ended_is_not_alive() -> None:
    async def broken() -> None:
        raise ValueError("a bug")

    task = asyncio.create_task(broken())
    await asyncio.wait({task})
    parts = RunParts(tasks={"fold x": task})
    assert parts.ended_tasks() == {"fold x": "ValueError: a bug"}
