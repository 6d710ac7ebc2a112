"""Each command works for the roles that docs/operations.md lists, and the others get one sentence."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from projections.granting.role_kinds import RoleKind
from tests import folding, oracle, store
from tests.acceptance.command import QUICK, Commands
from tests.databases import Server
from tests.folding import append, new_record
from tests.roles import granted_roles
from tests.scripted import scripted_server, stays_open

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
PPNUM = "12300000003"
APP = "shop"


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
    return [may_not[number % len(may_not)], *(may if may == ["owner"] else may[:-1])]


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
                with subtests.test(command, role=name):
                    result = await commands.run(*shlex.split(line)[1:], **variables, DATABASE_URL=urls[name])
                    if allowed[name]:
                        assert result.code == 0, result.transcript
                    else:
                        assert result.code in (1, 2), result.transcript
                        assert re.search(r"may not|\(SQLSTATE 42501\); this role", result.err), result.transcript
                        assert len(result.err.splitlines()) == 1, result.transcript
                    assert "Traceback" not in result.err
