"""Named consumers in the status, in doctor, in metrics and on the page; and the command that resets and drops one."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from io import StringIO

from psycopg import AsyncConnection
from rich.console import Console
from typer.testing import CliRunner, Result

from eventstore.appending.append import Appender
from eventstore.consuming.batch import Batch
from eventstore.consuming.consumer import consumer
from eventstore.consuming.consumers import read_consumers
from projections.cli.app import app as command
from projections.cli.shared.status_tables import consumer_lines, consumers_table
from projections.http.page_extras import PageExtras
from projections.http.page_memory import PageMemory
from projections.http.page_reading import describe_parts
from projections.inspecting.finding import Finding
from projections.inspecting.read_live_status import read_live_status
from projections.inspecting.read_status import read_status
from projections.registry import Registry
from tests import store
from tests.doctoring import findings, only
from tests.queries import fetch_row
from tests.serving import served_run
from tests.store import QUICK, lose_events, new_events

NOTHING = Registry({}, {})

HELD = r"projections: consumer 'billing': held by projections consume billing .*; stop its program first: .*\n"


def consume(url: str, name: str) -> AsyncGenerator[Batch]:
    return consumer(name, url, batch_events=2, waits=QUICK, follow=False)


async def leave_a_batch(url: str, name: str) -> None:
    """Hand out the first batch that is not acknowledged, and leave it."""
    async with aclosing(consume(url, name)) as batches:
        await anext(batches)


async def finish(url: str, name: str) -> None:
    async for _ in consume(url, name):
        pass


async def make_older(conn: AsyncConnection) -> None:
    """Let consumers have stood still for an hour."""
    await conn.execute(
        "UPDATE eventstore.consumers"
        " SET moved_at = moved_at - interval '1 hour', created_at = created_at - interval '1 hour'"
    )


async def problems(url: str, **limits: float) -> list[Finding]:
    return [one for one in await findings(url, registry=NOTHING, limits=limits) if "consumer" in one.code]


def printed(table: object) -> str:
    console = Console(width=100, record=True, file=StringIO())
    console.print(table)
    return console.export_text()


async def test_what_the_status_shows(database_url: str, conn: AsyncConnection, appender: Appender) -> None:
    assert (await read_status(conn, NOTHING)).consumers == []
    await appender.append(new_events(5))
    await finish(database_url, "done")
    for _ in range(3):
        await leave_a_batch(database_url, "failing")
    async with aclosing(consume(database_url, "working")) as batches:
        await anext(batches)
        await anext(batches)
        found = await read_status(conn, NOTHING, counted=False)
        live = await read_live_status(conn, NOTHING)
    assert [(one.name, one.position, one.events_behind, one.attempts, one.events) for one in found.consumers] == [
        ("done", 5, 0, 0, 5),
        ("failing", 0, 5, 3, 0),
        ("working", 2, 3, 1, 2),
    ]
    assert [one.held_by is not None for one in found.consumers] == [False, False, True]
    assert [one.name for one in live.consumers] == ["done", "failing", "working"]
    assert {one["name"]: one["events_behind"] for one in found.as_dict()["consumers"]} == {
        "done": 0,
        "failing": 5,
        "working": 3,
    }
    lines = printed(consumers_table(found.consumers)).splitlines()
    assert any("failing" in line and "nobody" in line for line in lines)
    assert any("working" in line and "│ projections" not in line and ":" in line for line in lines)
    assert consumer_lines(found.consumers) == [
        "failing: the events after position 0 were handed out 3 times and not acknowledged; see the log of its program"
    ]
    parts = describe_parts(live, PageExtras(), PageMemory(), ())["consumers"]
    assert [(one["name"], one["level"], one["state"]) for one in parts] == [
        ("done", "good", "not running"),
        ("failing", "late", "not running"),
        ("working", "good", "running"),
    ]
    assert parts[1]["note"] == "It was handed the events after its checkpoint 3 times and acknowledged none."


async def test_reading_consumers_reads_a_few_events_by_index(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append(new_events(300))
    await leave_a_batch(database_url, "a")
    await conn.execute("ANALYZE eventstore.events")
    async with conn.transaction():
        assert len(await read_consumers(conn)) == 1
        counted = await fetch_row(
            conn,
            "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables"
            " WHERE relid = 'eventstore.events'::regclass",
        )
    assert counted is not None
    assert counted[0] == 0
    assert counted[1] <= 3


async def test_what_doctor_finds(database_url: str, conn: AsyncConnection, appender: Appender) -> None:
    await appender.append(new_events(6))
    await leave_a_batch(database_url, "a")
    assert await problems(database_url) == []
    (found,) = await problems(database_url, consumer_behind=0.0)
    assert (found.code, found.command) == ("consumer_not_running", None)
    assert found.sentence.startswith("no process has consumer a: 6 events wait, the first for ")

    async with aclosing(consume(database_url, "a")) as batches:
        await anext(batches)
        await anext(batches)
        (found,) = await problems(database_url, consumer_behind=0.0)
        assert found.code == "consumer_stuck"
        await conn.execute("UPDATE eventstore.consumers SET moved_at = clock_timestamp() + interval '1 hour'")
        (found,) = await problems(database_url, consumer_behind=0.0)
        assert found.code == "consumer_behind"
        assert found.severity == "note"
        await make_older(conn)
        await make_older(conn)
        (found,) = await problems(database_url, consumer_behind=0.0)
        assert found.code == "consumer_stuck"
        assert found.sentence.startswith("consumer a has stood still after position 2 for ")

    for _ in range(2):
        await leave_a_batch(database_url, "a")
    stuck = only(await problems(database_url), "consumer_stuck")
    assert stuck.sentence == "consumer a was handed the events after position 2 3 times and acknowledged none"
    assert stuck.command == "projections consumers reset a --to EVENT_ID"
    await lose_events(conn, after=1)
    lost = only(await problems(database_url), "consumer_lost")
    assert lost.sentence == "consumer a is handed nothing: its checkpoint (2) is not in the log"
    (line,) = consumer_lines(await read_consumers(conn))
    assert line.endswith("decide where it goes on: projections consumers reset a --to POSITION")


async def test_the_metrics(database_url: str, appender: Appender) -> None:
    await appender.append(new_events(5))
    await finish(database_url, "a")
    await appender.append(new_events(3))
    await leave_a_batch(database_url, "a")
    async with served_run(database_url) as served:
        lines = (await served.get("metrics")).text.splitlines()
    numbers = dict(line.rsplit(" ", 1) for line in lines if 'consumer="a"' in line)
    seconds = float(numbers.pop('projections_consumer_lag_seconds{consumer="a"}'))
    assert 0 < seconds < store.GIVE_UP
    assert {name.partition("{")[0]: float(value) for name, value in numbers.items()} == {
        "projections_consumer_lag_events": 3,
        "projections_consumer_position": 5,
        "projections_consumer_held": 0,
        "projections_consumer_events_total": 5,
        "projections_consumer_attempts": 1,
    }


# The command


async def run_command(url: str, *words: str) -> Result:
    """Run ``projections consumers`` in this process."""

    def run() -> Result:
        return CliRunner().invoke(command, ["consumers", *words], env={"DATABASE_URL": url}, prog_name="projections")

    return await asyncio.to_thread(run)


async def test_the_command(database_url: str, appender: Appender) -> None:
    result = await run_command(database_url)
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    assert result.stderr.startswith("no consumer has run yet; projections docs consuming explains")
    await appender.append(events := new_events(4))
    await finish(database_url, "billing")
    assert "billing" in (await run_command(database_url, "list")).stdout
    (found,) = json.loads((await run_command(database_url, "--json")).stdout)
    assert (found["name"], found["position"], found["events"], found["held_by"]) == ("billing", 4, 4, None)

    reset = ("reset", "billing", "--to", events[1].event_id)
    result = await run_command(database_url, *reset)
    assert (result.exit_code, result.stderr.splitlines()) == (
        2,
        [
            "consumer billing would go on after position 2 instead of 4: 2 events would be handed out again",
            "projections: nothing was changed; give --yes to do it",
        ],
    )
    result = await run_command(database_url, *reset, "--yes")
    assert (result.exit_code, result.stdout) == (0, "billing: goes on after position 2\n")
    result = await run_command(database_url, "reset", "billing", "--to", "now")
    assert result.stderr.splitlines()[0].endswith("after position 4 instead of 2: 2 events would never be handed out")
    async with aclosing(consume(database_url, "billing")) as batches:
        await anext(batches)
        for words in (("drop", "billing", "--yes"), (*reset, "--yes")):
            result = await run_command(database_url, *words)
            assert result.exit_code == 1
            assert re.fullmatch(HELD, result.stderr), result.stderr
    result = await run_command(database_url, "drop", "billing", "--yes")
    assert (result.exit_code, result.stderr) == (0, "consumer billing is dropped; its checkpoint was position 2\n")
    result = await run_command(database_url, "drop", "billing")
    assert (result.exit_code, result.stderr) == (
        2,
        "projections: there is no consumer 'billing'; no consumer has run yet\n",
    )
    result = await run_command(database_url, "--json", "list")
    assert (result.exit_code, "write --json after the subcommand" in result.stderr) == (2, True)
