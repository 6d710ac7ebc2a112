"""The status as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from io import StringIO
from typing import ClassVar

import pytest
from psycopg import AsyncConnection
from rich.console import Console
from sqlalchemy import Executable, column, literal, select

from eventstore.contracts import decode
from eventstore.locks import app_lock
from projections.cli.shared.status_tables import (
    app_lines,
    apps_table,
    projection_lines,
    projections_table,
)
from projections.inspecting.read_status import read_status
from projections.inspecting.status import ProjectionStatus, Status
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection
from projections.registry import Registry
from projections.running import control
from tests import folding, oracle, store, wire
from tests.folding import DIVIDES_BY_ZERO, NewerWatched, Watched, append, fold, new_record, worker, worker_connection


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_watched_table(conn)
        yield conn


async def status(conn: AsyncConnection, *kinds: type[Projection]) -> Status:
    return await read_status(conn, Registry({one.name: one() for one in kinds}, {}))


async def watched(conn: AsyncConnection, find_projections: type[Projection] = Watched) -> ProjectionStatus:
    (found,) = (await status(conn, find_projections)).projections
    return found


def printed(*tables: object) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(*tables)
    return console.export_text()


async def test_the_status_before_anything_ran(conn: AsyncConnection) -> None:
    await append(conn, new_record())
    found = await status(conn, *READ_MODELS)
    assert (found.head, found.apps) == (1, [])
    assert [(one.name, one.state, one.version, one.code_version) for one in found.projections] == [
        ("consent_registry", "new", None, 1),
        ("people", "new", None, 1),
        ("poll_tallies", "new", None, 1),
        ("request_status", "new", None, 2),
    ]
    assert {one.events_behind for one in found.projections} == {1}


async def test_every_state_is_shown(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record(), poison := new_record(ppnum=DIVIDES_BY_ZERO), new_record())
    one = worker(database_url, Watched(), retry_first=folding.HALF_HOUR)
    async with worker_connection(one) as own:
        now = await watched(conn)
        assert (now.state, now.position, now.events_behind, now.last_error) == ("running", 0, 3, None)
        await fold(one, own)
        now = await watched(conn)
        assert (now.state, now.position, now.events_behind, now.skipped) == ("failed", 1, 2, 0)
        assert now.last_error is not None
        assert poison.event_id in now.last_error
        assert now.last_error_at is not None
        assert now.retry_at is not None
        assert now.seconds_behind > 0
        await control.pause(conn, "watched")
        assert (await watched(conn)).state == "paused"
        await control.resume(conn, "watched")
        await control.skip(conn, "watched", poison.event_id, "it divides by zero", 1)
        await fold(one, own)
    now = await watched(conn)
    assert (now.state, now.position, now.events_behind, now.seconds_behind) == ("running", 3, 0, 0)
    assert (now.skipped, now.last_error, now.retry_at) == (1, None, None)
    newer = worker(database_url, NewerWatched())
    async with worker_connection(newer) as own:
        await fold(newer, own)
    now = await watched(conn, NewerWatched)
    assert (now.state, now.version, now.code_version) == ("waiting", 1, 2)
    assert now.last_error is not None
    assert "projections rebuild watched" in now.last_error


async def test_skips_of_another_version_are_not_counted(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, poison := new_record(ppnum=DIVIDES_BY_ZERO))
    async with worker_connection(worker(database_url, Watched())):
        await control.skip(conn, "watched", poison.event_id, "it divides by zero", 1)
    assert (await watched(conn)).skipped == 1
    await conn.execute("UPDATE projections.checkpoints SET version = 2")
    assert (await watched(conn, NewerWatched)).skipped == 0


async def test_rows_newer_than_the_code_and_projections_that_are_not_installed(
    database_url: str, conn: AsyncConnection
) -> None:
    await folding.fold_all(database_url, [NewerWatched])
    assert (await watched(conn)).note == "this code is older (version 1) than the rows (version 2)"
    (found,) = (await status(conn)).projections
    assert (found.note, found.code_version, found.version) == ("not installed here", None, 2)


async def test_events_that_read_models_leave_out_are_counted(database_url: str, conn: AsyncConnection) -> None:
    left_out = [
        new_record(request=None),
        new_record(oracle.GRANTED, request=""),
        new_record(0),
        new_record(9),
        new_record(-1),
        new_record(2**31 - 1),
    ]
    await append(conn, new_record(), *left_out, new_record(oracle.REQUEST_FAILED))
    await folding.fold_all(database_url)
    found = await status(conn, *READ_MODELS)
    assert (found.head, found.without_request, found.unknown_types) == (8, 2, 4)
    assert {one.events_behind for one in found.projections} == {0}
    await folding.assert_rows_match_oracle(conn)


async def test_poll_answers_with_dropped_options_are_counted(database_url: str, conn: AsyncConnection) -> None:
    whole = new_record(oracle.POLL_RESPONSE, options=("yes",))
    partly = [new_record(oracle.POLL_RESPONSE, options=("yes", "o" * 2_001)) for _ in range(2)]
    unreadable = wire.event(store.next_ulid(), 7, recipient=wire.recipient(), poll_response=b"not a message")
    await append(conn, whole, *partly)
    async with store.appender(database_url) as appender:
        await appender.append([decode(unreadable, "app", store.CHAT)])
    found = await status(conn, *READ_MODELS)
    counts = {"incomplete_answers": 3, "dropped_options": 2, "unreadable_answers": 1}
    assert found.counts == counts
    assert found.as_dict().items() >= counts.items(), "in JSON they are top-level keys"
    assert found.remarks == ["Incomplete poll answers: 3 (options dropped: 2, answers unreadable: 1)."]


class Uncountable(Watched):
    status_query: ClassVar[Executable | None] = select(column("nothing").label("counted"))


@pytest.mark.oldest
async def test_counts_that_fail_are_reported_and_the_rest_is_shown(database_url: str, conn: AsyncConnection) -> None:
    await folding.fold_all(database_url, [Watched])
    found = await status(conn, Uncountable)
    (remark,) = found.remarks
    assert remark.startswith('watched: its counts can\'t be shown: column "nothing" does not exist')
    assert [one.name for one in found.projections] == ["watched"]
    assert found.as_dict()["counted"] is None, "its key is always there"


class Counting(Watched):
    """Counts under a name of its own, and under one that status has."""

    status_query: ClassVar[Executable | None] = select(literal(7).label("counted"), literal(8).label("head"))


class CountingToo(Counting):
    name: ClassVar[str] = "watched_too"


@pytest.mark.oldest
async def test_a_count_does_not_replace_another_of_the_same_name(conn: AsyncConnection) -> None:
    found = await status(conn, Counting, CountingToo)
    assert (found.counts, found.as_dict()["head"]) == ({"counted": 7}, 0)
    assert found.remarks == [
        "watched: its count 'head' is left out: status itself has one of that name",
        "watched_too: its count 'counted' is left out: watched has one of that name",
        "watched_too: its count 'head' is left out: status itself has one of that name",
    ]


async def test_apps_and_their_followers(database_url: str, conn: AsyncConnection) -> None:
    await store.set_epoch(conn, "shop")
    await conn.execute("UPDATE eventstore.cursors SET contract = %s, last_error = 'away'", [store.PCS])
    async with store.appender(database_url) as appender:
        await appender.append([], rejected=[store.garbage(number, "shop") for number in (1, 2, 1)])
    async with store.connection(database_url, "projections ingest shop at host:1") as leader:
        await leader.execute("SELECT pg_advisory_lock(%s)", [app_lock("shop")])
        found = await status(conn, *READ_MODELS)
    (app,) = found.apps
    assert (app.app, app.contract, app.last_error, app.quarantined) == ("shop", "pcs.external.v1", "away", 2)
    assert app.followed_by == "projections ingest shop at host:1"
    assert app_lines(found) == ["shop is followed by at host:1; away"]
    notes = {one.name: one.note for one in found.projections}
    assert notes.pop("poll_tallies") == (
        "no rows for shop: contract pcs.external.v1 has none of the events that poll_tallies folds"
    )
    assert set(notes.values()) == {None}

    async def followed_by_nobody() -> bool:
        return (await status(conn)).apps[0].followed_by is None

    await store.wait_until(
        followed_by_nobody, "the end of the leader's backend, which ends a little later than its connection"
    )
    shown = printed(apps_table(found), projections_table(found), *projection_lines(found))
    assert "no rows for shop: contract pcs.external.v1" in shown


async def test_the_status_as_json(database_url: str, conn: AsyncConnection) -> None:
    await store.set_epoch(conn, "shop")
    await append(conn, new_record(ppnum=DIVIDES_BY_ZERO))
    one = worker(database_url, Watched(), retry_first=folding.HALF_HOUR)
    async with worker_connection(one) as own:
        await fold(one, own)
    found = json.loads(json.dumps((await status(conn, Watched)).as_dict()))
    assert found["head"] == 1
    assert found["apps"][0]["app"] == "shop"
    (projection,) = found["projections"]
    assert projection["state"] == "failed"
    assert projection["retry_at"] > projection["last_error_at"]


async def test_skipped_events_are_shown_with_the_reason(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, poison := new_record(ppnum=DIVIDES_BY_ZERO))
    one = worker(database_url, Watched())
    async with worker_connection(one) as own:
        await fold(one, own)
        await control.skip(conn, "watched", poison.event_id, "it divides by zero", 1)
        await fold(one, own)
    found = await status(conn, Watched)
    (skip,) = found.projections[0].skips
    assert (skip.event_id, skip.why) == (poison.event_id, "it divides by zero")
    assert json.loads(json.dumps(found.as_dict()))["projections"][0]["skips"][0]["why"] == "it divides by zero"
    assert projection_lines(found) == [f"watched skips event {poison.event_id}: it divides by zero"]


async def test_rows_of_an_older_version_are_reported_before_the_new_code_has_run(
    database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, new_record())
    await folding.fold_all(database_url, [Watched])
    assert (
        await watched(conn, NewerWatched)
    ).note == "the code has version 2, its rows are older; run projections rebuild watched"


async def test_a_missing_table_is_reported_with_what_to_do(conn: AsyncConnection) -> None:
    await conn.execute("DROP TABLE watched")
    assert (await watched(conn)).note == "table watched is missing; run projections migrate"


async def test_missing_columns_are_reported(conn: AsyncConnection) -> None:
    await conn.execute("ALTER TABLE watched DROP COLUMN value, DROP COLUMN ppnum")
    assert (await watched(conn)).note == "table watched is missing columns ppnum, value; run projections migrate"


async def test_a_projection_that_cannot_be_loaded_is_shown_with_the_reason(conn: AsyncConnection) -> None:
    await append(conn, new_record())
    found = await read_status(conn, Registry({}, {"theirs": "it can't be loaded"}))
    (one,) = found.projections
    assert (one.name, one.state, one.note) == ("theirs", "new", "it can't be loaded")
    assert one.seconds_behind > 0
