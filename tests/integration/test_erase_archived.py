"""Erasing a person reaches the files of archived events, also those that are only Parquet's; or nothing is done."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection

from eventstore.appending.quarantine_limits import DEFAULT_LIMITS
from eventstore.archived_rows import read_archived_partitions
from eventstore.archiving import erased_files
from eventstore.errors import ArchiveError, EventsArchived
from eventstore.ingest.context import IngestContext
from eventstore.transfer.export import export_erasures, export_events
from eventstore.transfer.importing import import_events
from projections.erasing.erase import erase_persons
from projections.erasing.erase_request import EraseRequest
from projections.projection import Projection
from projections.read_models.people import People
from projections.rebuilding.as_of import build_as_of
from projections.rebuilding.rebuild import Rebuilt
from projections.rebuilding.verify import Verified
from tests import folding, store
from tests.archiving import archive_by_hand
from tests.databases import Server
from tests.doctoring import codes, findings
from tests.erasing import BUILT_IN, again, erase
from tests.queries import fetch_all
from tests.rebuilding import (
    ANY_REMOVAL,
    During,
    RecordedProgress,
    all_rows,
    rebuild,
    replay_context,
    run_elsewhere,
    total_differences,
    verify,
)

PERSON, OTHER = "12300000201", "12300000101"
"""A person of whom the last event is still in the log, and one whose events are all archived, in two files."""
ARCHIVED = 50


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def totals(conn: AsyncConnection) -> list[tuple[object, ...]]:
    """Return what must not change: the counts of the read models."""
    return [
        *await fetch_all(conn, "SELECT send_request_id, delivered, failed FROM request_status ORDER BY 1"),
        *await fetch_all(conn, "SELECT count(*), count(DISTINCT ppnum) FROM request_recipients"),
        *await fetch_all(conn, "SELECT option, responses FROM poll_tallies ORDER BY 1, 2"),
        *await fetch_all(conn, "SELECT count(*), sum(requests) FROM people"),
    ]


async def all_equal(url: str) -> bool:
    return all([(await verify(url, one)).equal for one in BUILT_IN.values()])


def fail_at_call(patched: pytest.MonkeyPatch, name: str, call: int) -> None:
    """Let a step of writing files anew fail when it is called for this time."""
    real: Callable[..., Any] = getattr(erased_files, name)
    calls = count(1)

    def step(*arguments: object, **options: object) -> Any:  # noqa: ANN401 - as the real one
        if next(calls) == call:
            raise ArchiveError("the disk is full")
        return real(*arguments, **options)

    patched.setattr(erased_files, name, step)


@pytest.mark.folded
async def test_a_person_is_erased_from_files_and_counts_stay(
    database_url: str, conn: AsyncConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await totals(conn)
    await archive_by_hand(conn, tmp_path, 1, 28)
    await archive_by_hand(conn, tmp_path, 29, ARCHIVED, parquet=True)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    untouched = contents(tmp_path)
    counted = await erase(database_url, PERSON, OTHER, dry_run=True)
    assert (counted.tables["eventstore.archived_partitions"], contents(tmp_path)) == (9, untouched)
    done = await erase(database_url, PERSON, OTHER)
    assert done.tables == counted.tables
    assert done.archives == {"events-1-28.events": 3, "events-29-50.events": 6}
    assert sorted(contents(tmp_path)) == ["events-1-28.e2.events", "events-29-50.e2.events", "events-29-50.e2.parquet"]
    for number in (PERSON, OTHER):
        assert [name for name, content in contents(tmp_path).items() if number.encode() in content] == []
    assert await totals(conn) == before
    assert await all_equal(database_url)
    for one in BUILT_IN.values():
        assert sum(change.total for change in (await rebuild(database_url, one)).changes) == 0
    # Somebody who has no event: the files stay as they are, and are known to be up to date.
    files = contents(tmp_path)
    assert (await erase(database_url, "12399999999")).archives == {}
    assert contents(tmp_path) == files
    assert "archive_has_erased" not in codes(await findings(database_url, archive=tmp_path))


@pytest.mark.folded
async def test_nothing_is_erased_while_a_file_is_missing(
    database_url: str, conn: AsyncConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await archive_by_hand(conn, tmp_path, 1, ARCHIVED, parquet=True)
    content = file.with_suffix(".parquet").read_bytes()
    with pytest.raises(EventsArchived, match=r"set PROJECTIONS_ARCHIVE to the folder of its files$"):
        await erase(database_url, PERSON)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    file.with_suffix(".parquet").write_bytes(content + b"x")
    with pytest.raises(ArchiveError, match=r"events-1-50\.parquet was changed after it was written"):
        await erase(database_url, PERSON)
    assert await fetch_all(conn, "SELECT count(*) FROM eventstore.erasures") == [(0,)]
    assert await fetch_all(conn, "SELECT count(*) FROM people WHERE ppnum = %s", [PERSON]) == [(1,)]


@pytest.mark.folded
async def test_an_erasure_that_stops_before_the_files_is_finished_by_the_next(
    database_url: str, conn: AsyncConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await totals(conn)
    file = await archive_by_hand(conn, tmp_path, 1, ARCHIVED)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    for name, call in (("_write", 1), ("sync_archive_folder", 1), ("record_replaced", 1), ("_delete_files", 2)):
        with monkeypatch.context() as patched:
            fail_at_call(patched, name, call)
            with pytest.raises(ArchiveError, match="the disk is full"):
                await erase(database_url, OTHER)
        # Whatever the files say, everybody reads the token.
        assert await totals(conn) == before
        assert await all_equal(database_url)
        assert "archive_has_erased" in codes(await findings(database_url, archive=tmp_path))
    await erase(database_url, OTHER)
    assert not file.exists()
    assert [name for name, content in contents(tmp_path).items() if OTHER.encode() in content] == []
    assert len(contents(tmp_path)) == 1
    assert (await read_archived_partitions(conn))[0].to_delete == []
    assert await all_equal(database_url)


@pytest.mark.folded
@pytest.mark.oldest
async def test_idle_persons_are_found_in_files(
    database_url: str, conn: AsyncConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = await fetch_all(conn, "SELECT DISTINCT ppnum FROM eventstore.events WHERE ppnum <> ''")
    await archive_by_hand(conn, tmp_path, 1, ARCHIVED)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    request = EraseRequest(None, "retention", "tester", older_than=timedelta(days=1))
    done = await erase_persons(replay_context(database_url), BUILT_IN, request, DEFAULT_LIMITS)
    assert done.erased == len(everybody)
    text = b"".join(contents(tmp_path).values())
    assert [number for (number,) in everybody if number.encode() in text] == []
    assert await all_equal(database_url)


@pytest.mark.folded
@pytest.mark.oldest
async def test_a_restored_log_with_older_files_is_erased_again(
    database_url: str, conn: AsyncConnection, postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of archived events can't be found by a number that nobody knows: a rebuild takes it out of them."""
    backup, ledger, files = tmp_path / "backup", tmp_path / "ledger", tmp_path / "files"
    files.mkdir()
    await export_events(conn, backup, lambda *_: None)
    await erase(database_url, PERSON, OTHER)
    erased = [await all_rows(conn, one) for one in BUILT_IN.values()]
    await export_erasures(conn, ledger)
    with postgres.database() as restored:
        await import_events(IngestContext(restored, store.QUICK), backup, on_progress=lambda *_: None)
        await folding.fold_all(restored)
        async with store.connection(restored) as other:
            await archive_by_hand(other, files, 1, 28)
            await archive_by_hand(other, files, 29, ARCHIVED, parquet=True)
            with pytest.raises(EventsArchived, match=r"set PROJECTIONS_ARCHIVE to the folder of its files$"):
                await again(restored, ledger)
            assert await fetch_all(other, "SELECT count(*) FROM eventstore.erasures") == [(0,)]
            monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(files))
            done = await again(restored, ledger)
            assert done.archives == {"events-1-28.events": 3, "events-29-50.events": 6}
            assert done.need_rebuild == set(BUILT_IN)
            text = b"".join([*contents(files).values()])
            assert [number for number in (PERSON, OTHER) if number.encode() in text] == []
            events = await fetch_all(other, "SELECT ppnum FROM eventstore.events")
            assert {PERSON, OTHER}.isdisjoint(number for (number,) in events)
            for one in BUILT_IN.values():
                await rebuild(restored, one, limits=ANY_REMOVAL)
            assert [await all_rows(other, one) for one in BUILT_IN.values()] == erased
            rewritten = contents(files)
            assert (await again(restored, ledger)).archives == {}
            assert contents(files) == rewritten


async def as_of_the_head(url: str, projection: Projection, *, progress: During, window: int) -> None:
    """Build a projection's rows as of the last event."""
    async with store.connection(url) as conn:
        last = await store.value(conn, "SELECT event_id FROM eventstore.events ORDER BY position DESC LIMIT 1")
        await build_as_of(replay_context(url, progress, window=window), [projection], str(last), "earlier", force=False)
        rows = "SELECT {} FROM {}.people ORDER BY app, ppnum"
        columns = "app, ppnum, requests"
        then = await fetch_all(conn, rows.format(columns, "earlier"))
        assert then == await fetch_all(conn, rows.format(columns, "public"))


@pytest.mark.folded
@pytest.mark.parametrize("replay", [rebuild, verify, as_of_the_head])
async def test_a_replay_that_reads_the_files_starts_over(
    database_url: str,
    conn: AsyncConnection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replay: Callable[..., Coroutine[Any, Any, Rebuilt | Verified | None]],
) -> None:
    await archive_by_hand(conn, tmp_path, 1, 28)
    await archive_by_hand(conn, tmp_path, 29, ARCHIVED)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    phase = "folding_people" if replay is as_of_the_head else "folding"
    progress = During(**{phase: lambda: erase(database_url, OTHER)})
    found = await replay(database_url, People(), progress=progress, window=10)
    assert found is None or total_differences(found) == 0
    assert progress.is_done
    assert any(note.endswith(": a person was erased meanwhile; starting over") for note in progress.notes)
    assert sorted(contents(tmp_path)) == ["events-1-28.e1.events", "events-29-50.e1.events"]


class At(RecordedProgress):
    """Runs an action once, when a replay has folded up to a position."""

    def __init__(self, position: int, action: Callable[[], Coroutine[Any, Any, object]]) -> None:
        super().__init__()
        self._position = position
        self._actions = [action]

    def at(self, position: int) -> None:
        super().at(position)
        if position >= self._position and self._actions:
            run_elsewhere(self._actions.pop())


@pytest.mark.folded
async def test_a_replay_goes_on_with_files_that_are_written_anew(
    database_url: str, conn: AsyncConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive_by_hand(conn, tmp_path, 1, 28)
    await archive_by_hand(conn, tmp_path, 29, ARCHIVED)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    with monkeypatch.context() as patched:
        fail_at_call(patched, "_write", 1)
        with pytest.raises(ArchiveError, match="the disk is full"):
            await erase(database_url, OTHER)

    async def write_anew() -> None:
        async with store.connection(database_url) as archiving:
            await erased_files.rewrite_all_files(archiving, tmp_path, print)

    progress = At(20, write_anew)
    found = await verify(database_url, People(), progress=progress, window=10)
    assert (found.equal, progress.notes) == (True, [])
    assert sorted(contents(tmp_path)) == ["events-1-28.e1.events", "events-29-50.e1.events"]
    (tmp_path / "events-29-50.e1.events").unlink()
    with pytest.raises(EventsArchived, match=r"events-29-50\.e1\.events is missing"):
        await verify(database_url, People())
