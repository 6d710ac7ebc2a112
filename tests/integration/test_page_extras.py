"""What only the page reads: fresh rows, new events by app, rebuilds, and the history of a person or a request."""

from __future__ import annotations

import pytest
from psycopg import AsyncConnection

from eventstore.locks import rebuild_lock
from projections.granting.role_kinds import RoleKind
from projections.http import page_extras
from projections.http.http_options import HttpOptions
from projections.http.page_extras import read_extras
from projections.http.row_history import RowHistories
from projections.http.web_context import WebContext
from projections.inspecting.read_live_status import read_live_status
from projections.registry import find_projections
from tests import folding, oracle, store
from tests.databases import Server
from tests.folding import append, new_record
from tests.roles import granted_roles

PERSON, REQUEST = "12300000021", "request 21"


async def test_new_events_are_counted_by_app_and_many_are_estimated(
    conn: AsyncConnection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(conn, *(new_record() for _ in range(3)), new_record(app="other"))
    await folding.fold_all(database_url)
    found = await read_extras(conn, head_before=1, head=4, personal_data=False)
    assert found.new_by_app == {store.APP: 2, "other": 1}
    assert found.events == ()
    fresh = await store.value(conn, "SELECT received_at FROM eventstore.events WHERE position = 4")
    assert {*found.fresh_to.values()} == {fresh}
    monkeypatch.setattr(page_extras, "COUNTED_EVENTS", 2)
    found = await read_extras(conn, head_before=0, head=4, personal_data=True)
    assert found.new_by_app == {store.APP: 2, "other": 2}
    assert [event["position"] for event in found.events] == [4, 3, 2, 1]
    assert (await read_extras(conn, head_before=4, head=4, personal_data=False)).new_by_app == {}


async def test_a_running_rebuild_has_its_holder_and_the_position_of_its_shadow(conn: AsyncConnection) -> None:
    await conn.execute(
        "INSERT INTO projections.rebuilds (name, version, fingerprint, holder, state, dry_run, position, started_at)"
        " VALUES ('people', 1, '', '', 'running', false, 0, now()), ('people', 1, '', '', 'done', false, 9, now())"
    )
    running, done = (await read_extras(conn, head_before=None, head=0, personal_data=False)).rebuilds
    assert (running.state, running.position, running.holder) == ("running", 0, None)
    assert (done.state, done.position) == ("done", 9)
    await conn.execute("CREATE SCHEMA projections_shadow")
    await conn.execute("CREATE TABLE projections_shadow.shadow_positions (run bigint, position bigint)")
    await conn.execute("INSERT INTO projections_shadow.shadow_positions VALUES (%s, 7)", [running.id])
    await conn.execute("SELECT pg_advisory_lock(%s)", [rebuild_lock("people")])
    running, _ = (await read_extras(conn, head_before=None, head=0, personal_data=False)).rebuilds
    assert running.position == 7
    assert running.holder is not None


async def test_an_ingest_role_which_cannot_see_the_shadows_has_the_whole_page_while_a_rebuild_runs(
    conn: AsyncConnection, database_url: str, postgres: Server
) -> None:
    await append(conn, new_record())
    await folding.fold_all(database_url)
    # A worker's grant creates the schema and the table of the shadows.
    async with granted_roles(postgres, database_url, RoleKind.WORKER, RoleKind.INGEST) as roles:
        await conn.execute(
            "INSERT INTO projections.rebuilds (name, version, fingerprint, holder, state, dry_run, position,"
            " started_at) VALUES ('people', 1, '', '', 'running', false, 5, now())"
        )
        async with store.connection(roles[RoleKind.INGEST].url, "ingest") as as_ingest:
            found = await read_extras(as_ingest, head_before=0, head=1, personal_data=False)
            (live,) = (await read_live_status(as_ingest, find_projections())).rebuilds
    assert [one.position for one in found.rebuilds] == [5]
    assert (found.new_by_app, len(found.fresh_to) > 0) == ({store.APP: 1}, True)
    assert live.position == 5


async def test_the_history_of_a_request_links_to_its_recipients(conn: AsyncConnection, database_url: str) -> None:
    await append(conn, new_record(oracle.DELIVERED, PERSON, request=REQUEST))
    await folding.fold_all(database_url)
    await store.set_epoch(conn)
    context = WebContext.build(database_url, folding.QUICK, find_projections(), HttpOptions("127.0.0.1", 0))
    try:
        histories = RowHistories(context)
        answer = await histories.answer({"text": REQUEST})
        assert [event["event_type"] for event in answer["events"]] == ["RECIPIENT_DELIVERED"]
        (link,) = [one for one in answer["links"] if one["group"] == "Recipients"]
        assert link["label"] == PERSON
        recipient = await histories.answer(link["question"])
        assert [event["decides"] for event in recipient["events"]] == [True]
        person = await histories.answer({"app": store.APP, "ppnum": PERSON})
        assert PERSON in person["title"]
    finally:
        await context.close()
