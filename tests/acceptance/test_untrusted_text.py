"""Text of events can't control a terminal or forge a line of output, and no output encoding stops a command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from projections.terminal_text import UNSAFE
from tests import folding, oracle, store
from tests.acceptance.command import CommandResult, Commands
from tests.databases import Server
from tests.fix_full_matrix import in_turns, stood_for
from tests.folding import append, new_record

PPNUM = "12300000003"
FORGED = "\nrequest_status: 9 rows equal the log at position 9"
HOSTILE = f"\x1b[2J\x1b]0;owned\x07\x9b31m\u202e{FORGED}\u2028[red]:smile:[/red] é世"
OTHER_ENCODING = (
    "the other encoding with this command, and this encoding with the commands before and after it: all commands write"
    " to streams with the same error handler, which replaces what an encoding lacks, and both lack the arrow"
)


async def damage_and_fill(url: str) -> None:
    """Store and fold events with hostile texts, damage two read models, and store a hostile error of two apps."""
    async with store.connection(url) as conn:
        await append(
            conn,
            replace(new_record(oracle.FAILED, PPNUM), error_code=HOSTILE),
            new_record(oracle.POLL_RESPONSE, PPNUM, options=(HOSTILE[:60],)),
        )
        await folding.fold_all(url)
        await conn.execute("UPDATE request_recipients SET error_code = 'else'")
        await conn.execute("UPDATE poll_tallies SET responses = 7")
        await conn.execute("UPDATE eventstore.cursors SET last_error = %s", [HOSTILE])
        await conn.execute("INSERT INTO eventstore.cursors (app, last_error) VALUES (%s, %s)", [HOSTILE[:40], HOSTILE])


@pytest.fixture(scope="module")
def variables(postgres: Server) -> Iterator[dict[str, str]]:
    """The variables with which a command finds a log with hostile texts; no command here changes what another shows."""
    with postgres.database() as url:
        asyncio.run(damage_and_fill(url))
        yield {"DATABASE_URL": url}


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
async def test_no_command_prints_control_characters(
    commands: Commands, variables: dict[str, str], arguments: tuple[str, ...]
) -> None:
    result = await commands.run("-v", *arguments, **variables, PYTHONIOENCODING="utf-8")
    assert result.code in {0, 1, 2}, result.transcript
    assert not [line for line in (result.out + result.err).split("\n") if UNSAFE.search(line)], result.transcript
    assert not [line for line in (result.out + result.err).splitlines() if line.startswith(FORGED[1:])], (
        result.transcript
    )
    assert "\\x1b[2J" in result.out + result.err, result.transcript


@pytest.mark.parametrize(
    ("arguments", "encoding"),
    in_turns([(COMMANDS[0],), (COMMANDS[2],), (COMMANDS[3],)], [("ascii",), ("latin-1",)], OTHER_ENCODING),
    ids=lambda value: value if isinstance(value, str) else value[0],
)
async def test_no_encoding_of_stdout_stops_a_command(
    commands: Commands, variables: dict[str, str], arguments: tuple[str, ...], encoding: str
) -> None:
    complete = await commands.run(*arguments, **variables, PYTHONIOENCODING="utf-8")
    result = await commands.run(*arguments, **variables, PYTHONIOENCODING=f"{encoding}:strict")
    assert result.code == complete.code, result.transcript
    assert len(result.out.splitlines()) == len(complete.out.splitlines()), result.transcript
    assert "Error" not in result.err
    assert result.out.isascii() or encoding == "latin-1"
    assert complete.out.count("→") == result.out.count("->")


@pytest.mark.parametrize(
    "variable",
    [
        "LC_ALL",
        "PYTHONIOENCODING",
        *stood_for("LC_ALL=C turns on the same UTF-8 mode of Python that PYTHONUTF8=1 does", "PYTHONUTF8"),
    ],
)
async def test_json_is_exact_in_every_encoding(commands: Commands, variables: dict[str, str], variable: str) -> None:
    value = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}[variable]
    result = await commands.run(*COMMANDS[0], "--json", **variables, **{variable: value})
    found = json.loads(result.out)
    assert found["row"]["error_code"] == HOSTILE
    assert not UNSAFE.search(result.out.replace("\n", ""))
    status: CommandResult = await commands.run("status", "--json", **variables, **{variable: value})
    assert json.loads(status.out)["apps"][0]["last_error"] == HOSTILE
