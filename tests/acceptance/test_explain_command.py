"""``projections explain``, run as people run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from tests import folding, oracle
from tests.acceptance.command import Commands
from tests.fake_package import write_broken_package
from tests.folding import append, new_record

PPNUM = "12300000003"


async def test_the_events_in_order_what_each_changed_and_which_decides(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    asked, failed, granted = (
        new_record(kind, PPNUM) for kind in (oracle.PENDING_CONSENT, oracle.FAILED, oracle.GRANTED)
    )
    await append(conn, asked, granted, failed)
    await folding.fold_all(database_url)
    ended = await commands.run("explain", "consent_registry", PPNUM, DATABASE_URL=database_url)
    assert (ended.code, ended.err) == (0, ""), ended.said
    lines = ended.out.splitlines()
    assert lines[0] == f"consent_registry (app=app, ppnum={PPNUM}), by the log up to position 3"
    heads = [line for line in lines[1:] if line.startswith("01")]
    assert [line.partition(" ")[0] for line in heads] == [asked.event_id, granted.event_id]
    assert "RECIPIENT_PENDING_CONSENT  (position 1)" in heads[0]
    assert heads[1].endswith("CONSENT_GRANTED  (position 2)  ← decides")
    assert "    status: pending" in lines
    assert "    status: pending → granted" in lines
    assert f"    event_id: {asked.event_id} → {granted.event_id}" in lines
    assert lines[-1] == "1 more event with the same ppnum changed nothing in the row"


async def test_json_for_machines(commands: Commands, database_url: str, conn: AsyncConnection) -> None:
    await append(conn, record := new_record(oracle.POLL_RESPONSE, PPNUM, options=("é",)))
    await folding.fold_all(database_url)
    key = ("poll_responses", "request 1", "poll 1", PPNUM)
    ended = await commands.run("explain", *key, "--json", DATABASE_URL=database_url)
    assert (ended.code, ended.err) == (0, ""), ended.said
    found = json.loads(ended.out)
    assert (found["decided_by"], found["row"]["options"]) == (record.event_id, ["é"])
    assert found["row"] == found["table_row"]


async def test_a_table_that_says_otherwise_ends_with_1(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, new_record(oracle.GRANTED, PPNUM))
    await folding.fold_all(database_url)
    await conn.execute("UPDATE consent_registry SET consent_status = 'denied'")
    for arguments in ((), ("--json",)):
        ended = await commands.run("explain", "consent_registry", PPNUM, *arguments, DATABASE_URL=database_url)
        assert ended.code == 1, ended.said
        assert ended.out
        assert PPNUM not in ended.err
    ended = await commands.run("explain", "consent_registry", PPNUM, DATABASE_URL=database_url)
    (said,) = ended.err.splitlines()
    assert said == "projections: the row in the table differs; projections verify shows how, rebuild repairs it"


async def test_no_such_row_ends_with_1(commands: Commands, database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record(oracle.GRANTED))
    await folding.fold_all(database_url)
    ended = await commands.run("explain", "consent_registry", PPNUM, "--app", "app", DATABASE_URL=database_url)
    assert (ended.code, len(ended.err.splitlines())) == (1, 1), ended.said
    assert ended.err == "projections: no event up to position 1 produces such a row\n"


async def test_a_projection_that_can_not_be_loaded_holds_up_no_other(
    commands: Commands, database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    await append(conn, new_record(oracle.GRANTED, PPNUM))
    await folding.fold_all(database_url)
    variables = {"DATABASE_URL": database_url, "PYTHONPATH": write_broken_package(tmp_path)}
    ended = await commands.run("explain", "consent_registry", PPNUM, **variables)
    assert (ended.code, ended.err) == (0, ""), ended.said
    ended = await commands.run("explain", "their_table", PPNUM, **variables)
    assert (ended.code, ended.out) == (2, ""), ended.said
    first, second = ended.err.splitlines()
    assert first.startswith("projections: theirs is left out: projection 'theirs' can't be loaded from absent:Theirs")
    assert second.startswith("projections: no read model is named 'their_table'; the names are consent_registry, ")


async def test_what_is_asked_wrongly_ends_with_2_and_one_sentence(
    commands: Commands, database_url: str, conn: AsyncConnection, subtests: pytest.Subtests
) -> None:
    await append(conn, new_record(ppnum=PPNUM), new_record(ppnum=PPNUM, app="shop"))
    await folding.fold_all(database_url)
    for arguments, said in (
        (("consent", PPNUM), "no read model is named 'consent'; the names are consent_registry, "),
        ((PPNUM, PPNUM), "no read model is named "),
        (("consent_registry", PPNUM), "which app's row of consent_registry? several apps have such a row (app, shop)"),
        (("consent_registry", "4912300000003"), "no app has such a row, and none is followed; give --app"),
        (("consent_registry", PPNUM, PPNUM, PPNUM), "the key of a row of consent_registry is ppnum"),
    ):
        with subtests.test(said):
            ended = await commands.run("explain", *arguments, DATABASE_URL=database_url)
            assert ended.code == 2, ended.said
            assert ended.sentence.startswith("projections: ")
            assert said in ended.sentence
            assert PPNUM not in ended.said


async def test_before_a_projection_has_run_it_ends_with_1(commands: Commands, database_url: str) -> None:
    ended = await commands.run("explain", "consent_registry", PPNUM, "--app", "app", DATABASE_URL=database_url)
    assert ended.code == 1, ended.said
    said = "consent_registry has not run yet: start projections run, or run projections rebuild consent_registry"
    assert ended.sentence == f"projections: {said}"


async def test_a_database_without_the_schema_ends_with_2(commands: Commands, empty_database_url: str) -> None:
    ended = await commands.run("explain", "consent_registry", PPNUM, DATABASE_URL=empty_database_url)
    assert ended.code == 2, ended.said
    assert ended.sentence.endswith("run projections migrate")
