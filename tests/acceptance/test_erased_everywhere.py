"""An erased person is nowhere: also beside a run, a rebuild and a verification, in a dump, and in the data files."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from psycopg import AsyncConnection, sql

from eventstore.contracts import Contract
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import upgrade
from projections.sandbox.simulator.log_builder import build_log
from projections.sandbox.simulator.world_settings import World
from tests import folding, rebuilding, store
from tests.acceptance.command import QUICK, Commands
from tests.erasing import erase
from tests.fix_simulator import TOKEN, SimulatorFactory
from tests.queries import fetch_all
from tests.rebuilding import verify
from tests.servers import wheel_binaries
from tests.temporary_server import TemporaryServer, temporary_server

RUN = {**QUICK, "PROJECTIONS_POLL": "0.05", "PROJECTIONS_TOKEN": TOKEN}
BUSIEST = "SELECT ppnum FROM eventstore.events WHERE ppnum <> '' GROUP BY ppnum ORDER BY count(*) DESC, ppnum LIMIT 3"


def dump(url: str) -> bytes:
    """Return what pg_dump writes of a database."""
    pg_dump = str(wheel_binaries(18) / "pg_dump")
    return subprocess.run([pg_dump, url], check=True, capture_output=True).stdout


async def test_persons_are_erased_while_a_run_a_rebuild_and_a_verification_go_on(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory
) -> None:
    log = build_log(World(recipients=400, recipients_per_request=40).events(), ends=datetime.now(UTC))
    events = [entry for entry in log if Contract.CHAT_EXTERNAL in entry.payloads]
    simulator = await simulator_factory(log)
    variables = {**RUN, "DATABASE_URL": database_url, "PCS_EXTERNAL_API_URL": simulator.address}
    running = await commands.start("run", **variables)
    async with store.connection(database_url, "observer") as conn:

        async def is_stored() -> bool:
            return await store.value(conn, "SELECT count(*) FROM eventstore.events") == len(events)

        await store.wait_until(is_stored, "the events of the simulator")
        numbers = [number for (number,) in await fetch_all(conn, BUSIEST)]
        (commands.folder / "numbers").write_text("\n".join(numbers))
        results = await asyncio.gather(
            commands.run("erase", "--from", "numbers", "--why", "asked", "--yes", "--no-verify", **variables),
            commands.run("rebuild", "--all", **variables),
            commands.run("verify", "people", **variables),
        )
        # A rebuild and a verification of one projection exclude each other.
        assert results[0].code == 0, results[0].transcript
        for result in results[1:]:
            assert result.code == 0 or "held by" in result.err, result.transcript
        stopped = await running.kill()
        # The next run receives the last events again.
        again = await commands.run("run", "--until-idle", "0.2", **variables)
        assert again.code == 0, again.transcript
        assert await store.value(conn, "SELECT count(*) FROM eventstore.quarantine") == 0
        assert list((await store.positions(conn)).values()) == list(range(1, len(events) + 1))
        await folding.assert_rows_match_oracle(conn)
    for one in READ_MODELS:
        assert (await verify(database_url, one())).equal
    dumped = dump(database_url)
    for number in numbers:
        assert number.encode() not in dumped
        assert number not in "".join(one.transcript for one in (*results, again, stopped))


@pytest.fixture
def server_of_its_own() -> Iterator[TemporaryServer]:
    with temporary_server(wheel_binaries(18)) as server:
        yield server


async def test_the_data_files_have_no_number_after_vacuum_full(server_of_its_own: TemporaryServer) -> None:
    url = server_of_its_own.superuser_url
    upgrade(url, projections=())
    async with store.connection(url) as conn:
        await rebuilding.append_and_fold(url, conn)
        await conn.execute("ANALYZE")
        number = str(await store.value(conn, BUSIEST))
        folder = Path(str(await store.value(conn, "SHOW data_directory"))) / "base"
        await conn.execute("CHECKPOINT")
        assert files_with(folder, number)
        await erase(url, number)
        await vacuum_full(conn)
        await conn.execute("CHECKPOINT")
    server_of_its_own.stop()
    assert files_with(folder, number) == []


async def vacuum_full(conn: AsyncConnection) -> None:
    """Rewrite every table that may have the number, and the statistics with samples of it."""
    tables = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('eventstore', 'projections', 'public')"
    for schema, table in await fetch_all(conn, tables):
        await conn.execute(sql.SQL("VACUUM (FULL, ANALYZE) {}").format(sql.Identifier(schema, table)))
    await conn.execute("VACUUM FULL pg_catalog.pg_statistic")


def files_with(folder: Path, number: str) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and number.encode() in file.read_bytes()]
