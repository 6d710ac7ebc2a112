"""``projections run``, run as a process: until idle, for some projections only, and until a signal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from projections.migrating.metadata import READ_MODELS
from projections.sandbox.simulator import World, build_log
from tests import folding, store
from tests.acceptance.command import COMMAND, PATIENT, QUICK, Commands
from tests.fake_package import write_broken_package, write_package
from tests.fix_simulator import LOG, TOKEN, SimulatorFactory, entries_of
from tests.store import CHAT

UNTIL_IDLE = ("--until-idle", "1")
FOLD = ("run", "--no-ingest", "--until-idle", "0.3")
ANOTHER_LOG = build_log(World(seed=2, recipients=60).events(), ends=datetime.now(UTC))
NAMES = sorted(projection.name for projection in READ_MODELS)
QUICKLY = {
    **QUICK,
    **PATIENT,
    "PROJECTIONS_POLL": "0.05",
    "PROJECTIONS_RETRY_FIRST": "0.05",
    "PROJECTIONS_RETRY_CAP": "0.1",
}

POISON = """
from sqlalchemy import Column, MetaData, Table, Text, case, insert, select

from projections import Projection

table = Table(
    "deliveries",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True, comment="Whose it is."),
    Column("event_id", Text, primary_key=True, comment="The event."),
    comment="Deliveries, but to one number.",
)


class Deliveries(Projection):
    name, version, handles, tables, partition_by = "deliveries", 1, frozenset({1}), (table,), ("app",)

    def fold(self, window):
        e = window.events
        event_id = case((1 / (1 - case((e.c.ppnum == "12300000666", 1), else_=0)) > 0, e.c.event_id))
        return [insert(table).from_select(["app", "event_id"], select(e.c.app, event_id))]
"""


def install_poison(folder: Path) -> str:
    """Install a projection that divides by zero for one person; returns the value of PYTHONPATH."""
    return write_package(folder, {"poison": POISON}, {"deliveries": "poison:Deliveries"})


async def test_both_contracts_are_followed_and_folded_until_idle(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory
) -> None:
    address = (await simulator_factory(LOG)).address
    other = (await simulator_factory(ANOTHER_LOG)).address
    (commands.folder / "projections.toml").write_text(f"""
        [apps.shop]
        address = "{address}"
        token = "{TOKEN}"

        [apps.clinic]
        address = "{other}"
        token = "{TOKEN}"
        contract = "pcs.external.v1"
        since = "5d"
    """)
    result = await commands.run("run", *UNTIL_IDLE, **QUICKLY, DATABASE_URL=database_url)
    assert (result.code, result.out) == (0, ""), result.transcript
    async with store.connection(database_url) as conn:
        stored = len(await store.positions(conn))
        assert result.err.splitlines()[-1] == f"{stored:,} new events, 0 duplicates, 0 quarantined"
        assert len(entries_of(CHAT)) < stored
        await folding.assert_rows_match_oracle(conn)
        assert {await folding.position(conn, name) for name in NAMES} == {stored}
        for projection in READ_MODELS:
            for table in projection.tables:
                assert await folding.count_rows(conn, table.name) > 0, table.name


async def test_with_no_ingest_only_the_named_projections_are_folded(commands: Commands, database_url: str) -> None:
    async with store.connection(database_url) as conn:
        await folding.append(conn, *(folding.new_record() for _ in range(9)))
        result = await commands.run(*FOLD, "--batch-size", "2", NAMES[0], **QUICKLY, DATABASE_URL=database_url)
        assert (result.code, result.out) == (0, ""), result.transcript
        first, last = result.err.splitlines()
        assert f"folding behind=9 position=0 projection={NAMES[0]}" in " ".join(first.split()), (
            "the log line names the start position"
        )
        assert f"caught up behind=0 position=9 projection={NAMES[0]}" in " ".join(last.split())
        assert (await folding.checkpoint_row(conn, NAMES[0]))[1:7] == (9, "running", None, 0, 5, 9)
        assert await store.value(conn, "SELECT count(*) FROM projections.checkpoints") == 1
        again = await commands.run(*FOLD, **QUICKLY, DATABASE_URL=database_url)
        assert again.code == 0, again.transcript
        await folding.assert_rows_match_oracle(conn)


async def test_a_projection_that_cannot_fold_is_named_and_the_exit_code_is_1(
    commands: Commands, database_url: str
) -> None:
    async with store.connection(database_url) as conn:
        await folding.fold_all(database_url)
        await conn.execute("UPDATE projections.checkpoints SET state = 'paused' WHERE name = 'poll_tallies'")
        await conn.execute("UPDATE projections.checkpoints SET version = 0 WHERE name = 'request_status'")
        await folding.append(conn, *(folding.new_record() for _ in range(9)))
        result = await commands.run(*FOLD, **QUICKLY, DATABASE_URL=database_url)
        assert (result.code, result.out) == (1, ""), result.transcript
        lines = result.err.splitlines()
        assert "projections: poll_tallies is paused" in lines
        waiting = [line for line in lines if line.startswith("projections: request_status is waiting")]
        assert len(waiting) == 1
        assert "projections rebuild request_status" in waiting[0]
        assert sum("[error" in line for line in lines) == 1, "it is also logged once, during the run"
        assert (await folding.checkpoint_row(conn, "consent_registry"))[1:3] == (9, "running")
        assert (await folding.checkpoint_row(conn, "request_status"))[:3] == (0, 0, "waiting")
        assert (await folding.checkpoint_row(conn, "poll_tallies"))[1:3] == (0, "paused")


@pytest.mark.oldest
async def test_a_projection_that_fails_stops_alone_and_reports_why(
    commands: Commands, database_url: str, tmp_path: Path
) -> None:
    variables = {**QUICKLY, "DATABASE_URL": database_url, "PYTHONPATH": install_poison(tmp_path)}
    assert (await commands.run("migrate", **variables)).code == 0
    records = [folding.new_record() for _ in range(6)]
    records[3] = poison = folding.new_record(ppnum="12300000666")
    async with store.connection(database_url) as conn:
        await folding.append(conn, *records)
        running = await commands.start("run", "--no-ingest", **variables)
        line = await running.wait_for_stderr("stopped", "projection=deliveries")
        assert f"event {poison.event_id} at position 4: division by zero (SQLSTATE 22012)" in line
        assert await folding.count_rows(conn, "deliveries") == 3
        await folding.append(conn, folding.new_record())
        for name in NAMES:
            await folding.wait_until_folded(conn, name, 7)
        status = json.loads((await commands.run("status", "--json", **variables)).out)
        states = {one["name"]: one["state"] for one in status["projections"]}
        assert states == {"deliveries": "failed"} | dict.fromkeys(NAMES, "running")
        why = ("--why", "nobody can divide by zero")
        skipped = await commands.run("skip", "deliveries", "--event-id", poison.event_id, *why, **variables)
        assert (skipped.code, skipped.stderr_line) == (
            0,
            f"deliveries skips event {poison.event_id} (position 4)",
        )
        await folding.wait_until_folded(conn, "deliveries", 7)
        assert await folding.count_rows(conn, "deliveries") == 6
        running.send(signal.SIGTERM)
        result = await running.wait()
        assert (result.code, result.out) == (0, ""), result.transcript
        assert len([line for line in result.err.splitlines() if "stopped" in line]) == 1, result.transcript
        assert "12300000666" not in result.transcript
        await folding.assert_rows_match_oracle(conn)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_time_with_exit_code_0(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory, number: signal.Signals
) -> None:
    simulator = await simulator_factory(LOG)
    environment = {"DATABASE_URL": database_url, "PCS_EXTERNAL_API_URL": simulator.address, "PROJECTIONS_TOKEN": TOKEN}
    running = await commands.start("run", "--batch-size", "1", **QUICKLY, **environment)
    async with store.connection(database_url) as conn:
        await folding.wait_until_folded(conn, NAMES[0], 20)
        running.send(number)
        result = await running.wait()
        assert (result.code, result.out) == (0, ""), result.transcript
        assert "Traceback" not in result.err
        result = await commands.run("run", *UNTIL_IDLE, **QUICKLY, **environment)
        assert result.code == 0, result.transcript
        await folding.assert_rows_match_oracle(conn)
        assert await folding.position(conn, NAMES[0]) == len(entries_of(CHAT))


async def test_a_projection_that_cannot_be_loaded_does_not_affect_others(
    commands: Commands, database_url: str, tmp_path: Path
) -> None:
    variables = {**QUICKLY, "DATABASE_URL": database_url, "PYTHONPATH": write_broken_package(tmp_path)}
    async with store.connection(database_url) as conn:
        await folding.append(conn, *(folding.new_record() for _ in range(9)))
        result = await commands.run(*FOLD, **variables)
        assert result.code == 1, result.transcript
        assert "projections: theirs is left out: projection 'theirs' can't be loaded from absent:Theirs" in result.err
        await folding.assert_rows_match_oracle(conn)
    assert (await commands.run("pause", "poll_tallies", **variables)).code == 0
    status = await commands.run("status", **variables)
    assert status.code == 0, status.transcript
    assert "theirs: projection 'theirs' can't be loaded" in status.out
    listed = await commands.run("list", **variables)
    assert (listed.code, len(listed.err.splitlines())) == (2, 1), listed.transcript
    named = await commands.run(*FOLD, "theirs", **variables)
    assert named.code == 2, named.transcript
    assert "can't be loaded" in named.stderr_line


async def test_the_live_view_shows_the_final_state(commands: Commands, database_url: str) -> None:
    async with store.connection(database_url) as conn:
        await folding.append(conn, *(folding.new_record() for _ in range(9)))
    shown = await run_on_a_terminal(commands, *FOLD, "request_status", **QUICKLY, DATABASE_URL=database_url)
    last = shown[shown.rindex("projections (head 9)") :]
    rows = {line.split("│")[1].strip(): line for line in last.splitlines() if line.count("│") > 4}
    assert [cell.strip() for cell in rows["request_status"].split("│")[2:5]] == ["running", "9", "0"]
    assert "not installed here" not in shown
    assert "projections doctor" not in shown
    async with store.connection(database_url) as conn:
        await conn.execute("UPDATE projections.checkpoints SET redecoded_at = clock_timestamp()")
    shown = await run_on_a_terminal(commands, *FOLD, "request_status", **QUICKLY, DATABASE_URL=database_url)
    assert "projections doctor says what mends it" in shown[shown.rindex("projections (head 9)") :]


async def run_on_a_terminal(commands: Commands, *arguments: str, **variables: str) -> str:
    """Run the command with a terminal as its stderr; returns the terminal's content."""
    controller, terminal = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "HOME": str(commands.folder), "TERM": "xterm", "COLUMNS": "120"}
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        env=environment | variables,
        cwd=commands.folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    shown = await asyncio.to_thread(read_terminal, controller)
    assert await process.wait() == 0, shown
    return shown


def read_terminal(controller: int) -> str:
    """Read until no process has the terminal open."""
    pieces = []
    with suppress(OSError), os.fdopen(controller, "rb", buffering=0) as file:
        while piece := file.read(65_536):
            pieces.append(piece)
    return b"".join(pieces).decode()
