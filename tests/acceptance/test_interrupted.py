"""A signal in the middle of a command: it cleans up, reports what was kept, and ends with the signal's exit code."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from projections.migrating.metadata import READ_MODELS
from tests import folding, oracle, rebuilding, store
from tests.acceptance.command import Commands
from tests.databases import Server
from tests.fix_full_matrix import in_turns
from tests.folding import append, new_record

PPNUM = "12300000003"
LONG_LOCK_TIMEOUT = {"PROJECTIONS_REBUILD_LOCK_TIMEOUT": "600"}
WAITING_SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projections %%'"
    " AND datname = current_database() AND wait_event_type = 'Lock'"
)
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projections %%' AND datname = %s"
NOTHING_CHANGED, UNFINISHED = "nothing was changed", "the unfinished part was rolled back"
EVENT_ID = "an event_id"
COMMANDS = [
    (["export", "events", "log"], "the unfinished file was removed"),
    (
        ["import", "events", "whole"],
        "the events stored so far stay; run the import again before starting projections run or ingest",
    ),
    (["redecode"], "the events decoded so far stay; run it again for the rest"),
    (["rebuild", "--all"], UNFINISHED),
    (["rebuild", "poll_tallies", "--dry-run"], NOTHING_CHANGED),
    (["rebuild", "--all", "--as-of", EVENT_ID, "--into", "then"], UNFINISHED),
    (["verify"], NOTHING_CHANGED),
    (["explain", "consent_registry", PPNUM], NOTHING_CHANGED),
]
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
OTHER_SIGNAL = (
    "the other signal in this command, and this signal in the commands before and after it: run_interruptible handles"
    " both by one function, and the exit code alone differs"
)


class Folded(NamedTuple):
    """A database with events of one person, which every read model has folded, and the id of the first event."""

    url: str
    event_id: str


async def fold_three_events(url: str) -> str:
    """Store and fold three events; returns the id of the first."""
    first = new_record(oracle.GRANTED, PPNUM)
    async with store.connection(url) as conn:
        await append(conn, first, new_record(ppnum=PPNUM), new_record(oracle.COMPLETED, None))
    await folding.fold_all(url)
    return first.event_id


@pytest.fixture(scope="module")
def folded(postgres: Server) -> Iterator[Folded]:
    """The database of which each test gets a copy."""
    with postgres.database() as url:
        yield Folded(url, asyncio.run(fold_three_events(url)))


@pytest.fixture
def database_url(postgres: Server, folded: Folded) -> Iterator[str]:
    with postgres.copy(folded.url) as url:
        yield url


@pytest.mark.parametrize(
    ("arguments", "outcome", "number", "code"),
    in_turns(COMMANDS, SIGNALS, OTHER_SIGNAL),
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else getattr(value, "name", ""),
)
async def test_a_signal_in_the_middle_ends_a_command_which_reports_what_was_kept(
    commands: Commands,
    database_url: str,
    folded: Folded,
    arguments: list[str],
    outcome: str,
    number: signal.Signals,
    code: int,
) -> None:
    command = [folded.event_id if argument == EVENT_ID else argument for argument in arguments]
    variables = {**LONG_LOCK_TIMEOUT, "DATABASE_URL": database_url}
    async with store.connection(database_url) as conn, store.connection(database_url, "holder") as holder:
        before = [await rebuilding.all_rows(conn, projection) for projection in READ_MODELS]
        if arguments[0] == "import":
            assert (await commands.run("export", "events", "whole", **variables)).code == 0
        files = sorted(commands.folder.iterdir())
        async with holder.transaction():
            await holder.execute("LOCK TABLE eventstore.events IN ACCESS EXCLUSIVE MODE")
            running = await commands.start(*command, **variables)

            async def waits_for_lock() -> bool:
                return bool(await store.value(conn, WAITING_SESSIONS))

            await store.wait_until(waits_for_lock, "the command to wait for the lock")
            if arguments[0] == "export":
                assert [path.suffix for path in commands.folder.glob("log*")] == [".part"]
            running.send(number)
            result = await running.wait()
        assert (result.code, result.out) == (code, ""), result.transcript
        assert result.err.splitlines()[-1] == f"projections: interrupted; {outcome}"
        assert [word for word in ("Traceback", "Warning", "Error") if word in result.err] == []
        assert sorted(commands.folder.iterdir()) == files
        assert [await rebuilding.all_rows(conn, projection) for projection in READ_MODELS] == before

        async def sessions_ended() -> bool:
            return not await store.value(conn, SESSIONS, conn.info.dbname)

        await store.wait_until(sessions_ended, "the end of the command's sessions")
