"""The version before and this one, side by side on one database: upgraded and taken back, no event is lost.

The tests do what docs/upgrading.md says, in its order. They hold for whatever revisions and versions of read models
this version adds.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from psycopg import AsyncConnection

from projections.migrating.metadata import READ_MODELS
from projections.migrating.schema_revision import head_revision
from projections.sandbox.simulator import Simulator, World, build_log
from tests import folding, store
from tests.acceptance.command import QUICK, CommandResult, Commands
from tests.acceptance.environments import OLD_REVISION, install_old_version
from tests.acceptance.stored_events import read_stored
from tests.fix_simulator import TOKEN, SimulatorFactory
from tests.store import CHAT

pytestmark = pytest.mark.xdist_group("the old version")  # one process builds it

OLD_READ_MODELS = ["request_status", "consent_registry", "poll_tallies"]
NEW_READ_MODELS = [projection.name for projection in READ_MODELS]
ENVIRONMENT = {**QUICK, "PROJECTIONS_TOKEN": TOKEN, "PROJECTIONS_POLL": "0.05"}
UNTIL_IDLE = ("--until-idle", "0.3")
LOG = [entry for entry in build_log(World(recipients=700).events(), ends=datetime.now(UTC)) if CHAT in entry.payloads]
SENTENCE = "projections: the database has schema revision {}, which this version doesn't know; upgrade this program"


@pytest.fixture(scope="module")
def old_program(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return install_old_version(tmp_path_factory.mktemp("old"))


@pytest.fixture
def old(commands: Commands, old_program: tuple[str, ...]) -> Commands:
    """Starts commands of the version before."""
    return replace(commands, fork_server=None, program=old_program)


PHASE = 100
"""Events that the platform may send in each phase of the test; the end has the rest."""


class Platform:
    """A simulated platform that sends events one by one, each after the one before is stored, up to a limit."""

    def __init__(self, simulator: Simulator, conn: AsyncConnection) -> None:
        self.limit = 0
        self._simulator = simulator
        self._conn = conn
        self._raised = asyncio.Event()

    def allow(self, limit: int) -> None:
        """Raise the limit."""
        self.limit = limit
        self._raised.set()

    async def send_all(self) -> None:
        sent = 0
        while sent < len(LOG):
            if sent == self.limit:
                self._raised.clear()
                await self._raised.wait()
            step = 1 if self.limit < len(LOG) else len(LOG)
            await self._simulator.append(*LOG[sent : sent + step])
            sent = min(sent + step, len(LOG))
            await wait_for_head(self._conn, sent)

    async def send_more(self, conn: AsyncConnection, *names: str) -> None:
        """Start the next phase; wait until some of its events are stored, and folded by these projections."""
        some = self.limit + PHASE // 5
        self.allow(self.limit + PHASE)
        await wait_for_head(conn, some)
        for name in names:
            await folding.wait_until_folded(conn, name, some)


async def wait_for_head(conn: AsyncConnection, position: int) -> None:
    async def is_stored() -> bool:
        return await head(conn) >= position

    await store.wait_until(is_stored, f"{position} events stored")


async def head(conn: AsyncConnection) -> int:
    return int(str(await store.value(conn, "SELECT coalesce(max(position), 0) FROM eventstore.events")))


async def wait_for_sessions(conn: AsyncConnection, count: int) -> None:
    """Wait until so many sessions fold, of all processes."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE ANY(%s)"
    names = [f"projections run {name} %" for name in NEW_READ_MODELS]

    async def connected() -> bool:
        return int(str(await store.value(conn, query, names))) >= count

    await store.wait_until(connected, f"{count} sessions that fold")


async def succeed(starter: Commands, *arguments: str, **variables: str) -> CommandResult:
    result = await starter.run(*arguments, **variables)
    assert result.code == 0, f"{arguments}: {result.transcript}"
    return result


async def assert_nothing_lost(url: str, conn: AsyncConnection) -> None:
    """Every event is stored once, unchanged; all read models are at the head and match the oracle."""
    assert (await read_stored(url)).payloads == [entry.payloads[CHAT] for entry in LOG]
    for name, projection in zip(NEW_READ_MODELS, READ_MODELS, strict=True):
        now = await folding.checkpoint_row(conn, name)
        assert (now.version, now.state, now.position) == (projection.version, "running", len(LOG))
    await folding.assert_rows_match_oracle(conn)


async def test_old_and_new_processes_run_side_by_side_while_the_schema_is_upgraded(
    commands: Commands, old: Commands, empty_database_url: str, simulator_factory: SimulatorFactory
) -> None:
    url = empty_database_url
    simulator = await simulator_factory([])
    variables = {**ENVIRONMENT, "DATABASE_URL": url, "PCS_EXTERNAL_API_URL": simulator.address}
    await succeed(old, "migrate", **variables)
    async with store.connection(url) as conn, store.connection(url) as other:
        platform = Platform(simulator, other)
        old_process = await old.start("run", **variables)
        sending = asyncio.create_task(platform.send_all())
        await platform.send_more(conn, *OLD_READ_MODELS)

        migrated = await succeed(commands, "migrate", **variables)
        if head_revision() != OLD_REVISION:
            assert migrated.stderr_line == f"migrated the schema from {OLD_REVISION} to revision {head_revision()}"
            refused = await old.run("status", **variables)
            assert (refused.code, refused.stderr_line) == (2, SENTENCE.format(head_revision()))

        # Read models whose version rose wait in the new process; the old one folds them.
        new_process = await commands.start("run", **variables)
        await wait_for_sessions(conn, len(OLD_READ_MODELS) + len(NEW_READ_MODELS))
        await platform.send_more(conn, *OLD_READ_MODELS)
        for name in OLD_READ_MODELS:
            assert (await folding.checkpoint_row(conn, name)).version == 1
        assert (await old_process.kill()).code == -signal.SIGKILL
        assert "Traceback" not in "\n".join(old_process.stderr_lines)

        # The new process follows the app now, and folds what it may; the rest is rebuilt meanwhile.
        await platform.send_more(conn)
        await succeed(commands, "redecode", **variables)
        await succeed(commands, "rebuild", "--all", **variables)
        await platform.send_more(conn, *NEW_READ_MODELS)
        assert (await new_process.kill()).code == -signal.SIGKILL

        last = await commands.start("run", **variables)
        assert platform.limit < len(LOG)
        platform.allow(len(LOG))
        await sending
        for name in NEW_READ_MODELS:
            await folding.wait_until_folded(conn, name, len(LOG))
        last.send(signal.SIGTERM)
        ended = await last.wait()
        assert ended.code == 0, ended.transcript
        await assert_nothing_lost(url, conn)


async def test_the_old_version_works_again_after_the_schema_was_taken_back(
    commands: Commands, old: Commands, empty_database_url: str, simulator_factory: SimulatorFactory
) -> None:
    url, half = empty_database_url, len(LOG) // 2
    simulator = await simulator_factory(LOG[:half])
    variables = {**ENVIRONMENT, "DATABASE_URL": url, "PCS_EXTERNAL_API_URL": simulator.address}
    await succeed(commands, "migrate", **variables)
    await succeed(commands, "run", *UNTIL_IDLE, **variables)

    unsure = await commands.run("migrate", "--down-to", OLD_REVISION, **variables)
    assert unsure.code == 2
    assert unsure.err.endswith("projections: nothing was changed; give --yes to do it\n")
    await succeed(commands, "migrate", "--down-to", OLD_REVISION, "--yes", **variables)

    await simulator.append(*LOG[half:])
    await succeed(old, "rebuild", "--all", **variables)
    await succeed(old, "run", *UNTIL_IDLE, **variables)
    await succeed(old, "verify", **variables)
    assert (await read_stored(url)).payloads == [entry.payloads[CHAT] for entry in LOG]

    await succeed(commands, "migrate", **variables)
    await succeed(commands, "redecode", **variables)
    await succeed(commands, "rebuild", "--all", **variables)
    await succeed(commands, "run", *UNTIL_IDLE, **variables)
    async with store.connection(url) as conn:
        await assert_nothing_lost(url, conn)
