"""``--give-up-after``: an upstream that is down ends a run until idle with exit code 1 and one sentence."""

from __future__ import annotations

import pytest

from tests.acceptance.command import QUICK, Commands

DOWN = {"PCS_EXTERNAL_API_URL": "http://127.0.0.1:1", "PROJECTIONS_TOKEN": "secret-token", "PROJECTIONS_APP": "shop"}


@pytest.mark.parametrize("command", ["run", "ingest"])
async def test_an_upstream_that_is_down_is_given_up(commands: Commands, database_url: str, command: str) -> None:
    variables = QUICK | DOWN | {"DATABASE_URL": database_url}
    ended = await commands.run(command, "--until-idle", "600", "--give-up-after", "1", **variables)
    assert ended.code == 1, ended.said
    said = ended.err.splitlines()[-1]
    assert said.startswith("projections: gave up after 1 s: app 'shop' waits for its upstream"), ended.said
    assert "secret" not in ended.said


async def test_without_an_upstream_a_run_until_idle_does_not_give_up(commands: Commands, database_url: str) -> None:
    arguments = ("run", "--no-ingest", "--until-idle", "0.1", "--give-up-after", "600")
    ended = await commands.run(*arguments, **QUICK, DATABASE_URL=database_url)
    assert ended.code == 0, ended.said
