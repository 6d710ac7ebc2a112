"""A projection whose table is missing stops itself only; commands say so, and the others get their turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg import AsyncConnection

from projections.migrating.metadata import READ_MODELS
from tests import folding, store
from tests.acceptance.command import QUICK, Commands
from tests.fake_package import write_deliveries_package

NAMES = sorted(projection.name for projection in READ_MODELS)
WHY = "table deliveries is missing; run projections migrate"
QUICKLY = {**QUICK, "PROJECTIONS_POLL": "0.05"}


@pytest.fixture
async def variables(database_url: str, tmp_path: Path) -> dict[str, str]:
    async with store.connection(database_url) as conn:
        await folding.append(conn, *(folding.new_record() for _ in range(9)))
    return {**QUICKLY, "DATABASE_URL": database_url, "PYTHONPATH": write_deliveries_package(tmp_path)}


async def folds_everything_but_it(conn: AsyncConnection) -> None:
    for name in NAMES:
        assert await folding.position(conn, name) == 9
    await folding.assert_rows_match_oracle(conn)


async def test_run_goes_on_with_the_others_and_picks_it_up_once_it_is_migrated(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    ended = await commands.run("run", "--no-ingest", "--until-idle", "0.3", **variables)
    assert ended.code == 1, ended.said
    assert f"projections: deliveries is left out: {WHY}" in ended.err
    running = await commands.start("run", "--no-ingest", **variables)
    await running.says("left out", "deliveries", WHY)
    async with store.connection(database_url) as conn:
        await folds_everything_but_it(conn)
        assert await store.value(conn, "SELECT count(*) FROM projections.checkpoints WHERE name = 'deliveries'") == 0
        migrated = await commands.run("migrate", **variables)
        assert migrated.code == 0, migrated.said
        await folding.wait_until_folded(conn, "deliveries", 9)
    assert sum("left out" in line for line in running.lines) == 1, running.lines


@pytest.mark.parametrize("arguments", [("verify",), ("rebuild", "--all"), ("rebuild", "--all", "--dry-run")])
async def test_the_others_get_their_turn_and_the_exit_code_tells(
    commands: Commands, variables: dict[str, str], database_url: str, arguments: tuple[str, ...]
) -> None:
    await folding.fold_all(database_url)
    ended = await commands.run(*arguments, **variables)
    assert ended.code == 1, ended.said
    assert f"projections: deliveries is left out: {WHY}" in ended.err.splitlines()
    assert [name for name in NAMES if f"{name}: " in ended.out] == NAMES


@pytest.mark.parametrize("command", ["run --no-ingest", "rebuild", "verify", "explain deliveries"])
async def test_exactly_that_one_is_refused(commands: Commands, variables: dict[str, str], command: str) -> None:
    ended = await commands.run(*command.split(), "deliveries", **variables)
    assert (ended.code, ended.sentence) == (2, f"projections: deliveries: {WHY}"), ended.said


async def test_export_and_import_need_no_projection(commands: Commands, variables: dict[str, str]) -> None:
    for arguments in (("export", "events", "log"), ("import", "events", "log")):
        ended = await commands.run(*arguments, **variables)
        assert (ended.code, "deliveries" in ended.said) == (0, False), ended.said


async def test_redecode_marks_it_as_owing_a_rebuild_if_it_has_folded(
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
        ended = await commands.run("redecode", **variables)
        assert (ended.code, ended.out) == (0, "9 events read, 1 of them changed\n"), ended.said
        assert f"deliveries is left out: {WHY}" in ended.err
        query = "SELECT redecoded_at IS NOT NULL FROM projections.checkpoints WHERE name = 'deliveries'"
        assert await store.value(conn, query) is True


async def test_waiting_for_it_ends_at_once(commands: Commands, variables: dict[str, str], database_url: str) -> None:
    await folding.fold_all(database_url)
    ended = await commands.run("wait", "--head", **variables)
    assert (ended.code, ended.sentence) == (1, f"projections: deliveries can't fold: {WHY}"), ended.said
