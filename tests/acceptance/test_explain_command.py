"""``projections explain``, run as a process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.poll_tallies import PollTallies
from tests import folding, oracle
from tests.acceptance.command import Commands
from tests.fake_package import write_broken_package
from tests.folding import append, new_record

PPNUM = "12300000003"


async def test_it_prints_the_events_in_order_with_what_each_changed_and_which_decides(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    pending, failed, granted = (
        new_record(kind, PPNUM) for kind in (oracle.PENDING_CONSENT, oracle.FAILED, oracle.GRANTED)
    )
    await append(conn, pending, granted, failed)
    await folding.fold_all(database_url, [ConsentRegistry])
    result = await commands.run("explain", "consent_registry", PPNUM, DATABASE_URL=database_url)
    assert (result.code, result.err) == (0, ""), result.transcript
    lines = result.out.splitlines()
    assert lines[0] == f"consent_registry (app=app, ppnum={PPNUM}), according to the log up to position 3"
    heads = [line for line in lines[1:] if line.startswith("01")]
    assert [line.partition(" ")[0] for line in heads] == [pending.event_id, granted.event_id]
    assert "RECIPIENT_PENDING_CONSENT  (position 1)" in heads[0]
    assert heads[1].endswith("CONSENT_GRANTED  (position 2)  ← decides")
    assert "    status: pending" in lines
    assert "    status: pending → granted" in lines
    assert f"    event_id: {pending.event_id} → {granted.event_id}" in lines
    assert lines[-1] == "1 other event with the same ppnum did not change the row"


async def test_json_output(commands: Commands, database_url: str, conn: AsyncConnection) -> None:
    await append(conn, record := new_record(oracle.POLL_RESPONSE, PPNUM, options=("é",)))
    await folding.fold_all(database_url, [PollTallies])
    key = ("poll_responses", "request 1", "poll 1", PPNUM)
    result = await commands.run("explain", *key, "--json", DATABASE_URL=database_url)
    assert (result.code, result.err) == (0, ""), result.transcript
    found = json.loads(result.out)
    assert (found["decided_by"], found["row"]["options"]) == (record.event_id, ["é"])
    assert found["row"] == found["table_row"]


async def test_a_row_that_differs_ends_with_exit_code_1(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, new_record(oracle.GRANTED, PPNUM))
    await folding.fold_all(database_url, [ConsentRegistry])
    await conn.execute("UPDATE consent_registry SET consent_status = 'denied'")
    for arguments in ((), ("--json",)):
        result = await commands.run("explain", "consent_registry", PPNUM, *arguments, DATABASE_URL=database_url)
        assert result.code == 1, result.transcript
        assert result.out
        assert PPNUM not in result.err
    result = await commands.run("explain", "consent_registry", PPNUM, DATABASE_URL=database_url)
    (line,) = result.err.splitlines()
    assert line == "projections: the row in the table differs; projections verify shows how, rebuild repairs it"


async def test_a_row_that_no_event_produces_ends_with_exit_code_1(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, new_record(oracle.GRANTED))
    await folding.fold_all(database_url, [ConsentRegistry])
    result = await commands.run("explain", "consent_registry", PPNUM, "--app", "app", DATABASE_URL=database_url)
    assert (result.code, len(result.err.splitlines())) == (1, 1), result.transcript
    assert result.err == "projections: no event up to position 1 produces such a row\n"


async def test_a_projection_that_cannot_be_loaded_does_not_affect_others(
    commands: Commands, database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    await append(conn, new_record(oracle.GRANTED, PPNUM))
    await folding.fold_all(database_url, [ConsentRegistry])
    variables = {"DATABASE_URL": database_url, "PYTHONPATH": write_broken_package(tmp_path)}
    result = await commands.run("explain", "consent_registry", PPNUM, **variables)
    assert (result.code, result.err) == (0, ""), result.transcript
    result = await commands.run("explain", "their_table", PPNUM, **variables)
    assert (result.code, result.out) == (2, ""), result.transcript
    first, second = result.err.splitlines()
    assert first.startswith("projections: theirs is left out: projection 'theirs' can't be loaded from absent:Theirs")
    assert second.startswith("projections: no read model is named 'their_table'; the names are consent_registry, ")


async def test_a_usage_error_ends_with_exit_code_2_and_one_sentence(
    commands: Commands, database_url: str, conn: AsyncConnection, subtests: pytest.Subtests
) -> None:
    await append(conn, new_record(ppnum=PPNUM), new_record(ppnum=PPNUM, app="shop"))
    await folding.fold_all(database_url, [ConsentRegistry])
    for arguments, expected in (
        (("consent", PPNUM), "no read model is named 'consent'; the names are consent_registry, "),
        ((PPNUM, PPNUM), "no read model is named "),
        (("consent_registry", PPNUM), "several apps have this key in consent_registry (app, shop)"),
        (
            ("consent_registry", "4912300000003"),
            "no row with this key in consent_registry; choose an app with --app (none is followed)",
        ),
        (("consent_registry", PPNUM, PPNUM, PPNUM), "the key of a row of consent_registry is ppnum"),
    ):
        with subtests.test(expected):
            result = await commands.run("explain", *arguments, DATABASE_URL=database_url)
            assert result.code == 2, result.transcript
            assert result.stderr_line.startswith("projections: ")
            assert expected in result.stderr_line
            assert PPNUM not in result.transcript


async def test_a_projection_that_has_not_run_ends_with_exit_code_1(commands: Commands, database_url: str) -> None:
    result = await commands.run("explain", "consent_registry", PPNUM, "--app", "app", DATABASE_URL=database_url)
    assert result.code == 1, result.transcript
    expected = "consent_registry has not run yet: start projections run, or run projections rebuild consent_registry"
    assert result.stderr_line == f"projections: {expected}"


async def test_a_database_without_the_schema_ends_with_exit_code_2(commands: Commands, empty_database_url: str) -> None:
    result = await commands.run("explain", "consent_registry", PPNUM, DATABASE_URL=empty_database_url)
    assert result.code == 2, result.transcript
    assert result.stderr_line.endswith("run projections migrate")
