"""Disturbed replays: other sessions read the shadow, the disk is full, or the lock's session ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import AsyncConnection

from eventstore.errors import LockLost
from projections.errors import CannotFold, ProjectionsError
from projections.read_models.poll_tallies import PollTallies
from projections.rebuilding.as_of import build_as_of
from projections.running.window_step import Step
from tests import folding, rebuilding, store
from tests.folding import (
    DIVIDES_BY_ZERO,
    HALF_HOUR,
    Watched,
    append,
    checkpoint_row,
    fold,
    new_record,
    worker,
    worker_connection,
)
from tests.rebuilding import (
    ANY_REMOVAL,
    During,
    RecordedProgress,
    damage_all,
    rebuild,
    recorded_runs,
    sample_records,
    total_differences,
    verify,
)

READ = "SELECT count(*) FROM projections_shadow.poll_tallies"


async def append_fold_and_damage(url: str, conn: AsyncConnection) -> None:
    await append(conn, *sample_records())
    await folding.fold_all(url)
    await damage_all(conn, PollTallies)


@contextmanager
def dump(url: str) -> Iterator[psycopg.Connection]:
    """Open a session that reads in one transaction, as a dump of the database does."""
    with psycopg.connect(url) as session:
        yield session


# Readers of a replay's tables


@pytest.mark.parametrize("phase", ["comparing", "applying_the_difference"])
async def test_a_rebuild_succeeds_while_its_shadow_is_read(
    database_url: str, conn: AsyncConnection, phase: str
) -> None:
    await append_fold_and_damage(database_url, conn)
    with dump(database_url) as session:

        async def read() -> None:
            session.execute(READ)

        progress = During(**{phase: read})
        await rebuild(database_url, PollTallies(), progress=progress, limits=ANY_REMOVAL)
        assert progress.is_done
        assert progress.notes == [
            "poll_tallies: another session reads projections_shadow, so the shadow's tables stay until the next run"
        ]
        await folding.assert_rows_match_oracle(conn)
        assert [run.state for run in await recorded_runs(conn, "poll_tallies")] == ["done"]
        assert await rebuilding.shadow_tables(conn) == ["poll_responses", "poll_tallies"]
    resumed = RecordedProgress()
    assert total_differences(await rebuild(database_url, PollTallies(), progress=resumed, resume=True)) == 0
    assert resumed.notes == ["poll_tallies: no interrupted rebuild found; starting over"]
    assert await rebuilding.shadow_tables(conn) == []


async def test_a_verification_returns_its_result_while_its_shadow_is_read(
    database_url: str, conn: AsyncConnection
) -> None:
    await append_fold_and_damage(database_url, conn)
    with dump(database_url) as session:

        async def read() -> None:
            session.execute(READ)

        progress = During(comparing=read)
        found = await verify(database_url, PollTallies(), progress=progress)
        assert not found.equal
        assert len(progress.notes) == 1


async def test_a_leftover_shadow_that_is_read_is_reported(database_url: str, conn: AsyncConnection) -> None:
    await append_fold_and_damage(database_url, conn)
    with pytest.raises(rebuilding.Interrupted):
        await rebuild(database_url, PollTallies(), progress=rebuilding.Interrupting(50), window=50)
    with dump(database_url) as session:
        session.execute(READ)
        for run in (rebuild, verify):
            with pytest.raises(ProjectionsError, match="another session reads or creates tables in projections_shadow"):
                await run(database_url, PollTallies())
    await rebuild(database_url, PollTallies(), limits=ANY_REMOVAL)
    await folding.assert_rows_match_oracle(conn)


class EndsSession(RecordedProgress):
    """Ends a reader's session once the rebuild has reported it."""

    def __init__(self, session: psycopg.Connection) -> None:
        super().__init__()
        self._session = session

    def note(self, line: str) -> None:
        super().note(line)
        # A rollback releases its locks before this method returns; closing alone doesn't.
        if not self._session.closed:
            self._session.rollback()
            self._session.close()


async def as_of(url: str, *, progress: RecordedProgress | None = None, force: bool = False, into: str = "then") -> None:
    async with store.connection(url) as own:
        moment = str(await store.value(own, "SELECT max(event_id) FROM eventstore.events"))
    context = rebuilding.replay_context(url, progress or RecordedProgress())
    await build_as_of(context, [PollTallies()], moment, into, force=force)


async def test_a_schema_is_replaced_once_nobody_reads_it(database_url: str, conn: AsyncConnection) -> None:
    await append_fold_and_damage(database_url, conn)
    await as_of(database_url)
    with dump(database_url) as session:
        session.execute('SELECT count(*) FROM "then".poll_tallies')
        progress = EndsSession(session)
        await as_of(database_url, progress=progress, force=True)
    assert progress.notes == ["another session reads then or projections_shadow; trying again"]
    states = "SELECT string_agg(state, ' ' ORDER BY id) FROM projections.rebuilds"
    assert await store.value(conn, states) == "done done"


# Faults of the database

BOOM = (
    "CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$"
)


async def test_no_event_is_blamed_for_a_full_disk(database_url: str, conn: AsyncConnection) -> None:
    await folding.create_watched_table(conn)
    await append(conn, new_record(), new_record())
    await conn.execute(BOOM)
    await conn.execute("CREATE TRIGGER boom BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION boom()")
    one = worker(database_url, Watched(), retry_first=HALF_HOUR)
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.STOPPED
    message = (await checkpoint_row(conn, "watched")).last_error
    assert message == "after position 0: no space left on device (SQLSTATE 53100)"

    def full() -> None:
        with psycopg.connect(database_url) as session:
            session.execute(
                "CREATE TRIGGER boom BEFORE INSERT ON projections_shadow.watched FOR EACH ROW EXECUTE FUNCTION boom()"
            )

    class FillsDisk(RecordedProgress):
        def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
            super().phase(name, position=position, target=target)
            if name == "folding":
                full()

    with pytest.raises(CannotFold) as caught:
        await rebuild(database_url, Watched(), progress=FillsDisk())
    assert str(caught.value) == f"watched: {message}"


# The record of a failed run


async def test_a_run_that_lost_its_lock_ends_as_abandoned(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.rebuilding.rebuild_history.RECORD_SECONDS", 60)
    await append_fold_and_damage(database_url, conn)
    before = await rebuilding.all_rows(conn, PollTallies)
    end = (
        "SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
        " WHERE l.locktype = 'advisory' AND l.granted AND a.application_name LIKE 'projections rebuild poll_tallies%'"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )

    class LosesLock(RecordedProgress):
        def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
            super().phase(name, position=position, target=target)
            with psycopg.connect(database_url, autocommit=True) as session:
                session.execute(end)
                # Its next step waits, so that the lost lock is noticed first.
                blocker.execute("LOCK TABLE projections.checkpoints")

    with psycopg.connect(database_url) as blocker, pytest.raises(LockLost):
        await rebuild(database_url, PollTallies(), progress=LosesLock(), lock_timeout=600)
    (run,) = await recorded_runs(conn, "poll_tallies")
    assert (run.state, run.error, run.is_over) == ("abandoned", "it was interrupted", True)
    assert await rebuilding.all_rows(conn, PollTallies) == before


async def test_a_failed_as_of_is_recorded(database_url: str, conn: AsyncConnection) -> None:
    await folding.create_watched_table(conn)
    await append(conn, new_record(ppnum=DIVIDES_BY_ZERO))
    moment = str(await store.value(conn, "SELECT max(event_id) FROM eventstore.events"))
    with pytest.raises(CannotFold) as caught:
        await build_as_of(rebuilding.replay_context(database_url), [Watched()], moment, "then", force=False)
    (run,) = await recorded_runs(conn, "watched")
    assert (run.state, run.error, run.is_over) == ("failed", str(caught.value), True)
    query = "SELECT into_schema FROM projections.rebuilds"
    assert await store.value(conn, query) == "then"
