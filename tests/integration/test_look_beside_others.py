"""What another session works on, or has just ended, isn't reported as interrupted, damaged or missing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import ModuleType

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore.archived_rows import record_dropped
from eventstore.archiving import archive_folder
from eventstore.archiving.archive_folder import find_archive_files
from eventstore.locks import ERASE_LOCK, RELEASE_SESSION_LOCKS, TRY_SESSION_LOCK, rebuild_lock
from projections.http.page_extras import read_extras
from projections.inspecting.doctor import archive_file_checks, log_checks
from projections.inspecting.read_live_status import read_running_rebuilds
from projections.rebuilding import rebuild_history
from projections.rebuilding.as_of_position import find_position, received_at
from projections.rebuilding.rebuild_history import next_run_id, record_run_failure, record_start
from tests import store
from tests.archiving import archive_by_hand
from tests.doctoring import codes, findings, only, session
from tests.erasing import erase
from tests.folding import Watched
from tests.meanwhile import let_happen
from tests.queries import fetch_all
from tests.transferring import delete_positions, files_in

RUN = "projections rebuild watched here:1"


async def test_a_rebuild_that_just_ended_was_not_interrupted(
    conn: AsyncConnection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await next_run_id(conn)
    async with session(database_url, RUN) as rebuilding:

        async def end() -> None:
            await record_run_failure(rebuilding, run, "refused", ValueError("too many rows"))
            await rebuilding.execute(RELEASE_SESSION_LOCKS)

        async def begin() -> None:
            await conn.execute("DELETE FROM projections.rebuilds")
            await rebuilding.execute(TRY_SESSION_LOCK, [rebuild_lock("watched")])
            await record_start(conn, run, Watched(), "a fingerprint", RUN)
            let_happen(monkeypatch, end, rebuild_history, "find_holder_names")

        await begin()
        assert "rebuild_interrupted" not in codes(await findings(database_url))
        await begin()
        assert await read_running_rebuilds(conn, 0) == []
        await begin()
        (shown,) = (await read_extras(conn, head_before=None, head=0, personal_data=False)).rebuilds
        assert (shown.state, shown.error) == ("refused", "ValueError: too many rows")


@pytest.mark.folded
async def test_an_archive_that_runs_or_just_ended_is_not_unfinished(
    conn: AsyncConnection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found() -> bool:
        return "archive_unfinished" in codes(await findings(database_url, archive=tmp_path))

    await archive_by_hand(conn, tmp_path, 1, 28)
    await conn.execute("UPDATE eventstore.archived_partitions SET dropped_at = NULL")
    assert await found()
    async with session(database_url, "projections archive here:1") as archiving:
        await archiving.execute(TRY_SESSION_LOCK, [ERASE_LOCK])
        assert not await found()
        await conn.execute("UPDATE eventstore.archived_partitions SET erasure = -1")
        owed = only(await findings(database_url, archive=tmp_path), "archive_has_erased")
        assert (owed.command, owed.remedy) == (None, "wait for projections archive here:1, and look again")

        async def end() -> None:
            assert await record_dropped(archiving, 1, 28)
            await archiving.execute(RELEASE_SESSION_LOCKS)

        let_happen(monkeypatch, end, archive_file_checks, "find_holder_name")
        assert not await found()


@pytest.mark.folded
async def test_files_that_an_erasure_just_wrote_anew_are_not_missing(
    conn: AsyncConnection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive_by_hand(conn, tmp_path, 1, 28)
    await archive_by_hand(conn, tmp_path, 29, 50)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))

    def then_erase(module: ModuleType, number: str) -> None:
        let_happen(monkeypatch, lambda: erase(database_url, number), module, "read_archived_partitions", after=True)

    then_erase(archive_file_checks, "12300000101")
    found = codes(await findings(database_url, archive=tmp_path))
    assert [code for code in found if code.startswith("archive_")] == []
    then_erase(archive_folder, "12300000201")
    assert [path for _, path in await find_archive_files(conn, tmp_path)] == sorted(files_in(tmp_path))


@pytest.mark.folded
async def test_positions_that_are_archived_meanwhile_are_not_missing(
    conn: AsyncConnection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def archive() -> None:
        await archive_by_hand(conn, tmp_path, 1, 28)

    let_happen(monkeypatch, archive, log_checks, "read_archived_up_to", after=True)
    assert "missing_positions" not in codes(await findings(database_url, archive=tmp_path, thorough=True))
    await delete_positions(conn, 30)
    found = only(await findings(database_url, archive=tmp_path, thorough=True), "missing_positions")
    assert found.sentence == "position 30 is missing in the log"


@pytest.mark.folded
async def test_an_as_of_reads_a_file_that_an_erasure_just_wrote_anew(
    conn: AsyncConnection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(time,)] = await fetch_all(conn, "SELECT received_at FROM eventstore.events WHERE position = 10")
    await archive_by_hand(conn, tmp_path, 1, 28)
    await archive_by_hand(conn, tmp_path, 29, 50)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))

    def then_erase(number: str) -> None:
        let_happen(monkeypatch, lambda: erase(database_url, number), archive_folder, "_check_files", after=True)

    then_erase("12300000101")
    # As if the files' last events had been received later: then the first file is searched.
    await conn.execute("UPDATE eventstore.archived_partitions SET last_received_at = last_received_at + interval '1 s'")
    assert await find_position(conn, time.isoformat()) == 28
    then_erase("12300000201")
    assert await received_at(conn, 10) == time


async def test_an_index_that_is_being_created_is_not_invalid(conn: AsyncConnection, database_url: str) -> None:
    async def is_waiting() -> bool:
        query = "SELECT FROM pg_stat_progress_create_index WHERE index_relid <> 0"
        return len(await fetch_all(conn, query)) == 1

    async with session(database_url, "a tool") as creating, session(database_url, "a writer") as writer:
        async with writer.transaction():
            await writer.execute("LOCK TABLE eventstore.events IN ROW EXCLUSIVE MODE")
            index = "CREATE INDEX CONCURRENTLY mine ON eventstore.events (app, event_type)"
            task = asyncio.create_task(creating.execute(index))
            await store.wait_until(is_waiting, "the index, waiting for the writer")
            assert "index_invalid" not in codes(await findings(database_url))
            creating.cancel()
            with pytest.raises(psycopg.errors.QueryCanceled):
                await task
        assert "index_invalid" in codes(await findings(database_url))
