"""Each command works for the roles that docs/operations.md lists, and the others get one sentence.

The page lists every command; one that is neither there nor excepted here fails.
"""

from __future__ import annotations

import re
import shlex
import signal
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from projections.cli.lazy_commands import LazyCommands
from projections.granting.role_kinds import RoleKind
from tests import folding, oracle, store
from tests.acceptance.command import QUICK, CommandResult, Commands
from tests.databases import Server
from tests.folding import append, new_record
from tests.http_requests import send_request, served_url
from tests.roles import granted_roles
from tests.scripted import scripted_server, stays_open

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
PPNUM = "12300000003"
APP = "shop"
CONSUMER = (
    "INSERT INTO eventstore.consumers (name, position, created_at) VALUES ('billing', 0, clock_timestamp())"
    " ON CONFLICT DO NOTHING"
)
BEHIND = (
    "SELECT coalesce(min(position), 0) < (SELECT max(position) FROM eventstore.events) FROM projections.checkpoints"
)
EXCEPTED = {
    "list": "opens no database",
    "new": "opens no database",
    "docs": "opens no database",
    "simulate": "opens no database",
    "archive": "needs a partitioned log",
    "db": "is for the embedded PostgreSQL, whose user is the owner",
}
FINDS = ("projections doctor", "projections reconcile")
"""Commands that end with 1 here when they work: nobody follows, and the upstream answers no question."""


def rows() -> list[tuple[str, dict[str, bool]]]:
    """Return the rows of the page's table: each command, and whether each role may run it."""
    table = PAGE.read_text().partition("<!-- roles -->")[2].partition("<!-- end -->")[0]
    heading, _, *lines = [line.strip("| ").split(" | ") for line in table.strip().splitlines()]
    return [(line[0].strip("`"), {n: v == "yes" for n, v in zip(heading[1:], line[1:], strict=True)}) for line in lines]


def tried(number: int, allowed: dict[str, bool]) -> list[str]:
    """Return the roles with which a row is tried.

    All that may run the command, the owner only if nobody else may, because other tests run as the owner. Of those that
    may not, one in turn: they get the same sentences.
    """
    may = [name for name, yes in allowed.items() if yes]
    may_not = [name for name, yes in allowed.items() if not yes]
    one_of_them = [may_not[number % len(may_not)]] if may_not else []
    return [*one_of_them, *(may if may == ["owner"] else may[:-1])]


async def prepare_quarantine(conn: AsyncConnection) -> int:
    """Make sure that a message is in quarantine, received long ago; returns its number."""
    await Appender(conn, store.QUICK).append([], rejected=[store.garbage(app=APP)])
    await conn.execute("UPDATE eventstore.quarantine SET last_seen = now() - interval '91 days'")
    return int(str(await store.value(conn, "SELECT max(id) FROM eventstore.quarantine")))


async def run_served(commands: Commands, words: list[str], variables: dict[str, str]) -> CommandResult:
    """Run a command that serves over HTTP until it is ready, then end it by a signal; or until it refuses."""
    running = await commands.start(*words, **variables)
    try:
        url = await served_url(running)
    except AssertionError:
        return await running.wait()

    async def is_ready_or_ended() -> bool:
        with suppress(httpx2.TransportError):
            ready, metrics = await send_request(url + "readyz"), await send_request(url + "metrics")
            return ready.status == 200 and "projections_database_up 1.0" in metrics.text
        return running.process.returncode is not None

    await store.wait_until(is_ready_or_ended, f"readiness of {words}")
    running.send(signal.SIGTERM)
    return await running.wait()


async def run_to_its_end(commands: Commands, words: list[str], variables: dict[str, str]) -> CommandResult:
    """Run a command to its end."""
    return await commands.run(*words, **variables)


def test_the_page_lists_every_command() -> None:
    lines = [command for command, _ in rows()]
    unlisted = set()
    for name, one in LazyCommands().items():
        for words in [f"{name} {each}" for each in getattr(one, "commands", ())] or [name]:
            if not any(f"{line} ".startswith(f"projections {words} ") for line in lines):
                unlisted.add(words)
    assert {words.partition(" ")[0] for words in unlisted} == EXCEPTED.keys()
    for name in ("run", "ingest", "dashboard"):
        assert any(line.startswith(f"projections {name} ") and "--http" in line for line in lines), name
    after_the_table = PAGE.read_text().partition("<!-- roles -->")[2].partition("<!-- end -->")[2].partition("\n- ")[0]
    assert [name for name in EXCEPTED if f"`{name}`" not in after_the_table] == []


async def test_commands_work_for_the_roles_that_the_page_lists(
    commands: Commands, postgres: Server, database_url: str, subtests: pytest.Subtests
) -> None:
    found = rows()
    assert len(found) >= 20
    file = commands.folder / "log.events"
    async with (
        granted_roles(postgres, database_url, *RoleKind) as roles,
        store.connection(database_url) as conn,
        scripted_server(stays_open()) as upstream,
    ):
        urls = {kind.value: one.url for kind, one in roles.items()} | {"owner": database_url}
        variables = {
            **QUICK,
            "PCS_EXTERNAL_API_URL": upstream.address,
            "PROJECTIONS_TOKEN": "token-of-mine",
            "PROJECTIONS_APP": APP,
        }
        records = [new_record(kind, PPNUM, app=APP) for kind in (oracle.PENDING_CONSENT, oracle.GRANTED)]
        await append(conn, *records)
        for number, (command, allowed) in enumerate(found):
            await conn.execute("UPDATE projections.checkpoints SET state = 'running'")
            if await store.value(conn, BEHIND):
                await folding.fold_all(database_url)
            for name in tried(number, allowed):
                await store.set_epoch(conn, APP)
                file.unlink(missing_ok=True)
                if " skip " in command or " import " in command:
                    records.append(new_record(oracle.DELIVERED, PPNUM, app=APP))
                    await append(conn, records[-1])
                if " import " in command:
                    assert (await commands.run("export", "events", file.name, DATABASE_URL=database_url)).code == 0
                line = re.sub(r"\bbi\b", roles[RoleKind.READER].name, command.replace("ULID", records[-1].event_id))
                if " consumers " in command:
                    await conn.execute(CONSUMER)
                if re.search(r" quarantine (show|export|drop) ", command):
                    (commands.folder / "messages.jsonl").unlink(missing_ok=True)
                    line = line.replace("NUMBER", str(await prepare_quarantine(conn)))
                with subtests.test(command, role=name):
                    run = run_served if " --http " in command else run_to_its_end
                    result = await run(commands, shlex.split(line)[1:], variables | {"DATABASE_URL": urls[name]})
                    if allowed[name]:
                        assert result.code in ((0, 1) if command in FINDS else (0,)), result.transcript
                        assert "42501" not in result.out + result.err, result.transcript
                        assert "check_failed" not in result.out, result.transcript
                    else:
                        assert result.code in (1, 2), result.transcript
                        assert re.search(r"may not|\(SQLSTATE 42501\); this role", result.err), result.transcript
                        logged = ("url=http://127.0.0.1", " part=http ")  # by the server, until the command refuses
                        told = [each for each in result.err.splitlines() if not any(one in each for one in logged)]
                        assert len(told) == 1, result.transcript
                    assert "Traceback" not in result.err
