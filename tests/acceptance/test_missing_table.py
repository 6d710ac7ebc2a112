"""A projection whose table is missing is left out and reported; commands process the other projections."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg import AsyncConnection

from projections.migrating.metadata import READ_MODELS
from tests import folding, store
from tests.acceptance.command import QUICK, Commands
from tests.fake_package import write_deliveries_package
from tests.fix_full_matrix import stood_for

NAMES = sorted(projection.name for projection in READ_MODELS)
WHY = "table deliveries is missing; run projections migrate"
QUICKLY = {**QUICK, "PROJECTIONS_POLL": "0.05"}


@pytest.fixture
def folded_variables(database_url: str, tmp_path: Path) -> dict[str, str]:
    """For a test with the mark ``folded``."""
    return {**QUICKLY, "DATABASE_URL": database_url, "PYTHONPATH": write_deliveries_package(tmp_path)}


@pytest.fixture
async def variables(folded_variables: dict[str, str], database_url: str) -> dict[str, str]:
    """For a test of a log with nine events that nobody has folded."""
    async with store.connection(database_url) as conn:
        await folding.append(conn, *(folding.new_record() for _ in range(9)))
    return folded_variables


async def others_are_folded(conn: AsyncConnection) -> None:
    """Assert that all other projections are folded to the head."""
    for name in NAMES:
        assert await folding.position(conn, name) == 9
    await folding.assert_rows_match_oracle(conn)


@pytest.mark.oldest
async def test_run_folds_the_others_and_continues_with_this_one_once_it_is_migrated(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    result = await commands.run("run", "--no-ingest", "--until-idle", "0.3", **variables)
    assert result.code == 1, result.transcript
    assert f"projections: deliveries is left out: {WHY}" in result.err
    running = await commands.start("run", "--no-ingest", **variables)
    await running.wait_for_stderr("left out", "deliveries", WHY)
    async with store.connection(database_url) as conn:
        await others_are_folded(conn)
        assert await store.value(conn, "SELECT count(*) FROM projections.checkpoints WHERE name = 'deliveries'") == 0
        migrated = await commands.run("migrate", **variables)
        assert migrated.code == 0, migrated.transcript
        await folding.wait_until_folded(conn, "deliveries", 9)
    assert sum("left out" in line for line in running.stderr_lines) == 1, running.stderr_lines


@pytest.mark.folded
@pytest.mark.parametrize(
    "arguments",
    [
        ("verify",),
        ("rebuild", "--all"),
        *stood_for(
            "rebuild --all leaves it out in the same lines, which a dry run doesn't change",
            (("rebuild", "--all", "--dry-run"),),
        ),
    ],
)
async def test_the_others_are_processed_and_the_exit_code_is_1(
    commands: Commands, folded_variables: dict[str, str], arguments: tuple[str, ...]
) -> None:
    result = await commands.run(*arguments, **folded_variables)
    assert result.code == 1, result.transcript
    assert f"projections: deliveries is left out: {WHY}" in result.err.splitlines()
    assert [name for name in NAMES if f"{name}: " in result.out] == NAMES


@pytest.mark.parametrize("command", ["run --no-ingest", "rebuild", "verify", "explain deliveries"])
async def test_naming_a_projection_without_its_table_is_refused(
    commands: Commands, variables: dict[str, str], command: str
) -> None:
    result = await commands.run(*command.split(), "deliveries", **variables)
    assert (result.code, result.stderr_line) == (2, f"projections: deliveries: {WHY}"), result.transcript


async def test_export_and_import_need_no_projection(commands: Commands, variables: dict[str, str]) -> None:
    for arguments in (("export", "events", "log"), ("import", "events", "log")):
        result = await commands.run(*arguments, **variables)
        assert (result.code, "deliveries" in result.transcript) == (0, False), result.transcript


async def test_redecode_marks_a_projection_without_its_table_as_needing_a_rebuild(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    insert = (
        "INSERT INTO projections.checkpoints (name, version, position, state) VALUES ('deliveries', 1, 9, 'running')"
    )
    async with store.connection(database_url) as conn:
        await conn.execute(insert)
        await conn.execute(
            "SELECT eventstore.redecode(jsonb_build_array(jsonb_build_object('position', 5, 'event_type', 4,"
            " 'occurred_at', '2026-01-01T00:00:00Z')))"
        )
        result = await commands.run("redecode", **variables)
        assert (result.code, result.out) == (0, "9 events read, 1 of them changed\n"), result.transcript
        assert f"deliveries is left out: {WHY}" in result.err
        query = "SELECT redecoded_at IS NOT NULL FROM projections.checkpoints WHERE name = 'deliveries'"
        assert await store.value(conn, query) is True


@pytest.mark.folded
async def test_wait_fails_at_once_for_a_projection_without_its_table(
    commands: Commands, folded_variables: dict[str, str]
) -> None:
    result = await commands.run("wait", "--head", **folded_variables)
    assert (result.code, result.stderr_line) == (1, f"projections: deliveries can't fold: {WHY}"), result.transcript
