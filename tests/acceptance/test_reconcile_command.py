"""``projections reconcile``: a gap loses events, the upstream is asked, and its answers are compared and saved."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from eventstore.contracts._generated.pcs.external.v1 import message_service_pb2 as pcs
from projections.read_models.request_status import RequestStatus
from projections.sandbox.simulator import Fault, FaultKind, SimulatedEvent, World, build_log
from projections.sandbox.simulator.request_status_answer import answer
from tests import folding, store
from tests.acceptance.command import QUICK, CommandResult, Commands
from tests.fix_simulator import TOKEN, SimulatorFactory
from tests.following import count_events, follower, following
from tests.json_documents import read_documents
from tests.queries import fetch_all
from tests.store import APP, PCS


@pytest.fixture
def log() -> list[SimulatedEvent]:
    """The events that the upstream has."""
    story = World(recipients=400).events()
    return [entry for entry in build_log(story, ends=datetime.now(UTC)) if PCS in entry.payloads]


async def test_requests_that_a_gap_hit_are_found_and_after_a_replay_they_are_equal(
    commands: Commands,
    database_url: str,
    conn: AsyncConnection,
    simulator_factory: SimulatorFactory,
    log: list[SimulatedEvent],
) -> None:
    quarter = len(log) // 4
    simulator = await simulator_factory(log[: 2 * quarter])
    # The second quarter is lost: the upstream says that the cursor has expired, and goes on with the live events.
    simulator.inject(Fault(FaultKind.CURSOR_EXPIRED, after=quarter))
    async with following(follower(database_url, simulator.address, contract=PCS)) as running:
        await running.wait_until(
            lambda: any(FaultKind.CURSOR_EXPIRED in call.faults for call in simulator.calls), "the gap"
        )
        await simulator.append(*log[2 * quarter :])
        await stored_events(conn, len(log) - quarter)
        await running.stop()
    await folding.fold_all(database_url, [RequestStatus])
    variables = {
        **QUICK,
        "DATABASE_URL": database_url,
        "PCS_EXTERNAL_API_URL": simulator.address,
        "PROJECTIONS_TOKEN": TOKEN,
        "PROJECTIONS_APP": APP,
    }

    async def reconcile(*arguments: str, code: int) -> CommandResult:
        result = await commands.run("reconcile", "--rate", "1000", "--idle-for", "0s", *arguments, **variables)
        assert result.code == code, result.transcript
        return result

    stored = {row[0] for row in await fetch_all(conn, "SELECT event_id FROM eventstore.events")}
    assert stored == {entry.event_id for entry in [*log[:quarter], *log[2 * quarter :]]}
    here = [entry for entry in log if entry.event_id in stored]
    whole = {request: told(log, request) for request in {entry.send_request_id for entry in here}}
    lost_from = {request for request, answered in whole.items() if told(here, request) != answered}
    assert lost_from

    (found,) = read_documents("reconcile", (await reconcile("--json", code=1)).out)
    by_verdict: dict[str, set[str]] = {}
    for each in found["requests"]:
        by_verdict.setdefault(each["verdict"], set()).add(each["send_request_id"])
    assert by_verdict["behind"] == lost_from
    assert by_verdict.keys() <= {"behind", "equal"}
    rows = await saved(conn)
    assert {(row["send_request_id"], row["verdict"]) for row in rows} == {
        (each["send_request_id"], each["verdict"]) for each in found["requests"]
    }
    for row in rows:
        assert row["recipients_that_differ"] == len(row["differing_recipients"])
        assert {each["ppnum"] for each in row["differing_recipients"]} <= {*whole[row["send_request_id"]][1]}
    text = await reconcile("--app", APP, code=1)
    assert "behind: the upstream knows more than the log" in text.out
    assert not any(ppnum in text.out + text.err for _, recipients in whole.values() for ppnum in recipients)
    equal_before = {row["send_request_id"] for row in await saved(conn) if row["verdict"] == "equal"}
    assert await store.value(conn, "SELECT count(*) FROM eventstore.events") == len(stored), "no event is invented"

    elsewhere = await commands.run(
        "reconcile", "--idle-for", "0s", "--json", **{**variables, "PROJECTIONS_APP": "elsewhere"}
    )
    assert elsewhere.code == 1, elsewhere.transcript
    reasons = {(each["verdict"], each["reason"]) for each in json.loads(elsewhere.out)["requests"]}
    assert reasons == {("not_asked", f"app {APP!r} is not configured here, so its upstream can't be asked")}

    # The platform replays everything after all, as after a reset of the cursor.
    reset = await commands.run("cursor", "reset", APP, "--yes", **variables)
    assert reset.code == 0, reset.transcript
    async with following(follower(database_url, simulator.address, contract=PCS)) as running:
        await stored_events(conn, len(log))
        await running.stop()
    await folding.fold_all(database_url, [RequestStatus])
    found = json.loads((await reconcile("--json", code=0)).out)
    assert {each["verdict"] for each in found["requests"]} == {"equal"}
    asked = {each["send_request_id"] for each in found["requests"]}
    assert lost_from <= asked
    assert asked.isdisjoint(equal_before), "a finished request that a kept run found equal isn't asked about again"
    unknown = await reconcile("--app", "nobody", code=2)
    assert "neither followed nor configured" in unknown.stderr_line


async def stored_events(conn: AsyncConnection, count: int) -> None:
    """Wait until so many events are stored."""

    async def are_stored() -> bool:
        return await count_events(conn) == count

    await store.wait_until(are_stored, f"{count} events stored")


def told(entries: list[Any], request: str) -> tuple[int, dict[str, int]]:
    """Return what the simulator would answer from these entries: the request's state, and that of each recipient."""
    data = answer(entries, request)
    assert data is not None
    found = pcs.GetSendRequestStatusResponse.FromString(data)
    return found.request.status, {each.ppnum: each.status for each in found.recipients}


async def saved(conn: AsyncConnection) -> list[dict[str, Any]]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        return await fetch_all(cursor, "SELECT * FROM projections.reconciliations ORDER BY id")
