"""Texts of events can't command a terminal or forge a line, and no locale ends a command in the middle."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from psycopg import AsyncConnection

from projections.terminal_text import UNSAFE
from tests import folding, oracle
from tests.acceptance.command import Commands, Ended
from tests.folding import append, new_record

PPNUM = "12300000003"
FORGED = "\nrequest_status: 9 rows equal the log at position 9"
HOSTILE = f"\x1b[2J\x1b]0;owned\x07\x9b31m\u202e{FORGED}\u2028[red]:smile:[/red] é世"


@pytest.fixture
async def variables(database_url: str, conn: AsyncConnection) -> dict[str, str]:
    """A log with hostile texts, folded, and one of its rows changed."""
    await append(
        conn,
        replace(new_record(oracle.FAILED, PPNUM), error_code=HOSTILE),
        new_record(oracle.POLL_RESPONSE, PPNUM, options=(HOSTILE[:60],)),
    )
    await folding.fold_all(database_url)
    await conn.execute("UPDATE request_recipients SET error_code = 'else'")
    await conn.execute("UPDATE poll_tallies SET responses = 7")
    await conn.execute("UPDATE eventstore.cursors SET last_error = %s", [HOSTILE])
    await conn.execute("INSERT INTO eventstore.cursors (app, last_error) VALUES (%s, %s)", [HOSTILE[:40], HOSTILE])
    return {"DATABASE_URL": database_url}


COMMANDS = [
    ("explain", "request_recipients", "request 1", PPNUM),
    ("verify", "request_status"),
    ("rebuild", "poll_tallies", "--dry-run"),
    ("status",),
    ("explain", HOSTILE, PPNUM),
    ("skip", "request_status", "--event-id", HOSTILE, "--why", HOSTILE),
    ("pause", HOSTILE),
    ("follow" + HOSTILE,),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda value: value[0][:7])
async def test_no_command_shows_what_a_terminal_obeys(
    commands: Commands, variables: dict[str, str], arguments: tuple[str, ...]
) -> None:
    ended = await commands.run("-v", *arguments, **variables, PYTHONUTF8="1")
    assert ended.code in {0, 1, 2}, ended.said
    assert not [line for line in (ended.out + ended.err).split("\n") if UNSAFE.search(line)], ended.said
    assert not [line for line in (ended.out + ended.err).splitlines() if line.startswith(FORGED[1:])], ended.said
    assert "\\x1b[2J" in ended.out + ended.err, ended.said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("arguments", [COMMANDS[0], COMMANDS[2], COMMANDS[3]], ids=lambda value: value[0])
async def test_no_encoding_of_stdout_ends_a_command_in_the_middle(
    commands: Commands, variables: dict[str, str], arguments: tuple[str, ...], encoding: str
) -> None:
    whole = await commands.run(*arguments, **variables, PYTHONIOENCODING="utf-8")
    ended = await commands.run(*arguments, **variables, PYTHONIOENCODING=f"{encoding}:strict")
    assert ended.code == whole.code, ended.said
    assert len(ended.out.splitlines()) == len(whole.out.splitlines()), ended.said
    assert "Error" not in ended.err
    assert ended.out.isascii() or encoding == "latin-1"
    assert whole.out.count("→") == ended.out.count("->")


@pytest.mark.parametrize("variable", ["LC_ALL", "PYTHONIOENCODING", "PYTHONUTF8"])
async def test_json_is_exact_whatever_stdout_can_carry(
    commands: Commands, variables: dict[str, str], variable: str
) -> None:
    value = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}[variable]
    ended = await commands.run(*COMMANDS[0], "--json", **variables, **{variable: value})
    found = json.loads(ended.out)
    assert found["row"]["error_code"] == HOSTILE
    assert not UNSAFE.search(ended.out.replace("\n", ""))
    status: Ended = await commands.run("status", "--json", **variables, **{variable: value})
    assert json.loads(status.out)["apps"][0]["last_error"] == HOSTILE
