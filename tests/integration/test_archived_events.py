"""Rebuilds, verifications and as-ofs read archived events from their files, or refuse before they do anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection

from eventstore.archiving import archived_events
from eventstore.consuming.consumer_row import create_consumer, take_over
from eventstore.consuming.consumers import find_reset_position, read_consumers, reset_consumer
from eventstore.consuming.page_reader import EventFilter, PageReader
from eventstore.errors import ArchiveError, EventsArchived, UsageError
from eventstore.event_reader import read
from projections.errors import MigrationRefused, RebuildLost
from projections.granting.role_kinds import RoleKind
from projections.inspecting.explain import explain
from projections.inspecting.read_status import read_status
from projections.inspecting.row_events import list_events_behind
from projections.migrating.go_back import go_back
from projections.migrating.migrate import upgrade
from projections.projection import Projection
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.people import People
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.rebuilding import shadow
from projections.rebuilding.as_of import build_as_of
from projections.rebuilding.replay_progress import NoProgress
from projections.registry import find_projections
from projections.running.window_step import Step
from tests import store
from tests.archiving import archive_by_hand
from tests.databases import Server
from tests.doctoring import findings
from tests.erasing import erase
from tests.fix_full_matrix import stood_for
from tests.folding import append, checkpoint_row, fold, fold_all, new_record, worker, worker_connection
from tests.queries import fetch_all
from tests.rebuilding import (
    ANY_REMOVAL,
    SAMPLES,
    OptOuts,
    all_rows,
    append_and_fold,
    damage_all,
    rebuild,
    replay_context,
    shadow_tables,
    verify,
)
from tests.roles import granted_roles
from tests.store import QUICK
from tests.transferring import delete_positions, export, fill_store, import_file, open_connection, store_content

ARCHIVED = 100


@pytest.mark.folded
@pytest.mark.parametrize(
    "projection",
    [
        RequestStatus,
        PollTallies,
        *stood_for(
            "RequestStatus reads all columns of archived events that this one reads, through the same windows",
            *(ConsentRegistry, People),
        ),
        pytest.param(OptOuts, marks=pytest.mark.oldest),
    ],
)
async def test_replays_read_archived_events(
    database_url: str,
    conn: AsyncConnection,
    projection: type[Projection],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if projection is OptOuts:
        upgrade(database_url, projections=[OptOuts()])
        await fold_all(database_url, [OptOuts])
    monkeypatch.setattr(archived_events, "BATCH", 7)
    monkeypatch.setattr(shadow, "WINDOW", 40)
    rows = await all_rows(conn, projection)
    await archive_by_hand(conn, tmp_path, 1, 3)
    await archive_by_hand(conn, tmp_path, 4, ARCHIVED)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    for window in (17, 1000):
        found = await verify(database_url, projection(), window=window)
        assert (found.position, found.equal) == (SAMPLES, True)
    await damage_all(conn, projection)
    await rebuild(database_url, projection(), limits=ANY_REMOVAL)
    assert await all_rows(conn, projection) == rows
    await conn.execute("DELETE FROM projections.checkpoints")  # as if it were new here
    done = await rebuild(database_url, projection())
    assert (done.position, sum(one.total for one in done.changes)) == (SAMPLES, 0)


@pytest.mark.folded
@pytest.mark.oldest
async def test_an_as_of_within_the_archive_has_the_rows_of_then(
    database_url: str, conn: AsyncConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(conn, new_record())
    [(received_at,)] = await fetch_all(conn, "SELECT received_at FROM eventstore.events WHERE position = 60")
    context, projections = replay_context(database_url), [RequestStatus()]
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    await archive_by_hand(conn, tmp_path, 1, ARCHIVED)
    await archive_by_hand(conn, tmp_path, ARCHIVED + 1, SAMPLES)
    built = await build_as_of(context, projections, received_at.isoformat(), "then", force=False)
    assert (built.position, built.received_at) == (SAMPLES, received_at)
    [rows] = await fetch_all(conn, "SELECT count(*) FROM public.request_status")
    assert built.rows["request_status"] == rows[0]
    none = await build_as_of(context, projections, "2020-01-01T00:00Z", "nothing", force=False)
    assert (none.position, none.rows["request_status"]) == (0, 0)
    assert none.remarks[0].startswith("that time is before the first event (position 1 was received at")


@pytest.mark.folded
async def test_a_replay_refuses_before_it_does_anything(
    database_url: str, conn: AsyncConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ((1, 40), (41, 70), (71, 80), (81, ARCHIVED))
    file, _, third, last = [await archive_by_hand(conn, tmp_path, *part) for part in parts]
    await conn.execute("DELETE FROM projections.checkpoints")

    async def refusal(error: type[Exception], match: str) -> None:
        for replay in (rebuild, verify):
            with pytest.raises(error, match=match):
                await replay(database_url, PollTallies())
        with pytest.raises(error, match=match):
            await build_as_of(replay_context(database_url), [PollTallies()], "2100-01-01T00:00Z", "then", force=False)
        assert await shadow_tables(conn) == []
        assert await fetch_all(conn, "SELECT name FROM projections.checkpoints") == []
        assert await fetch_all(conn, "SELECT id FROM projections.rebuilds") == []

    archived = "are archived, no longer in the log: "
    await refusal(EventsArchived, f"^positions 1 to 100 {archived}set PROJECTIONS_ARCHIVE to the folder of its files$")
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    await refusal(ArchiveError, f"^{file} was changed after it was written: it has {len(content) - 1:,} bytes instead")
    file.write_bytes(content[:-1] + b"x")
    await refusal(ArchiveError, f"^{file} was changed after it was written: its digest doesn't match")
    file.unlink()
    await refusal(EventsArchived, f"^positions 1 to 40 {archived}{file.name} is missing in {tmp_path}; put it back")
    # What a file in between has is not needed; positions of neighbours are one range.
    kept = {one: one.read_bytes() for one in (third, last)}
    third.unlink()
    lost = f"{file.name} and 1 more are missing in {tmp_path}; put them back"
    await refusal(EventsArchived, f"^positions 1 to 40 and 71 to 80 {archived}{lost}")
    last.unlink()
    lost = f"{file.name} and 2 more are missing in {tmp_path}; put them back"
    await refusal(EventsArchived, f"^positions 1 to 40 and 71 to 100 {archived}{lost}")
    file.write_bytes(content)
    for one, lost_content in kept.items():
        one.write_bytes(lost_content)
    assert (await rebuild(database_url, PollTallies())).position > ARCHIVED


async def test_a_projection_that_needs_archived_events_says_so(
    database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    await append_and_fold(database_url, conn, RequestStatus)
    await archive_by_hand(conn, tmp_path, 1, ARCHIVED)
    one = worker(database_url, PollTallies())
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.STOPPED
    row = await checkpoint_row(conn, PollTallies.name)
    assert (row.position, row.state) == (0, "failed")
    assert row.last_error is not None
    assert row.last_error.startswith("positions 1 to 100 are archived, no longer in the log: run projections rebuild")


class _Stops(NoProgress):
    """Stops a replay at a position; keeps the notes."""

    def __init__(self, position: int) -> None:
        self.notes: list[str] = []
        self._position = position

    def at(self, position: int) -> None:
        """Stop here."""
        if position >= self._position:
            raise RebuildLost(RequestStatus.name)

    def note(self, line: str) -> None:
        """Keep the line."""
        self.notes.append(line)


@pytest.mark.folded
async def test_an_interrupted_rebuild_is_resumed_among_archived_events(
    database_url: str, conn: AsyncConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "WINDOW", 20)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    with pytest.raises(RebuildLost):
        await rebuild(database_url, RequestStatus(), progress=_Stops(40))
    await archive_by_hand(conn, tmp_path, 1, ARCHIVED)
    stops = _Stops(60)
    with pytest.raises(RebuildLost):
        await rebuild(database_url, RequestStatus(), progress=stops, resume=True)
    assert stops.notes[0].endswith("or the archive changed since the interrupted rebuild; starting over")
    ends = _Stops(SAMPLES + 1)
    done = await rebuild(database_url, RequestStatus(), progress=ends, resume=True)
    assert (ends.notes, done.position) == (["request_status: resuming at position 60"], SAMPLES)
    assert sum(one.total for one in done.changes) == 0


async def test_an_export_has_the_archived_events_or_refuses(
    database_url: str, conn: AsyncConnection, postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill_store(database_url, conn)
    before = await store_content(conn)
    whole, again = tmp_path / "whole", tmp_path / "again"
    await export(conn, whole)
    await archive_by_hand(conn, tmp_path, 1, 4)
    with pytest.raises(EventsArchived, match=r"^positions 1 to 4 are archived, no longer in the log: set PROJECTIONS"):
        await export(conn, again)
    assert not again.exists()
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    assert (await export(conn, again)).missing == ()
    assert again.read_bytes() == whole.read_bytes()
    with postgres.database() as restored:
        await import_file(restored, again)
        async with open_connection(restored) as other:
            assert (await store_content(other))["events"] == before["events"]


async def test_a_reader_that_would_miss_archived_events_is_refused(conn: AsyncConnection, tmp_path: Path) -> None:
    await append(conn, *(new_record() for _ in range(6)))
    assert [one.position async for one in read(conn, -1)] == [1, 2, 3, 4, 5, 6]
    await archive_by_hand(conn, tmp_path, 1, 4)
    refused = r"^{} archived, no longer in the log: .* projections archive, and go on here after position 4$"
    for after, up_to, positions in (
        (-1, None, "positions 1 to 4 are"),
        (0, None, "positions 1 to 4 are"),
        (0, 3, "positions 1 to 3 are"),
        (2, None, "positions 3 to 4 are"),
        (3, 9, "position 4 is"),
    ):
        with pytest.raises(EventsArchived, match=refused.format(positions)):
            [one async for one in read(conn, after, up_to=up_to)]
    assert [one.position async for one in read(conn, 4)] == [5, 6]
    assert [one.position async for one in read(conn, 2, up_to=2)] == []


async def test_every_role_that_reads_events_is_told_what_is_archived(
    conn: AsyncConnection, database_url: str, postgres: Server, tmp_path: Path
) -> None:
    await append(conn, *(new_record() for _ in range(6)))
    await delete_positions(conn, 3)
    kinds = (RoleKind.SERVE, RoleKind.CONSUMER, RoleKind.INGEST, RoleKind.WORKER)
    async with granted_roles(postgres, database_url, *kinds) as made:
        for one in made.values():
            async with store.connection(one.url) as reading:
                assert [stored.position async for stored in read(reading, 1)] == [2, 4, 5, 6]
        await archive_by_hand(conn, tmp_path, 1, 2)
        for one in made.values():
            async with store.connection(one.url) as reading:
                with pytest.raises(EventsArchived, match="position 2 is archived"):
                    [stored async for stored in read(reading, 1)]


@pytest.mark.folded
async def test_a_worker_verifies_archived_events_of_erased_persons(
    conn: AsyncConnection, database_url: str, postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive_by_hand(conn, tmp_path, 1, 50)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    await erase(database_url, "12300000101")
    async with granted_roles(postgres, database_url, RoleKind.WORKER) as made:
        assert (await verify(made[RoleKind.WORKER].url, People())).equal


@pytest.mark.folded
async def test_the_events_behind_a_row_say_what_was_not_searched(
    conn: AsyncConnection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive_by_hand(conn, tmp_path, 1, 50)
    monkeypatch.setenv("PROJECTIONS_ARCHIVE", str(tmp_path))
    await conn.execute("UPDATE people SET requests = 77 WHERE ppnum = '12300000101'")
    found = await verify(database_url, People())
    [behind] = await list_events_behind(replay_context(database_url), People(), found.samples, found.position)
    assert (behind.archived_up_to, len(behind.lines) > 0) == (50, True)


@pytest.mark.folded
async def test_consumers_begin_after_the_archived_events(
    database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    await create_consumer(conn, "early", 0)
    await archive_by_hand(conn, tmp_path, 1, ARCHIVED)
    with pytest.raises(UsageError, match="can't start after position 99: positions up to 100 are archived; start it"):
        await create_consumer(conn, "late", ARCHIVED - 1)
    await create_consumer(conn, "late", ARCHIVED)
    taken = await take_over(conn, "late")
    assert taken is not None
    page = await PageReader(EventFilter()).read_page(conn, taken.position)
    assert (page.events[0].position, page.before) == (ARCHIVED + 1, taken.event_id)
    with pytest.raises(EventsArchived, match=r"^positions 1 to 100 are archived, no longer in the log: a consumer"):
        await PageReader(EventFilter()).read_page(conn, 0)
    for place in ("beginning", "99"):
        with pytest.raises(UsageError, match=f"^{place} is among the archived events"):
            await find_reset_position(conn, place)
    await reset_consumer(database_url, QUICK, "early", await find_reset_position(conn, "100"))
    assert [(one.name, one.position, one.is_in_log) for one in await read_consumers(conn)] == [
        ("early", ARCHIVED, True),
        ("late", ARCHIVED, True),
    ]


@pytest.mark.folded
async def test_status_doctor_and_explain_tell_what_is_archived(
    database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    file = await archive_by_hand(conn, tmp_path, 1, ARCHIVED, parquet=True)
    assert (await read_status(conn, find_projections())).archived_up_to == ARCHIVED
    projection = RequestStatus()
    explained = await explain(replay_context(database_url), projection, projection.tables[1], ["request 0"], None)
    assert explained.archived_up_to == ARCHIVED
    codes = ("archive_missing", "archive_has_erased", "archive_unfinished", "missing_positions")

    async def found(**options: Any) -> list[str]:  # noqa: ANN401 - of DoctorOptions
        return [f"{one.code}: {one.sentence}" for one in await findings(database_url, **options) if one.code in codes]

    archived = "archive_missing: positions 1 to 100 are archived, and"
    assert await found() == [f"{archived} no folder is set"]
    assert await found(archive=tmp_path, thorough=True) == []
    file.with_suffix(".parquet").unlink()
    wrong = f"files are missing or changed in {tmp_path}: events-1-100.parquet"
    assert await found(archive=tmp_path) == [f"{archived} {wrong}"]
    with pytest.raises(MigrationRefused, match="positions 1 to 100 are archived, and versions before 0026 can't read"):
        go_back(database_url, "0025")
