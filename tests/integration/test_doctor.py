"""Doctor finds each cause, produced for real, and its SQL mends it: what is in the database itself."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from eventstore.appending.append import Appender
from eventstore.appending.quarantine_limits import QuarantineLimits
from eventstore.ingest.lost_events import KnownHeads
from eventstore.locks import (
    APPEND_LOCK,
    TRY_SESSION_LOCK,
    TRY_SHARED_SESSION_LOCK,
    WAIT_FOR_TRANSACTION_LOCK,
    app_lock,
    fold_lock,
)
from projections.inspecting.doctor import log_checks, server_checks, statistics_checks
from projections.inspecting.finding_codes import Severity
from projections.inspecting.health import (
    find_app_problems,
    find_problems,
    find_projection_problems,
    find_schema_problems,
)
from projections.inspecting.read_status import read_status
from projections.migrating.metadata import READ_MODELS
from projections.read_models.common_columns import VIEWS
from projections.rebuilding.rebuild_history import next_run_id, record_start
from projections.registry import Registry
from projections.running import control, state_changes
from projections.running.window_step import Step
from projections.views import View
from tests import folding, store
from tests.databases import Server
from tests.doctoring import HERE, codes, diagnose, findings, only, registry_of, run_sql, session
from tests.folding import NewerWatched, Watched, append, create_watched_table, insert_at, new_record
from tests.queries import fetch_row
from tests.store import QUICK, garbage

NAMES = sorted(one.name for one in READ_MODELS)
AT_ONCE = QUICK.model_copy(update={"append_lock": 0.001})
"""Whoever waits for a lock has waited for too long."""


async def listening_worker(stack: AsyncExitStack, url: str, *names: str) -> None:
    """Open sessions that look like those of a process that folds these projections."""
    await stack.enter_async_context(session(url, f"projections listen {HERE}"))
    for name in names:
        conn = await stack.enter_async_context(session(url, f"projections run {name} {HERE}"))
        await conn.execute(TRY_SHARED_SESSION_LOCK, [fold_lock(name)])


async def as_superuser(postgres: Server, database: str) -> AsyncConnection:
    """Return a superuser's connection to a database."""
    url = urlunsplit(urlsplit(postgres.superuser_url)._replace(path=f"/{database}"))
    return await AsyncConnection.connect(url, autocommit=True)


@pytest.mark.folded
async def test_a_session_that_holds_a_checkpoint_is_named_with_whom_it_blocks(
    conn: AsyncConnection, database_url: str
) -> None:
    async with session(database_url, "a tool") as tool, session(database_url, "projections waiting") as waiting:
        await tool.execute("BEGIN")
        await tool.execute("SELECT FROM projections.checkpoints WHERE name = 'request_status' FOR UPDATE")
        blocked = asyncio.create_task(control.pause(waiting, "request_status"))
        await store.wait_until_blocked(conn, waiting.info.backend_pid)
        found = await findings(database_url, waits=AT_ONCE, limits={"snapshot": 0.001})
        held, waits, old = (only(found, code) for code in ("checkpoint_held", "lock_wait", "old_snapshot"))
        for finding in (held, waits, old):
            assert finding.sentence.startswith(f"backend {tool.info.backend_pid} (a tool, role "), finding.line
            assert "client 127.0.0.1, idle in transaction, in a transaction since 20" in finding.sentence
            assert finding.command == f"SELECT pg_terminate_backend({tool.info.backend_pid});"
        assert "has locked the checkpoint of request_status" in held.sentence
        waiter = f"blocks backend {waiting.info.backend_pid} (projections waiting), which waits since 20"
        assert waiter in waits.sentence
        assert waits.sentence.endswith("for projections.checkpoints")
        assert codes(await findings(database_url))[:1] == ["projection_not_folded"]  # it has not been held for long
        await run_sql(conn, waits)
        assert await blocked
    gone = {held.code, waits.code, old.code}
    assert gone.isdisjoint(codes(await findings(database_url, waits=AT_ONCE, limits={"snapshot": 0.001})))


@pytest.mark.folded
@pytest.mark.oldest
async def test_a_command_of_ours_that_blocks_or_takes_long_is_not_to_be_terminated(
    conn: AsyncConnection, database_url: str
) -> None:
    async with (
        session(database_url, f"projections rebuild people {HERE}") as ours,
        session(database_url, "a tool") as waiting,
    ):
        holder = ours.info.backend_pid
        async with ours.transaction():
            await ours.execute("SELECT pg_current_xact_id()")
            await ours.execute("LOCK TABLE public.people")
            blocked = asyncio.create_task(waiting.execute("SELECT FROM public.people LIMIT 1"))
            await store.wait_until_blocked(conn, waiting.info.backend_pid)
            found = await findings(database_url, waits=AT_ONCE, limits={"snapshot": 0.001})
        await blocked
    for finding in (only(found, "lock_wait"), only(found, "old_snapshot")):
        assert finding.sentence.startswith(f"backend {holder} (projections rebuild people ")
        assert (finding.command, finding.remedy) == (
            None,
            "wait until that command of ours is done, or stop its process",
        )


async def test_who_holds_the_append_lock_is_named(conn: AsyncConnection, database_url: str) -> None:
    async with session(database_url, "frozen") as holder, session(database_url, "next") as following:
        await holder.execute("BEGIN")
        await holder.execute(WAIT_FOR_TRANSACTION_LOCK, [APPEND_LOCK])
        blocked = asyncio.create_task(following.execute(WAIT_FOR_TRANSACTION_LOCK, [APPEND_LOCK]))
        await store.wait_until_blocked(conn, following.info.backend_pid)
        found = only(await findings(database_url, waits=AT_ONCE), "lock_wait")
        assert f"backend {holder.info.backend_pid} (frozen, " in found.sentence
        assert found.sentence.endswith("for the append lock")
        await run_sql(conn, found)
        await blocked


@pytest.mark.folded
async def test_what_was_dropped_or_changed_in_the_schema_is_found(conn: AsyncConnection, database_url: str) -> None:
    await append(conn, new_record(), new_record())
    before = codes(await findings(database_url))
    await conn.execute("DROP TRIGGER refuse_change_row ON eventstore.events")
    await conn.execute("DROP INDEX eventstore.events_app_position_idx")
    await conn.execute("ALTER TABLE public.request_status DROP COLUMN state CASCADE")
    await conn.execute("ALTER TABLE public.poll_tallies RENAME TO elsewhere")
    with suppress(psycopg.errors.UniqueViolation):
        await conn.execute("CREATE UNIQUE INDEX CONCURRENTLY half ON eventstore.events (app)")
    found = await findings(database_url)
    assert codes(found) == [*("schema_damaged", "index_missing", "index_invalid", "table_missing"), *before]
    damaged = [one for one in found if one.code == "schema_damaged"]
    assert "trigger refuse_change_row on eventstore.events is missing" in [one.sentence for one in damaged]
    assert {one.command for one in damaged if "trigger" in one.sentence} == {"projections migrate"}
    missing = [one.line for one in found if one.code == "table_missing"]
    assert missing == [
        "wrong [table_missing] table public.poll_tallies is missing; run projections migrate",
    ]
    assert only(found, "index_invalid").command == 'REINDEX INDEX CONCURRENTLY "eventstore"."half";'
    (dropped,) = [one for one in found if one.sentence == "index eventstore.events_app_position_idx is missing"]
    assert dropped.code == "index_missing"
    await run_sql(conn, dropped)
    await conn.execute("DROP INDEX eventstore.half")
    left = await findings(database_url)
    assert dropped.sentence not in [one.sentence for one in left]
    assert "index_invalid" not in codes(left)


@pytest.mark.parametrize(
    ("revision", "code", "remedy"),
    [("0001", "schema_older", "run projections migrate"), ("9999", "schema_newer", "upgrade this installation")],
)
async def test_a_schema_of_another_version_is_named_and_its_tables_are_left_alone(
    conn: AsyncConnection, database_url: str, revision: str, code: str, remedy: str
) -> None:
    await conn.execute("UPDATE projections.alembic_version SET version_num = %s", [revision])
    (found,) = await findings(database_url)
    assert (found.code, found.remedy, revision in found.sentence) == (code, remedy, True)


async def test_a_database_that_was_not_migrated_is_one_finding(empty_database_url: str) -> None:
    (found,) = await findings(empty_database_url)
    assert found.line == "wrong [schema_missing] the database has no schema of ours yet; run projections migrate"


@pytest.mark.folded
async def test_apps_that_are_unfollowed_refused_failing_silent_or_held(
    conn: AsyncConnection, database_url: str
) -> None:
    async with AsyncExitStack() as stack:
        await listening_worker(stack, database_url, *NAMES)
        for app in ("failing", "gaps", "held", "quiet", "refused"):
            await store.set_epoch(conn, app)
            name = f"projections {'import' if app == 'held' else f'ingest {app}'} {HERE}"
            if app != "refused":
                holder = await stack.enter_async_context(session(database_url, name))
                await holder.execute(TRY_SESSION_LOCK, [app_lock(app)])
        await conn.execute("UPDATE eventstore.cursors SET last_received_at = clock_timestamp()")
        await conn.execute("UPDATE eventstore.cursors SET last_error = 'no route' WHERE app = 'failing'")
        await conn.execute(
            "UPDATE eventstore.cursors SET last_error = 'unknown client', refused_at = clock_timestamp()"
            " WHERE app = 'refused'"
        )
        await conn.execute("UPDATE eventstore.cursors SET holes = '[{\"lower\": null}]' WHERE app = 'gaps'")
        await conn.execute(
            "UPDATE eventstore.cursors SET last_received_at = last_received_at - interval '2 hours' WHERE app = 'quiet'"
        )
        found = await findings(database_url, configured=("shop",))
        assert [(one.code, re.sub(r" 20[-0-9: ]+Z.*", " …", one.sentence), one.command) for one in found] == [
            ("app_refused", "app 'refused' was refused at …", "projections run"),
            ("app_not_followed", "nobody follows app 'shop'", "projections run"),
            ("app_failing", "the stream of app 'failing' fails: no route", None),
            ("app_quiet", "app 'quiet' has sent no event since …", None),
            ("app_held", f"app 'held' can't be followed now: its lock is held by projections import {HERE}", None),
            (
                "app_gap",
                "app 'gaps' has 1 gap: events that the upstream can no longer replay",
                "projections reconcile --app gaps",
            ),
        ]
        assert f"although {HERE} follows it and its stream works" in only(found, "app_quiet").sentence
        silent = [one for one in await findings(database_url, max_silence=3600) if one.code == "app_silent"]
        assert [one.sentence.startswith("app 'quiet' has sent no event since 20") for one in silent] == [True]
        assert (silent[0].severity, "the limit is 3600 s" in silent[0].sentence) == ("wrong", True)


async def test_a_log_that_went_back_and_a_checkpoint_that_is_ahead_of_it(
    conn: AsyncConnection, database_url: str
) -> None:
    await append(conn, *(new_record() for _ in range(5)))
    heads = KnownHeads()
    await heads.find_lost(conn, store.APP)
    await folding.fold_all(database_url)
    await store.lose_events(conn, 3)
    await heads.find_lost(conn, store.APP)
    found = await findings(database_url)
    ahead = [one for one in found if one.code == "checkpoint_ahead"]
    assert [one.command for one in ahead] == [f"projections rebuild {name}" for name in NAMES]
    assert "its checkpoint (5) is ahead of the log (3)" in ahead[0].sentence
    back = only(found, "log_went_back")
    assert (back.severity, back.advice) == ("note", "whoever read beyond position 2 must read again from there")
    assert "lost committed events at positions 3 to 5" in back.sentence


async def test_missing_positions_are_found_where_nothing_has_counted_them(
    conn: AsyncConnection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_checks, "EXAMINED", 3)
    monkeypatch.setattr(log_checks, "PAGE", 4)
    for position in (2, 3, 4, 6, 7, 8, 9, 10, 13, 15):
        await insert_at(conn, position, new_record())
    await folding.fold_all(database_url, [])

    async def missing(*, thorough: bool) -> list[str]:
        found = [one for one in await findings(database_url, thorough=thorough) if one.code == "missing_positions"]
        assert {one.command for one in found} == {"projections import events FILE"}
        return [one.sentence for one in found]

    first, at_5 = "position 1 is missing in the log", "position 5 is missing in the log"
    last = "positions 11 to 12 are missing in the log"
    assert await missing(thorough=False) == [first, "position 14 is missing in the log"]
    assert await missing(thorough=True) == [first, "position 14 is missing in the log", at_5, last]
    await conn.execute(
        "INSERT INTO projections.checkpoints (name, version, position, state)"
        " VALUES ('request_status', 1, 4, 'running')"
    )
    assert at_5 in await missing(thorough=False)
    # A log that is shorter than what is examined is examined wholly.
    await insert_at(conn, 1, new_record())
    monkeypatch.setattr(log_checks, "EXAMINED", 100)
    await conn.execute("UPDATE projections.checkpoints SET position = 0")
    assert await missing(thorough=False) == [at_5]


async def test_projections_that_stand_still_or_are_behind(conn: AsyncConnection, database_url: str) -> None:
    await create_watched_table(conn)
    poison = new_record(ppnum=folding.DIVIDES_BY_ZERO)
    await append(conn, new_record(), poison)
    one = folding.worker(database_url, Watched(), batch_size=1)
    registry = registry_of(Watched())

    async def found(**options: Any) -> list[str]:  # noqa: ANN401 - of DoctorOptions
        lines = [one.line for one in await findings(database_url, registry=registry, **options)]
        return [line for line in lines if "listener_dead" not in line]  # the worker here is only a session

    new = "wrong [projection_new] watched has not run yet; run projections run"
    assert await found() == [new]
    async with folding.worker_connection(one) as worker:
        assert await folding.fold(one, worker) is Step.STOPPED
        (failed,) = await found()
        assert failed.startswith(
            f"wrong [projection_failed] watched is failed: event {poison.event_id} at position 2: "
        )
        assert failed.endswith(
            "; mend the cause and run projections resume watched, or skip the event: projections skip watched"
            f" --event-id {poison.event_id} --why REASON"
        )
        await control.skip(worker, "watched", poison.event_id, "a test", 1)
        await control.resume(worker, "watched")
        assert await folding.fold(one, worker) is Step.AT_HEAD
        skips = "note [projection_skips] watched skips 1 event; to see which, and why: projections status"
        assert await found() == [skips]
        await append(conn, new_record())
        behind = (await found(limits={"behind": 0.0}))[0]
        expected = r"wrong \[projection_behind\] watched is \d+ s behind \(1 events\); the limit is 0 s"
        assert re.match(expected, behind)
        await control.pause(worker, "watched")
        lines = await found(limits={"behind": 0.0})
        assert (
            "note [projection_paused] watched is paused at position 2, 1 events behind; run projections resume watched"
            in lines
        )
        assert not any("projection_behind" in line for line in lines)
        assert any("projection_behind" in line for line in await found(max_behind=0.0))
        await control.resume(worker, "watched")
        assert await folding.fold(one, worker) is Step.AT_HEAD
    assert "wrong [projection_not_folded] nobody folds watched; run projections run" in await found()
    run = await next_run_id(conn)
    await record_start(conn, run, Watched(), "a fingerprint", f"projections rebuild watched {HERE}")
    gone = "the process of the rebuild of watched is gone, after position 0 of 3; the read model is as before"
    assert f"note [rebuild_interrupted] {gone}; run projections rebuild watched --resume" in await found()
    await record_start(conn, await next_run_id(conn), Watched(), "a fingerprint", "projections as-of", into="then")
    assert any("into schema then is gone" in line and line.endswith("; run it again") for line in await found())


async def test_projections_whose_rows_are_of_another_version_or_were_redecoded(
    conn: AsyncConnection, database_url: str
) -> None:
    await create_watched_table(conn)
    await append(conn, new_record())
    await folding.fold_all(database_url, [NewerWatched])
    rebuild = "run projections rebuild watched"

    async def first_finding(registry: Registry) -> tuple[str, str | None]:
        found, *_ = await findings(database_url, registry=registry)
        return found.code, found.remedy

    async def found(projection: Watched) -> tuple[str, str | None]:
        return await first_finding(registry_of(projection))

    assert await found(Watched()) == ("code_older", "upgrade this installation")
    await conn.execute("UPDATE projections.checkpoints SET version = 1")
    assert await found(NewerWatched()) == ("rows_older", rebuild)
    await state_changes.wait_because_older(conn, "watched", 2)
    assert await found(NewerWatched()) == ("projection_waiting", rebuild)
    await state_changes.end_wait(conn, "watched", 1)
    await state_changes.mark_redecoded(conn, ["watched"], ["watched"], 1)
    assert await found(Watched()) == ("redecoded", rebuild)
    broken = registry_of(broken={"watched": "its module can't be imported"})
    assert await first_finding(broken) == ("projection_broken", "correct or install its package")


async def test_clocks_that_differ(conn: AsyncConnection, database_url: str) -> None:
    await insert_at(conn, 1, new_record(), received_in=3600)
    found = await findings(database_url, clock=lambda: time.time() - 100)
    ahead, differs = only(found, "clock_behind_events"), only(found, "clock_differs")
    assert "s behind the time of the last event" in ahead.sentence
    assert ahead.sentence.endswith("it was ahead when positions 1 to 1 were stored")
    assert differs.sentence == "this machine's clock is 100 s behind the database server's"
    is_ahead = only(await findings(database_url, clock=lambda: time.time() + 100), "clock_differs")
    assert is_ahead.sentence == "this machine's clock is 100 s ahead of the database server's"


async def test_a_quarantine_that_is_not_empty_filling_or_full(conn: AsyncConnection, database_url: str) -> None:
    limits = QuarantineLimits(max_rows=20)
    await store.set_epoch(conn)
    appender = Appender(conn, QUICK, limits)
    found = []
    for count in (1, 15, 20):
        await appender.append([], rejected=[garbage(number) for number in range(count)])
        found += [one for one in await findings(database_url, quarantine=limits) if one.code.startswith("quarantine")]
    assert [one.code for one in found] == ["quarantine_not_empty", "quarantine_filling", "quarantine_full"]
    assert [one.severity for one in found] == ["note", "note", "wrong"]
    assert {one.command for one in found} == {"projections quarantine list"}


async def test_tables_without_statistics_and_without_autovacuum(
    conn: AsyncConnection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics_checks, "PAGES", 1)
    await append(conn, new_record())
    (found,) = [one for one in await findings(database_url) if "eventstore.events has no statistics" in one.sentence]
    assert (found.code, found.severity) == ("statistics_missing", "note")
    await run_sql(conn, found)
    assert not [one for one in await findings(database_url) if "eventstore.events has no statistics" in one.sentence]
    await conn.execute("ALTER TABLE projections.checkpoints SET (autovacuum_enabled = off)")
    (of_table,) = [one for one in (await diagnose(database_url)).findings if "checkpoints" in one.sentence]
    assert (of_table.code, of_table.sentence) == ("autovacuum_off", "autovacuum is off for projections.checkpoints")
    await run_sql(conn, of_table)
    assert not any("checkpoints" in one.sentence for one in (await diagnose(database_url)).findings)


@pytest.mark.oldest
async def test_a_disk_without_room(database_url: str, tmp_path: Path) -> None:
    found = only(await findings(database_url, limits={"disk_free": 2**62}, data_folder=tmp_path), "disk_low")
    assert f"are free on the disk with {tmp_path}: the database takes " in found.sentence
    assert "of write-ahead log" in found.sentence


async def test_servers_of_other_versions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_checks, "OLDEST", 99)
    assert codes(await findings(database_url))[0] == "server_unsupported"
    monkeypatch.setattr(server_checks, "OLDEST", 1)
    monkeypatch.setattr(server_checks, "NEWEST", 2)
    assert "server_untested" in codes(await findings(database_url))


@pytest.mark.oldest
async def test_settings_that_harm_our_sessions(conn: AsyncConnection, database_url: str, postgres: Server) -> None:
    database = sql.Identifier(conn.info.dbname)
    await conn.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(database))
    postgres.execute(
        "ALTER ROLE {} IN DATABASE {} SET session_replication_role = replica", sql.Identifier(conn.info.user), database
    )
    url = f"{database_url}?options=-c%20statement_timeout%3D5s%20-c%20default_transaction_read_only%3Don"
    found = await findings(url)
    assert only(found, "commit_not_durable").sentence.startswith("synchronous_commit is off: ")
    assert only(found, "commit_not_durable").severity == "note"
    options = "the options in DATABASE_URL or PGOPTIONS set"
    assert [one.sentence for one in found if one.code == "url_options"] == [
        f"{options} statement_timeout = 5s: a fold, an append or a rebuild that takes longer fails",
        f"{options} default_transaction_read_only = on: nothing can be stored or folded",
    ]
    assert only(found, "setting_not_ours").sentence.startswith("session_replication_role is replica in our sessions")
    async with await as_superuser(postgres, conn.info.dbname) as superuser:
        for code in ("commit_not_durable", "setting_not_ours"):
            await run_sql(superuser, only(found, code))
    assert {"commit_not_durable", "setting_not_ours", "url_options"}.isdisjoint(codes(await findings(database_url)))


async def test_too_few_connections(conn: AsyncConnection, database_url: str) -> None:
    await conn.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 3").format(sql.Identifier(conn.info.dbname)))
    found = only(await findings(database_url), "connections_few")
    assert found.sentence == "1 of the 3 connections of the database are left"
    await run_sql(conn, found)
    assert "connections_few" not in codes(await findings(database_url))


@pytest.mark.folded
@pytest.mark.oldest
async def test_privileges_of_a_worker_and_of_readers(
    conn: AsyncConnection, database_url: str, postgres: Server
) -> None:
    await append(conn, new_record())
    parts = urlsplit(database_url)
    names = [f"{kind}_{secrets.token_hex(4)}" for kind in ("worker", "reader")]
    urls = [urlunsplit(parts._replace(netloc=f"{name}:a-word@{parts.hostname}:{parts.port}")) for name in names]
    worker, reader = map(sql.Identifier, names)
    try:
        for name in (worker, reader):
            postgres.execute("CREATE ROLE {} LOGIN PASSWORD 'a-word'", name)
        for text, role in (
            ("USAGE ON SCHEMA eventstore, projections", worker),
            ("SELECT, UPDATE ON projections.checkpoints", worker),
            ("SELECT ON public.request_status, public.read_model_freshness", reader),
        ):
            await conn.execute(sql.SQL(f"GRANT {text} TO {{}}").format(role))
        async with session(urls[0], f"projections run request_status {HERE}"):
            found = await findings(database_url)
            of_worker, of_reader = only(found, "role_privilege"), only(found, "reader_privilege")
            lacks = f"role {names[0]}, which folds events, lacks SELECT on eventstore."
            assert of_worker.sentence.startswith(lacks)
            assert "SELECT on eventstore.events" in of_worker.sentence
            assert "INSERT on projections.checkpoints" in of_worker.sentence
            tables = {table.name for one in READ_MODELS for table in one.tables}
            unread = sorted((tables | VIEWS) - {"request_status", "read_model_freshness"})
            assert of_reader.sentence == f"role {names[1]} reads read models, but may not read {', '.join(unread)}"
            assert of_reader.severity is Severity.NOTE  # somebody may have taken them away from it
            assert of_reader.line.count("; if that was not meant, run in psql: GRANT SELECT ON ") == 1
            assert only(await findings(urls[0]), "role_privilege").sentence == of_worker.sentence
            as_reader = await findings(urls[1], limits={"behind": 0.0})
            assert codes(as_reader)[:1] == ["projection_behind"]
            refused = only(as_reader, "not_permitted")
            assert refused.sentence.startswith(f"role {names[1]} may not read what is needed to examine ")
            assert "apps" in refused.sentence
            for finding in (of_worker, of_reader):
                await run_sql(conn, finding)
            assert {"role_privilege", "reader_privilege"}.isdisjoint(codes(await findings(database_url)))
    finally:
        async with await as_superuser(postgres, conn.info.dbname) as superuser:
            for name in (worker, reader):
                await superuser.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(name, name))


async def test_every_problem_of_status_is_a_finding_of_doctor(conn: AsyncConnection, database_url: str) -> None:
    await create_watched_table(conn)
    await append(conn, new_record(ppnum=folding.DIVIDES_BY_ZERO))
    one = folding.worker(database_url, Watched())
    async with folding.worker_connection(one) as worker:
        await folding.fold(one, worker)
    await folding.fold_all(database_url, READ_MODELS[:2])
    await Appender(conn, QUICK, QuarantineLimits(max_rows=0)).append([], rejected=[garbage()])
    for app in (store.APP, "refused"):
        await store.set_epoch(conn, app)
    await conn.execute("UPDATE eventstore.cursors SET refused_at = clock_timestamp() WHERE app = 'refused'")
    await conn.execute("DROP TRIGGER refuse_change_row ON eventstore.events")
    await state_changes.mark_redecoded(conn, [READ_MODELS[0].name], [READ_MODELS[0].name], 0)
    registry = registry_of(Watched(), *(projection() for projection in READ_MODELS))
    status = await read_status(conn, registry)
    problems = [
        *find_schema_problems(status.schema),
        *find_app_problems(status.apps, ["shop"]),
        *find_projection_problems(status.projections, status.head, 0.0),
    ]
    assert len({problem.finding.code for problem in problems}) >= 8
    assert [problem.text for problem in problems] == find_problems(status, ["shop"], 0.0)
    found = await findings(database_url, registry=registry, configured=["shop"], max_behind=0.0)
    named = {re.sub(r"\d+ s", "", one.sentence) for one in found}  # it is further behind by now
    assert {re.sub(r"\d+ s", "", problem.finding.sentence) for problem in problems} - named == set()
    assert {problem.finding.code for problem in problems} <= set(codes(found))


async def test_an_examination_reads_few_events_however_many_there_are(
    conn: AsyncConnection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_checks, "EXAMINED", 100)
    count = 30_000
    await conn.execute(
        "INSERT INTO eventstore.events (event_id, position, app, contract, event_type, occurred_at, received_at,"
        " payload) SELECT lpad(n::text, 26, '0'), n, 'app', 'chat.external', 99, now(), now(), ''"
        " FROM generate_series(1, %s) AS n",
        [count],
    )
    await conn.execute("ANALYZE eventstore.events")
    for position in (10_000, 20_000):  # two projections that are behind, one that is at the head
        name = f"at_{position}"
        await conn.execute("INSERT INTO projections.checkpoints VALUES (%s, 1, %s, 'running')", [name, position])

    async def read() -> tuple[int, int]:
        await conn.execute("SELECT pg_stat_force_next_flush()")
        row = await fetch_row(
            conn, "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'events'"
        )
        assert row is not None
        return int(row[0]), int(row[1])

    scanned, fetched = await read()
    assert "projection_behind" not in codes(await findings(database_url))
    await store.wait_until_session_ended(conn, "projections doctor")
    now_scanned, now_fetched = await read()
    assert (now_scanned - scanned, now_fetched - fetched < 1_000) == (0, True), now_fetched - fetched
    assert "missing_positions" not in codes(await findings(database_url, thorough=True))


async def test_a_check_that_fails_stops_no_other(conn: AsyncConnection, database_url: str) -> None:
    await conn.execute("ALTER TABLE projections.checkpoints RENAME COLUMN state TO status")
    found = await findings(database_url)
    assert "check_failed" in codes(found)
    assert "schema_damaged" in codes(found)


async def test_an_unreachable_or_refusing_database_is_one_finding(database_url: str) -> None:
    parts = urlsplit(database_url)
    (found,) = await findings("postgresql://nobody@127.0.0.1:1/nothing")
    assert (found.code, found.advice) == ("database_unavailable", "start the server, or correct DATABASE_URL")
    (found,) = await findings(urlunsplit(parts._replace(netloc=f"nobody:wrong@{parts.hostname}:{parts.port}")))
    assert found.code == "database_refuses"
    assert "wrong" not in found.sentence


async def test_a_view_of_a_projection_that_is_missing_is_found(database_url: str) -> None:
    views = (View("watched_counts", "SELECT 1"), View("read_model_freshness", "SELECT 1"))
    registry = registry_of(type("WithViews", (Watched,), {"views": views})())
    found = only(await findings(database_url, registry=registry), "view_missing")
    assert found.line == "wrong [view_missing] view public.watched_counts is missing; run projections migrate"
