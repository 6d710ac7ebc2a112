"""``projections rebuild`` and ``projections verify``, run as processes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from projections.migrating.metadata import READ_MODELS
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from tests import folding, oracle, rebuilding, store
from tests.acceptance.command import Commands
from tests.fake_package import write_broken_package
from tests.fix_full_matrix import stood_for
from tests.folding import append, new_record
from tests.queries import fetch_all
from tests.rebuilding import CHANGED, EXTRA, MISSING, Interrupted, Interrupting, damage, damage_all

NAMES = sorted(projection.name for projection in READ_MODELS)
QUICKLY = {"PROJECTIONS_REBUILD_WINDOW": "50", "PROJECTIONS_REBUILD_LOCK_TIMEOUT": "0.1"}
EVENTS = rebuilding.SAMPLES
"""Number of events in the log."""


@pytest.fixture
def variables(database_url: str) -> dict[str, str]:
    """The variables with which a command finds a log; the test's mark ``folded`` makes it one that is folded."""
    return {**QUICKLY, "DATABASE_URL": database_url}


@pytest.mark.folded
async def test_all_are_rebuilt_one_after_another_with_plain_output(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        for projection in READ_MODELS:
            for table in projection.tables:
                await damage(conn, table, CHANGED)
        result = await commands.run("rebuild", "--all", **variables)
        assert result.code == 0, result.transcript
        await folding.assert_rows_match_oracle(conn)
    lines = [line for line in result.out.splitlines() if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in lines] == NAMES
    for line in lines:
        assert re.fullmatch(rf"\w+: rebuilt to position {EVENTS}, ([1-9]\d* rows|1 row) differed", line), line
    assert re.search(r"^  request_recipients: 0 added, 0 removed, 5 changed, of 48$", result.out, re.MULTILINE)
    lines = [line for line in result.err.splitlines() if "%" not in line]  # progress, on a slow machine
    for name in NAMES:
        at = lines.index(f"{name}: folding {EVENTS} events")
        assert lines[at + 1 : at + 3] == [f"{name}: comparing", f"{name}: applying the difference"]
        assert re.search(
            rf"^{name}: folded in \d+\.\d s, compared in .*, held the checkpoint for", result.err, re.MULTILINE
        )
    assert result.err.replace("\n", "").isprintable(), "no control sequence of a terminal"


@pytest.mark.folded
async def test_all_are_rebuilt_side_by_side_by_slices(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    variables = {**variables, "PROJECTIONS_REBUILD_SLICE": "60"}
    side_by_side = ("--jobs", "2")
    running = "SELECT name FROM projections.rebuilds WHERE state = 'running' AND slices > 1 AND slices_folded = slices"
    async with store.connection(database_url) as conn, store.connection(database_url, "holder") as holder:
        for projection in READ_MODELS:
            await damage(conn, projection.tables[0], CHANGED)

        async def two_are_folded() -> bool:
            return len(await fetch_all(conn, running)) == 2

        async with holder.transaction():
            await holder.execute("SELECT FROM projections.checkpoints FOR UPDATE")
            command = await commands.start("rebuild", "--all", *side_by_side, **variables)
            await store.wait_until(two_are_folded, "two rebuilds, of which all slices are folded")
        result = await command.wait()
        assert result.code == 0, result.transcript
        lines = [line for line in result.out.splitlines() if not line.startswith(" ")]
        assert sorted(line.partition(":")[0] for line in lines) == NAMES
        for line in lines:
            assert re.fullmatch(rf"\w+: rebuilt to position {EVENTS}, [1-9]\d* rows? differed", line), line
        await folding.assert_rows_match_oracle(conn)
        verified = await commands.run("verify", *side_by_side, **variables)
        assert (verified.code, verified.out.count(f"equal the log at position {EVENTS}")) == (0, len(NAMES))
        recorded = "SELECT bool_and(slices > 1 AND slices_folded = slices), count(*)::int FROM projections.rebuilds"
        assert await fetch_all(conn, recorded) == [(True, len(NAMES))]


@pytest.mark.folded
async def test_verify_reports_equal_rows(commands: Commands, variables: dict[str, str]) -> None:
    result = await commands.run("verify", **variables)
    assert result.code == 0, result.transcript
    assert [line.partition(":")[0] for line in result.out.splitlines()] == NAMES
    for line in result.out.splitlines():
        assert re.fullmatch(rf"\w+: \d+ rows equal the log at position {EVENTS}", line), line


async def test_verify_reports_differing_rows_with_the_events_behind_them(commands: Commands, database_url: str) -> None:
    first, second = new_record(oracle.PENDING_CONSENT, "12300000001"), new_record(oracle.FAILED, "12300000001")
    variables = {**QUICKLY, "DATABASE_URL": database_url}
    async with store.connection(database_url) as conn:
        await append(conn, first, second)
        await folding.fold_all(database_url)
        await conn.execute("UPDATE request_recipients SET status = 'delivered'")
    result = await commands.run("verify", "consent_registry", "request_status", **variables)
    assert result.code == 1, result.transcript
    assert result.out == (
        "consent_registry: 1 row equals the log at position 2\n"
        "request_status: 1 row differs from the log at position 2\n"
        "  request_recipients: 0 missing, 0 extra, 1 changed, of 1\n"
        "  request_status: 0 missing, 0 extra, 0 changed, of 1\n"
        "  request_recipients (app=app, send_request_id=request 1, ppnum=12300000001): changed\n"
        "    status: delivered → failed\n"
        f"    event {first.event_id} RECIPIENT_PENDING_CONSENT at position 1\n"
        f"    event {second.event_id} RECIPIENT_FAILED at position 2\n"
    )
    assert result.err.splitlines()[-1] == "to repair it: projections rebuild request_status"
    assert (await commands.run("rebuild", "request_status", **variables)).code == 0
    assert (await commands.run("verify", "request_status", **variables)).code == 0


@pytest.mark.folded
async def test_verify_continues_with_the_others_when_one_cannot_be_verified(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        await conn.execute("UPDATE projections.checkpoints SET version = 0 WHERE name = 'consent_registry'")
        await conn.execute("DELETE FROM projections.checkpoints WHERE name = 'request_status'")
    result = await commands.run("verify", **variables)
    assert result.code == 1, result.transcript
    assert [line.partition(":")[0] for line in result.out.splitlines()] == ["people", "poll_tallies"]
    lines = [line for line in result.err.splitlines() if line.startswith("projections: ")]
    assert lines[0].startswith("projections: consent_registry needs a rebuild:")
    rebuild = "start projections run, or run projections rebuild request_status"
    assert lines[1] == f"projections: request_status has not run yet: {rebuild}"


@pytest.mark.folded
async def test_a_dry_run_shows_the_changes_and_makes_none(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        await damage_all(conn, PollTallies, 0.05)
        before = await rebuilding.all_rows(conn, PollTallies)
        result = await commands.run("rebuild", "poll_tallies", "--dry-run", **variables)
        assert result.code == 0, result.transcript
        assert await rebuilding.all_rows(conn, PollTallies) == before
    lines = result.out.splitlines()
    count = 3 * (3 + 3)
    assert lines[0] == f"poll_tallies: a rebuild to position {EVENTS} would change {count} rows"
    assert lines[1] == "  poll_responses: 3 added, 3 removed, 3 changed, of 48"
    assert sum(re.fullmatch(r"  poll_\w+ \(.*\): (added|removed|changed)", line) is not None for line in lines) == 10
    assert any(re.fullmatch(r"    options: \['damaged'\] → \['option \d', 'all'\]", line) for line in lines), result.out
    assert any(line.startswith("    no row → ") for line in lines)
    assert "applying" not in result.err


@pytest.mark.folded
async def test_a_rebuild_keeps_to_its_limits_until_they_are_raised(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    (table,) = ConsentRegistry.tables
    rebuild = ("rebuild", "consent_registry")
    async with store.connection(database_url) as conn:
        await damage(conn, table, EXTRA, 0.5)
        before = await rebuilding.all_rows(conn, ConsentRegistry)
        for options, words in (
            (
                [],
                "24 of 72 rows of consent_registry would be removed; look at the changes with --dry-run --resume, then",
            ),
            (["--yes", "--max-changed", "33.3%"], "24 of 72 rows of consent_registry would change, more than --max-ch"),
        ):
            result = await commands.run(*rebuild, *options, **variables)
            assert (result.code, result.out) == (1, ""), result.transcript
            assert result.err.splitlines()[-1].startswith(f"projections: consent_registry: {words}")
        assert await rebuilding.all_rows(conn, ConsentRegistry) == before
        result = await commands.run(*rebuild, "--yes", "--max-changed", "33.4 %", **variables)
        assert result.code == 0, result.transcript
        await folding.assert_rows_match_oracle(conn)
        assert [run.state for run in await rebuilding.recorded_runs(conn, "consent_registry")] == ["refused"] * 2 + [
            "done"
        ]


@pytest.mark.folded
async def test_the_others_are_rebuilt_when_one_rebuild_is_refused(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        await damage(conn, ConsentRegistry.tables[0], EXTRA, 0.5)
        await damage_all(conn, PollTallies, 0.05)
        result = await commands.run("rebuild", "--all", **variables)
        assert result.code == 1, result.transcript
        assert [name for name in NAMES if f"{name}: rebuilt" in result.out] == [
            "people",
            "poll_tallies",
            "request_status",
        ]
        lines = [line for line in result.err.splitlines() if line.startswith("projections: ")]
        assert len(lines) == 1
        assert lines[0].startswith("projections: consent_registry: 24 of 72 rows")
        assert (await commands.run("rebuild", "consent_registry", "--yes", **variables)).code == 0
        await folding.assert_rows_match_oracle(conn)


@pytest.mark.folded
async def test_the_others_are_processed_when_one_fails_in_postgres(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        await conn.execute("ALTER TABLE consent_registry RENAME COLUMN delivery_at TO another")
    for arguments in (("verify",), ("rebuild", "--all")):
        result = await commands.run(*arguments, **variables)
        assert result.code == 1, result.transcript
        lines = [line for line in result.err.splitlines() if line.startswith("projections: ")]
        assert len(lines) == 1, result.transcript
        assert re.fullmatch(r"projections: consent_registry: .*delivery_at.* \(SQLSTATE 42703\)", lines[0])
        names = [line.partition(":")[0] for line in result.out.splitlines() if not line.startswith(" ")]
        assert names == ["people", "poll_tallies", "request_status"], result.transcript


@pytest.mark.folded
@pytest.mark.parametrize("command", [("verify",), ("rebuild", "--all")])
async def test_no_other_is_processed_after_the_connection_is_lost(
    commands: Commands, variables: dict[str, str], database_url: str, command: tuple[str, ...]
) -> None:
    variables = {**variables, "PROJECTIONS_REBUILD_LOCK_TIMEOUT": "600"}
    async with store.connection(database_url) as conn, store.connection(database_url, "holder") as holder:

        async def terminate_waiting_session() -> bool:
            query = (
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database() AND application_name LIKE 'projections %%'"
            )
            return bool(await store.value(conn, query))

        async with holder.transaction():
            await holder.execute("LOCK TABLE eventstore.events IN ACCESS EXCLUSIVE MODE")
            running = await commands.start(*command, **variables)
            await store.wait_until(terminate_waiting_session, "a session to end")
            result = await running.wait()
    assert (result.code, result.out) == (1, ""), result.transcript
    assert result.err.splitlines()[-1].startswith("projections: terminating connection due to administrator command")
    assert "poll_tallies" not in result.err


@pytest.mark.folded
@pytest.mark.parametrize(
    ("arguments", "beginning"),
    [
        (("verify",), "{}: "),
        (("rebuild", "--all"), "{}: rebuilt"),
        *stood_for(
            "rebuild --all takes the same loop, and a dry run changes nothing of it; its output has a test of its own",
            (("rebuild", "--all", "--dry-run"), "{}: a rebuild to"),
        ),
        (("rebuild", "--all", "--as-of", "2999-01-01T00:00:00Z", "--into", "then"), "then.{}: "),
    ],
)
async def test_a_projection_that_cannot_be_loaded_is_reported_and_the_others_are_processed(
    commands: Commands, variables: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], beginning: str
) -> None:
    result = await commands.run(*arguments, **variables, PYTHONPATH=write_broken_package(tmp_path))
    assert result.code == 1, result.transcript
    first = result.err.splitlines()[0]
    assert first.startswith("projections: theirs is left out: projection 'theirs' can't be loaded from absent:Theirs")
    lines = [line for line in result.out.splitlines() if not line.startswith(" ")]
    assert [name for name in NAMES if any(line.startswith(beginning.format(name)) for line in lines)] == NAMES


@pytest.mark.folded
async def test_named_projections_are_processed_although_another_cannot_be_loaded(
    commands: Commands, variables: dict[str, str], tmp_path: Path
) -> None:
    found = {"PYTHONPATH": write_broken_package(tmp_path)}
    for arguments in (("verify", "poll_tallies"), ("rebuild", "poll_tallies")):
        result = await commands.run(*arguments, **variables, **found)
        assert (result.code, "theirs" in result.transcript) == (0, False), result.transcript
        result = await commands.run(*arguments, "theirs", **variables, **found)
        assert (result.code, "can't be loaded from absent:Theirs" in result.stderr_line) == (2, True), result.transcript


@pytest.mark.folded
async def test_a_killed_rebuild_changed_nothing_and_can_be_resumed(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn, store.connection(database_url, "holder") as holder:
        await damage(conn, RequestStatus.tables[0], MISSING)
        before = await rebuilding.all_rows(conn, RequestStatus)
        async with holder.transaction():
            await holder.execute("SELECT FROM projections.checkpoints FOR UPDATE")
            running = await commands.start("rebuild", "request_status", **variables)
            await running.wait_for_stderr(
                "request_status: another session has locked the checkpoint or a row; trying again"
            )
            for second in (("rebuild", "request_status"), ("verify", "request_status")):
                result = await commands.run(*second, **variables)
                assert result.code == 1
                assert re.fullmatch(
                    r"projections: projection request_status: held by projections rebuild request_status"
                    rf" .*:{running.pid}; try again later",
                    result.stderr_line,
                )
            assert (await running.kill()).code == -9
        assert await rebuilding.all_rows(conn, RequestStatus) == before
        result = await commands.run("rebuild", "request_status", "--resume", **variables)
        assert result.code == 0, result.transcript
        assert result.err.splitlines()[0] == f"request_status: resuming at position {EVENTS}"
        await folding.assert_rows_match_oracle(conn)
        assert [run.state for run in await rebuilding.recorded_runs(conn, "request_status")] == ["abandoned", "done"]


@pytest.mark.folded
async def test_resume_without_an_interrupted_rebuild_starts_over(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    with pytest.raises(Interrupted):
        await rebuilding.rebuild(database_url, PollTallies(), progress=Interrupting(50), window=50)
    result = await commands.run("rebuild", "poll_tallies", "--resume", **variables)
    assert (result.code, result.err.splitlines()[0]) == (0, "poll_tallies: resuming at position 50"), result.transcript
    result = await commands.run("rebuild", "poll_tallies", "--resume", **variables)
    first = result.err.splitlines()[0]
    assert (result.code, first) == (0, "poll_tallies: no interrupted rebuild found; starting over"), result.transcript


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rebuild"], "give projection names, or --all"),
        (["rebuild", "poll_tallies", "--all"], "give projection names or --all, not both"),
        (
            ["rebuild", "nonsense"],
            "unknown projection 'nonsense'; known projections: consent_registry, people, poll_tallies, ",
        ),
        (["verify", "nonsense"], "unknown projection 'nonsense'"),
        (
            ["rebuild", "--all", "--max-changed", "0.1"],
            "--max-changed '0.1' is not a share of the rows: give one such as",
        ),
        (["rebuild", "--all", "--max-changed", "101%"], "--max-changed '101%' is not a share of the rows"),
        (
            ["rebuild", "--all", "--dry-run", "--max-changed", "1%"],
            "--dry-run changes nothing: leave out --max-changed",
        ),
        (["rebuild", "--all", "--as-of", "2026-01-01T00:00:00Z"], "must be given together"),
        (["rebuild", "--all", "--into", "then"], "must be given together"),
        (["rebuild", "--all", "--force"], "must be given together"),
        (["rebuild", "--all", "--as-of", "x", "--into", "y", "--yes"], "--as-of changes no read model"),
    ],
)
async def test_a_usage_error_is_reported_in_one_sentence(
    commands: Commands, database_url: str, arguments: list[str], words: str
) -> None:
    result = await commands.run(*arguments, DATABASE_URL=database_url)
    assert result.code == 2, result.transcript
    assert words in result.stderr_line


async def test_an_invalid_setting_is_reported(commands: Commands, database_url: str) -> None:
    for name, value in (("WINDOW", "0"), ("WORK_MEM", "much"), ("WORK_MEM", "9999GB"), ("LOCK_TIMEOUT", "-1")):
        variables = {f"PROJECTIONS_REBUILD_{name}": value, "DATABASE_URL": database_url}
        result = await commands.run("rebuild", "--all", **variables)
        assert result.code == 2, result.transcript
        assert f"PROJECTIONS_REBUILD_{name} must be " in result.stderr_line


async def test_an_unavailable_database_is_reported_in_one_sentence(commands: Commands) -> None:
    for arguments in (("rebuild", "--all"), ("verify",)):
        url = "postgresql://u:pass-word@127.0.0.1:1/d"
        result = await commands.run(*arguments, "--wait-for-database", "0", DATABASE_URL=url)
        assert result.code == 1
        assert "Connection refused" in result.stderr_line
        assert "pass-word" not in result.transcript
