"""``projections status --check``: exit code 0 while all is well, else 1 and a sentence for each reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from projections.migrating.metadata import READ_MODELS
from tests import folding, store
from tests.acceptance.command import QUICK, Commands
from tests.folding import append, new_record

NAMES = sorted(projection.name for projection in READ_MODELS)
CHECK = ("status", "--check")
VARIABLES = {**QUICK, "PROJECTIONS_POLL": "0.05", "COLUMNS": "200"}


async def test_it_passes_while_somebody_folds_and_says_so_when_nobody_does(
    commands: Commands, database_url: str
) -> None:
    variables = VARIABLES | {"DATABASE_URL": database_url}
    ended = await commands.run(*CHECK, **variables)
    assert ended.code == 1, ended.said
    assert ended.err.splitlines() == [f"projections: {name} has not run yet: start projections run" for name in NAMES]

    async with store.connection(database_url) as conn:
        await append(conn, new_record())
    run = await commands.start("run", "--no-ingest", **variables)

    async def well() -> bool:
        return (await commands.run(*CHECK, "--max-behind", "60", **variables)).code == 0

    await store.wait_until(well, "that all is well")
    shown = await commands.run("status", **variables)
    assert "running" in shown.out
    assert f":{run.pid} (last active " in shown.out
    ended = await commands.run(*CHECK, "--json", **variables)
    assert {one["folded_by"][0]["pid"] for one in json.loads(ended.out)["projections"]} == {run.pid}

    await run.kill()

    async def stopped() -> bool:
        ended = await commands.run(*CHECK, **variables)
        wanted = [f"projections: nobody folds {name}: start projections run" for name in NAMES]
        return (ended.code, ended.err.splitlines()) == (1, wanted)

    await store.wait_until(stopped, "that nobody folds")
    shown = await commands.run("status", **variables)
    assert shown.code == 0
    assert shown.out.count("stopped (nobody folds)") == len(NAMES)


async def test_an_app_that_is_configured_and_that_nobody_follows_is_named(
    commands: Commands, database_url: str, tmp_path: Path
) -> None:
    config = tmp_path / "apps.toml"
    config.write_text('[apps.shop]\naddress = "http://localhost:1"\ntoken = "secret-token"\n')
    await folding.fold_all(database_url)
    ended = await commands.run(*CHECK, "--config", str(config), **VARIABLES, DATABASE_URL=database_url)
    assert ended.code == 1
    assert "projections: nobody follows app 'shop': start projections run" in ended.err.splitlines()
    assert "secret" not in ended.said


async def test_a_schema_that_is_not_current_is_a_reason(commands: Commands, empty_database_url: str) -> None:
    ended = await commands.run(*CHECK, **VARIABLES, DATABASE_URL=empty_database_url)
    assert (ended.code, ended.sentence.endswith("run projections migrate")) == (1, True), ended.said


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"DATABASE_URL": "postgresql://localhost:not-a-port/none"}, "DATABASE_URL"),
        ({"PROJECTIONS_STANDBY": "soon"}, "PROJECTIONS_STANDBY must be a number of seconds"),
    ],
)
async def test_a_wrong_setting_is_a_usage_error_with_and_without_check(
    commands: Commands, database_url: str, variables: dict[str, str], sentence: str
) -> None:
    for arguments in (CHECK, ("status",)):
        ended = await commands.run(*arguments, **{**VARIABLES, "DATABASE_URL": database_url, **variables})
        assert (ended.code, sentence in ended.err) == (2, True), ended.said


@pytest.mark.parametrize("arguments", [("--max-behind", "5"), ("--check", "--max-behind", "-1")])
async def test_what_makes_no_sense_is_asked_wrongly(commands: Commands, arguments: tuple[str, ...]) -> None:
    assert (await commands.run("status", *arguments, DATABASE_URL="postgresql://localhost:1/none")).code == 2
