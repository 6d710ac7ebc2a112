"""Commands that are told to stop in the middle: they tidy up, say what holds, and end with the signal's exit code."""

from __future__ import annotations

import signal

import pytest

from projections.migrating.metadata import READ_MODELS
from tests import folding, oracle, rebuilding, store
from tests.acceptance.command import Commands
from tests.folding import append, new_record

PPNUM = "12300000003"
PATIENT = {"PROJECTIONS_REBUILD_LOCK_TIMEOUT": "600"}
AT_WORK = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projections %%'"
    " AND datname = current_database() AND wait_event_type = 'Lock'"
)
LEFT = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projections %%' AND datname = %s"
NOTHING, NOT_FINISHED = "nothing was changed", "unfinished work changed nothing"
EVENT_ID = "an event_id"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("arguments", "holds"),
    [
        (["export", "events", "log"], "the unfinished file was removed"),
        (
            ["import", "events", "whole"],
            "the events stored so far stay; import the file again before anything is followed",
        ),
        (["redecode"], "the events decoded so far stay; run it again for the rest"),
        (["rebuild", "--all"], NOT_FINISHED),
        (["rebuild", "poll_tallies", "--dry-run"], NOTHING),
        (["rebuild", "--all", "--as-of", EVENT_ID, "--into", "then"], NOT_FINISHED),
        (["verify"], NOTHING),
        (["explain", "consent_registry", PPNUM], NOTHING),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
async def test_a_signal_ends_it_in_the_middle_and_what_holds_is_said(
    commands: Commands, database_url: str, arguments: list[str], holds: str, number: signal.Signals, code: int
) -> None:
    first = new_record(oracle.GRANTED, PPNUM)
    command = [first.event_id if one == EVENT_ID else one for one in arguments]
    variables = {**PATIENT, "DATABASE_URL": database_url}
    async with store.connection(database_url) as conn, store.connection(database_url, "holder") as holder:
        await append(conn, first, new_record(ppnum=PPNUM), new_record(oracle.COMPLETED, None))
        await folding.fold_all(database_url)
        before = [await rebuilding.all_rows(conn, projection) for projection in READ_MODELS]
        assert (await commands.run("export", "events", "whole", **variables)).code == 0
        async with holder.transaction():
            await holder.execute("LOCK TABLE eventstore.events IN ACCESS EXCLUSIVE MODE")
            running = await commands.start(*command, **variables)

            async def at_work() -> bool:
                return bool(await store.value(conn, AT_WORK))

            await store.wait_until(at_work, "the command at work")
            if arguments[0] == "export":
                assert [path.suffix for path in commands.folder.glob("log*")] == [".part"]
            running.send(number)
            ended = await running.ended()
        assert (ended.code, ended.out) == (code, ""), ended.said
        assert ended.err.splitlines()[-1] == f"projections: interrupted; {holds}"
        assert [word for word in ("Traceback", "Warning", "Error") if word in ended.err] == []
        assert [path.name for path in commands.folder.iterdir()] == ["whole"]
        assert [await rebuilding.all_rows(conn, projection) for projection in READ_MODELS] == before

        async def gone() -> bool:
            return not await store.value(conn, LEFT, conn.info.dbname)

        await store.wait_until(gone, "the end of the command's sessions")
