"""The history of a row: its events in order, what each changed, which one decides; and tables that differ from it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable
from decimal import Decimal
from typing import ClassVar

import pytest
from psycopg import AsyncConnection
from sqlalchemy import Boolean, Column, Double, Executable, Integer, MetaData, Numeric, Table, Text, insert, select
from typer.testing import CliRunner, Result

from eventstore.contracts import Event
from projections.cli.app import app as command
from projections.errors import ProjectionsError, UsageError
from projections.folding.python_projection import PythonProjection, Row, Tombstone
from projections.inspecting import explain, group_search, row_events, row_folding
from projections.inspecting.explain import Explanation
from projections.inspecting.row_key import find_table
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import upgrade
from projections.projection import Projection, Window
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.rebuilding.replay_progress import Progress
from projections.running import control
from tests import folding, oracle, rebuilding, store
from tests.folding import DIVIDES_BY_ZERO, NewerWatched, Watched, append, new_record
from tests.oracle import Record

PPNUM, OTHER = "12300000001", "12300000002"
REQUEST = "request 1"

callers = Table(
    "callers",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True),
    Column("ppnum", Text, primary_key=True),
    Column("message", Text),
    Column("event_id", Text(collation="C"), nullable=False),
    Column("deleted", Boolean, nullable=False),
)


class Callers(PythonProjection):
    """A grant adds a row, and a denial removes it."""

    name: ClassVar[str] = "callers"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.GRANTED, oracle.DENIED})
    tables: ClassVar[tuple[Table, ...]] = (callers,)
    partition_by: ClassVar[tuple[str, ...]] = ("app", "ppnum")

    def handle(self, event: Event) -> Iterable[Row | Tombstone]:
        key = {"app": event.app, "ppnum": event.ppnum}
        if event.event_type == oracle.DENIED:
            return [Tombstone(callers, key)]
        return [Row(callers, {**key, "message": event.send_request_id})]


numbered = Table(
    "numbered",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
)


class Numbered(Projection):
    """Has a number in the key of its rows."""

    name: ClassVar[str] = "numbered"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.DELIVERED})
    tables: ClassVar[tuple[Table, ...]] = (numbered,)
    partition_by: ClassVar[tuple[str, ...]] = ("app",)

    def fold(self, window: Window) -> list[Executable]:
        e = window.events
        return [insert(numbered).from_select(["app", "number"], select(e.c.app, e.c.position))]


async def explain_row(
    url: str,
    table: str,
    *key: str,
    app: str | None = None,
    projections: Iterable[type[Projection]] = READ_MODELS,
    progress: Progress | None = None,
) -> Explanation:
    owner, found = find_table({one.name: one() for one in projections}, table)
    return await explain.explain(rebuilding.replay_context(url, progress), owner, found, key, app)


def event_ids_of(found: Explanation) -> list[str]:
    return [change.event.event_id for change in found.changes]


async def append_and_fold(
    url: str, conn: AsyncConnection, *records: Record, into: type[Projection] | None = None
) -> None:
    """Append events and fold them into one projection, or into all read models."""
    await append(conn, *records)
    await folding.fold_all(url, [into] if into else READ_MODELS)


# Each read model


async def test_consent_and_which_event_decides_it(database_url: str, conn: AsyncConnection) -> None:
    asked, granted = new_record(oracle.PENDING_CONSENT), new_record(oracle.GRANTED)
    delivered, denied = new_record(oracle.DELIVERED), new_record(oracle.DENIED)
    again = new_record(oracle.DELIVERED)
    others = [new_record(oracle.DENIED, OTHER), new_record(oracle.DENIED, app="another"), new_record(oracle.FAILED)]
    await append_and_fold(
        database_url, conn, asked, others[0], granted, delivered, *others[1:], denied, again, into=ConsentRegistry
    )
    found = await explain_row(database_url, "consent_registry", PPNUM, app="app")
    assert event_ids_of(found) == [record.event_id for record in (asked, granted, delivered, denied, again)]
    assert (found.key, found.position) == ({"app": "app", "ppnum": PPNUM}, 8)
    assert (found.decided_by, found.without_effect, found.skipped) == (again.event_id, 1, ())
    message = [(change.after or {})["status"] for change in found.changes]
    assert message == ["pending", "granted", "granted", "denied", "granted"]
    first, second, third, *_ = found.changes
    assert first.before is None
    assert first.columns["status"] == (None, "pending")
    assert second.columns["status"] == ("pending", "granted")
    assert second.columns["event_id"] == (asked.event_id, granted.event_id)
    assert set(third.columns) == {"delivery_event_id", "delivery_at", "delivery_request_id"}
    assert [change.event.type_name for change in found.changes][:2] == ["RECIPIENT_PENDING_CONSENT", "CONSENT_GRANTED"]
    assert found.row == found.table_row
    assert found.row is not None
    assert found.row["first_asked_at"] == asked.occurred_at


@pytest.mark.oldest
async def test_a_recipient_and_the_request(database_url: str, conn: AsyncConnection) -> None:
    asked, failed, delivered = (
        new_record(oracle.PENDING_CONSENT),
        new_record(oracle.FAILED),
        new_record(oracle.DELIVERED, OTHER),
    )
    completed = new_record(oracle.COMPLETED, None, summary=oracle.Summary(3, 2, 1, 1, 0))
    await append_and_fold(
        database_url, conn, asked, failed, delivered, new_record(request="request 2"), completed, into=RequestStatus
    )
    found = await explain_row(database_url, "request_recipients", REQUEST, PPNUM)
    assert event_ids_of(found) == [asked.event_id, failed.event_id]
    assert (found.decided_by, found.without_effect, found.row) == (failed.event_id, 2, found.table_row)
    found = await explain_row(database_url, "request_status", REQUEST)
    assert event_ids_of(found) == [record.event_id for record in (asked, failed, delivered, completed)]
    assert (found.decided_by, found.without_effect, found.row) == (completed.event_id, 0, found.table_row)
    assert [change.columns.get("state") for change in found.changes] == [
        (None, "in_progress"),
        None,
        None,
        ("in_progress", "completed"),
    ]


async def test_no_event_decides_a_request_in_progress(database_url: str, conn: AsyncConnection) -> None:
    await append_and_fold(database_url, conn, record := new_record(), into=RequestStatus)
    found = await explain_row(database_url, "request_status", REQUEST)
    assert (event_ids_of(found), found.decided_by) == ([record.event_id], None)


@pytest.mark.oldest
async def test_a_changed_vote(database_url: str, conn: AsyncConnection) -> None:
    votes = [
        new_record(oracle.POLL_RESPONSE, ppnum, options=(option,))
        for ppnum, option in ((PPNUM, "yes"), (OTHER, "yes"), (PPNUM, "no"), (OTHER, "no"))
    ]
    one, two, three, four = (vote.event_id for vote in votes)
    await append_and_fold(database_url, conn, *votes, into=PollTallies)
    found = await explain_row(database_url, "poll_responses", REQUEST, "poll 1", PPNUM)
    assert (event_ids_of(found), found.decided_by, found.without_effect) == ([one, three], three, 2)
    assert found.changes[1].columns["options"] == (["yes"], ["no"])
    found = await explain_row(database_url, "poll_tallies", REQUEST, "poll 1", "yes", app="app")
    assert (event_ids_of(found), found.decided_by) == ([one, two, three, four], None)
    assert [change.columns["responses"] for change in found.changes] == [(None, 1), (1, 2), (2, 1), (1, None)]
    assert found.changes[-1].after is None, "nobody chooses it any more"
    assert (found.row, found.table_row) == (None, None)
    found = await explain_row(database_url, "poll_tallies", REQUEST, "poll 1", "no")
    assert [change.columns["responses"] for change in found.changes] == [(None, 1), (1, 2)]


async def test_a_late_event_is_ordered_by_its_event_id(database_url: str, conn: AsyncConnection) -> None:
    early, middle, last = new_record(oracle.PENDING_CONSENT), new_record(oracle.DENIED), new_record(oracle.GRANTED)
    await append_and_fold(database_url, conn, early, last, into=ConsentRegistry)
    await append_and_fold(database_url, conn, middle, into=ConsentRegistry)
    found = await explain_row(database_url, "consent_registry", PPNUM)
    assert event_ids_of(found) == [early.event_id, middle.event_id, last.event_id]
    assert [change.event.position for change in found.changes] == [1, 3, 2]
    assert (found.decided_by, found.row) == (last.event_id, found.table_row)


async def test_only_events_up_to_the_checkpoint_count(database_url: str, conn: AsyncConnection) -> None:
    await append_and_fold(database_url, conn, first := new_record(oracle.GRANTED), into=ConsentRegistry)
    await append(conn, new_record(oracle.DENIED))
    found = await explain_row(database_url, "consent_registry", PPNUM)
    assert (event_ids_of(found), found.position, found.row) == ([first.event_id], 1, found.table_row)


async def test_events_folded_meanwhile_are_no_difference(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append_and_fold(database_url, conn, first := new_record(oracle.GRANTED), into=ConsentRegistry)
    find_events = row_events.find_events

    async def after_more(*arguments: object) -> object:
        await append_and_fold(database_url, conn, new_record(oracle.DENIED), into=ConsentRegistry)
        return await find_events(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(group_search, "find_events", after_more)
    found = await explain_row(database_url, "consent_registry", PPNUM)
    assert (event_ids_of(found), found.position, found.row) == ([first.event_id], 1, found.table_row)


def search_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let searches read the log, in windows of two events."""

    async def none(_: object) -> frozenset[str]:
        return frozenset()

    monkeypatch.setattr(row_events, "read_indexed_columns", none)
    monkeypatch.setattr(row_events, "SEARCH_WINDOW", 2)


async def test_a_row_with_too_many_events_behind_it_is_refused(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [new_record(oracle.GRANTED) for _ in range(5)]
    await append_and_fold(database_url, conn, *records, into=ConsentRegistry)
    monkeypatch.setattr(row_events, "MOST_EVENTS", 4)
    for _ in range(2):
        with pytest.raises(ProjectionsError, match=f"more than 4 events .* is event {records[-1].event_id} at pos"):
            await explain_row(database_url, "consent_registry", PPNUM)
        search_in_windows(monkeypatch)
    monkeypatch.setattr(row_events, "MOST_EVENTS", 5)
    assert event_ids_of(await explain_row(database_url, "consent_registry", PPNUM)) == [
        record.event_id for record in records
    ]


async def test_the_log_is_searched_in_windows(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_in_windows(monkeypatch)
    records = [new_record(oracle.GRANTED) for _ in range(5)]
    await append_and_fold(database_url, conn, *records, into=ConsentRegistry)
    found = await explain_row(database_url, "consent_registry", PPNUM)
    assert event_ids_of(found) == [record.event_id for record in records]


async def test_nothing_is_written_and_nothing_is_left(database_url: str, conn: AsyncConnection) -> None:
    await append_and_fold(database_url, conn, new_record(oracle.GRANTED), new_record())
    before = await folding.read_model_rows(conn)
    await explain_row(database_url, "consent_registry", PPNUM)
    assert await folding.read_model_rows(conn) == before
    assert await store.value(conn, "SELECT to_regnamespace('projections_shadow') IS NULL")


# Tables that differ


async def test_a_table_that_differs_from_the_log(database_url: str, conn: AsyncConnection) -> None:
    await append_and_fold(
        database_url,
        conn,
        new_record(oracle.PENDING_CONSENT),
        granted := new_record(oracle.GRANTED),
        into=ConsentRegistry,
    )
    await conn.execute("UPDATE consent_registry SET consent_status = 'denied'")
    found = await explain_row(database_url, "consent_registry", PPNUM)
    assert found.row is not None
    assert found.table_row is not None
    assert (found.row["status"], found.table_row["status"], found.decided_by) == ("granted", "denied", granted.event_id)
    await conn.execute("DELETE FROM consent_registry")
    found = await explain_row(database_url, "consent_registry", PPNUM, app="app")
    assert (found.row is None, found.table_row) == (False, None)


async def test_a_row_without_events(database_url: str, conn: AsyncConnection) -> None:
    await append_and_fold(database_url, conn, new_record(ppnum=OTHER), into=ConsentRegistry)
    await conn.execute(
        "INSERT INTO consent_registry (app, ppnum, consent_status, consent_event_id, consent_at, consent_request_id)"
        " VALUES ('app', %s, 'granted', 'none', now(), '')",
        [PPNUM],
    )
    found = await explain_row(database_url, "consent_registry", PPNUM)
    assert (found.changes, found.row, found.decided_by, found.without_effect) == ((), None, None, 0)
    assert found.table_row is not None
    assert found.table_row["status"] == "granted"


async def test_a_key_without_row_and_events(database_url: str, conn: AsyncConnection) -> None:
    await append_and_fold(database_url, conn, new_record(ppnum=OTHER), into=ConsentRegistry)
    found = await explain_row(database_url, "consent_registry", PPNUM, app="app")
    assert (found.changes, found.row, found.table_row) == ((), None, None)


# The row


async def test_a_row_that_several_apps_have(database_url: str, conn: AsyncConnection) -> None:
    await append_and_fold(database_url, conn, new_record(), other := new_record(app="shop"), into=ConsentRegistry)
    with pytest.raises(
        UsageError, match=r"several apps have this key in consent_registry \(app, shop\); choose one with --app"
    ):
        await explain_row(database_url, "consent_registry", PPNUM)
    for found in (
        await explain_row(database_url, "consent_registry", PPNUM, app="shop"),
        await explain_row(database_url, "consent_registry", "shop", PPNUM),
    ):
        assert (found.key["app"], event_ids_of(found), found.row) == ("shop", [other.event_id], found.table_row)


@pytest.mark.oldest
async def test_the_only_app_need_not_be_given(database_url: str, conn: AsyncConnection) -> None:
    await append_and_fold(database_url, conn, new_record(), into=ConsentRegistry)
    await conn.execute("DELETE FROM consent_registry")
    with pytest.raises(
        UsageError, match=r"no row with this key in consent_registry; choose an app with --app \(none is followed"
    ):
        await explain_row(database_url, "consent_registry", PPNUM)
    await store.set_epoch(conn)
    found = await explain_row(database_url, "consent_registry", PPNUM)
    assert (found.key["app"], found.table_row, found.row is None) == ("app", None, False)
    await store.set_epoch(conn, "shop")
    with pytest.raises(
        UsageError, match=r"no row with this key in consent_registry; choose an app with --app \(followed: app, shop\)"
    ):
        await explain_row(database_url, "consent_registry", PPNUM)


@pytest.mark.parametrize("key", [(), (PPNUM,), (REQUEST, PPNUM, "more", "even more")])
async def test_a_key_of_the_wrong_length(database_url: str, conn: AsyncConnection, key: tuple[str, ...]) -> None:
    await append_and_fold(database_url, conn, new_record(), into=RequestStatus)
    with pytest.raises(UsageError, match="key of a row of request_recipients is send_request_id, ppnum; give these"):
        await explain_row(database_url, "request_recipients", *key)
    with pytest.raises(UsageError, match="is send_request_id, ppnum"):
        await explain_row(database_url, "request_recipients", "app", REQUEST, PPNUM, app="app")


async def test_a_table_that_is_no_read_model(database_url: str) -> None:
    with pytest.raises(
        UsageError,
        match="no read model is named 'nonsense'; the names are consent_registry, people, person_requests, poll_",
    ):
        await explain_row(database_url, "nonsense", PPNUM)


@pytest.mark.oldest
async def test_keys_with_columns_other_than_text(database_url: str, conn: AsyncConnection) -> None:
    upgrade(database_url, projections=[Numbered()])
    await append(conn, new_record(), new_record())
    await folding.fold_all(database_url, [Numbered])
    found = await explain_row(database_url, "numbered", "2", projections=[Numbered])
    assert (found.key, found.without_effect, found.decided_by) == ({"app": "app", "number": 2}, 1, None)
    for key in (("two",), ("app", "two"), (str(2**40),)):
        with pytest.raises(UsageError, match="that can't be a key of numbered") as caught:
            await explain_row(database_url, "numbered", *key, projections=[Numbered])
        assert key[-1] not in str(caught.value)


@pytest.mark.parametrize("key", ["'; DROP TABLE consent_registry; --", "100%", "%s", "$1", '"', "\\", "\n"])
async def test_keys_are_never_sql(database_url: str, conn: AsyncConnection, key: str) -> None:
    await append_and_fold(database_url, conn, record := new_record(ppnum=key), into=ConsentRegistry)
    found = await explain_row(database_url, "consent_registry", key)
    assert (event_ids_of(found), found.row) == ([record.event_id], found.table_row)


async def test_before_the_first_run_and_under_another_version(database_url: str, conn: AsyncConnection) -> None:
    await folding.create_watched_table(conn)
    await append(conn, record := new_record())
    with pytest.raises(ProjectionsError, match="watched has not run yet: start projections run, or run projections"):
        await explain_row(database_url, "watched", record.event_id, app="app", projections=[Watched])
    await folding.fold_all(database_url, [Watched])
    with pytest.raises(ProjectionsError, match="are of version 1, this code is version 2; run projections rebuild wat"):
        await explain_row(database_url, "watched", record.event_id, app="app", projections=[NewerWatched])
    await conn.execute("UPDATE projections.checkpoints SET version = 2 WHERE name = 'watched'")
    with pytest.raises(ProjectionsError, match="are of version 2, this code is version 1; upgrade this installation"):
        await explain_row(database_url, "watched", record.event_id, app="app", projections=[Watched])


# Other folds


@pytest.mark.oldest
async def test_skipped_events_are_named(database_url: str, conn: AsyncConnection) -> None:
    await folding.create_watched_table(conn)
    await append(conn, first := new_record(), poison := new_record(ppnum=DIVIDES_BY_ZERO))
    async with folding.worker_connection(one := folding.worker(database_url, Watched())) as own:
        await folding.fold(one, own)
        await control.skip(conn, "watched", poison.event_id, "it divides by zero", 1)
        await control.resume(conn, "watched")
        await folding.fold(one, own)
    found = await explain_row(database_url, "watched", first.event_id, app="app", projections=[Watched])
    assert (event_ids_of(found), found.skipped, found.without_effect) == ([first.event_id], (poison.event_id,), 1)
    assert (found.position, found.row) == (2, found.table_row)


@pytest.mark.oldest
async def test_explaining_a_row_of_a_python_projection(database_url: str, conn: AsyncConnection) -> None:
    upgrade(database_url, projections=[Callers()])
    granted, denied, late = (
        new_record(oracle.GRANTED),
        new_record(oracle.DENIED),
        new_record(oracle.GRANTED, request="late"),
    )
    last = new_record(oracle.DENIED)
    await append(conn, granted, last, late, denied, new_record(oracle.GRANTED, OTHER))
    await folding.fold_all(database_url, [Callers])
    found = await explain_row(database_url, "callers", PPNUM, projections=[Callers])
    assert event_ids_of(found) == [record.event_id for record in (granted, denied, late, last)]
    message = [change.columns.get("message") for change in found.changes]
    assert message == [(None, REQUEST), (REQUEST, None), (None, "late"), ("late", None)]
    assert [(change.after or {})["deleted"] for change in found.changes] == [False, True, False, True]
    assert (found.decided_by, found.row) == (last.event_id, found.table_row)


# The command


def run_explain(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["explain", *arguments], env={"DATABASE_URL": url}, prog_name="projections")


async def test_the_json_output(database_url: str, conn: AsyncConnection) -> None:
    asked, granted = new_record(oracle.PENDING_CONSENT), new_record(oracle.GRANTED)
    await append_and_fold(database_url, conn, asked, granted, new_record(oracle.FAILED))
    result = await asyncio.to_thread(run_explain, database_url, "consent_registry", PPNUM, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["table"], found["key"], found["position"]) == (
        "consent_registry",
        {"app": "app", "ppnum": PPNUM},
        3,
    )
    assert (found["decided_by"], found["silent"], found["skipped"]) == (granted.event_id, 1, [])
    assert [one["event_id"] for one in found["events"]] == [asked.event_id, granted.event_id]
    assert found["events"][1]["event_type"] == "CONSENT_GRANTED"
    assert found["events"][1]["changes"]["status"] == {"old": "pending", "new": "granted"}
    assert found["row"] == found["table_row"] == found["events"][-1]["row"]
    assert found["row"]["decided_at"] == granted.occurred_at.isoformat()


async def test_progress_is_reported(database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    search_in_windows(monkeypatch)
    await append_and_fold(
        database_url,
        conn,
        new_record(oracle.GRANTED),
        new_record(oracle.GRANTED, OTHER),
        new_record(oracle.DENIED),
        into=ConsentRegistry,
    )
    await explain_row(database_url, "consent_registry", PPNUM, progress=(heard := rebuilding.RecordedProgress()))
    assert (heard.phases, heard.positions) == (["searching", "folding"], [2, 3, 1, 2])


# Groups of many events


async def test_a_large_group_is_explained_with_few_folds(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row, the deciding event and the shown changes are those of a fold event by event."""
    people = [f"123{number:08d}" for number in range(150)]
    ordered = [new_record(oracle.DELIVERED, one) for one in people]
    ordered.append(done := new_record(oracle.COMPLETED))
    ordered += [new_record(oracle.FAILED, one) for one in people[50:100]]
    late = ordered[1]
    await append_and_fold(database_url, conn, *(one for one in ordered if one is not late), late, into=RequestStatus)

    async def explain_both(*key: str) -> tuple[Explanation, Explanation, list[int]]:
        alone = await explain_row(database_url, *key)
        folded: list[int] = []
        with monkeypatch.context() as patch:
            for name, value in (("ONE_BY_ONE", 40), ("FIRST", 5), ("LAST", 4), ("PIECE", 30)):
                patch.setattr(row_folding, name, value)
            recorded = rebuilding.RecordedProgress()
            together = await explain_row(database_url, *key, progress=recorded)
            folded += recorded.positions
        assert (together.row, together.decided_by, together.equal) == (alone.row, alone.decided_by, True)
        assert together.without_effect + sum(one.together for one in together.changes) == len(ordered)
        by_id = {one.event.event_id: one for one in alone.changes}
        for one in together.changes:
            if one.together == 1:
                assert one == by_id[one.event.event_id]
            assert one.after == by_id[one.event.event_id].after
        return alone, together, folded

    alone, together, folded = await explain_both("request_status", REQUEST)
    assert len(alone.changes) > 150
    ids = [one.event.event_id for one in together.changes if one.together == 1]
    assert ids == [one.event_id for one in [*ordered[:5], done, *ordered[-4:]]]
    assert [one.together > 1 for one in together.changes] == [False] * 5 + [True, False, True] + [False] * 4
    assert len(folded) < 60
    assert together.decided_by == done.event_id

    # Of a recipient only two events are found among all of the request, and they are the same.
    alone, together, _ = await explain_both("request_recipients", REQUEST, people[60])
    assert together.changes == alone.changes
    assert len(together.changes) == 2
    alone, together, _ = await explain_both("request_recipients", REQUEST, people[1])
    assert together.changes == alone.changes
    assert together.decided_by == late.event_id


async def test_a_fold_of_a_copied_group_sees_the_events_as_they_are_in_the_log(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_folding, "ONE_BY_ONE", 1)
    upgrade(database_url, projections=[Numbered(), Callers()])
    await append(conn, *(new_record(oracle.DELIVERED) for _ in range(3)))
    await folding.fold_all(database_url, [Numbered])
    found = await explain_row(database_url, "numbered", "app", "2", projections=[Numbered])
    assert (found.row, found.equal, found.without_effect) == ({"app": "app", "number": 2}, True, 2)
    granted, denied = new_record(oracle.GRANTED), new_record(oracle.DENIED)
    await append(conn, granted, denied)
    await folding.fold_all(database_url, [Callers])
    found = await explain_row(database_url, "callers", PPNUM, projections=[Callers])
    assert (event_ids_of(found), found.equal) == ([granted.event_id, denied.event_id], True)


async def test_the_command_says_what_was_folded_together(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ONE_BY_ONE", 5), ("FIRST", 1), ("LAST", 1)):
        monkeypatch.setattr(row_folding, name, value)
    await append_and_fold(database_url, conn, *(new_record(oracle.DELIVERED, f"123{each:08d}") for each in range(9)))
    result = await asyncio.to_thread(run_explain, database_url, "request_status", REQUEST)
    assert result.exit_code == 0, result.output
    assert "(position 8), the last of 7 events that were folded together\n    recipients: 1 → 8\n" in result.stdout
    found = json.loads((await asyncio.to_thread(run_explain, database_url, "request_status", REQUEST, "--json")).stdout)
    assert ([one["together"] for one in found["events"]], found["silent"]) == ([1, 7, 1], 0)


async def test_a_row_with_a_value_without_a_python_equivalent(database_url: str, conn: AsyncConnection) -> None:
    await append_and_fold(database_url, conn, new_record(oracle.GRANTED), into=ConsentRegistry)
    await conn.execute("UPDATE consent_registry SET consent_at = 'infinity'")
    found = await explain_row(database_url, "consent_registry", PPNUM)
    assert found.table_row is not None
    assert found.table_row["decided_at"] == "infinity"
    assert found.table_row != found.row


measured = Table(
    "measured",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True),
    Column("ppnum", Text, primary_key=True),
    Column("size", Double),
    Column("exact", Numeric),
    Column("event_id", Text(collation="C"), nullable=False),
    Column("deleted", Boolean, nullable=False),
)


class Measured(PythonProjection):
    """Has values that don't equal themselves in Python, or that equal different values."""

    name: ClassVar[str] = "measured"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.GRANTED})
    tables: ClassVar[tuple[Table, ...]] = (measured,)
    partition_by: ClassVar[tuple[str, ...]] = ("app",)

    def handle(self, event: Event) -> Iterable[Row | Tombstone]:
        return [Row(measured, {"app": event.app, "ppnum": event.ppnum, "size": math.nan, "exact": Decimal("1.50")})]


@pytest.mark.oldest
async def test_values_are_compared_as_verify_compares_them(database_url: str, conn: AsyncConnection) -> None:
    upgrade(database_url, projections=[Measured()])
    await append(conn, first := new_record(oracle.GRANTED), new_record(oracle.GRANTED, OTHER))
    await folding.fold_all(database_url, [Measured])
    found = await explain_row(database_url, "measured", PPNUM, projections=[Measured])
    assert (event_ids_of(found), found.equal) == ([first.event_id], True)
    assert list(found.changes[0].columns) == ["app", "ppnum", "size", "exact", "event_id", "deleted"]
    await conn.execute("UPDATE measured SET exact = 1.5")
    assert not (await explain_row(database_url, "measured", PPNUM, projections=[Measured])).equal
    assert not (await rebuilding.verify(database_url, Measured())).equal
