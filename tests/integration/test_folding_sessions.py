"""Which processes fold a projection, as ``status`` shows them, and the problems that ``status --check`` reports."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import AsyncConnection

from eventstore.locks import app_lock
from projections.cli.shared.status_tables import folding_process_lines
from projections.inspecting.health import find_problems
from projections.inspecting.read_status import read_status
from projections.inspecting.status import Status
from projections.migrating.missing_tables import describe_missing_table
from projections.projection import Projection
from projections.registry import Registry
from projections.running import control
from tests import folding, rebuilding, store
from tests.databases import Server
from tests.folding import (
    DIVIDES_BY_ZERO,
    HALF_HOUR,
    NewerWatched,
    Watched,
    append,
    fold,
    new_record,
    worker,
    worker_connection,
)

PROCESS = f"{socket.gethostname()}:{os.getpid()}"


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_watched_table(conn)
        yield conn


async def status_of(conn: AsyncConnection, projection: type[Projection] = Watched) -> Status:
    return await read_status(conn, Registry({projection.name: projection()}, {}))


async def wait_until_nobody_folds(conn: AsyncConnection) -> None:
    """Wait until the backends of earlier workers have ended, which is a little later than their connections."""

    async def nobody_is_left() -> bool:
        return not any(one.folded_by for one in (await status_of(conn)).projections)

    await store.wait_until(nobody_is_left, "the end of all folding sessions")


async def test_status_shows_the_processes_that_fold_a_projection_and_when_they_were_active(
    database_url: str, conn: AsyncConnection
) -> None:
    one = worker(database_url, Watched())
    async with worker_connection(one) as own, worker_connection(worker(database_url, Watched())):
        await fold(one, own)
        (found,) = (await status_of(conn)).projections
        assert (found.state, found.shown_state, len(found.folded_by)) == ("running", "running", 2)
        (mine,) = [folder for folder in found.folded_by if folder.backend == own.info.backend_pid]
        assert (mine.host, mine.pid) == (socket.gethostname(), os.getpid())
        assert mine.seen_at is not None
        assert abs(mine.seen_at - datetime.now(UTC)) < timedelta(minutes=10)
        (line,) = folding_process_lines(await status_of(conn))
        assert line.startswith(f"watched: folded by {PROCESS} (last active ")
        plain = json.loads(json.dumps((await status_of(conn)).as_dict()))["projections"][0]
        assert plain["state"] == "running"
        assert {folder["pid"] for folder in plain["folded_by"]} == {os.getpid()}


async def test_a_projection_that_nobody_folds_is_shown_as_stopped_and_keeps_its_state_in_json(
    database_url: str, conn: AsyncConnection
) -> None:
    await folding.fold_all(database_url, [Watched])
    await wait_until_nobody_folds(conn)
    found = await status_of(conn)
    (one,) = found.projections
    assert (one.state, one.shown_state, one.folded_by) == ("running", "stopped (nobody folds)", ())
    assert folding_process_lines(found) == ["nobody folds watched: start projections run"]
    assert find_problems(found) == ["nobody folds watched: start projections run"]


@pytest.mark.usefixtures("conn")
async def test_a_role_without_access_to_other_sessions_still_sees_that_somebody_folds(
    database_url: str, postgres: Server
) -> None:
    async with (
        rebuilding.role(postgres, database_url) as looker,
        worker_connection(worker(database_url, Watched())) as own,
    ):
        tables = "SELECT ON ALL TABLES IN SCHEMA eventstore, projections, public"
        await looker.grant("USAGE ON SCHEMA eventstore, projections", tables)
        async with store.connection(looker.url, "looker") as conn:
            found = await status_of(conn)
            (folder,) = found.projections[0].folded_by
            assert (folder.backend, folder.seen_at) == (own.info.backend_pid, None)
            assert found.projections[0].shown_state == "running"
            assert folding_process_lines(found)[0].endswith("(last active: unknown to this role)")


async def test_there_are_no_problems_while_everything_is_followed_folded_and_up_to_date(
    database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, new_record())
    await store.set_epoch(conn, "shop")
    one = worker(database_url, Watched())
    async with (
        worker_connection(one) as own,
        store.connection(database_url, "projections ingest shop host:1") as leader,
    ):
        await leader.execute("SELECT pg_advisory_lock(%s)", [app_lock("shop")])
        await fold(one, own)
        assert find_problems(await status_of(conn), {"shop"}, 0.0) == []


async def test_each_problem_has_a_sentence(database_url: str, conn: AsyncConnection) -> None:
    never_run = "watched has not run yet: start projections run"
    assert find_problems(await status_of(conn), {"shop"}) == [
        "nobody follows app 'shop': start projections run",
        never_run,
    ]
    await store.set_epoch(conn, "shop")
    await conn.execute("UPDATE eventstore.cursors SET last_error = 'refused: no rights'")
    message = "nobody follows app 'shop': start projections run; its last error: refused: no rights"
    assert find_problems(await status_of(conn)) == [message, never_run]
    async with store.connection(database_url, "projections ingest shop host:1") as leader:
        await leader.execute("SELECT pg_advisory_lock(%s)", [app_lock("shop")])
        assert find_problems(await status_of(conn))[0] == "the stream of app 'shop' fails: refused: no rights"
    await conn.execute("DELETE FROM eventstore.cursors")

    await append(conn, poison := new_record(ppnum=DIVIDES_BY_ZERO))
    one = worker(database_url, Watched(), retry_first=HALF_HOUR, retry_cap=HALF_HOUR)
    async with worker_connection(one) as own:
        await fold(one, own)
        (message,) = find_problems(await status_of(conn))
        assert message.startswith(f"watched is failed: event {poison.event_id} at position 1: ")
        _, behind = find_problems(await status_of(conn), max_behind=0.0)
        assert behind.startswith("watched is ")
        assert behind.endswith(" s behind (1 events); the limit is 0 s")
        await control.pause(conn, "watched")
        assert find_problems(await status_of(conn)) == [], "a pause is intended"
        await control.resume(conn, "watched")
        assert find_problems(await status_of(conn, NewerWatched)) == [
            "watched: the code has version 2, its rows are older; run projections rebuild watched"
        ]
        await conn.execute("DROP TABLE public.watched")
        assert find_problems(await status_of(conn)) == [f"watched: {describe_missing_table('watched')}"]


async def test_a_projection_that_is_not_installed_is_a_problem_unless_another_installation_folds_it(
    database_url: str, conn: AsyncConnection
) -> None:
    async with worker_connection(worker(database_url, Watched())):
        assert find_problems(await read_status(conn, Registry({}, {}))) == []
    await wait_until_nobody_folds(conn)
    assert find_problems(await read_status(conn, Registry({}, {}))) == ["watched: not installed here"]
    assert find_problems(await read_status(conn, Registry({}, {"watched": "it can't be loaded"}))) == [
        "watched: it can't be loaded"
    ]


async def test_long_names_stay_distinct(database_url: str, conn: AsyncConnection) -> None:
    """Postgres cuts a session's name at 63 bytes, so the projection's name isn't read from it."""

    class Long(Watched):
        name = "watched_with_a_name_that_is_as_long_as_a_name_may_be_and_ends_1"

    class Other(Watched):
        name = Long.name[:-1] + "2"

    registry = Registry({one.name: one() for one in (Long, Other)}, {})
    async with worker_connection(worker(database_url, Long())):
        found = {one.name: one for one in (await read_status(conn, registry)).projections}
        assert [len(found[one.name].folded_by) for one in (Long, Other)] == [1, 0]
        assert found[Long.name].folded_by[0].pid == os.getpid()
