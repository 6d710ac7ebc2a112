"""With ``--log-format json``, and in a pipe where a command runs for long, every line on stderr is one JSON object,
whoever writes it; data stay on stdout. There is a line for each change of state, and none for an event or a window."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from projections.read_models.consent_registry import ConsentRegistry
from tests import folding, oracle
from tests.acceptance.command import QUICK, CommandResult, Commands
from tests.fake_package import write_broken_package
from tests.fix_simulator import TOKEN, SimulatorFactory
from tests.folding import append, new_record
from tests.following import log_of
from tests.scripted import scripted_server, stays_open
from tests.store import CHAT

PPNUM = "12300000003"
TROUBLE = """
import os, sys, threading, warnings
if "TROUBLE" in os.environ:
    class Unraisable:
        def __del__(self):
            raise ValueError("+47 412 34 567 in __del__")
    def trouble(event, args, done=[]):
        if event == "import" and args[0] == "projections.rebuilding.verify" and not done:
            done.append(1)
            warnings.warn("a warning of a library")
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start(); thread.join()
            Unraisable()
    sys.addaudithook(trouble)
"""


def log_objects(result: CommandResult) -> list[dict[str, str]]:
    """The JSON objects on stderr."""
    found = [json.loads(line) for line in result.err.splitlines()]
    assert all({"event", "level", "timestamp"} <= {*line} for line in found), result.transcript
    return found


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, None),
        (("follow",), 2, "No such command"),
        (("ingest", "--quiet"), 2, "No such option"),
        (("ingest",), 2, "no upstream is configured"),
        (("-v", "wait"), 2, "--event-id"),
        (("pause", "nobody"), 2, "nobody"),
        (("rebuild",), 2, "--all"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_usage_errors_are_json(
    commands: Commands, database_url: str, arguments: tuple[str, ...], code: int, words: str | None
) -> None:
    result = await commands.run(*arguments, DATABASE_URL=database_url, PROJECTIONS_LOG_FORMAT="json")
    assert result.code == code, result.transcript
    found = log_objects(result)
    assert words is None or words in found[0]["event"], result.transcript
    assert "-v" not in arguments or "Traceback" in found[0]["exception"]


async def test_progress_warnings_and_errors_of_threads_are_json(
    commands: Commands, database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    await append(conn, new_record(oracle.GRANTED, PPNUM))
    await folding.fold_all(database_url, [ConsentRegistry])
    await conn.execute("UPDATE consent_registry SET consent_status = 'denied'")
    (tmp_path / "sitecustomize.py").write_text(TROUBLE)
    path = f"{tmp_path}:{write_broken_package(tmp_path)}"
    variables = {"DATABASE_URL": database_url, "PYTHONPATH": path, "PROJECTIONS_LOG_FORMAT": "json", "TROUBLE": "1"}
    result = await commands.run("verify", **variables)
    assert result.code == 1
    assert "consent_registry: 1 row differs" in result.out
    log = "\n".join(f"{line['event']} {line.get('exception', '')}" for line in log_objects(result))
    for words in ("left out", "folding 1 event", "comparing", "to repair it", "a warning of a library"):
        assert words in log, words
    for words in ("ZeroDivisionError", "in __del__"):
        assert words in log, words
    assert "412 34" not in log


async def test_the_log_of_a_run_is_json(commands: Commands, database_url: str) -> None:
    async with scripted_server(stays_open()) as upstream:
        result = await commands.run(
            *("--log-format=json", "run", "--until-idle", "0.2"),
            **QUICK,
            DATABASE_URL=database_url,
            PCS_EXTERNAL_API_URL=upstream.address,
            PROJECTIONS_TOKEN="token-of-mine",
        )
    assert result.code == 0, result.transcript
    assert log_objects(result)[-1]["event"] == "0 new events, 0 duplicates, 0 quarantined"


async def test_a_run_over_thousands_of_events_logs_its_changes_of_state(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(2_000, CHAT))
    result = await commands.run(
        *("run", "--until-idle", "1", "--batch-size", "50"),
        **QUICK,
        PROJECTIONS_LOG_FORMAT="auto",
        DATABASE_URL=database_url,
        PCS_EXTERNAL_API_URL=simulator.address,
        PROJECTIONS_TOKEN=TOKEN,
    )
    assert (result.code, result.out) == (0, ""), result.transcript
    *lines, last = log_objects(result)
    assert last["event"] == "2,000 new events, 0 duplicates, 0 quarantined"
    logged = [(line["event"], line.get("projection")) for line in lines]
    assert len({*logged}) == len(logged), result.transcript
    assert {event for event, _ in logged} <= {"following", "folding", "behind", "caught up"}
    assert "following" in {event for event, _ in logged}
    wrong = await commands.run("run", "--no-such-option", PROJECTIONS_LOG_FORMAT="auto")
    assert (wrong.code, len(log_objects(wrong))) == (2, 2), wrong.transcript
    short = await commands.run("pause", "nobody", PROJECTIONS_LOG_FORMAT="auto")
    assert short.stderr_line.startswith("projections: unknown projection 'nobody'")
