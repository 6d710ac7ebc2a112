"""``projections doctor``: a healthy system is one line; what goes wrong with it, the server or the command is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from projections.inspecting.finding import Finding
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import upgrade
from tests import folding, store
from tests.acceptance.command import QUICK, Commands
from tests.bouncer import bouncer, needed
from tests.databases import Server
from tests.doctoring import codes, diagnose, findings, only, run_sql, session
from tests.fix_simulator import TOKEN, SimulatorFactory
from tests.following import log_of
from tests.servers import wheel_binaries
from tests.temporary_server import TemporaryServer, temporary_server

PRODUCTION = {"fsync": "on", "full_page_writes": "on", "autovacuum": "on", "max_prepared_transactions": "5"}
EVENTS = 40
RUN = {**QUICK, "PROJECTIONS_POLL": "0.05", "PROJECTIONS_TOKEN": TOKEN, "PROJECTIONS_DOCTOR_DISK_FREE": "0"}


@pytest.fixture(scope="module")
def durable() -> Iterator[TemporaryServer]:
    """A server with the settings of production."""
    with temporary_server(wheel_binaries(18), PRODUCTION) as server:
        yield server


@pytest.fixture
def production(durable: TemporaryServer) -> Iterator[Server]:
    """The same, with an owner of databases."""
    server = Server("18", durable.superuser_url)
    server.prepare()
    yield server
    server.tidy()


def as_superuser(server: Server, url: str) -> str:
    """Return a superuser's URL of the same database."""
    return urlunsplit(urlsplit(server.superuser_url)._replace(path=urlsplit(url).path))


async def test_a_healthy_system_is_one_line_and_what_happens_to_it_is_found_and_mended(
    commands: Commands, production: Server, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(log_of(EVENTS))
    with production.database() as url:
        variables = {**RUN, "DATABASE_URL": url, "PCS_EXTERNAL_API_URL": simulator.address}
        run = await commands.start("run", **variables)
        async with store.connection(url) as conn:
            for projection in READ_MODELS:
                await folding.wait_until_folded(conn, projection.name, EVENTS)

        async def is_well() -> list[str]:
            result = await commands.run("doctor", **variables)
            # A look during an append may see the events, and not yet that the app sent them.
            is_whole = result.out.startswith("all is well") and f"position {EVENTS})" in result.out
            return result.out.splitlines() if result.code == 0 and is_whole else []

        (line,) = await store.wait_until(is_well, "a healthy system")
        assert line.startswith(
            f"all is well: {len(READ_MODELS)} projections at the head (position {EVENTS}), 1 app followed, "
        )
        assert line.endswith(" MB of database")
        result = await commands.run("doctor", "--json", "--thorough", **variables)
        assert (result.code, json.loads(result.out), result.err) == (0, [], ""), result.transcript
        assert (await commands.run("status", "--check", **variables)).code == 0

        async with await AsyncConnection.connect(as_superuser(production, url), autocommit=True) as conn:
            await _listener_dies(conn, as_superuser(production, url), run.pid)
            await _transaction_is_left_prepared(conn, url)
            await _slot_is_left(conn, url)
            await _standby_is_missing(conn, url)
        assert await store.wait_until(is_well, "a healthy system again")
        await run.kill()

        async def is_stopped() -> list[str]:
            return [line for line in (await commands.run("doctor", **variables)).out.splitlines() if "nobody" in line]

        lines = await store.wait_until(is_stopped, "nobody to be there")
        assert "wrong [app_not_followed] nobody follows app 'default'; run projections run" in lines
        assert "wrong [projection_not_folded] nobody folds request_status; run projections run" in lines
        as_json = await commands.run("doctor", "--json", **variables)
        assert as_json.code == 1
        assert json.loads(as_json.out)[0] == {
            "code": "app_not_followed",
            "severity": "wrong",
            "sentence": "nobody follows app 'default'",
            "command": "projections run",
            "advice": None,
        }


async def _listener_dies(conn: AsyncConnection, url: str, process: int) -> None:
    """Let the listener's session die, and refuse it another one."""
    database = sql.Identifier(conn.info.dbname)
    await conn.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 1").format(database))
    await conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'projections listen %' AND datname = current_database()"
    )

    async def is_found() -> list[Finding]:
        found = await findings(url)
        return found if "listener_dead" in codes(found) else []

    found = await store.wait_until(is_found, "a dead listener")
    assert f":{process} folds, but doesn't listen for new events" in only(found, "listener_dead").sentence
    few = only(found, "connections_few")
    assert few.sentence.startswith("0 of the 1 connections of the database are left")
    await run_sql(conn, few)

    async def is_gone() -> bool:
        return "listener_dead" not in codes(await findings(url))

    await store.wait_until(is_gone, "the listener")


async def _transaction_is_left_prepared(conn: AsyncConnection, url: str) -> None:
    async with session(url, "a transfer") as other:
        await other.execute("BEGIN")
        await other.execute("SELECT FROM projections.checkpoints WHERE name = 'poll_tallies' FOR UPDATE")
        await other.execute("PREPARE TRANSACTION 'it''s left'")
    found = await findings(url, limits={"snapshot": 0.001})
    held, left = only(found, "checkpoint_held"), only(found, "prepared_transaction")
    assert held.sentence.startswith('prepared transaction "it\'s left" has locked the checkpoint of poll_tallies')
    assert left.command == held.command == "ROLLBACK PREPARED 'it''s left';"
    await run_sql(conn, left)
    assert "prepared_transaction" not in codes(await findings(url, limits={"snapshot": 0.001}))


async def _slot_is_left(conn: AsyncConnection, url: str) -> None:
    await conn.execute("SELECT pg_create_physical_replication_slot('gone', true)")
    found = only(await findings(url, limits={"wal_kept": 0}), "replication_slot")
    assert found.sentence.startswith("replication slot gone keeps ")
    assert found.sentence.endswith(" MiB of write-ahead log, and nobody uses it")
    await run_sql(conn, found)
    assert "replication_slot" not in codes(await findings(url, limits={"wal_kept": 0}))


async def _standby_is_missing(conn: AsyncConnection, url: str) -> None:
    await conn.execute("ALTER SYSTEM SET synchronous_standby_names = 'absent'")
    await conn.execute("SELECT pg_reload_conf()")

    async def is_found() -> list[Finding]:
        return [one for one in await findings(url) if one.code == "standby_missing"]

    (found,) = await store.wait_until(is_found, "a standby to be missing")
    assert "commits wait for a synchronous standby (absent), and none is connected" in found.sentence
    await run_sql(conn, found)

    async def is_gone() -> bool:
        return "standby_missing" not in codes(await findings(url))

    await store.wait_until(is_gone, "no standby to be missing")


async def test_settings_that_risk_the_data_are_found(database_url: str) -> None:
    found = (await diagnose(database_url)).findings
    assert [one.line.partition(":")[0] for one in found if one.code in ("not_durable", "autovacuum_off")] == [
        "wrong [not_durable] fsync is off",
        "wrong [not_durable] full_page_writes is off",
        "wrong [autovacuum_off] autovacuum is off",
    ]
    assert only(found, "autovacuum_off").command == "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();"


async def test_a_database_that_cannot_be_used_is_one_line(commands: Commands, empty_database_url: str) -> None:
    result = await commands.run("doctor", **QUICK, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert result.code == 1, result.transcript
    (line,) = result.out.splitlines()
    assert line.startswith("wrong [database_unavailable] database unavailable: ")
    assert line.endswith("; start the server, or correct DATABASE_URL")
    result = await commands.run("doctor", **QUICK)
    assert (result.code, result.err) == (1, ""), result.transcript
    assert result.out.startswith(
        "wrong [database_unavailable] no database is configured (DATABASE_URL), and this folder"
    )
    assert not (commands.folder / ".projections").exists()
    result = await commands.run("doctor", **QUICK, DATABASE_URL=empty_database_url)
    assert "wrong [schema_missing] the database has no schema of ours yet; run projections migrate" in result.out


@pytest.mark.parametrize(
    "variables",
    [
        {"DATABASE_URL": "postgresql://localhost:not-a-port/none"},
        {"PROJECTIONS_DOCTOR_SNAPSHOT": "-1"},
        {"PROJECTIONS_CONFIG": "absent.toml"},
    ],
    ids=["url", "limit", "configuration"],
)
async def test_wrong_settings_are_usage_errors(commands: Commands, variables: dict[str, str]) -> None:
    result = await commands.run("doctor", **{"DATABASE_URL": "postgresql://localhost:1/none", **variables})
    assert (result.code, result.out) == (2, ""), result.transcript


@needed
async def test_a_pooler_that_shares_sessions_is_found(commands: Commands, database_url: str) -> None:
    await folding.fold_all(database_url)
    with bouncer(database_url, pool_mode="transaction", ignore_startup_parameters="extra_float_digits,options") as url:
        (line,) = (await commands.run("doctor", DATABASE_URL=url)).out.splitlines()
        assert line.startswith(
            "wrong [pooler_mode] a connection pooler in front of the database gives each transaction"
        )
        assert "set pool_mode = session in PgBouncer" in line
    with bouncer(database_url, pool_mode="session") as url:
        (line,) = (await commands.run("doctor", DATABASE_URL=url)).out.splitlines()
        assert line.startswith("wrong [database_refuses] the server or a pooler rejects our startup options: ")


async def test_a_standby_is_examined_too(durable: TemporaryServer, tmp_path: Path) -> None:
    upgrade(durable.superuser_url, projections=())
    async with store.connection(durable.superuser_url) as conn:
        await folding.append(conn, folding.new_record())
    await folding.fold_all(durable.superuser_url)
    async with store.connection(durable.superuser_url) as conn:
        await conn.execute("CHECKPOINT")  # folds commit asynchronously, and the server is stopped as a crash stops it
    durable.restart_as_standby()
    try:
        found = await findings(durable.superuser_url, data_folder=tmp_path)
        assert only(found, "standby").severity == "note"
        assert "check_failed" not in codes(found)
        assert "projection_not_folded" in codes(found)
    finally:
        with psycopg.connect(durable.superuser_url, autocommit=True) as conn:
            conn.execute("SELECT pg_promote()")
