"""A rebuild that is killed before any of its messages to Postgres leaves the old tables or the new ones.

What holds whenever it is killed: readers see all old rows or all new rows, never a mixture; the checkpoint is where it
was, so live folds go on; the run is recorded as done exactly if the new rows are there. The next rebuild marks a run
that was killed as abandoned, and begins anew, or continues in its shadow with ``--resume``. How that is ensured is in
:mod:`projections.rebuilding.rebuild`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, NamedTuple

import pytest
from psycopg import AsyncConnection, sql

from projections.projection import Projection
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.people import People
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.rebuilding.shadow_tables import table_exists
from projections.rebuilding.slice_tables import SliceTables
from tests import folding, rebuilding, store
from tests.fault.forking_process import exit_code_of_child, forking_process, start_child
from tests.fault.proxy import TERMINATE, PostgresProxy, target_of, through
from tests.fault.rebuild_child import RESUME, SLICED
from tests.fix_full_matrix import stood_for
from tests.queries import fetch_all, fetch_row
from tests.rebuilding import ANY_REMOVAL, all_rows, damage_all, sample_records


class RebuildKiller:
    """Starts rebuilds, and kills each before its n-th message to Postgres.

    Attributes:
        messages: how many messages the last rebuild sent, without Terminate messages.

    """

    def __init__(self, proxy: PostgresProxy, process: asyncio.subprocess.Process) -> None:
        self.messages = 0
        self._proxy = proxy
        self._process = process

    async def run(self, number: int | None = None, line: str = "") -> int:
        """Run a rebuild until it ends or is killed; returns its exit code, or minus the signal."""
        pid = self.messages = 0

        def before(_: int, kind: bytes) -> bool:
            # A Terminate message ends a connection; its sender may have ended already.
            self.messages += kind != TERMINATE
            if self.messages == number:
                os.kill(pid, signal.SIGKILL)
            return number is None or self.messages < number

        self._proxy.before = before
        self._proxy.pause()
        pid = await start_child(self._process, line)
        self._proxy.resume()
        exit_code = await exit_code_of_child(self._process)
        await self._proxy.wait_for_disconnect()
        return exit_code


class Seen(NamedTuple):
    """What a reader sees between two rebuilds, read in one statement because a test reads it hundreds of times.

    Attributes:
        rows: all rows of the projection's tables, as text.
        checkpoint: its checkpoint, as text.
        done: rebuilds that are recorded as done.
        running: rebuilds that are recorded as running.
        abandoned: rebuilds that are recorded as abandoned.
        sessions: sessions of rebuilds.

    """

    rows: str
    checkpoint: str
    done: int
    running: int
    abandoned: int
    sessions: int


_SEE = sql.SQL(
    "SELECT {rows}, (SELECT c::text FROM projections.checkpoints AS c WHERE name = {name}),"
    " count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'running'),"
    " count(*) FILTER (WHERE state = 'abandoned'),"
    " (SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'projections rebuild '))"
    " FROM projections.rebuilds WHERE name = {name}"
)
_ROWS = sql.SQL("(SELECT coalesce(string_agg({name}::text, chr(10) ORDER BY {name}), '') FROM public.{name})")


async def see(conn: AsyncConnection[Any], projection: type[Projection]) -> Seen:
    """Read the tables of a projection, its checkpoint, and what its rebuilds have recorded."""
    tables = [_ROWS.format(name=sql.Identifier(table.name)) for table in projection.tables]
    statement = _SEE.format(rows=sql.SQL(" || chr(10) || chr(10) || ").join(tables), name=sql.Literal(projection.name))
    row = await fetch_row(conn, statement)
    assert row is not None
    return Seen(*row)


@asynccontextmanager
async def rebuild_killer(
    url: str, projection: type[Projection], requests: int, people: int
) -> AsyncIterator[tuple[RebuildKiller, AsyncConnection[Any]]]:
    """Store and fold sample events; yield a killer of the projection's rebuilds, and a connection for reading."""
    async with PostgresProxy(*target_of(url)) as proxy, store.connection(url, "observer") as conn:
        await folding.append(conn, *sample_records(requests, people))
        await folding.fold_all(url)
        arguments = ("tests.fault.rebuild_child", projection.name, through(url, proxy.port))
        async with forking_process(*arguments) as process:
            yield RebuildKiller(proxy, process), conn


async def how_far(conn: AsyncConnection[Any], name: str) -> int:
    """Return how far an interrupted rebuild got: its position, and before that the steps of slices that are done."""
    query = (
        "SELECT coalesce(max(position), 0) FROM projections_shadow.shadow_positions"  # none while tables are created
    )
    position = int(str(await store.value(conn, query)))
    steps = SliceTables(name, "").steps
    if position or not await table_exists(conn, steps):
        return 1000 * position
    ((done,),) = await fetch_all(conn, sql.SQL("SELECT count(*) FROM {} WHERE done").format(steps))
    return int(done)


@pytest.mark.parametrize(
    "projection",
    [
        ConsentRegistry,
        People,
        *stood_for(
            "ConsentRegistry folds windows too, and People has two tables, one of which counts the other's rows",
            RequestStatus,
        ),
        *stood_for(
            "People folds slices of two tables too; what one session sends, People's two sessions send, and"
            " test_a_resumed_rebuild_may_be_killed_too kills PollTallies with one",
            PollTallies,
        ),
    ],
)
async def test_a_killed_rebuild_leaves_old_tables_or_new_ones(database_url: str, projection: type[Projection]) -> None:
    async with rebuild_killer(database_url, projection, 2, 2) as (killer, conn):
        first = await see(conn, projection)
        new = first.rows

        async def damaged() -> str:
            await damage_all(conn, projection)
            return (await see(conn, projection)).rows

        for _ in range(2):
            old = await damaged()
            assert old != new
            assert await killer.run() == 0
            assert (await see(conn, projection)).rows == new
        old, outcomes, before = await damaged(), [], await see(conn, projection)
        for number in count(1):
            exit_code = await killer.run(number)
            found = await see(conn, projection)
            assert found.sessions == 0
            if exit_code == 0:
                assert killer.messages < number
                assert found.rows == new
                break
            assert exit_code == -signal.SIGKILL
            assert found.rows in (old, new), f"killed before message {number}"
            assert found.checkpoint == first.checkpoint
            outcomes.append(found.rows == new)
            assert found.done - before.done == (found.rows == new), f"killed before message {number}"
            assert found.running <= 1, "an earlier rebuild was not marked as abandoned"
            if number % 20 == 1:
                resume = number % 40 == 1
                done = await rebuilding.rebuild(
                    database_url, projection(), limits=ANY_REMOVAL, resume=resume, **SLICED.get(projection.name, {})
                )
                assert (rebuilding.total_differences(done) > 0) == (found.rows == old)
                assert (await rebuilding.verify(database_url, projection())).equal
                found = await see(conn, projection)
                assert found.rows == new
            before = found
            if found.rows == new:
                old = await damaged()
        assert len(outcomes) > 100
        assert set(outcomes) == {False, True}, "it was never killed before its commit, or never after its commit"
        assert before.abandoned > 0
        assert await killer.run() == 0
        await folding.assert_rows_match_oracle(conn)


@pytest.mark.parametrize("projection", [ConsentRegistry, PollTallies])
async def test_a_resumed_rebuild_may_be_killed_too(database_url: str, projection: type[Projection]) -> None:
    async with rebuild_killer(database_url, projection, 4, 4) as (killer, conn):
        new = await all_rows(conn, projection)
        assert await killer.run() == 0
        await damage_all(conn, projection)
        old = await all_rows(conn, projection)
        assert old != new
        reached, number = [0], 40
        while await killer.run(number, RESUME) != 0:
            found = await all_rows(conn, projection)
            assert found in (old, new), f"killed before message {number}"
            if found == old:
                reached.append(await how_far(conn, projection.name))
            number += 2  # enough to get a little further, but not to the end
        assert reached == sorted(reached), "one of the rebuilds started over"
        assert len(set(reached)) > 3, "the rebuilds were killed before they made progress"
        assert await all_rows(conn, projection) == new
        assert (await rebuilding.verify(database_url, projection())).equal
