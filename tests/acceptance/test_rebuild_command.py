"""``projections rebuild`` and ``projections verify``, run as people run them."""

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
from tests.folding import append, new_record
from tests.rebuilding import CHANGED, EXTRA, MISSING, Interrupted, Interrupting, damage, damage_all, sample_records

NAMES = sorted(projection.name for projection in READ_MODELS)
QUICKLY = {"PROJECTIONS_REBUILD_WINDOW": "50", "PROJECTIONS_REBUILD_LOCK_TIMEOUT": "0.1"}
FULL = 248
"""Events in the log."""


@pytest.fixture
async def variables(database_url: str) -> dict[str, str]:
    """A log, folded; and what the command needs to find it."""
    async with store.connection(database_url) as conn:
        assert (await append(conn, *sample_records())).stored == FULL
    await folding.fold_all(database_url)
    return {**QUICKLY, "DATABASE_URL": database_url}


async def test_all_are_rebuilt_one_after_another_with_plain_lines(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        for projection in READ_MODELS:
            for table in projection.tables:
                await damage(conn, table, CHANGED)
        ended = await commands.run("rebuild", "--all", **variables)
        assert ended.code == 0, ended.said
        await folding.assert_rows_match_oracle(conn)
    lines = [line for line in ended.out.splitlines() if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in lines] == NAMES
    for line in lines:
        assert re.fullmatch(rf"\w+: rebuilt to position {FULL}, ([1-9]\d* rows|1 row) differed", line), line
    assert re.search(r"^  request_recipients: 0 added, 0 removed, 5 changed, of 48$", ended.out, re.MULTILINE)
    said = [line for line in ended.err.splitlines() if "%" not in line]  # how far it is, on a slow machine
    for name in NAMES:
        at = said.index(f"{name}: folding {FULL} events")
        assert said[at + 1 : at + 3] == [f"{name}: comparing", f"{name}: applying the difference"]
        assert re.search(
            rf"^{name}: folded in \d+\.\d s, compared in .*, held the checkpoint for", ended.err, re.MULTILINE
        )
    assert ended.err.replace("\n", "").isprintable(), "nothing that only a terminal takes"


async def test_verify_says_that_all_is_well(commands: Commands, variables: dict[str, str]) -> None:
    ended = await commands.run("verify", **variables)
    assert ended.code == 0, ended.said
    assert [line.partition(":")[0] for line in ended.out.splitlines()] == NAMES
    for line in ended.out.splitlines():
        assert re.fullmatch(rf"\w+: \d+ rows equal the log at position {FULL}", line), line


async def test_verify_names_what_differs_with_the_events_behind_it(commands: Commands, database_url: str) -> None:
    first, second = new_record(oracle.PENDING_CONSENT, "12300000001"), new_record(oracle.FAILED, "12300000001")
    variables = {**QUICKLY, "DATABASE_URL": database_url}
    async with store.connection(database_url) as conn:
        await append(conn, first, second)
        await folding.fold_all(database_url)
        await conn.execute("UPDATE request_recipients SET status = 'delivered'")
    ended = await commands.run("verify", "consent_registry", "request_status", **variables)
    assert ended.code == 1, ended.said
    assert ended.out == (
        "consent_registry: 1 row equals the log at position 2\n"
        "request_status: 1 row differs from the log at position 2\n"
        "  request_recipients: 0 missing, 0 extra, 1 changed, of 1\n"
        "  request_status: 0 missing, 0 extra, 0 changed, of 1\n"
        "  request_recipients (app=app, send_request_id=request 1, ppnum=12300000001): changed\n"
        "    status: delivered → failed\n"
        f"    event {first.event_id} RECIPIENT_PENDING_CONSENT at position 1\n"
        f"    event {second.event_id} RECIPIENT_FAILED at position 2\n"
    )
    assert ended.err.splitlines()[-1] == "to repair it: projections rebuild request_status"
    assert (await commands.run("rebuild", "request_status", **variables)).code == 0
    assert (await commands.run("verify", "request_status", **variables)).code == 0


async def test_verify_looks_at_the_others_when_one_can_not_be_verified(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        await conn.execute("UPDATE projections.checkpoints SET version = 0 WHERE name = 'consent_registry'")
        await conn.execute("DELETE FROM projections.checkpoints WHERE name = 'request_status'")
    ended = await commands.run("verify", **variables)
    assert ended.code == 1, ended.said
    assert ended.out.startswith("poll_tallies: ")
    assert len(ended.out.splitlines()) == 1
    said = [line for line in ended.err.splitlines() if line.startswith("projections: ")]
    assert said[0].startswith("projections: consent_registry needs a rebuild:")
    rebuild = "start projections run, or run projections rebuild request_status"
    assert said[1] == f"projections: request_status has not run yet: {rebuild}"


async def test_a_dry_run_shows_and_changes_nothing(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        await damage_all(conn, PollTallies, 0.05)
        before = await rebuilding.all_rows(conn, PollTallies)
        ended = await commands.run("rebuild", "poll_tallies", "--dry-run", **variables)
        assert ended.code == 0, ended.said
        assert await rebuilding.all_rows(conn, PollTallies) == before
    lines = ended.out.splitlines()
    count = 3 * (3 + 3)
    assert lines[0] == f"poll_tallies: a rebuild to position {FULL} would change {count} rows"
    assert lines[1] == "  poll_responses: 3 added, 3 removed, 3 changed, of 48"
    assert sum(re.fullmatch(r"  poll_\w+ \(.*\): (added|removed|changed)", line) is not None for line in lines) == 10
    assert any(re.fullmatch(r"    options: \['damaged'\] → \['option \d', 'all'\]", line) for line in lines), ended.out
    assert any(line.startswith("    no row → ") for line in lines)
    assert "applying" not in ended.err


async def test_limits_are_kept_until_they_are_lifted(
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
            ended = await commands.run(*rebuild, *options, **variables)
            assert (ended.code, ended.out) == (1, ""), ended.said
            assert ended.err.splitlines()[-1].startswith(f"projections: consent_registry: {words}")
        assert await rebuilding.all_rows(conn, ConsentRegistry) == before
        ended = await commands.run(*rebuild, "--yes", "--max-changed", "33.4 %", **variables)
        assert ended.code == 0, ended.said
        await folding.assert_rows_match_oracle(conn)
        assert [run.state for run in await rebuilding.recorded_runs(conn, "consent_registry")] == ["refused"] * 2 + [
            "done"
        ]


async def test_one_that_is_refused_does_not_keep_the_others_from_being_rebuilt(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        await damage(conn, ConsentRegistry.tables[0], EXTRA, 0.5)
        await damage_all(conn, PollTallies, 0.05)
        ended = await commands.run("rebuild", "--all", **variables)
        assert ended.code == 1, ended.said
        assert [name for name in NAMES if f"{name}: rebuilt" in ended.out] == ["poll_tallies", "request_status"]
        said = [line for line in ended.err.splitlines() if line.startswith("projections: ")]
        assert len(said) == 1
        assert said[0].startswith("projections: consent_registry: 24 of 72 rows")
        assert (await commands.run("rebuild", "consent_registry", "--yes", **variables)).code == 0
        await folding.assert_rows_match_oracle(conn)


async def test_one_that_postgres_refuses_does_not_keep_the_others_from_it(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        await conn.execute("ALTER TABLE consent_registry RENAME COLUMN delivery_at TO another")
    for arguments in (("verify",), ("rebuild", "--all")):
        ended = await commands.run(*arguments, **variables)
        assert ended.code == 1, ended.said
        said = [line for line in ended.err.splitlines() if line.startswith("projections: ")]
        assert len(said) == 1, ended.said
        assert re.fullmatch(r"projections: consent_registry: .*delivery_at.* \(SQLSTATE 42703\)", said[0])
        names = [line.partition(":")[0] for line in ended.out.splitlines() if not line.startswith(" ")]
        assert names == ["poll_tallies", "request_status"], ended.said


@pytest.mark.parametrize("command", [("verify",), ("rebuild", "--all")])
async def test_when_the_connection_is_gone_no_other_gets_its_turn(
    commands: Commands, variables: dict[str, str], database_url: str, command: tuple[str, ...]
) -> None:
    variables = {**variables, "PROJECTIONS_REBUILD_LOCK_TIMEOUT": "600"}
    async with store.connection(database_url) as conn, store.connection(database_url, "holder") as holder:

        async def ended_by_the_server() -> bool:
            query = (
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database() AND application_name LIKE 'projections %%'"
            )
            return bool(await store.value(conn, query))

        async with holder.transaction():
            await holder.execute("LOCK TABLE eventstore.events IN ACCESS EXCLUSIVE MODE")
            running = await commands.start(*command, **variables)
            await store.wait_until(ended_by_the_server, "a session to end")
            ended = await running.ended()
    assert (ended.code, ended.out) == (1, ""), ended.said
    assert ended.err.splitlines()[-1].startswith("projections: terminating connection due to administrator command")
    assert "poll_tallies" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (("verify",), "{}: "),
        (("rebuild", "--all"), "{}: rebuilt"),
        (("rebuild", "--all", "--dry-run"), "{}: a rebuild to"),
        (("rebuild", "--all", "--as-of", "2999-01-01T00:00:00Z", "--into", "then"), "then.{}: "),
    ],
)
async def test_one_that_can_not_be_loaded_is_said_and_the_others_get_their_turn(
    commands: Commands, variables: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], begins: str
) -> None:
    ended = await commands.run(*arguments, **variables, PYTHONPATH=write_broken_package(tmp_path))
    assert ended.code == 1, ended.said
    first = ended.err.splitlines()[0]
    assert first.startswith("projections: theirs is left out: projection 'theirs' can't be loaded from absent:Theirs")
    said = [line for line in ended.out.splitlines() if not line.startswith(" ")]
    assert [name for name in NAMES if any(line.startswith(begins.format(name)) for line in said)] == NAMES


async def test_those_that_are_named_are_not_held_up_by_one_that_can_not_be_loaded(
    commands: Commands, variables: dict[str, str], tmp_path: Path
) -> None:
    found = {"PYTHONPATH": write_broken_package(tmp_path)}
    for arguments in (("verify", "poll_tallies"), ("rebuild", "poll_tallies")):
        ended = await commands.run(*arguments, **variables, **found)
        assert (ended.code, "theirs" in ended.said) == (0, False), ended.said
        ended = await commands.run(*arguments, "theirs", **variables, **found)
        assert (ended.code, "can't be loaded from absent:Theirs" in ended.sentence) == (2, True), ended.said


async def test_a_killed_one_changed_nothing_and_is_gone_on_with(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    async with store.connection(database_url) as conn, store.connection(database_url, "holder") as holder:
        await damage(conn, RequestStatus.tables[0], MISSING)
        before = await rebuilding.all_rows(conn, RequestStatus)
        async with holder.transaction():
            await holder.execute("SELECT FROM projections.checkpoints FOR UPDATE")
            running = await commands.start("rebuild", "request_status", **variables)
            await running.says("request_status: another session has locked the checkpoint or a row; trying again")
            for second in (("rebuild", "request_status"), ("verify", "request_status")):
                ended = await commands.run(*second, **variables)
                assert ended.code == 1
                assert re.fullmatch(
                    r"projections: projection request_status: held by projections rebuild request_status"
                    rf" .*:{running.pid}; try again later",
                    ended.sentence,
                )
            assert (await running.kill()).code == -9
        assert await rebuilding.all_rows(conn, RequestStatus) == before
        ended = await commands.run("rebuild", "request_status", "--resume", **variables)
        assert ended.code == 0, ended.said
        assert ended.err.splitlines()[0] == f"request_status: resuming at position {FULL}"
        await folding.assert_rows_match_oracle(conn)
        assert [run.state for run in await rebuilding.recorded_runs(conn, "request_status")] == ["abandoned", "done"]


async def test_there_may_be_nothing_to_go_on_with(
    commands: Commands, variables: dict[str, str], database_url: str
) -> None:
    with pytest.raises(Interrupted):
        await rebuilding.rebuild(database_url, PollTallies(), progress=Interrupting(50), window=50)
    ended = await commands.run("rebuild", "poll_tallies", "--resume", **variables)
    assert (ended.code, ended.err.splitlines()[0]) == (0, "poll_tallies: resuming at position 50"), ended.said
    ended = await commands.run("rebuild", "poll_tallies", "--resume", **variables)
    first = ended.err.splitlines()[0]
    assert (ended.code, first) == (0, "poll_tallies: no interrupted rebuild found; starting over"), ended.said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rebuild"], "give projection names, or --all"),
        (["rebuild", "poll_tallies", "--all"], "give projection names or --all, not both"),
        (["rebuild", "nonsense"], "unknown projection 'nonsense'; known projections: consent_registry, poll_tallies, "),
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
async def test_what_is_asked_wrongly_is_said_in_a_sentence(
    commands: Commands, database_url: str, arguments: list[str], words: str
) -> None:
    ended = await commands.run(*arguments, DATABASE_URL=database_url)
    assert ended.code == 2, ended.said
    assert words in ended.sentence


async def test_a_setting_that_can_not_be_is_said(commands: Commands, database_url: str) -> None:
    for name, value in (("WINDOW", "0"), ("WORK_MEM", "much"), ("WORK_MEM", "9999GB"), ("LOCK_TIMEOUT", "-1")):
        variables = {f"PROJECTIONS_REBUILD_{name}": value, "DATABASE_URL": database_url}
        ended = await commands.run("rebuild", "--all", **variables)
        assert ended.code == 2, ended.said
        assert f"PROJECTIONS_REBUILD_{name} must be " in ended.sentence


async def test_a_database_that_is_away_is_a_sentence(commands: Commands) -> None:
    for arguments in (("rebuild", "--all"), ("verify",)):
        url = "postgresql://u:pass-word@127.0.0.1:1/d"
        ended = await commands.run(*arguments, "--wait-for-database", "0", DATABASE_URL=url)
        assert ended.code == 1
        assert "Connection refused" in ended.sentence
        assert "pass-word" not in ended.said
