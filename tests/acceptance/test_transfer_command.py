"""The commands ``export events``, ``import events`` and ``redecode``, run as processes."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from eventstore.locks import APPEND_LOCK, app_lock, rebuild_lock
from tests import folding, oracle, store
from tests.acceptance.command import CommandResult, Commands
from tests.fake_package import write_broken_package
from tests.folding import append, new_record

PPNUM = "12300000003"
EVENTS = "SELECT * FROM eventstore.events ORDER BY position"


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection to a database with four events."""
    async with store.connection(database_url, "observer") as conn:
        await append(
            conn,
            new_record(ppnum=PPNUM),
            new_record(oracle.GRANTED, PPNUM),
            new_record(app="shop"),
            new_record(oracle.COMPLETED),
        )
        await store.set_epoch(conn)
        yield conn


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def corrupt(file: Path, word: bytes) -> None:
    """Change a bit of a word in a file."""
    content = bytearray(file.read_bytes())
    content[content.index(word)] ^= 1
    file.write_bytes(content)


async def events(url: str) -> list[tuple[object, ...]]:
    async with store.connection(url) as conn:
        return await (await conn.execute(EVENTS)).fetchall()


async def delete_event(conn: AsyncConnection, position: int) -> None:
    """Delete an event although the table refuses it."""
    async with conn.transaction():
        await conn.execute("ALTER TABLE eventstore.events DISABLE TRIGGER USER")
        await conn.execute("DELETE FROM eventstore.events WHERE position = %s", [position])
        await conn.execute("ALTER TABLE eventstore.events ENABLE TRIGGER USER")


async def export_ok(commands: Commands, url: str) -> CommandResult:
    """Run an export that must succeed."""
    result = await commands.run("export", "events", "log", DATABASE_URL=url)
    assert result.code == 0, result.transcript
    return result


async def test_events_are_exported_and_imported_into_another_database(
    commands: Commands, database_url: str, conn: AsyncConnection, elsewhere: str
) -> None:
    result = await export_ok(commands, database_url)
    assert (result.out, result.err) == ("log: 4 events up to position 4, 0 quarantined messages\n", "")
    assert mode_of(commands.folder / "log") == 0o600
    for missing in (4, 0):
        result = await commands.run("import", "events", "log", DATABASE_URL=elsewhere)
        assert (result.code, result.err) == (0, ""), result.transcript
        assert result.out == f"log: 4 events, {missing} of them new\n"
    assert await events(elsewhere) == await events(database_url)
    assert len(await store.positions(conn)) == 4


async def test_an_existing_file_needs_force(
    commands: Commands, database_url: str, conn: AsyncConnection, elsewhere: str
) -> None:
    await export_ok(commands, database_url)
    again = await commands.run("export", "events", "log", DATABASE_URL=database_url)
    assert again.code == 2, again.transcript
    assert again.stderr_line == "projections: log already exists; choose another name or use --force"
    await append(conn, new_record())
    again = await commands.run("export", "events", "log", "--force", DATABASE_URL=database_url)
    assert (again.code, again.out.startswith("log: 5 events")) == (0, True), again.transcript
    assert (await commands.run("import", "events", "log", DATABASE_URL=elsewhere)).code == 0
    assert len(await events(elsewhere)) == 5


async def test_missing_positions_are_reported_and_filled(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    await export_ok(commands, database_url)
    before = await events(database_url)
    await delete_event(conn, 2)
    result = await commands.run("export", "events", "less", DATABASE_URL=database_url)
    assert (result.code, result.out) == (1, "less: 3 events up to position 4, 0 quarantined messages\n"), (
        result.transcript
    )
    assert result.err == "projections: positions 2..2 are missing in this log, and so in the file\n"
    result = await commands.run("import", "events", "log", DATABASE_URL=database_url)
    assert (result.code, result.out) == (0, "log: 4 events, 1 of them new\n"), result.transcript
    assert await events(database_url) == before


@pytest.mark.usefixtures("conn")
async def test_a_refused_import_exits_with_1_and_one_sentence(
    commands: Commands, database_url: str, elsewhere: str
) -> None:
    async def is_refused(file: str, words: str, url: str = elsewhere, *options: str) -> None:
        result = await commands.run(*options, "import", "events", file, DATABASE_URL=url)
        assert result.code == 1, result.transcript
        assert (result.stderr_line if not options else result.err.splitlines()[-1]).startswith("projections: ")
        assert words in result.err
        assert (PPNUM in result.transcript, "Traceback" in result.err) == (False, bool(options))

    await export_ok(commands, database_url)
    await is_refused("nowhere", "nowhere can't be read: No such file or directory")
    await is_refused(".", ". is not a regular file; an import reads it more than once")
    async with store.connection(elsewhere, "projections ingest shop at host:1") as follower:
        await follower.execute("SELECT pg_advisory_lock(%s)", [app_lock("shop")])
        await is_refused("log", "app 'shop': held by projections ingest shop at host:1; try again later")
    async with store.connection(elsewhere) as target_conn:  # Postgres quotes the whole row in its DETAIL
        await target_conn.execute("ALTER TABLE eventstore.events ADD CONSTRAINT no CHECK (ppnum <> '12300000003')")
        await is_refused("log", 'violates check constraint "no" (SQLSTATE 23514)')
        await is_refused("log", "(SQLSTATE 23514)", elsewhere, "-v")
        assert await events(elsewhere) == []
        await target_conn.execute("ALTER TABLE eventstore.events DROP CONSTRAINT no")
        await append(target_conn, new_record(ppnum=PPNUM))
    await is_refused("log", "position 1 has a different event in the file: the file was exported from a different log")
    corrupt(commands.folder / "log", PPNUM.encode())
    await is_refused("log", "log was changed after it was written: its digest doesn't match", database_url)


@pytest.mark.usefixtures("conn")
async def test_a_killed_import_can_be_run_again(commands: Commands, database_url: str, elsewhere: str) -> None:
    await export_ok(commands, database_url)
    async with store.connection(elsewhere, "holder") as holder, store.connection(elsewhere) as target_conn:
        await holder.execute("BEGIN")
        await holder.execute("SELECT pg_advisory_xact_lock(%s)", [APPEND_LOCK])
        running = await commands.start("import", "events", "log", DATABASE_URL=elsewhere)
        await store.wait_for_append_lock_waiters(target_conn)
        assert (await running.kill()).code == -signal.SIGKILL
        await holder.execute("ROLLBACK")

        async def sessions_ended() -> bool:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projections import %%'"
            return not await store.value(target_conn, query)

        await store.wait_until(sessions_ended, "the end of the import's sessions")
        await store.assert_nothing_written(target_conn)
        result = await commands.run("import", "events", "log", DATABASE_URL=elsewhere)
        assert (result.code, result.err) == (0, ""), result.transcript
    assert await events(elsewhere) == await events(database_url)


async def test_an_export_that_cannot_write_leaves_no_file(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    result = await commands.run("export", "events", "no/log", "--force", DATABASE_URL=database_url)
    assert result.code == 1, result.transcript
    assert "No such file or directory" in result.stderr_line
    assert not [*commands.folder.iterdir()]
    assert len(await store.positions(conn)) == 4


async def test_an_export_does_not_replace_a_pipe_or_a_folder(commands: Commands) -> None:
    os.mkfifo(commands.folder / "pipe")
    (commands.folder / "link").symlink_to("pipe")
    for place, why in (
        (".", ". is a folder; give a file name"),
        ("-", "- is not a file; the events can't be written to stdout, so give a file name"),
        ("pipe", "pipe is a pipe or a device, not a regular file; give another file name"),
        ("link", "link is a pipe or a device, not a regular file; give another file name"),
    ):
        for options in ((), ("--force",)):
            # This database doesn't exist: the name is checked before a connection is made.
            url = "postgresql://u@127.0.0.1:1/d"
            result = await commands.run("export", "events", place, *options, DATABASE_URL=url)
            assert (result.code, result.stderr_line) == (2, f"projections: {why}"), result.transcript
    assert sorted(path.name for path in commands.folder.iterdir()) == ["link", "pipe"]
    assert (commands.folder / "pipe").is_fifo()


@pytest.mark.usefixtures("conn")
async def test_an_export_keeps_a_symbolic_link_and_replaces_its_file(
    commands: Commands, database_url: str, elsewhere: str
) -> None:
    target = commands.folder / "elsewhere" / "file"
    target.parent.mkdir()
    target.write_bytes(b"earlier content")
    (commands.folder / "link").symlink_to(target)
    result = await commands.run("export", "events", "link", DATABASE_URL=database_url)
    assert (result.code, target.read_bytes()) == (2, b"earlier content"), result.transcript
    result = await commands.run("export", "events", "link", "--force", DATABASE_URL=database_url)
    assert result.code == 0, result.transcript
    assert (commands.folder / "link").readlink() == target
    assert [*target.parent.iterdir()] == [target]
    result = await commands.run("import", "events", "elsewhere/file", DATABASE_URL=elsewhere)
    assert (result.code, await events(elsewhere)) == (0, await events(database_url)), result.transcript


async def test_an_unmigrated_database_and_wrong_arguments_exit_with_2(
    commands: Commands, empty_database_url: str
) -> None:
    unmigrated: list[tuple[str, ...]] = [("export", "events", "log"), ("import", "events", "log"), ("redecode",)]
    wrong: list[tuple[str, ...]] = [("export", "events"), ("import", "log"), ("redecode", "--from", "0")]
    for command in unmigrated:
        result = await commands.run(*command, DATABASE_URL=empty_database_url)
        assert (result.code, result.stderr_line.endswith("run projections migrate")) == (2, True), result.transcript
    for command in [*wrong, ("redecode", "--from", "x")]:
        result = await commands.run(*command, DATABASE_URL=empty_database_url)
        assert (result.code, result.out, "Traceback" in result.err) == (2, "", False), result.transcript


async def test_redecode_reports_what_it_changed_and_what_to_rebuild(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    await folding.fold_all(database_url)
    before = await events(database_url)
    result = await commands.run("redecode", DATABASE_URL=database_url)
    assert (result.code, result.out, result.err) == (0, "4 events read, 0 of them changed\n", ""), result.transcript
    stale = {"position": 2, "event_type": 4, "ppnum": PPNUM, "occurred_at": "2026-01-01T00:00:00Z"}
    await conn.execute("SELECT eventstore.redecode(%s::jsonb)", [json.dumps([stale])])
    assert await events(database_url) != before
    result = await commands.run("redecode", "--from", "3", DATABASE_URL=database_url)
    assert (result.code, result.out) == (0, "2 events read, 0 of them changed\n"), result.transcript
    result = await commands.run("redecode", "--from", "5", DATABASE_URL=database_url)
    expected = "projections: position 5 is beyond the last one, 4; there is nothing to redecode"
    assert (result.code, result.stderr_line) == (2, expected), result.transcript
    result = await commands.run("redecode", DATABASE_URL=database_url)
    assert (result.code, result.out) == (0, "4 events read, 1 of them changed\n"), result.transcript
    names = "consent_registry people request_status"
    assert result.err == f"these projections need a rebuild now: projections rebuild {names}\n"
    assert await events(database_url) == before


async def test_events_that_redecode_cannot_decode_exit_with_1(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    await conn.execute(
        "INSERT INTO eventstore.events"
        " (event_id, position, app, contract, event_type, ppnum, occurred_at, received_at, payload)"
        " VALUES ('01KE57A22WAXDSJX6FXBCFS5DG', 5, 'app', 'chat.external', 1, %s, now(), now(), %s)",
        [PPNUM, b"\xff"],
    )
    before = await events(database_url)
    result = await commands.run("redecode", DATABASE_URL=database_url)
    assert (result.code, result.out) == (1, "5 events read, 0 of them changed\n"), result.transcript
    assert result.err == "projections: 1 event can no longer be decoded (columns unchanged): positions 5\n"
    assert await events(database_url) == before


async def test_redecode_reports_a_projection_that_cannot_be_loaded(
    commands: Commands, database_url: str, conn: AsyncConnection, tmp_path: Path
) -> None:
    await folding.fold_all(database_url)
    stale = {"position": 2, "event_type": 4, "ppnum": PPNUM, "occurred_at": "2026-01-01T00:00:00Z"}
    await conn.execute("SELECT eventstore.redecode(%s::jsonb)", [json.dumps([stale])])
    result = await commands.run("redecode", DATABASE_URL=database_url, PYTHONPATH=write_broken_package(tmp_path))
    assert (result.code, result.out) == (1, "4 events read, 1 of them changed\n"), result.transcript
    first, second = result.err.splitlines()
    assert first.startswith("projections: theirs is left out: projection 'theirs' can't be loaded from absent:Theirs")
    assert second.endswith("projections rebuild consent_registry people request_status")


async def test_redecode_does_not_wait_for_a_rebuild(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    async with store.connection(database_url, "projections rebuild poll_tallies host:1") as other:
        await other.execute("SELECT pg_advisory_lock(%s)", [rebuild_lock("poll_tallies")])
        result = await commands.run("redecode", DATABASE_URL=database_url)
    expected = "projections: projection poll_tallies: held by projections rebuild poll_tallies host:1; try again later"
    assert (result.code, result.stderr_line) == (1, expected), result.transcript
    assert len(await folding.stored_records(conn)) == 4


async def test_an_import_from_standard_input_is_a_usage_error(commands: Commands) -> None:
    result = await commands.run("import", "events", "-", DATABASE_URL="postgresql://u@127.0.0.1:1/d")
    assert (result.code, "standard input: give a path" in result.stderr_line) == (2, True), result.transcript
