"""``projections check``: rules, plans on the database at hand, and the fold over events of the log in many orders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from projections.granting.role_kinds import RoleKind
from tests import folding, oracle
from tests.acceptance.command import Commands
from tests.databases import Server
from tests.fake_package import write_broken_package, write_package
from tests.folding import append, new_record
from tests.json_documents import read_documents
from tests.roles import granted_roles

PPNUM = "41791234567"
_WRONG = '''
from sqlalchemy import Column, Date, Integer, MetaData, Table, Text, cast, delete, exists, func, select
from sqlalchemy.dialects.postgresql import distinct_on, insert

from projections import Projection

metadata = MetaData(schema="public")
answers = Table(
    "answers_by_person",
    metadata,
    Column("app", Text, primary_key=True),
    Column("ppnum", Text, primary_key=True),
    Column("poll_id", Text),
    Column("event_id", Text(collation="C"), nullable=False),
)
polls = Table(
    "answers_by_poll",
    metadata,
    Column("app", Text, primary_key=True),
    Column("poll_id", Text, primary_key=True),
    Column("answers", Integer, nullable=False),
)


class Wrong(Projection):
    """Counts the people whose last answer was to a poll, and forgets the poll that they answered before."""

    name, version, handles, tables, partition_by = "wrong", 1, frozenset({7}), (answers, polls), ("app",)

    def fold(self, window):
        e = window.events
        key = (e.c.app, e.c.ppnum)
        latest = select(*key, e.c.poll_id, e.c.event_id).ext(distinct_on(*key)).order_by(*key, e.c.event_id.desc())
        rows = insert(answers).from_select(["app", "ppnum", "poll_id", "event_id"], latest)
        counted = (
            select(answers.c.app, answers.c.poll_id, func.count())
            .where(exists().where(e.c.app == answers.c.app, e.c.poll_id == answers.c.poll_id))
            .group_by(answers.c.app, answers.c.poll_id)
        )
        new = insert(polls).from_select(["app", "poll_id", "answers"], counted)
        return [
            rows.on_conflict_do_update(
                index_elements=["app", "ppnum"],
                set_={"poll_id": rows.excluded.poll_id, "event_id": rows.excluded.event_id},
                where=answers.c.event_id < rows.excluded.event_id,
            ),
            new.on_conflict_do_update(index_elements=["app", "poll_id"], set_={"answers": new.excluded.answers}),
        ]
'''


_PYTHON = """
from dataclasses import dataclass

from projections import PythonProjection, table_from


@dataclass(frozen=True)
class Price:
    app: str
    ppnum: str


prices = table_from(Price, key=("app", "ppnum"))


class Mine(PythonProjection):
    name, version, handles, tables, partition_by = "mine", 1, frozenset({1, 2}), (prices,), ("app", "ppnum")

    def handle(self, event):
        if event.event_type == 1:
            return [Price(event.app, event.ppnum)]
        raise LookupError(f"no price for {event.ppnum}")
"""


async def fill(conn: AsyncConnection) -> None:
    kinds = (oracle.PENDING_CONSENT, oracle.FAILED, oracle.GRANTED, oracle.DELIVERED, oracle.POLL_RESPONSE)
    records = [
        new_record(kind, f"{PPNUM}{number}", request=f"request {number % 3}", options=("yes",) if kind == 7 else None)
        for number in range(5)
        for kind in kinds
    ]
    await append(conn, *records, new_record(oracle.COMPLETED, None, request="request 1"))


def without_progress(err: str) -> list[str]:
    """The lines that don't report progress, which a check does if it takes long."""
    return [line for line in err.splitlines() if " events" not in line]


@pytest.mark.oldest
async def test_built_in_read_models_pass(commands: Commands, database_url: str, conn: AsyncConnection) -> None:
    await fill(conn)
    await folding.fold_all(database_url)
    before = await folding.read_model_rows(conn)
    result = await commands.run("check", "request_status", "--json", DATABASE_URL=database_url)
    assert result.code == 0, result.transcript
    assert without_progress(result.err) == [], result.transcript
    (document,) = read_documents("check", result.out)
    assert document["ok"], result.transcript
    assert len(document["statements"]) > 1
    assert document["order"]["stories"] > 1
    assert document["left_out"] == {}
    result = await commands.run("check", "consent_registry", DATABASE_URL=database_url)
    assert result.code == 0, result.transcript
    assert without_progress(result.err) == [], result.transcript
    first, *plans, last = result.out.splitlines()
    assert first == "consent_registry keeps the rules"
    assert len(plans) >= 1
    for number, plan in enumerate(plans, 1):
        assert plan == f"statement {number} (Insert on consent_registry): finds its rows by index"
    assert last.startswith("order: ")
    assert last.endswith(": the same rows in every order and cut that was tried")
    assert await folding.read_model_rows(conn) == before


@pytest.mark.oldest
async def test_a_wrong_fold_is_shown_with_the_table_that_it_reads_and_the_events_that_it_folds_wrongly(
    commands: Commands, database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    polls = [f"poll {number}" for number in range(3)]
    await fill(conn)
    for poll in polls:
        record = new_record(oracle.POLL_RESPONSE, PPNUM, options=("yes",))
        await append(conn, record.__class__(**{**vars(record), "poll_id": poll}))
    path = write_package(tmp_path, {"wrong": _WRONG}, {"wrong": "wrong:Wrong"})
    variables = {"DATABASE_URL": database_url, "PYTHONPATH": path}
    new = await commands.run("check", "wrong", "--json", **variables)
    assert new.code == 1, new.transcript
    (document,) = read_documents("check", new.out)
    assert document["statements"] is None
    assert document["left_out"] == {"plans": "table answers_by_person is missing; run projections migrate"}
    problem = document["order"]["problem"]
    assert "answers_by_poll depends on order, window size or repetition" in problem
    assert "await kit.given(events, batch_size=1, twice=False)" in problem
    assert "events = [\n    event(7, poll_id='poll 1'),\n    event(7),\n]\n" in problem
    assert PPNUM not in problem

    assert (await commands.run("migrate", **variables)).code == 0
    result = await commands.run("check", "wrong", **variables)
    assert (result.code, result.err) == (1, ""), result.transcript
    lines = result.out.splitlines()
    assert "statement 1 (Insert on answers_by_person): finds its rows by index" in lines
    of_statement = "statement 2 (Insert on answers_by_poll): reads all rows of an app in public.answers_by_person"
    assert f"{of_statement}, for one event, many events, any window" in lines, result.transcript
    assert "events = [" in lines
    assert PPNUM not in result.out

    (tmp_path / "refused").mkdir()
    unknown_function = {"wrong": _WRONG.replace("func.count()", "func.public.counted()")}
    variables["PYTHONPATH"] = write_package(tmp_path / "refused", unknown_function, {"wrong": "wrong:Wrong"})
    refused = await commands.run("check", "wrong", **variables)
    assert (refused.code, refused.err) == (1, ""), refused.transcript
    assert refused.out == (
        "projection 'wrong': Postgres refuses statement 2 of its fold: function public.counted() does not exist"
        " (SQLSTATE 42883)\n"
    )


@pytest.mark.oldest
async def test_handle_is_given_each_event_of_the_sample_and_the_one_that_it_cannot_take_is_named(
    commands: Commands, database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    await fill(conn)
    path = write_package(tmp_path, {"mine": _PYTHON}, {"mine": "mine:Mine"})
    variables = {"DATABASE_URL": database_url, "PYTHONPATH": path}
    assert (await commands.run("migrate", **variables)).code == 0
    result = await commands.run("check", "mine", **variables)
    assert (result.code, result.err) == (1, ""), result.transcript
    rules, plan, _, problem = result.out.splitlines()
    assert (rules, plan) == (
        "mine keeps the rules",
        "statement 1 (reads the events for handle): finds its rows by index",
    )
    line = _PYTHON.splitlines().index('        raise LookupError(f"no price for {event.ppnum}")') + 1
    why = rf"mine\.py:{line}: LookupError: no price for \(phone number\)"
    assert re.fullmatch(rf"handle fails at event [0-9A-Z]{{26}} \(type 2\): {why}", problem), problem


@pytest.mark.oldest
async def test_what_a_role_may_not_do_is_left_out(
    commands: Commands, postgres: Server, database_url: str, conn: AsyncConnection
) -> None:
    await fill(conn)
    async with granted_roles(postgres, database_url, RoleKind.INGEST, RoleKind.WORKER) as roles:
        may = {"DATABASE_URL": roles[RoleKind.WORKER].url}
        assert without_progress((await commands.run("check", "people", **may)).err) == []
        await conn.execute(
            "DO $$ BEGIN EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM public', current_database()); END $$"
        )
        result = await commands.run("check", "people", DATABASE_URL=roles[RoleKind.INGEST].url)
        assert (result.code, result.out) == (0, "people keeps the rules\n"), result.transcript
        plans, order = result.err.splitlines()
        assert plans.startswith("projections: left out the plans: this role may not fold")
        assert order.startswith(
            "projections: left out the test with events of the log: this role may not create temporary"
        )


@pytest.mark.oldest
async def test_an_empty_log_a_broken_projection_and_an_unknown_one(
    commands: Commands, database_url: str, tmp_path: Path
) -> None:
    empty = await commands.run("check", "poll_tallies", DATABASE_URL=database_url)
    assert empty.code == 0, empty.transcript
    assert empty.err.endswith("the newest events and a sample of older ones have none that it handles\n")
    variables = {"DATABASE_URL": database_url, "PYTHONPATH": write_broken_package(tmp_path)}
    broken = await commands.run("check", "theirs", **variables)
    assert (broken.code, broken.err) == (1, ""), broken.transcript
    assert broken.out.startswith("projection 'theirs' can't be loaded from absent:Theirs")
    in_json = await commands.run("check", "theirs", "--json", **variables)
    (document,) = read_documents("check", in_json.out)
    assert (document["ok"], document["broken_rule"]) == (False, broken.out.rstrip("\n"))
    unknown = await commands.run("check", "absent", DATABASE_URL=database_url)
    assert unknown.code == 2
    assert unknown.stderr_line.startswith("projections: unknown projection 'absent'; known projections: ")
