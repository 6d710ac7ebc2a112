"""A log is partitioned beside running processes, and the command is killed while it waits for its moment."""

from __future__ import annotations

import asyncio
import json
import signal

from psycopg import AsyncConnection

from projections.migrating.partition_log import read_partitioning
from projections.migrating.schema_drift import find_drift
from tests import folding, rebuilding, store
from tests.acceptance.command import QUICK, Commands
from tests.store import positions

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE%%' AND wait_event_type = 'Lock'"


async def test_a_log_is_partitioned_while_it_is_appended_to_and_folded(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    await folding.append(conn, *rebuilding.sample_records(6))
    variables = {**QUICK, "PROJECTIONS_POLL": "0.05", "DATABASE_URL": database_url}
    running = await commands.start("run", "--no-ingest", **variables)
    enough = asyncio.Event()

    async def append_on() -> int:
        batches = 0
        async with store.connection(database_url, "appending") as appending:
            while not enough.is_set() or batches < 3:
                await folding.append(appending, *rebuilding.sample_records(1))
                batches += 1
        return batches

    appending = asyncio.create_task(append_on())
    # A reader holds up a step that needs the table alone; the first attempt is killed while it waits.
    async with store.connection(database_url, "a report") as report:
        await report.execute("BEGIN")
        await report.execute("SELECT count(*) FROM public.consent_history")
        arguments = ("migrate", "--partition-events", "1000")
        first = await commands.start(*arguments, **variables)

        async def is_held_up() -> bool:
            return bool(await store.value(conn, WAITING))

        await store.wait_until(is_held_up, "the partitioning waiting for the report")
        first.send(signal.SIGKILL)
        await first.wait()
        await report.rollback()
    assert read_partitioning(database_url).partitions == 0
    done = await commands.run(*arguments, **variables)
    assert done.code == 0, done.transcript
    assert "the log has 2 partitions; new ones take 1,000 events each" in done.err
    enough.set()
    assert await appending >= 3
    head = len(await positions(conn))
    await folding.wait_until_folded(conn, "people", head)
    await folding.wait_until_folded(conn, "request_status", head)
    running.send(signal.SIGTERM)
    assert (await running.wait()).code == 0
    await folding.assert_rows_match_oracle(conn)
    assert await find_drift(conn) == []


async def test_numbers_that_are_no_length_of_a_partition(commands: Commands, database_url: str) -> None:
    for text in ("0", "999", "50X", "-5", "2000G", "1e6"):
        refused = await commands.run("migrate", f"--partition-events={text}", DATABASE_URL=database_url)
        assert refused.code == 2, refused.transcript
        assert "is not a number of events from 1,000 to 1,000,000,000,000" in " ".join(refused.err.split())
    both = await commands.run("migrate", "--down-to", "0022", "--partition-events", "50M", DATABASE_URL=database_url)
    assert both.code == 2
    done = await commands.run("migrate", "--partition-events", "2k", "--json", DATABASE_URL=database_url)
    assert json.loads(done.out)["partitions"] == 2
    assert json.loads(done.out)["partition_events"] == 2000
