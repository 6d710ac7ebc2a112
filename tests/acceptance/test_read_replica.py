"""A hot standby for BI: what a reader and the commands that only read can do there, as docs/operations.md says."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from eventstore.consuming.log_head import head as log_head
from eventstore.consuming.log_head import wait_for
from projections.granting.grant_roles import RoleRequest
from projections.granting.role_kinds import RoleKind
from projections.migrating.metadata import READ_MODELS
from tests import folding, rebuilding, store
from tests.acceptance.command import Commands
from tests.acceptance.test_operations_page import PAGE, STATEMENTS
from tests.fault.failover_cluster import Cluster
from tests.roles import grant_to


async def test_a_standby_answers_readers_and_commands_that_only_read(servers: Cluster, commands: Commands) -> None:
    (queries,) = [block for block in STATEMENTS.findall(PAGE) if "pg_last_wal_replay_lsn" in block]
    lag, freshness = [one.strip() for one in queries.split(";") if one.strip()]
    primary = await servers.primary()
    async with store.connection(primary.superuser_url) as conn:
        await conn.execute("CREATE ROLE bi LOGIN")
        grant_to(primary.superuser_url, RoleRequest("bi", RoleKind.READER))
        standby = await primary.backup(servers.new_folder(), standby_of=primary.port)
        await standby.start()
        stored = await rebuilding.append_and_fold(primary.superuser_url, conn)
        await conn.execute("CHECKPOINT")  # which flushes the commits of folds, as these don't wait for the disk
        head = await store.value(conn, "SELECT pg_current_wal_flush_lsn()::text")

    async def has_replayed() -> bool:
        async with store.connection(standby.superuser_url) as conn:
            return bool(await store.value(conn, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", head))

    await store.wait_until(has_replayed, "the standby to replay")
    async with await psycopg.AsyncConnection.connect(standby.superuser_url.replace("postgres@", "bi@")) as reader:
        assert await (await reader.execute(lag.encode())).fetchone() == (0,)
        rows = await (await reader.execute(freshness.encode())).fetchall()
        assert [row[1:] for row in rows] == [(0, 0.0, "running")] * len(rows)
        assert len(rows) == len(READ_MODELS)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await reader.execute("DELETE FROM public.poll_tallies")
    async with store.connection(standby.superuser_url) as conn:
        await folding.assert_rows_match_oracle(conn)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await conn.execute("LISTEN eventstore")
    variables = {"DATABASE_URL": standby.superuser_url, "PROJECTIONS_WAIT_FOR_DATABASE": "0"}
    for command in ("status", "apps list", "cursor show", "consumers list", "grant --show", "export events log"):
        result = await commands.run(*command.split(), **variables)
        assert result.code == 0, result.transcript
    assert f"{stored:,} events" in result.out + result.err
    for command in ("run --no-ingest", "verify", "migrate", "pause request_status", "grant --reader bi"):
        result = await commands.run(*command.split(), **variables)
        assert result.code == 1, result.transcript
        assert "the server is a standby and takes no writes" in result.stderr_line
    async with store.connection(standby.superuser_url) as reader:  # which isn't notified
        waiting = asyncio.create_task(wait_for(reader, await log_head(reader) + 1, poll=0.01))
        async with store.appender(primary.superuser_url) as appender:
            await appender.append(store.new_events(1))
        assert await waiting == stored + 1
