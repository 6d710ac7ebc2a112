"""Replays that fold the log by slices: the same rows as live, whatever the slices and jobs; and when they can't."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, LiteralString

import pytest
from psycopg import AsyncConnection, errors, sql
from sqlalchemy import Executable, Index, Text, func

from projections.blocks import BlockProjection, count, event, ever, first, greatest, key, latest, rows, tally
from projections.errors import CannotFold
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection, Window
from projections.read_models.request_status import RequestStatus
from projections.rebuilding import slice_run
from projections.rebuilding.job_slots import JobSlots
from projections.rebuilding.rebuild import rebuild as run_rebuild
from projections.rebuilding.slice_fold import SliceFold, find_slice_fold
from projections.rebuilding.slice_run import SliceRun
from projections.rebuilding.slice_steps import SliceStep
from projections.rebuilding.slice_tables import SliceTables
from tests import folding, oracle, rebuilding, store
from tests.block_examples import EXAMPLES, Contacts
from tests.databases import Server
from tests.fix_full_matrix import stood_for
from tests.queries import fetch_all
from tests.rebuilding import (
    ANY_REMOVAL,
    Interrupted,
    OptOuts,
    RecordedProgress,
    all_rows,
    rebuild,
    sample_records,
    shadow_tables,
    total_differences,
    verify,
)

_failure = latest.of(2)
_begin = first.of(3, 2)
mixed = rows(
    "mixed",
    key("app"),
    key("ppnum"),
    latest("last_type", event.event_type),
    latest("last_id", event.event_id),
    first("first_request", event.send_request_id),
    first("first_id", event.event_id),
    ever("has_answered", event.event_type == 7),
    greatest("answered_at", event.occurred_at, where=event.event_type == 7),
    _failure("error", func.coalesce(event.error_code, "?"), default="none"),
    _failure("failed_id", event.event_id),
    _failure.greatest("failed_at", event.occurred_at),
    _begin("began_at", event.occurred_at),
    _begin("begin_id", event.event_id),
    of=(1, 2, 4, 7),
)
requests_of = rows("requests_of", key("app"), key("ppnum"), key("send_request_id"), latest("event_id"), of=(1, 2, 3))
_digit = func.right(requests_of.c.send_request_id, 1, type_=Text)
by_last_digit = tally("by_last_digit", requests_of, key("app"), key("ppnum"), key("digit", _digit), count("requests"))


class Mixed(BlockProjection):
    """Many facts of different events in one row, and a tally of what a person has."""

    name, version, blocks = "mixed", 1, (mixed, requests_of, by_last_digit)


NOT_SLICED = [one.projection for one in EXAMPLES if one.projection is not Contacts]
"""Rows of their blocks move between groups, such as days: only the app divides their tables."""

ratios = rows(
    "ratios",
    key("app"),
    key("send_request_id"),
    latest("event_id"),
    latest("ratio", event.delivered / event.total_recipients),
    of=6,
)
ordered = rows(
    "ordered",
    key("app"),
    key("ppnum"),
    key("send_request_id"),
    latest("event_id"),
    greatest("upper", func.upper(event.send_request_id, type_=Text)),
    ever("is_high", event.ppnum > "12300000202"),
    of=(1, 2, 3),
    where=event.app != "nobody's",
)
by_app = rows("by_app", key("app"), latest("event_id"), of=1)
unique = rows(
    "unique_messages",
    key("app"),
    key("ppnum"),
    latest("event_id"),
    latest("message_id"),
    Index("unique_message_idx", "message_id", unique=True),
    of=1,
)
_ANSWERS_A_CANCEL_WITH_ANOTHER_ERROR = """
    DO $$ BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN RAISE unique_violation; END $$"""


class Ratios(BlockProjection):
    name, version, blocks = "ratios", 1, (ratios,)


class Ordered(BlockProjection):
    """Values that depend on the order of a key, or on its collation."""

    name, version, blocks = "ordered", 1, (ordered,)


class ByApp(BlockProjection):
    name, version, blocks = "by_app", 1, (by_app,)


class UniqueMessages(BlockProjection):
    name, version, blocks = "unique_messages", 1, (unique,)


class MoreStatements(BlockProjection):
    name, version, blocks = "contacts_and_more", 1, Contacts.blocks

    def fold(self, window: Window) -> Sequence[Executable]:
        return [*super().fold(window)]


SLICED: list[type[Projection]] = [*READ_MODELS, Contacts, Mixed, Ordered]
IN_TWO_SESSIONS: list[type[Projection]] = [RequestStatus, Mixed]
"""One that divides by requests, and one by persons."""
BY_SLICES = [
    *(pytest.param(23, 1, one, marks=pytest.mark.oldest) for one in SLICED),
    *(pytest.param(11, 2, one) for one in IN_TWO_SESSIONS),
    *stood_for(
        "23-1 of the projection folds slices with the same statements; 11-2-request_status and 11-2-mixed fold slices"
        " of requests and of persons in two sessions, which know nothing else of the projection",
        *((11, 2, one) for one in SLICED if one not in IN_TWO_SESSIONS),
    ),
]


class InterruptedStep(RecordedProgress):
    """Interrupts a replay in a phase, when some of its steps are done."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self._phase = phase

    def at(self, position: int) -> None:
        super().at(position)
        if self.phases[-1] == self._phase and position:
            raise Interrupted


@pytest.fixture(scope="session")
def _log_url(postgres: Server) -> Iterator[str]:
    """The URL of a database with a log of several requests and two apps, which nothing has folded."""

    async def append(url: str) -> None:
        async with store.connection(url, "preparing") as conn:
            await folding.append(conn, *sample_records(7, 4), *sample_records(2, 2, app="another"))
            await folding.append(conn, *sample_records(3, 2))

    with postgres.database() as url:
        asyncio.run(append(url))
        yield url


@pytest.fixture
def log_url(postgres: Server, _log_url: str) -> Iterator[str]:
    """The URL of a copy of it."""
    with postgres.copy(_log_url) as url:
        yield url


async def empty(conn: AsyncConnection, projection: type[Projection]) -> None:
    for table in projection.tables:
        await conn.execute(sql.SQL("DELETE FROM public.{}").format(sql.Identifier(table.name)))


async def prepared(url: str, conn: AsyncConnection, projection: type[Projection]) -> dict[str, list[Any]]:
    """Fold the log live, empty the tables, and return the rows that they had."""
    if projection not in READ_MODELS:
        await folding.create_tables_of(conn, projection)
    await folding.fold_all(url, [projection], batch_size=37)
    live = await all_rows(conn, projection)
    assert any(live.values())
    await empty(conn, projection)
    return live


async def assert_folds_window_by_window(url: str, conn: AsyncConnection, why: str, *, jobs: int) -> None:
    """Rebuild by slices, which can't be folded; the rows are right, and one note says why."""
    live = await prepared(url, conn, RequestStatus)
    progress = RecordedProgress()
    await rebuild(url, RequestStatus(), progress=progress, limits=ANY_REMOVAL, slice=20, jobs=jobs)
    (note,) = progress.notes
    assert why in note
    assert await all_rows(conn, RequestStatus) == live
    assert await fetch_all(conn, "SELECT slices FROM projections.rebuilds") == [(None,)]


def test_only_blocks_that_divide_by_persons_or_requests_are_sliced() -> None:
    for one in SLICED:
        assert find_slice_fold(one()) is not None, one.name
    others: list[type[Projection]] = [ByApp, UniqueMessages, MoreStatements, OptOuts, folding.Watched]
    for other in (*NOT_SLICED, *others):
        assert find_slice_fold(other()) is None, other.name


def test_columns_of_slices_sort_by_bytes_unless_a_value_depends_on_their_order() -> None:
    for projection, names in ((Mixed, {"app", "ppnum", "send_request_id"}), (Ordered, {"app"})):
        fold = find_slice_fold(projection())
        assert fold is not None
        found = {column.name for column in fold.columns if getattr(column.type, "collation", None) == "C"}
        assert found == names | {"event_id"}, projection.name


@pytest.mark.parametrize(("size", "jobs", "projection"), BY_SLICES, ids=lambda one: getattr(one, "name", None))
async def test_slices_have_the_rows_that_windows_have(
    log_url: str, size: int, jobs: int, projection: type[Projection]
) -> None:
    async with store.connection(log_url, "observer") as conn:
        live = await prepared(log_url, conn, projection)
        progress = RecordedProgress()
        how: dict[str, Any] = {"slice": size, "jobs": jobs, "window": 50}
        await empty(conn, projection)
        done = await rebuild(log_url, projection(), progress=progress, limits=ANY_REMOVAL, **how)
        assert total_differences(done) == sum(map(len, live.values()))
        assert await all_rows(conn, projection) == live
        assert progress.phases[:2] == ["spreading", "folding"]
        assert progress.notes == []
        assert (await verify(log_url, projection(), **how)).equal
        query = "SELECT DISTINCT slices > 1 AND slices = slices_folded FROM projections.rebuilds"
        assert await fetch_all(conn, query) == [(True,)]
        assert await shadow_tables(conn) == []


async def test_a_log_of_less_than_two_slices_is_folded_window_by_window(log_url: str) -> None:
    async with store.connection(log_url, "observer") as conn:
        await prepared(log_url, conn, RequestStatus)
        progress = RecordedProgress()
        await rebuild(log_url, RequestStatus(), progress=progress, limits=ANY_REMOVAL, slice=1000)
        assert "spreading" not in progress.phases
        assert await fetch_all(conn, "SELECT slices, slices_folded FROM projections.rebuilds") == [(None, None)]


@pytest.mark.parametrize(
    ("jobs", "phase"),
    [pytest.param(1, "spreading", marks=pytest.mark.oldest), (1, "folding"), (2, "spreading"), (2, "folding")],
)
async def test_an_interrupted_replay_resumes_at_its_slices(log_url: str, phase: str, jobs: int) -> None:
    how: dict[str, Any] = {"limits": ANY_REMOVAL, "slice": 11, "jobs": jobs}
    async with store.connection(log_url, "observer") as conn:
        live = await prepared(log_url, conn, RequestStatus)
        with pytest.raises(Interrupted):
            await rebuild(log_url, RequestStatus(), progress=InterruptedStep(phase), **how)
        steps = SliceTables(RequestStatus.name, "").steps
        done = sql.SQL("SELECT count(*) FILTER (WHERE done), count(*) FROM {}").format(steps)
        ((before, every),) = await fetch_all(conn, done)
        assert 0 < before < every
        assert await all_rows(conn, RequestStatus) == {table: [] for table in live}
        again = RecordedProgress()
        await rebuild(log_url, RequestStatus(), progress=again, resume=True, **how)
        assert [note for note in again.notes if "slices are folded" in note] == again.notes
        assert len(again.positions) < every
        assert await all_rows(conn, RequestStatus) == live


async def test_rows_with_the_same_key_are_folded_window_by_window(
    log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = SliceFold.statements

    def twice(self: SliceFold, events: sql.Identifier, tables: Sequence[sql.Identifier]) -> list[LiteralString]:
        found = statements(self, events, tables)
        return [*found, found[0]]

    monkeypatch.setattr(SliceFold, "statements", twice)
    async with store.connection(log_url, "observer") as conn:
        await assert_folds_window_by_window(log_url, conn, errors.UniqueViolation.__name__, jobs=2)


async def test_a_failure_of_one_session_cancels_no_statement_of_another(
    log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session that begins keeps its connection, even if its statement would answer a cancel with another error."""
    main_is_busy = asyncio.Event()
    fold_slice = SliceRun._fold_slice

    async def fold(run: SliceRun, conn: AsyncConnection, step: SliceStep) -> None:
        if conn is not run._conn:
            await main_is_busy.wait()
            await conn.execute("SELECT 1 / 0")
        elif not main_is_busy.is_set():
            main_is_busy.set()
            await conn.execute(_ANSWERS_A_CANCEL_WITH_ANOTHER_ERROR)
        await fold_slice(run, conn, step)

    monkeypatch.setattr(SliceRun, "_fold_slice", fold)
    async with store.connection(log_url, "observer") as conn:
        await assert_folds_window_by_window(log_url, conn, errors.DivisionByZero.__name__, jobs=2)


async def test_a_step_is_tried_again_while_another_session_reads_its_table(
    log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a dump of the database does."""
    fold_slice, tried = SliceRun._fold_slice, list[int | None]()
    async with store.connection(log_url, "observer") as conn, store.connection(log_url, "dump") as dump:

        async def fold(run: SliceRun, session: AsyncConnection, step: SliceStep) -> None:
            tried.append(step.slice)
            if len(tried) == 1:
                table = run._shadow.slice_tables.events_of(int(step.slice or 0))
                await dump.execute("BEGIN")
                await dump.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table))
            elif len(tried) == 3:
                await dump.execute("COMMIT")
            await fold_slice(run, session, step)

        monkeypatch.setattr(SliceRun, "_fold_slice", fold)
        live = await prepared(log_url, conn, RequestStatus)
        progress = RecordedProgress()
        how: dict[str, Any] = {"slice": 20, "lock_timeout": 0.02}
        await rebuild(log_url, RequestStatus(), progress=progress, limits=ANY_REMOVAL, **how)
        assert tried[:4] == [tried[0], tried[0], tried[0], tried[3]]
        assert tried[3] != tried[0]
        note = "request_status: another session has locked a table of the shadow; trying again"
        assert progress.notes == [note, note]
        assert await all_rows(conn, RequestStatus) == live


async def test_a_partition_with_most_of_the_log_is_folded_window_by_window(
    log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slice_run, "MOST_EVENTS", 0)
    async with store.connection(log_url, "observer") as conn:
        await assert_folds_window_by_window(log_url, conn, "too many events", jobs=1)


@pytest.mark.oldest
async def test_an_event_that_can_not_be_folded_is_named(database_url: str) -> None:
    async with store.connection(database_url, "observer") as conn:
        await folding.create_tables_of(conn, Ratios)
        await folding.append(conn, *sample_records(9, 2))
        summary = oracle.Summary(3, 0, 0, 0, 0)
        bad = folding.new_record(oracle.COMPLETED, None, request="bad", summary=summary)
        await folding.append(conn, bad)
        await folding.append(conn, *sample_records(2, 2))
        progress = RecordedProgress()
        with pytest.raises(CannotFold, match=f"event {bad.event_id} at position"):
            await rebuild(database_url, Ratios(), progress=progress, slice=20, jobs=2)
        assert len(progress.notes) == 1


async def test_replays_side_by_side_share_the_jobs(log_url: str) -> None:
    async with store.connection(log_url, "observer") as conn:
        live = {one: await prepared(log_url, conn, one) for one in READ_MODELS[:2]}
        await folding.append(conn, *sample_records(1, 1))
        for jobs in (1, 2, 3):
            slots = JobSlots(jobs)
            contexts = [rebuilding.replay_context(log_url, slice=20, jobs=jobs) for _ in live]
            await asyncio.gather(
                *(
                    run_rebuild(replace(context, slots=slots), one(), limits=ANY_REMOVAL)
                    for context, one in zip(contexts, live, strict=True)
                )
            )
            for one in live:
                assert (await verify(log_url, one())).equal
