"""Each command, started as the installed program, does what its fork does: the other tests start forks.

``db start`` and ``simulate`` are not compared: tests/integration/test_db_command.py and test_simulate_command.py start
them truly, without any fork server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from typer.main import get_command

from projections.cli.app import app
from tests import folding, oracle, store
from tests.acceptance.command import INSTALLED, QUICK, Commands, Ended
from tests.acceptance.forking import ForkServer
from tests.folding import append, new_record
from tests.scripted import scripted_server, stays_open
from tests.unit.test_help import subcommands
from tests.wire import ulid_of

PPNUM = "12300000003"
EVENT_ID = ulid_of(1_767_225_600_000)
ELSEWHERE = {("db", "start"), ("simulate",)}
UNTIL_IDLE = ("--until-idle", "0.1")
CASES: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("migrate",): (),
    ("run",): ("--no-ingest", *UNTIL_IDLE),
    ("ingest",): UNTIL_IDLE,
    ("status",): ("--json",),
    ("list",): (),
    ("pause",): ("request_status",),
    ("resume",): ("request_status",),
    ("wait",): ("--head",),
    ("skip",): ("request_status", "--event-id", EVENT_ID, "--why", "it is wrong"),
    ("rebuild",): ("request_status",),
    ("verify",): ("consent_registry",),
    ("explain",): ("consent_registry", PPNUM),
    ("redecode",): (),
    ("export", "events"): ("log",),
    ("import", "events"): ("absent",),
    ("cursor", "show"): (),
    ("cursor", "reset"): ("default", "--yes"),
    ("apps", "list"): (),
    ("apps", "forget"): ("default", "--yes"),
    ("db", "stop"): (),
    ("db", "url"): (),
    ("db", "psql"): ("--", "-Atc", "SELECT count(*) FROM consent_registry"),
}
FAILING = {("skip",): 2, ("import", "events"): 1, ("db", "stop"): 2}
"""Exit codes other than 0."""


def comparable(ended: Ended) -> tuple[int, list[str], list[str]]:
    """An outcome without what differs between two databases or two moments; several projections print in any order."""
    changing = re.compile(r"(?<=test_)[0-9a-f]{12}\b|\d+([.,:]\d+)*")
    out, err = (sorted(changing.sub("#", text).splitlines()) for text in (ended.out, ended.err))
    return ended.code, out, err


def test_every_command_is_compared() -> None:
    words = set(subcommands(get_command(app)))
    leaves = {each for each in words if not any(other[:-1] == each for other in words if other)}
    assert set(CASES) | ELSEWHERE == leaves


@pytest.mark.skipif(not INSTALLED.exists(), reason="the command isn't installed")
@pytest.mark.parametrize("command", CASES, ids=" ".join)
async def test_the_installed_command_does_what_its_fork_does(
    commands: Commands, fork_server: ForkServer | None, database_url: str, elsewhere: str, command: tuple[str, ...]
) -> None:
    assert fork_server is not None
    records = [new_record(kind, PPNUM) for kind in (oracle.PENDING_CONSENT, oracle.GRANTED, oracle.DELIVERED)]
    outcomes = []
    async with scripted_server(stays_open()) as upstream:
        for how, url in ((commands.installed, database_url), (commands, elsewhere)):
            async with store.connection(url) as conn:
                await append(conn, *records)
                await store.set_epoch(conn, "default")
            await folding.fold_all(url)
            variables = {**QUICK, "DATABASE_URL": url, "PCS_EXTERNAL_API_URL": upstream.address, "COLUMNS": "150"}
            outcomes.append(await how.run(*command, *CASES[command], **variables, PROJECTIONS_TOKEN="token-of-mine"))
            (commands.folder / "log").unlink(missing_ok=True)
    installed, forked = map(comparable, outcomes)
    assert installed == forked
    assert installed[0] == FAILING.get(command, 0), outcomes[0].said
