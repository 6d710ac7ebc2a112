"""``--give-up-after``: if the upstream is down, a run until idle ends with exit code 1 and one sentence."""

from __future__ import annotations

import pytest

from tests.acceptance.command import QUICK, Commands

UPSTREAM_DOWN = {
    "PCS_EXTERNAL_API_URL": "http://127.0.0.1:1",
    "PROJECTIONS_TOKEN": "secret-token",
    "PROJECTIONS_APP": "shop",
}


@pytest.mark.parametrize("command", ["run", "ingest"])
async def test_it_gives_up_on_an_upstream_that_is_down(commands: Commands, database_url: str, command: str) -> None:
    variables = QUICK | UPSTREAM_DOWN | {"DATABASE_URL": database_url}
    result = await commands.run(command, "--until-idle", "600", "--give-up-after", "1", **variables)
    assert result.code == 1, result.transcript
    last = result.err.splitlines()[-1]
    assert last.startswith("projections: gave up after 1 s: app 'shop' waits for its upstream"), result.transcript
    assert "secret" not in result.transcript


async def test_without_an_upstream_a_run_until_idle_does_not_give_up(commands: Commands, database_url: str) -> None:
    arguments = ("run", "--no-ingest", "--until-idle", "0.1", "--give-up-after", "600")
    result = await commands.run(*arguments, **QUICK, DATABASE_URL=database_url)
    assert result.code == 0, result.transcript
