"""Connections have the settings that we need, whatever a role or a database sets."""

from __future__ import annotations

import asyncio
import gc
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from eventstore.errors import UsageError
from eventstore.postgres import connection
from eventstore.postgres.connection import connect, connect_sync
from eventstore.postgres.session_settings import (
    COMMIT_DURABLY,
    EVERY_SESSION,
    FOLDING,
    LEFT_TO_OTHERS,
    SEARCHING,
    startup_settings,
)
from tests import hostile_database, store
from tests.databases import Server
from tests.fix_full_matrix import in_turns
from tests.queries import fetch_all, fetch_row
from tests.store import QUICK


async def test_every_setting_that_a_role_can_change_is_ours_or_left_to_others_on_purpose(database_url: str) -> None:
    """A new server version has new settings: session_settings must set each or leave it to others."""
    async with store.connection(database_url, "reading") as conn:
        found = await fetch_all(conn, "SELECT name FROM pg_catalog.pg_settings WHERE context = 'user'")
        names = {name for (name,) in found}
    assert names - {*hostile_database.PINNED, *LEFT_TO_OTHERS, "application_name"} == set()
    assert not {*hostile_database.PINNED} & {*LEFT_TO_OTHERS}


@pytest.mark.parametrize("profile", [{}, FOLDING, SEARCHING, {"work_mem": "1MB"}])
async def test_a_session_has_our_settings_despite_its_role(database_url: str, profile: dict[str, str]) -> None:
    theirs = hostile_database.make_hostile(database_url)
    with psycopg.connect(database_url) as person:
        assert person.execute("SHOW enable_indexscan").fetchone() == ("off",), "the role's settings are in force"
    wanted = {**startup_settings(QUICK), **EVERY_SESSION, "synchronous_commit": "on", **profile}
    async with await connect(database_url, name="reading", waits=QUICK, settings=profile) as conn:
        query = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY(%s)"
        found: dict[str, str] = dict(await fetch_all(conn, query, [[*theirs, *profile]]))
    for name in ("work_mem", *(name for name in found if name.startswith("tcp_"))):
        found.pop(name, None)  # shown in other units, or not shown over a Unix socket
    assert found == {name: wanted[name].removesuffix("ms") for name in found}
    assert len(found) > 50


def test_the_session_of_a_migration_has_our_settings_too(database_url: str) -> None:
    hostile_database.make_hostile(database_url)
    with connect_sync(database_url, name="reading", waits=QUICK) as conn:
        query = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY(%s)"
        found: dict[str, str] = dict(conn.execute(query, [list(EVERY_SESSION)]).fetchall())
    assert found == {name: EVERY_SESSION[name] for name in found}


@pytest.mark.parametrize(
    ("by", "theirs"),
    in_turns(
        [("the role",), ("the environment",), ("the URL",)],
        [("LATIN1",), ("WIN1252",), ("SQL_ASCII",)],
        "each session asks for UTF8, whatever it would have; each encoding is set once, and each way sets one",
    ),
)
async def test_texts_are_sent_and_read_in_utf_8(
    database_url: str, monkeypatch: pytest.MonkeyPatch, by: str, theirs: str
) -> None:
    url = database_url
    if by == "the role":
        hostile_database.make_hostile(database_url, ("client_encoding", theirs))
    elif by == "the environment":
        monkeypatch.setenv("PGCLIENTENCODING", theirs)
    else:
        url = make_conninfo(database_url, client_encoding=theirs)
    async with await connect(url, name="reading", waits=QUICK) as conn:
        row = await fetch_row(conn, "SELECT %s::text", ["недоступен"])
    assert row == ("недоступен",)


@pytest.mark.parametrize("theirs", ["off", "local", "remote_write", "on", "remote_apply"])
async def test_a_commit_waits_for_the_disk_or_for_whatever_takes_longer(database_url: str, theirs: str) -> None:
    hostile_database.make_hostile(database_url, ("synchronous_commit", theirs))
    async with await connect(database_url, name="reading", waits=QUICK) as conn:
        ours = "remote_apply" if theirs == "remote_apply" else "on"
        assert await store.value(conn, "SHOW synchronous_commit") == ours
        async with conn.transaction():  # in a session whose other commits need not be durable
            await conn.execute("SET LOCAL synchronous_commit = off")
            await conn.execute(COMMIT_DURABLY)
            assert await store.value(conn, "SHOW synchronous_commit") == ours


async def test_a_superusers_session_fires_triggers_despite_its_role(postgres: Server) -> None:
    name = postgres.create()
    url = urlsplit(postgres.superuser_url)._replace(path=f"/{name}").geturl()
    try:
        hostile_database.make_hostile(url, ("session_replication_role", "replica"))
        async with await connect(url, name="reading", waits=QUICK) as conn:
            assert await store.value(conn, "SHOW session_replication_role") == "origin"
    finally:
        postgres.drop(name)


async def test_no_setting_of_a_role_ends_a_transaction(database_url: str) -> None:
    async with store.connection(database_url, "owner") as owner:
        if owner.info.server_version < 170_000:
            pytest.skip("this server has no transaction_timeout")
        command = sql.SQL("ALTER ROLE CURRENT_USER IN DATABASE {} SET transaction_timeout = '5s'")
        await owner.execute(command.format(sql.Identifier(owner.info.dbname)))
    async with store.connection(database_url, "reading") as conn, conn.transaction():
        query = "SELECT setting, reset_val FROM pg_settings WHERE name = 'transaction_timeout'"
        assert await fetch_row(conn, query) == ("0", "5000")


@pytest.mark.parametrize(
    ("variable", "theirs", "setting", "ours"),
    [
        ("PGTZ", "Asia/Kathmandu", "timezone", "UTC"),
        ("PGDATESTYLE", "German", "datestyle", "ISO, MDY"),
        ("PGGEQO", "off", "geqo", "on"),
        ("PGOPTIONS", "-c search_path=public", "search_path", "pg_catalog, pg_temp"),
        ("PGOPTIONS", "-c statement_timeout=7s", "statement_timeout", "7s"),
    ],
)
async def test_the_environment_can_set_no_more_than_the_url(
    database_url: str, monkeypatch: pytest.MonkeyPatch, variable: str, theirs: str, setting: str, ours: str
) -> None:
    monkeypatch.setenv(variable, theirs)
    async with await connect(database_url, name="reading", waits=QUICK) as conn:
        assert await store.value(conn, "SELECT current_setting(%s)", setting) == ours


async def test_a_pooler_that_drops_startup_options_changes_no_setting(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PgBouncer does with ignore_startup_parameters = options."""
    limits = {"statement_timeout": "40s", "lock_timeout": "40s", "idle_session_timeout": "40s"}
    hostile_database.make_hostile(database_url, *limits.items(), ("client_connection_check_interval", "0"))
    dropped = {"options": ""}
    monkeypatch.setattr(connection, "make_conninfo", lambda *_, **given: make_conninfo("", **{**given, **dropped}))
    url = make_conninfo(database_url, options="-c statement_timeout=7s --idle-session-timeout=8s")
    async with await connect(url, name="reading", waits=QUICK, lock_timeout=3) as conn:
        found = {name: await store.value(conn, "SELECT current_setting(%s)", name) for name in limits}
        interval = await store.value(conn, "SHOW client_connection_check_interval")
    assert found == {**limits, "lock_timeout": "3s"}, "the pooler keeps its own value of what the URL sets"
    assert interval == f"{QUICK.leader_heartbeat:g}s"


async def test_the_url_can_set_timeouts_and_read_only_and_nothing_else(database_url: str) -> None:
    theirs = "-c timezone=Asia/Kathmandu -c search_path=public -c statement_timeout=7s"
    url = make_conninfo(database_url, options=f"{theirs} -c default_transaction_read_only=on")
    async with await connect(url, name="reading", waits=QUICK) as conn:
        assert await store.value(conn, "SHOW timezone") == "UTC"
        assert await store.value(conn, "SHOW search_path") == "pg_catalog, pg_temp"
        assert await store.value(conn, "SHOW statement_timeout") == "7s"
        assert await store.value(conn, "SHOW transaction_read_only") == "on"


async def test_a_wrong_timeout_in_the_environment_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECTIONS_DATABASE_CONNECT", "soon")
    with pytest.raises(UsageError, match=r"^PROJECTIONS_DATABASE_CONNECT must be a number of seconds$"):
        await connect("postgresql://localhost:1/none")


async def test_a_connection_that_is_cancelled_while_it_is_opened_is_closed_at_once() -> None:
    """Otherwise it had a session of the server until the garbage collector found it."""
    opened, closed = asyncio.Event(), asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        opened.set()
        await reader.read()
        closed.set()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    gc.disable()
    try:
        async with server:
            opening = asyncio.create_task(connect(f"postgresql://127.0.0.1:{port}/any", waits=QUICK))
            await opened.wait()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError) as kept:
                await opening
            async with asyncio.timeout(store.GIVE_UP):
                await closed.wait()
            assert kept.value.__traceback__ is not None, (
                "the error is still there, and the connection is closed all the same"
            )
    finally:
        gc.enable()
