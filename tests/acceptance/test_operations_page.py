"""The recipes of docs/operations.md work as they stand there: its SQL, numbers of sessions, and dump and restore."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from projections.granting.role_kinds import RoleKind
from projections.migrating.metadata import READ_MODELS
from projections.migrating.schema_drift import find_drift
from tests import folding, oracle, rebuilding, store, stories
from tests.acceptance.command import COMMAND, QUICK, Commands
from tests.databases import Server
from tests.queries import fetch_all
from tests.roles import granted_roles
from tests.scripted import scripted_server, stays_open
from tests.servers import client_programs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
STATEMENTS = re.compile(r"```sql\n(.*?)```", re.DOTALL)
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s"


def marked(name: str) -> str:
    """Return the part of the page that is marked with a name."""
    return PAGE.partition(f"<!-- {name} -->")[2].partition("<!-- end -->")[0]


async def test_the_sql_of_the_page_works(postgres: Server, database_url: str) -> None:
    async with store.connection(database_url) as owner:
        await rebuilding.append_and_fold(database_url, owner)
    superuser = psycopg.conninfo.make_conninfo(
        postgres.superuser_url, dbname=psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    )
    found = [one.strip() for block in STATEMENTS.findall(PAGE) for one in block.split(";") if one.strip()]
    assert len(found) >= 15
    async with store.connection(superuser) as conn, conn.transaction(force_rollback=True):
        for statement in found:
            # All of it is taken back, so it is in a transaction.
            await conn.execute(statement.replace("INDEX CONCURRENTLY", "INDEX").encode())
        assert await find_drift(conn) == []  # settings of tables are not damage
        await folding.assert_rows_match_oracle(conn)


async def test_the_command_of_the_page_drops_old_messages_and_a_full_quarantine_has_room_again(
    commands: Commands, database_url: str
) -> None:
    pages = [*ROOT.glob("docs/*.md"), ROOT / "README.md"]
    assert [page.name for page in pages if "DELETE FROM eventstore.quarantine" in page.read_text()] == []
    (command,) = re.findall(r"(?m)^projections quarantine drop .*", PAGE)
    async with store.connection(database_url) as conn, store.appender(database_url) as appender:
        await appender.append([], rejected=[store.garbage(number) for number in range(3)])
        old, limit, kept = [row.payload for row in await store.quarantine_rows(conn)]
        for days, payload in ((100, old), (91, limit), (89, kept)):
            await conn.execute(
                "UPDATE eventstore.quarantine SET last_seen = now() - make_interval(days => %s) WHERE payload = %s",
                [days, payload],
            )
        await conn.execute("UPDATE eventstore.quarantine_usage SET full_since = now()")
        result = await commands.run(*shlex.split(command)[1:], DATABASE_URL=database_url)
        assert result.code == 0, result.transcript
        assert [row.payload for row in await store.quarantine_rows(conn)] == [kept]
        usage = await fetch_all(conn, "SELECT kept_rows, full_since FROM eventstore.quarantine_usage")
        assert usage == [(1, None)]


@pytest.mark.parametrize("number", [0, 1, 2], ids=["run", "run --no-ingest", "ingest"])
async def test_a_process_opens_as_many_sessions_as_the_page_says(
    commands: Commands, database_url: str, number: int
) -> None:
    lines = [line.strip("| ").split(" | ") for line in marked("sessions").strip().splitlines()[2:]]
    command, counted = lines[number]
    amounts = {"app": 2, "projection": len(READ_MODELS), "more": 1}
    expected = sum(int(count) * amounts[each] for count, each in re.findall(r"(\d+) (?:for each )?(\w+)", counted))
    # Each app receives an event: the session that stores them is opened for the first one.
    scripts = [stays_open(stories.payload(folding.new_record(oracle.DELIVERED))) for _ in range(2)]
    async with scripted_server(*scripts) as upstream, store.connection(database_url) as conn:
        app = f'address = "{upstream.address}"\ntoken = "token-of-mine"\n'
        (commands.folder / "projections.toml").write_text(f"[apps.clinic]\n{app}[apps.shop]\n{app}")
        running = await commands.start(*command.strip("`").split()[1:], **QUICK, DATABASE_URL=database_url)
        if "--no-ingest" not in command:
            for name in ("clinic", "shop"):
                await running.wait_for_stderr("following", name)

        async def are_counted() -> bool:
            return await store.value(conn, SESSIONS, "projections %") == expected

        await store.wait_until(are_counted, f"{expected} sessions of {command}")


async def test_a_dump_is_restored_migrated_and_continued(
    commands: Commands, postgres: Server, database_url: str, empty_database_url: str
) -> None:
    """The commands of the page, in a shell; meanwhile the upstream has a new event."""
    async with granted_roles(postgres, database_url, RoleKind.READER, RoleKind.WORKER) as roles:
        async with store.connection(database_url) as conn:
            await rebuilding.append_and_fold(database_url, conn)
            await rebuilding.rebuild(database_url, READ_MODELS[0]())  # which leaves the schema of shadows
            before = await store.value(conn, "SELECT max(position) FROM eventstore.events")
        new = stories.payload(folding.new_record(oracle.DELIVERED, "12300000009"))
        async with scripted_server(stays_open(new)) as upstream:
            await run_in_shell(
                postgres,
                commands.folder,
                marked("dump").partition("```sh\n")[2].partition("```")[0],
                {
                    **QUICK,
                    "DATABASE_URL": database_url,
                    "RESTORED_URL": empty_database_url,
                    "PCS_EXTERNAL_API_URL": upstream.address,
                    "PROJECTIONS_TOKEN": "token-of-mine",
                },
            )
        async with store.connection(empty_database_url) as conn:
            assert await store.value(conn, "SELECT max(position) FROM eventstore.events") == int(str(before)) + 1
            await store.positions(conn)
            await folding.assert_rows_match_oracle(conn)
            assert await find_drift(conn) == []
            kinds = await fetch_all(conn, "SELECT kind FROM projections.granted_roles ORDER BY kind")
            assert kinds == [("reader",), ("worker",)]
        restored = psycopg.conninfo.conninfo_to_dict(empty_database_url)["dbname"]
        reader = psycopg.conninfo.make_conninfo(roles[RoleKind.READER].url, dbname=restored)
        async with await psycopg.AsyncConnection.connect(reader) as conn:
            await conn.execute("SELECT * FROM public.consent_history")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await conn.execute("SELECT * FROM eventstore.events")
        for role in roles.values():  # they are dropped next, and no role may be that has something in a database
            url = psycopg.conninfo.make_conninfo(postgres.superuser_url, dbname=restored)
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
                await conn.execute(psycopg.sql.SQL("DROP OWNED BY {}").format(psycopg.sql.Identifier(role.name)))


async def run_in_shell(postgres: Server, folder: Path, script: str, variables: dict[str, str]) -> None:
    """Run a script of the page, with the server's own pg_dump and pg_restore; every command must succeed."""
    places: Sequence[str] = (str(client_programs(postgres.name)), str(Path(COMMAND[0]).parent), os.environ["PATH"])
    assert Path(sys.executable).parent == Path(COMMAND[0]).parent
    process = await asyncio.create_subprocess_exec(
        *("sh", "-eux", "-c", script),
        cwd=folder,
        env={"HOME": str(folder), "PATH": os.pathsep.join(places), **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode(errors="replace")
