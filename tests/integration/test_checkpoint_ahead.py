"""A checkpoint ahead of the log: every command reports it, nothing is folded after it, and a rebuild repairs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection

from projections.errors import ProjectionsError, RebuildLost
from projections.inspecting.explain import explain
from projections.inspecting.read_status import read_status
from projections.migrating.metadata import READ_MODELS
from projections.read_models.request_status import RequestStatus, request_status
from projections.rebuilding.shadow import Shadow
from projections.registry import find_projections
from projections.running import control
from projections.running.control import wait_until_folded
from projections.running.supervisor import run_projections
from projections.running.window_step import Step
from tests import folding, rebuilding, store
from tests.folding import append, checkpoint_row, fold, run_context, worker, worker_connection
from tests.rebuilding import ANY_REMOVAL, Interrupting, rebuild, sample_records, verify

pytestmark = pytest.mark.folded

AHEAD = r"its checkpoint \(\d+\) is ahead of the log \(\d+\): .*run projections rebuild request_status"


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Yield a connection to a folded log that has lost its last third."""
    async with store.connection(database_url, "reading") as conn:
        await store.lose_events(conn, 2 * rebuilding.SAMPLES // 3)
        yield conn


async def test_a_worker_stops_and_the_projection_waits_for_a_rebuild(database_url: str, conn: AsyncConnection) -> None:
    one = worker(database_url, RequestStatus())
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.STOPPED
    at = await checkpoint_row(conn, "request_status")
    assert (at.version, at.state) == (0, "waiting")
    assert at.position == await store.value(conn, "SELECT max(position) FROM eventstore.events")


async def test_a_worker_in_the_one_round_trip_path_notices_too(database_url: str, conn: AsyncConnection) -> None:
    await rebuild(database_url, RequestStatus(), limits=ANY_REMOVAL)
    one = worker(database_url, RequestStatus())
    async with worker_connection(one) as own:
        await append(conn, *sample_records(2, app="more"))
        assert await fold(one, own) is Step.AT_HEAD
        await store.lose_events(conn, 1)
        assert await fold(one, own) is Step.STOPPED
    assert (await checkpoint_row(conn, "request_status")).state == "waiting"


async def test_new_events_at_lost_positions_are_not_taken_for_folded_ones(
    database_url: str, conn: AsyncConnection
) -> None:
    one = worker(database_url, RequestStatus())
    async with worker_connection(one) as own:
        await fold(one, own)
        await append(conn, *sample_records(20, app="new"))  # more than were lost
        assert await fold(one, own) is Step.STOPPED
        await rebuild(database_url, RequestStatus(), limits=ANY_REMOVAL)
        assert await fold(one, own) is Step.AT_HEAD
    await folding.fold_all(database_url, [RequestStatus])
    assert (await verify(database_url, RequestStatus())).equal
    assert await store.value(conn, "SELECT count(*) FROM request_status WHERE app = 'new'") == 20


@pytest.mark.oldest
async def test_a_paused_projection_stays_paused_and_waits_after_resume(
    database_url: str, conn: AsyncConnection
) -> None:
    await control.pause(conn, "request_status")
    one = worker(database_url, RequestStatus())
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.STOPPED
        assert (await checkpoint_row(conn, "request_status")).state == "paused"
        await control.resume(conn, "request_status")
        assert await fold(one, own) is Step.STOPPED
    assert (await checkpoint_row(conn, "request_status")).state == "waiting"


@pytest.mark.parametrize("marked", [True, False], ids=["noticed by a worker", "not noticed yet"])
async def test_a_rebuild_repairs_it(database_url: str, conn: AsyncConnection, marked: bool) -> None:
    for projection in READ_MODELS:
        one = worker(database_url, projection())
        if marked:
            async with worker_connection(one) as own:
                await fold(one, own)
        await rebuild(database_url, projection(), limits=ANY_REMOVAL)
        assert (await verify(database_url, projection())).equal
        async with worker_connection(one) as own:
            assert await fold(one, own) is Step.AT_HEAD
    await folding.assert_rows_match_oracle(conn)


async def test_a_rebuild_of_a_log_that_lost_everything(database_url: str, conn: AsyncConnection) -> None:
    await store.lose_events(conn, 0)
    await rebuild(database_url, RequestStatus(), limits=ANY_REMOVAL)
    at = await checkpoint_row(conn, "request_status")
    assert (at.position, at.state) == (0, "running")
    assert await store.value(conn, "SELECT count(*) FROM request_recipients") == 0


async def test_status_reports_it_before_any_worker_does(conn: AsyncConnection) -> None:
    found = await read_status(conn, find_projections())
    (one,) = [one for one in found.projections if one.name == "request_status"]
    assert one.note is not None
    assert "is ahead of the log" in one.note
    assert "run projections rebuild request_status" in one.note
    fresh = "SELECT state FROM read_model_freshness WHERE read_model = 'request_status'"
    assert await store.value(conn, fresh) == "waiting"


async def test_verify_and_explain_refuse(database_url: str, conn: AsyncConnection) -> None:
    with pytest.raises(ProjectionsError, match=f"^request_status: {AHEAD}"):
        await verify(database_url, RequestStatus())
    key = [str(await store.value(conn, "SELECT min(send_request_id) FROM request_status"))]
    with pytest.raises(ProjectionsError, match=f"^request_status: {AHEAD}"):
        await explain(rebuilding.replay_context(database_url), RequestStatus(), request_status, key, None)


async def test_waiting_for_an_event_ends_with_an_error(conn: AsyncConnection) -> None:
    event_id = await store.value(conn, "SELECT max(event_id) FROM eventstore.events")
    with pytest.raises(ProjectionsError, match="is waiting: run projections rebuild request_status"):
        await wait_until_folded(conn, {"request_status": 1}, str(event_id), folding.NEVER)


@pytest.mark.usefixtures("conn")
async def test_a_run_until_idle_reports_it(database_url: str) -> None:
    workers = [worker(database_url, RequestStatus())]
    async with asyncio.timeout(store.GIVE_UP):
        outcome = await run_projections(run_context(database_url), workers, [], stop=asyncio.Event(), until_idle=0.05)
    assert "rebuild request_status" in outcome.stopped["request_status"]


async def test_a_shadow_that_went_back_is_not_folded_further(database_url: str, conn: AsyncConnection) -> None:
    async with store.connection(database_url) as own:
        shadow = Shadow(own, RequestStatus(), [], run=1)
        await shadow.begin()
        await shadow.fold_to(5, 5)
        await conn.execute("UPDATE projections_shadow.shadow_positions SET position = 3")
        with pytest.raises(RebuildLost):
            await shadow.fold_to(8, 5)
        assert await store.value(conn, "SELECT position FROM projections_shadow.shadow_positions") == 3


async def test_an_interrupted_rebuild_of_lost_events_starts_over(database_url: str, conn: AsyncConnection) -> None:
    await rebuild(database_url, RequestStatus(), limits=ANY_REMOVAL)
    with pytest.raises(rebuilding.Interrupted):
        await rebuild(database_url, RequestStatus(), progress=Interrupting(8), window=4)
    await store.lose_events(conn, 2)
    await rebuild(database_url, RequestStatus(), resume=True, limits=ANY_REMOVAL)
    assert (await checkpoint_row(conn, "request_status")).position == 2
    assert (await verify(database_url, RequestStatus())).equal
