"""Runs of a rebuild: each is recorded, one runs at a time, and an interrupted one can be resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

import pytest
from psycopg import AsyncConnection
from sqlalchemy import Column, Executable, MetaData, Table, Text, literal, select

from eventstore.errors import LockHeld
from projections.errors import ProjectionsError, RebuildLost, RebuildRefused
from projections.migrating.migrate import upgrade
from projections.projection import Projection, Window
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.rebuilding.as_of import build_as_of
from projections.rebuilding.rebuild_history import next_run_id
from projections.rebuilding.shadow import Shadow
from projections.running.control import skip
from tests import folding, rebuilding, store
from tests.folding import (
    append,
    checkpoint_row,
    new_record,
)
from tests.rebuilding import (
    ANY_REMOVAL,
    EXTRA,
    SAMPLES,
    During,
    Interrupted,
    Interrupting,
    Lenient,
    NewerLenient,
    RecordedProgress,
    all_rows,
    damage,
    damage_all,
    rebuild,
    recorded_runs,
    total_differences,
    verify,
)


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_watched_table(conn)
        yield conn


# A row for each run


@pytest.mark.folded
async def test_each_run_is_recorded(database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.rebuilding.rebuild_history.RECORD_SECONDS", 60)
    count = await damage(conn, ConsentRegistry.tables[0], EXTRA, 0.5)
    there = await folding.count_rows(conn, "consent_registry")
    with pytest.raises(RebuildRefused):
        await rebuild(database_url, ConsentRegistry())
    with pytest.raises(Interrupted):
        await rebuild(database_url, ConsentRegistry(), progress=Interrupting(50), window=50)
    with pytest.raises(asyncio.CancelledError):
        await rebuild(database_url, ConsentRegistry(), progress=Interrupting(100, asyncio.CancelledError()), window=50)
    interrupted = (await recorded_runs(conn, "consent_registry"))[-1]
    assert (interrupted.state, interrupted.error, interrupted.is_over) == ("abandoned", "it was interrupted", True)
    # The row as a killed run leaves it.
    await conn.execute("UPDATE projections.rebuilds SET state = 'running', error = NULL WHERE state = 'abandoned'")
    await rebuild(database_url, ConsentRegistry(), limits=ANY_REMOVAL)
    refused, failed, abandoned, done = await recorded_runs(conn, "consent_registry")
    assert (refused.state, refused.position, refused.rows_changed) == ("refused", SAMPLES, None)
    assert failed == ("failed", 1, False, 50, None, None, None, None, "Interrupted", True)
    assert abandoned[:4] == ("abandoned", 1, False, 100)
    assert abandoned[-2:] == ("its process was killed", True)
    assert done == ("done", 1, False, SAMPLES, there, 0, count, 0, None, True)


# Concurrent runs


@pytest.mark.folded
async def test_a_second_concurrent_run_fails_and_names_the_first(database_url: str) -> None:
    met: list[str] = []

    async def try_second_runs() -> None:
        one = RequestStatus()
        context = rebuilding.replay_context(database_url)
        for attempt in (
            rebuild(database_url, one),
            verify(database_url, one),
            build_as_of(context, [PollTallies(), one], store.next_ulid(), "then", force=False),
        ):
            with pytest.raises(LockHeld) as caught:
                await attempt
            met.append(str(caught.value))
        await rebuild(database_url, PollTallies())  # other projections are not affected
        await verify(database_url, PollTallies())

    for first in (rebuild, verify):
        met.clear()
        await first(database_url, RequestStatus(), progress=During(comparing=try_second_runs))
        assert len(met) == 3
        for message in met:
            assert message.startswith(
                f"projection request_status: held by projections {first.__name__} request_status "
            )
            assert message.endswith("; try again later")


@pytest.mark.parametrize("phase", ["folding", "comparing", "applying_the_difference"])
@pytest.mark.folded
async def test_a_run_whose_shadow_was_taken_over_applies_nothing(
    database_url: str, conn: AsyncConnection, phase: str
) -> None:
    await damage_all(conn, PollTallies)
    before, stood = await all_rows(conn, PollTallies), await checkpoint_row(conn, "poll_tallies")

    async def take_over() -> None:
        async with store.connection(database_url) as own:
            await Shadow(own, PollTallies(), [], run=await next_run_id(own)).begin()

    with pytest.raises(RebuildLost, match="poll_tallies: another rebuild took over; nothing was applied"):
        await rebuild(database_url, PollTallies(), progress=During(**{phase: take_over}), limits=ANY_REMOVAL)
    assert await all_rows(conn, PollTallies) == before
    assert await checkpoint_row(conn, "poll_tallies") == stood
    assert (await recorded_runs(conn, "poll_tallies"))[-1].state == "failed"
    assert await rebuilding.shadow_tables(conn) == ["poll_responses", "poll_tallies"], "they belong to the other run"


@pytest.mark.parametrize("phase", ["folding", "comparing", "counting"])
@pytest.mark.folded
async def test_a_dry_run_or_verification_whose_shadow_was_taken_over_fails(database_url: str, phase: str) -> None:
    async def take_over() -> None:
        async with store.connection(database_url) as own:
            await Shadow(own, PollTallies(), [], run=await next_run_id(own)).begin()

    with pytest.raises(RebuildLost):
        await rebuild(database_url, PollTallies(), progress=During(**{phase: take_over}), dry_run=True)
    if phase != "counting":
        with pytest.raises(RebuildLost):
            await verify(database_url, PollTallies(), progress=During(**{phase: take_over}))


# Resuming


@pytest.mark.folded
async def test_an_interrupted_run_is_resumed(database_url: str, conn: AsyncConnection) -> None:
    await damage_all(conn, PollTallies)
    with pytest.raises(Interrupted):
        await rebuild(database_url, PollTallies(), progress=Interrupting(40), window=10)
    assert await rebuilding.shadow_tables(conn) == ["poll_responses", "poll_tallies"]
    progress = RecordedProgress()
    done = await rebuild(
        database_url, PollTallies(), progress=progress, resume=True, limits=ANY_REMOVAL, window=SAMPLES
    )
    assert progress.notes == ["poll_tallies: resuming at position 40"]
    assert progress.positions == [SAMPLES]
    assert done.position == SAMPLES
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.folded
async def test_a_refused_run_is_resumed_with_permission(database_url: str, conn: AsyncConnection) -> None:
    await damage(conn, ConsentRegistry.tables[0], EXTRA, 0.5)
    with pytest.raises(RebuildRefused):
        await rebuild(database_url, ConsentRegistry())
    progress = RecordedProgress()
    await rebuild(database_url, ConsentRegistry(), progress=progress, resume=True, limits=ANY_REMOVAL)
    assert progress.notes == [f"consent_registry: resuming at position {SAMPLES}"]
    assert progress.positions == []
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.folded
async def test_a_refused_run_is_previewed_and_then_resumed(database_url: str, conn: AsyncConnection) -> None:
    await damage(conn, ConsentRegistry.tables[0], EXTRA, 0.5)
    with pytest.raises(
        RebuildRefused, match="look at the changes with --dry-run --resume, then allow it with --resume --yes"
    ):
        await rebuild(database_url, ConsentRegistry())
    for dry_run in (True, False):
        progress = RecordedProgress()
        options = {"dry_run": dry_run, "resume": True}
        done = await rebuild(database_url, ConsentRegistry(), progress=progress, limits=ANY_REMOVAL, **options)
        assert total_differences(done) > 0
        assert progress.notes[0] == f"consent_registry: resuming at position {SAMPLES}"
        assert progress.positions == []
    assert await rebuilding.shadow_tables(conn) == []
    await folding.assert_rows_match_oracle(conn)


class OtherFold(Lenient):
    """Another fold with the same version."""

    def fold(self, window: Window) -> Sequence[Executable]:
        return [*super().fold(window), select(literal(1))]


NOT_WHOLE = "the shadow doesn't match what the interrupted rebuild recorded"
CHANGED_SINCE = (
    "the code, a table, the skipped events, the erased persons or the archive changed since the interrupted rebuild"
)
WHY_ANEW = {
    "nothing": "no interrupted rebuild found",
    "position": NOT_WHOLE,
    "run": NOT_WHOLE,
    "table": NOT_WHOLE,
    "verify": NOT_WHOLE,
    "version": "the interrupted rebuild was of version 1",
    "code": CHANGED_SINCE,
    "skips": CHANGED_SINCE,
}


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[pytest.mark.oldest] * (what == "code")) for what in WHY_ANEW]
)
async def test_a_shadow_that_does_not_fit_is_not_resumed(database_url: str, conn: AsyncConnection, what: str) -> None:
    records = [new_record() for _ in range(6)]
    await append(conn, *records)
    await folding.fold_all(database_url, [Lenient])
    projection: Projection = Lenient()
    if what != "nothing":
        with pytest.raises(Interrupted):
            await rebuild(database_url, projection, progress=Interrupting(2), window=2)
    match what:
        case "position":
            await conn.execute("UPDATE projections.rebuilds SET position = 1")
        case "run":
            await conn.execute("DELETE FROM projections.rebuilds")
        case "table":
            await conn.execute("DROP TABLE projections_shadow.watched")
        case "version":
            projection = NewerLenient()
        case "code":
            projection = OtherFold()
        case "skips":
            query = "INSERT INTO projections.skips VALUES ('watched', %s, 1, 'a test', now())"
            await conn.execute(query, [records[0].event_id])
        case "verify":
            with pytest.raises(Interrupted):
                await verify(database_url, projection, progress=Interrupting(4), window=2)
    progress = RecordedProgress()
    await rebuild(database_url, projection, progress=progress, resume=True, window=2, limits=ANY_REMOVAL)
    assert progress.notes == [f"watched: {WHY_ANEW[what]}; starting over"]
    assert progress.positions == [2, 4, 6]
    assert await folding.count_rows(conn, "watched") == (5 if what == "skips" else 6)


async def test_a_skip_during_a_rebuild_ends_it(database_url: str, conn: AsyncConnection) -> None:
    record = new_record()
    await append(conn, record)
    await folding.fold_all(database_url, [Lenient])

    async def skipped() -> None:
        async with store.connection(database_url) as own:
            await skip(own, "watched", record.event_id, "a test", 2)

    with pytest.raises(ProjectionsError, match="watched: events were skipped during the rebuild; run it again"):
        await rebuild(database_url, NewerLenient(), progress=During(applying_the_difference=skipped))
    assert (await checkpoint_row(conn, "watched"))[:2] == (1, 1)


more = Table("watched_more", MetaData(schema="public"), Column("app", Text, primary_key=True))


class WithMore(folding.Watched):
    """A version with a table that the next one no longer has."""

    tables: ClassVar[tuple[Table, ...]] = (*folding.Watched.tables, more)


async def test_the_shadow_of_a_removed_table_is_dropped(database_url: str, conn: AsyncConnection) -> None:
    upgrade(database_url, projections=[WithMore()])
    await append(conn, *(new_record() for _ in range(3)))
    await folding.fold_all(database_url, [WithMore])
    with pytest.raises(Interrupted):
        await rebuild(database_url, WithMore(), progress=Interrupting(2), window=1)
    await conn.execute("CREATE TABLE projections_shadow.somebodys ()")
    assert await rebuilding.shadow_tables(conn) == ["somebodys", "watched", "watched_more"]
    await rebuild(database_url, folding.NewerWatched())
    assert await rebuilding.shadow_tables(conn) == ["somebodys"]


@pytest.mark.folded
async def test_locks_of_a_killed_process_are_reported(database_url: str) -> None:
    with pytest.raises(Interrupted):
        await rebuild(database_url, PollTallies(), progress=Interrupting(40), window=10)
    async with store.connection(database_url, "killed") as killed, killed.transaction():
        await killed.execute("SELECT FROM projections_shadow.shadow_positions FOR UPDATE")
        with pytest.raises(ProjectionsError, match="another session reads or creates tables in projections_shadow"):
            await rebuild(database_url, PollTallies(), resume=True)
    progress = RecordedProgress()
    await rebuild(database_url, PollTallies(), progress=progress, resume=True)
    assert progress.notes == ["poll_tallies: resuming at position 40"]
