"""``projections status --check``: exit code 0 if there is no problem, else 1 and a sentence for each problem."""

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


async def test_it_passes_while_a_process_folds_and_fails_when_none_does(commands: Commands, database_url: str) -> None:
    variables = VARIABLES | {"DATABASE_URL": database_url}
    result = await commands.run(*CHECK, **variables)
    assert result.code == 1, result.transcript
    assert result.err.splitlines() == [f"projections: {name} has not run yet: start projections run" for name in NAMES]

    async with store.connection(database_url) as conn:
        await append(conn, new_record(request=None))
        run = await commands.start("run", "--no-ingest", **variables)
        for name in NAMES:
            await folding.wait_until_folded(conn, name, 1)

    async def passes() -> bool:
        return (await commands.run(*CHECK, "--max-behind", "60", **variables)).code == 0

    await store.wait_until(passes, "the check to pass")
    shown = await commands.run("status", **variables)
    assert "running" in shown.out
    # The sentence comes from a count over the log, which a check leaves out unless it prints the whole document.
    without_request = "1 event has no send_request_id"
    assert without_request in shown.out
    result = await commands.run(*CHECK, **variables)
    assert (result.code, without_request in result.out) == (0, False), result.transcript
    assert f":{run.pid} (last active " in shown.out
    result = await commands.run(*CHECK, "--json", **variables)
    document = json.loads(result.out)
    assert document["without_request"] == 1
    assert {one["folded_by"][0]["pid"] for one in document["projections"]} == {run.pid}

    await run.kill()

    async def fails() -> bool:
        result = await commands.run(*CHECK, **variables)
        expected = [f"projections: nobody folds {name}: start projections run" for name in NAMES]
        return (result.code, result.err.splitlines()) == (1, expected)

    await store.wait_until(fails, "the check to fail")
    shown = await commands.run("status", **variables)
    assert shown.code == 0
    assert shown.out.count("stopped (nobody folds)") == len(NAMES)


async def test_a_configured_app_that_nobody_follows_is_named(
    commands: Commands, database_url: str, tmp_path: Path
) -> None:
    config = tmp_path / "apps.toml"
    config.write_text('[apps.shop]\naddress = "http://localhost:1"\ntoken = "secret-token"\n')
    await folding.fold_all(database_url)
    result = await commands.run(*CHECK, "--config", str(config), **VARIABLES, DATABASE_URL=database_url)
    assert result.code == 1
    assert "projections: nobody follows app 'shop': start projections run" in result.err.splitlines()
    assert "secret" not in result.transcript


async def test_a_schema_that_is_not_current_fails_the_check(commands: Commands, empty_database_url: str) -> None:
    result = await commands.run(*CHECK, **VARIABLES, DATABASE_URL=empty_database_url)
    assert (result.code, result.stderr_line.endswith("run projections migrate")) == (1, True), result.transcript


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
        result = await commands.run(*arguments, **{**VARIABLES, "DATABASE_URL": database_url, **variables})
        assert (result.code, sentence in result.err) == (2, True), result.transcript


@pytest.mark.parametrize("arguments", [("--max-behind", "5"), ("--check", "--max-behind", "-1")])
async def test_wrong_options_are_a_usage_error(commands: Commands, arguments: tuple[str, ...]) -> None:
    assert (await commands.run("status", *arguments, DATABASE_URL="postgresql://localhost:1/none")).code == 2
