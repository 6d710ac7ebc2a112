"""Each command does the same when it is installed and when it is forked; the other tests start forks.

``dashboard``, ``db start`` and ``simulate`` are not compared: tests/acceptance/test_http_command.py,
tests/acceptance/test_db_command.py and test_simulate_command.py start the installed program.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import pytest
from typer.main import get_command

from projections.cli.app import app
from tests import folding, oracle, store
from tests.acceptance.command import INSTALLED, QUICK, CommandResult, Commands
from tests.acceptance.fork_client import ForkServer
from tests.databases import Server
from tests.fix_full_matrix import stood_for
from tests.folding import append, new_record
from tests.scripted import scripted_server, stays_open
from tests.unit.test_help import subcommands
from tests.wire import ulid_of

PPNUM = "12300000003"
EVENT_ID = ulid_of(1_767_225_600_000)
COMPARED_ELSEWHERE = {("dashboard",), ("db", "start"), ("simulate",)}
ENCODINGS = [
    "ascii:strict",
    ":replace",
    *stood_for(
        "ascii:strict names an encoding and what to do with other characters too, and :replace is an answer other than"
        " strict; the interpreter and the fork server pass both on to TextIOWrapper",
        "latin-1:ignore",
    ),
]
UNTIL_IDLE = ("--until-idle", "0.1")
CASES: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("migrate",): (),
    ("run",): ("--no-ingest", *UNTIL_IDLE),
    ("ingest",): UNTIL_IDLE,
    ("status",): ("--json",),
    ("doctor",): (),
    ("list",): (),
    ("new",): ("mine",),
    ("check",): ("consent_registry",),
    ("pause",): ("request_status",),
    ("resume",): ("request_status",),
    ("wait",): ("--head",),
    ("skip",): ("request_status", "--event-id", EVENT_ID, "--why", "it is wrong"),
    ("rebuild",): ("request_status",),
    ("verify",): ("consent_registry",),
    ("explain",): ("consent_registry", PPNUM),
    ("redecode",): (),
    ("grant",): ("--reader", "absent"),
    ("revoke",): ("--reader", "absent"),
    ("archive",): ("--before", "2", "--to", ".", "--yes"),
    ("erase",): (PPNUM, "--why", "asked", "--yes", "--no-verify"),
    ("export", "events"): ("log",),
    ("export", "erasures"): ("log",),
    ("import", "events"): ("absent",),
    ("cursor", "show"): (),
    ("cursor", "reset"): ("default", "--yes"),
    ("apps", "list"): (),
    ("apps", "forget"): ("default", "--yes"),
    ("consumers", "list"): (),
    ("consumers", "reset"): ("absent", "--to", "now"),
    ("consumers", "drop"): ("absent",),
    ("quarantine", "list"): ("--json",),
    ("quarantine", "show"): ("1",),
    ("quarantine", "retry"): ("--all",),
    ("quarantine", "export"): ("log",),
    ("quarantine", "drop"): ("--reason", "not a reason", "--yes"),
    ("reconcile",): ("--app", "default"),
    ("db", "stop"): (),
    ("docs",): ("deploy/projections.service",),
    ("db", "url"): (),
    ("db", "psql"): ("--", "-Atc", "SELECT count(*) FROM consent_registry"),
}
EXIT_CODES = {
    ("doctor",): 1,
    ("quarantine", "show"): 2,
    ("skip",): 2,
    ("archive",): 2,
    ("consumers", "reset"): 2,
    ("consumers", "drop"): 2,
    ("import", "events"): 1,
    ("db", "stop"): 2,
    ("grant",): 2,
    ("revoke",): 2,
}
"""Exit codes other than 0."""
READING = {
    ("status",),
    ("doctor",),
    ("list",),
    ("new",),
    ("wait",),
    ("explain",),
    ("export", "events"),
    ("export", "erasures"),
    ("cursor", "show"),
    ("apps", "list"),
    ("consumers", "list"),
    ("quarantine", "list"),
    ("quarantine", "show"),
    ("quarantine", "export"),
    ("db", "stop"),
    ("docs",),
    ("db", "url"),
    ("db", "psql"),
}
"""Commands that change nothing in the database."""


def comparable(result: CommandResult) -> tuple[int, list[str], list[str]]:
    """A result without names and numbers that differ from run to run, and with its lines sorted.

    Log lines are left out: a run that ends when it is idle may end before it logs that it follows its upstream.
    """
    changing = re.compile(r"(?<=test_)[0-9a-f]{12}\b|\d+([.,:]\d+)*")
    out, err = (sorted(changing.sub("#", text).splitlines()) for text in (result.out, result.err))
    return result.code, out, [line for line in err if "[info" not in line]


def test_every_command_is_compared() -> None:
    words = set(subcommands(get_command(app)))
    leaves = {each for each in words if not any(other[:-1] == each for other in words if other)}
    assert set(CASES) | COMPARED_ELSEWHERE == leaves


@pytest.mark.skipif(not INSTALLED.exists(), reason="the command isn't installed")
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_fork_encodes_its_output_as_the_installed_command_does(commands: Commands, encoding: str) -> None:
    found = []
    for starter in (commands.installed, commands):
        on_stdout = await starter.run("docs", "event-store", PYTHONIOENCODING=encoding)
        on_stderr = await starter.run("status", "é→", PYTHONIOENCODING=encoding)
        assert (on_stdout.code, on_stderr.code) == (0, 2)
        found.append((on_stdout, on_stderr))
    assert found[0] == found[1]


async def fold_some_events(url: str) -> None:
    """Store events of one person, and fold them."""
    async with store.connection(url) as conn:
        kinds = (oracle.PENDING_CONSENT, oracle.GRANTED, oracle.DELIVERED)
        await append(conn, *(new_record(kind, PPNUM) for kind in kinds))
        await store.set_epoch(conn, "default")
    await folding.fold_all(url)


@pytest.fixture(scope="module")
def folded_url(postgres: Server) -> Iterator[str]:
    """The URL of a database with folded events; a command that may change it gets a copy."""
    with postgres.database() as url:
        asyncio.run(fold_some_events(url))
        yield url


@pytest.fixture(scope="module")
def read_url(postgres: Server, folded_url: str) -> Iterator[str]:
    """The URL of a copy for all commands that only read."""
    with postgres.copy(folded_url) as url:
        yield url


@pytest.mark.skipif(not INSTALLED.exists(), reason="the command isn't installed")
@pytest.mark.parametrize("command", CASES, ids=" ".join)
async def test_the_installed_command_does_the_same_as_a_fork(
    commands: Commands,
    fork_server: ForkServer | None,
    postgres: Server,
    folded_url: str,
    read_url: str,
    command: tuple[str, ...],
) -> None:
    assert fork_server is not None
    results = []
    async with scripted_server(stays_open()) as upstream:
        for starter in (commands.installed, commands):
            with nullcontext(read_url) if command in READING else postgres.copy(folded_url) as url:
                variables = {**QUICK, "DATABASE_URL": url, "PCS_EXTERNAL_API_URL": upstream.address, "COLUMNS": "150"}
                arguments = (*command, *CASES[command])
                results.append(await starter.run(*arguments, **variables, PROJECTIONS_TOKEN="token-of-mine"))
            (commands.folder / "log").unlink(missing_ok=True)
            shutil.rmtree(commands.folder / "mine", ignore_errors=True)
    installed, forked = map(comparable, results)
    assert installed == forked
    assert installed[0] == EXIT_CODES.get(command, 0), results[0].transcript
