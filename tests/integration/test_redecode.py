"""Redecode: only decoded columns may change, only through one function, and not during a rebuild."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import AsyncConnection, errors, sql

from eventstore import redecode as redecoding
from eventstore.contracts import Contract, Event, decode
from eventstore.errors import LockHeld, Undecodable
from eventstore.locks import rebuild_lock
from eventstore.postgres.session_lock import hold_lock
from eventstore.redecode import Redecoded, redecode
from projections.errors import UsageError
from projections.inspecting.read_status import read_status
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection
from projections.read_models.poll_tallies import PollTallies
from projections.rebuilding.rebuild import Limits, rebuild
from projections.rebuilding.redecode_and_mark import redecode_and_mark
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.shadow import Shadow
from projections.registry import find_projections
from projections.settings import ReplaySettings
from tests import folding, oracle, rebuilding, store
from tests.databases import Server
from tests.folding import Watched, append, new_record
from tests.queries import fetch_all
from tests.store import QUICK

CREATED, COMPLETED = datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, 0, 0, 1, tzinfo=UTC)
SUMMARY = oracle.Summary(3, 5, 2, 1, 2, CREATED, COMPLETED)
REFUSED = r"UPDATE on eventstore\.events is refused: events stay as they came"
COLUMNS = [column for column in Event._fields if column not in ("event_id", "app", "contract", "payload")]


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Yield a connection of the tables' owner to a log of nine events that use every column."""
    async with store.connection(database_url, "reading") as conn:
        await append(
            conn,
            new_record(),
            replace(new_record(oracle.FAILED, "12300000002"), recipient_created_at=CREATED),
            new_record(oracle.PENDING_CONSENT, app="shop"),
            new_record(oracle.POLL_RESPONSE, options=("yes", 'NULL, "{é}\\', "")),
            new_record(oracle.POLL_RESPONSE, options=()),
            new_record(oracle.COMPLETED, None, summary=SUMMARY),
            new_record(oracle.REQUEST_FAILED, None, request=None),
            new_record(-(2**31), ""),
            new_record(2**31 - 1),
        )
        yield conn


def ignore_progress(_position: int, _head: int) -> None:
    """Ignore the progress."""


async def rows(conn: AsyncConnection) -> list[dict[str, Any]]:
    async with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return await fetch_all(cursor, "SELECT * FROM eventstore.events ORDER BY position")


async def change(conn: AsyncConnection, position: int, **values: object) -> None:
    """Change decoded columns through the function, as an older decoder might have decoded them."""
    before = (await rows(conn))[position - 1]
    wanted = {name: before[name] for name in COLUMNS} | values | {"position": position}
    await conn.execute("SELECT eventstore.redecode(%s::jsonb)", [json.dumps([wanted], default=str)])
    assert (await rows(conn))[position - 1] == before | values


async def run_redecode(
    url: str, *, after: int = 0, on_progress: Callable[[int, int], None] = ignore_progress
) -> tuple[Redecoded, list[str]]:
    context = ReplayContext(url, QUICK, ReplaySettings())
    return await redecode_and_mark(context, [one() for one in READ_MODELS], after=after, on_progress=on_progress)


async def marked_for_rebuild(conn: AsyncConnection) -> list[str]:
    query = "SELECT name FROM projections.checkpoints WHERE redecoded_at IS NOT NULL ORDER BY name"
    return [row[0] for row in await fetch_all(conn, query)]


# Changes


async def test_an_unchanged_decoder_changes_nothing(conn: AsyncConnection) -> None:
    before = await rows(conn)
    assert await redecode(conn, on_progress=ignore_progress) == Redecoded(read=9)
    assert await rows(conn) == before


async def test_columns_that_an_older_decoder_read_differently_are_decoded_again(conn: AsyncConnection) -> None:
    before = await rows(conn)
    day = timedelta(days=1)
    await change(conn, 1, ppnum=None, send_request_id="other", occurred_at=before[0]["occurred_at"] + day)
    await change(conn, 2, event_type=0, error_code="reason", message_id="message", recipient_created_at=None)
    await change(conn, 4, poll_id=None, poll_options=None)
    await change(conn, 5, poll_options=["a", 'NULL, "{é}\\'])
    await change(conn, 6, summary_status=None, total_recipients=0, delivered=0, failed=0, pending_consent=0)
    await change(conn, 6, summary_created_at=None, summary_completed_at=None)
    done = await redecode(conn, on_progress=ignore_progress)
    assert (done.read, done.changed, done.refused) == (9, 5, 0)
    assert done.types == {0, oracle.DELIVERED, oracle.FAILED, oracle.POLL_RESPONSE, oracle.COMPLETED}
    assert await rows(conn) == before
    assert await redecode(conn, on_progress=ignore_progress) == Redecoded(read=9)


async def test_a_changed_decoder_changes_only_decoded_columns(conn: AsyncConnection) -> None:
    before = await rows(conn)

    def learned(payload: bytes, app: str, contract: Contract) -> Event:
        """Decode other values into every column, also into those that may not change."""
        event = decode(payload, app, contract)
        if event.event_type != oracle.DELIVERED:
            return event
        return event._replace(
            app="another",
            contract="another",
            payload=b"another",
            event_type=9,
            send_request_id="other",
            ppnum="other",
            error_code="other",
            message_id="other",
            poll_id="other",
            poll_options=["other", "é"],
            poll_options_dropped=3,
            summary_status=-1,
            total_recipients=1,
            delivered=2,
            failed=3,
            pending_consent=2**31 - 1,
            occurred_at=event.occurred_at + timedelta(microseconds=1),
            recipient_created_at=event.occurred_at,
            summary_created_at=event.occurred_at,
            summary_completed_at=event.occurred_at,
        )

    done = await redecode(conn, on_progress=ignore_progress, decoder=learned)
    assert (done.read, done.changed, done.types) == (9, 1, {oracle.DELIVERED, 9})
    after = await rows(conn)
    assert after[1:] == before[1:]
    changed = {name for name, value in after[0].items() if before[0][name] != value}
    assert changed == set(COLUMNS)
    assert after[0]["poll_options"] == ["other", "é"]
    assert after[0]["pending_consent"] == 2**31 - 1


async def test_an_answer_that_an_older_decoder_dropped_is_counted_after_a_redecode_and_a_rebuild(
    database_url: str, conn: AsyncConnection
) -> None:
    option = "好" * 100
    vote = folding.new_record(oracle.POLL_RESPONSE, options=(option, "o" * 2001))
    await append(conn, vote)
    read = {"poll_id": "poll 1", "poll_options": [option], "poll_options_dropped": 1}
    assert (await rows(conn))[-1].items() >= read.items()
    await change(conn, 10, poll_id=None, poll_options=None, poll_options_dropped=None)  # as decoded by version 0.1
    await folding.fold_all(database_url)
    _, rebuild = await run_redecode(database_url)
    assert rebuild == ["poll_tallies", "request_status"]
    assert (await rows(conn))[-1].items() >= read.items()
    await rebuilding.rebuild(database_url, PollTallies(), limits=Limits(removal=True))
    assert option in [row[3] for row in (await folding.read_model_rows(conn))["poll_tallies"]]


async def test_payloads_that_can_no_longer_be_decoded_are_reported_and_kept(conn: AsyncConnection) -> None:
    before = await rows(conn)
    await change(conn, 1, ppnum="stale")

    def stricter(payload: bytes, app: str, contract: Contract) -> Event:
        event = decode(payload, app, contract)
        if event.event_type == oracle.POLL_RESPONSE:
            raise Undecodable("no polls any more", event.event_id)
        if event.event_type == oracle.COMPLETED:
            return event._replace(event_id=store.next_ulid(), ppnum="of another")
        return event

    done = await redecode(conn, on_progress=ignore_progress, decoder=stricter)
    assert (done.read, done.changed, done.refused, done.undecodable) == (9, 1, 3, [4, 5, 6])
    assert await rows(conn) == before


async def test_redecode_starts_after_a_given_position(database_url: str, conn: AsyncConnection) -> None:
    before = await rows(conn)
    for position in (1, 2, 3):
        await change(conn, position, ppnum="stale")
    done, _ = await run_redecode(database_url, after=1)
    assert (done.read, done.changed) == (8, 2)
    assert (await rows(conn))[1:] == before[1:]
    assert (await rows(conn))[0]["ppnum"] == "stale"
    with pytest.raises(UsageError, match="position 10 is beyond the last one, 9; there is nothing to redecode"):
        await run_redecode(database_url, after=9)


async def test_redecode_works_page_by_page_and_can_be_run_again_after_a_kill(
    conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await rows(conn)
    for position in range(1, 8):
        await change(conn, position, message_id="stale")
    monkeypatch.setattr(redecoding, "BATCH", 2)
    heard: list[tuple[int, int]] = []

    def dies(position: int, head: int) -> None:
        heard.append((position, head))
        if position == 4:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await redecode(conn, on_progress=dies)
    assert heard == [(2, 9), (4, 9)]
    found = await rows(conn)
    assert found[:4] == before[:4]
    assert found[6]["message_id"] == "stale"
    done = await redecode(conn, on_progress=ignore_progress)
    assert (done.read, done.changed) == (9, 3)
    assert await rows(conn) == before


# Refused changes


@pytest.mark.parametrize("table", ["event_id", "app", "contract", "payload", "position", "received_at"])
async def test_the_function_has_no_way_to_change_anything_else(conn: AsyncConnection, table: str) -> None:
    before = await rows(conn)
    one = {name: before[0][name] for name in COLUMNS} | {"position": 1, table: 1 if table == "position" else "other"}
    await conn.execute("SELECT eventstore.redecode(%s::jsonb)", [json.dumps([one], default=str)])
    assert await rows(conn) == before


PERMIT = "INSERT INTO eventstore.change_permits SELECT pg_current_xact_id()::text::bigint, 'redecode'"
"""The permit that the function writes before it changes anything."""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE eventstore.events SET event_id = 'x' WHERE position = 1",
        "UPDATE eventstore.events SET app = 'x' WHERE position = 1",
        "UPDATE eventstore.events SET contract = 'x' WHERE position = 1",
        r"UPDATE eventstore.events SET payload = '\x00' WHERE position = 1",
        "UPDATE eventstore.events SET position = 99 WHERE position = 1",
        "UPDATE eventstore.events SET received_at = now() WHERE position = 1",
        "DELETE FROM eventstore.events WHERE position = 1",
        "TRUNCATE eventstore.events",
    ],
)
async def test_a_replaced_function_can_change_nothing_else(conn: AsyncConnection, statement: str) -> None:
    """The owner may replace the function; the trigger then still refuses changes."""
    before = await rows(conn)
    await conn.execute(
        "CREATE OR REPLACE FUNCTION eventstore.redecode(decoded jsonb) RETURNS bigint LANGUAGE plpgsql AS"
        f" $$BEGIN {PERMIT}; {statement}; RETURN 1; END$$".encode()
    )
    with pytest.raises(errors.ModifyingSqlDataNotPermitted, match="is refused: events stay as they came"):
        await conn.execute("SELECT eventstore.redecode('[]')")
    assert await rows(conn) == before


UPDATE = "UPDATE eventstore.events SET ppnum = ''x'' WHERE position = 1"
OTHERS = {
    "public.redecode(decoded jsonb)": UPDATE.replace("''", "'"),
    "eventstore.redecode()": UPDATE.replace("''", "'"),
    "eventstore.redecode(decoded json)": UPDATE.replace("''", "'"),
    "eventstore.redecode_all(decoded jsonb)": UPDATE.replace("''", "'"),
    'public."eventstore.redecode"(decoded jsonb)': UPDATE.replace("''", "'"),
    'eventstore."x eventstore.redecode"(decoded jsonb)': UPDATE.replace("''", "'"),
    "public.executing()": f"EXECUTE '/* eventstore.redecode(jsonb) */ {UPDATE}'",
}


@pytest.mark.parametrize("function", OTHERS)
async def test_a_function_of_another_name_is_refused(conn: AsyncConnection, function: str) -> None:
    before = await rows(conn)
    await conn.execute(
        f"CREATE FUNCTION {function} RETURNS void LANGUAGE plpgsql AS $$BEGIN {OTHERS[function]}; END$$".encode()
    )
    name, _, arguments = function.partition("(")
    call = f"SELECT {name}({'NULL::' + arguments.split()[-1] if len(arguments) > 1 else arguments}"
    with pytest.raises(errors.ModifyingSqlDataNotPermitted, match=REFUSED):
        await conn.execute(call.encode())
    assert await rows(conn) == before


async def test_an_update_beside_a_call_of_the_function_is_refused(conn: AsyncConnection) -> None:
    before = await rows(conn)
    for statement in (
        "UPDATE eventstore.events SET ppnum = 'x' WHERE eventstore.redecode('[]') = 0",
        "UPDATE eventstore.events SET ppnum = 'x' /*\neventstore.redecode(jsonb)\n*/",
        "UPDATE eventstore.events SET ppnum = 'x' WHERE position = 1 AND eventstore.redecode('[]') IS NOT NULL",
        "DO $$BEGIN PERFORM eventstore.redecode('[]'); UPDATE eventstore.events SET ppnum = 'x'; END$$",
        "DO $$BEGIN PERFORM eventstore.redecode('[]'); DELETE FROM eventstore.events; END$$",
    ):
        with pytest.raises(errors.ModifyingSqlDataNotPermitted, match="is refused: events stay as they came"):
            await conn.execute(statement.encode())
    assert await rows(conn) == before


FORGING = (
    "UPDATE eventstore.events SET ppnum = 'x'",
    (
        "DO $do$BEGIN EXECUTE E'UPDATE eventstore.events SET ppnum = ''x'' /*"
        "\\nPL/pgSQL function eventstore.redecode(jsonb) line 5 */'; END$do$"
    ),
    "DO $do$BEGIN PERMIT; UPDATE eventstore.events SET ppnum = 'x'; END$do$".replace("PERMIT", PERMIT),
)


@contextmanager
def a_role_that_may_update(server: Server, url: str) -> Iterator[str]:
    """Yield the URL of a role that has UPDATE on events, but may not execute the function."""
    role = sql.Identifier(f"{server.owner}_updates")
    server.execute("CREATE ROLE {} LOGIN PASSWORD 'word'", role)
    try:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(sql.SQL("GRANT USAGE ON SCHEMA eventstore TO {}").format(role))
            owner.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA eventstore TO {}").format(role))
            owner.execute(sql.SQL("GRANT UPDATE ON eventstore.events TO {}").format(role))
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        yield parts._replace(netloc=f"{server.owner}_updates:word@{place}").geturl()
    finally:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA eventstore FROM {}").format(role))
            owner.execute(sql.SQL("REVOKE ALL ON SCHEMA eventstore FROM {}").format(role))
        server.execute("DROP ROLE {}", role)


async def test_a_role_with_update_on_events_still_cannot_change_them(
    database_url: str, conn: AsyncConnection, postgres: Server
) -> None:
    before = await rows(conn)
    with a_role_that_may_update(postgres, database_url) as url:
        async with store.connection(url, "updating") as other:
            with pytest.raises(errors.InsufficientPrivilege):
                await other.execute("SELECT eventstore.redecode('[]')")
            with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
                await redecode(
                    other, on_progress=ignore_progress, decoder=lambda *given: decode(*given)._replace(ppnum="x")
                )
            # As after GRANT ALL ON ALL TABLES: a permit that the role writes itself is not accepted.
            await conn.execute(f"GRANT ALL ON eventstore.change_permits TO {other.info.user}".encode())
            for statement in FORGING:
                with pytest.raises(errors.ModifyingSqlDataNotPermitted, match=REFUSED):
                    await other.execute(statement.encode())
            await conn.execute(f"REVOKE ALL ON eventstore.change_permits FROM {other.info.user}".encode())
    assert await rows(conn) == before


async def test_a_role_that_may_execute_the_function_may_redecode(
    database_url: str, conn: AsyncConnection, postgres: Server
) -> None:
    before = await rows(conn)
    await change(conn, 1, ppnum="stale")
    with a_role_that_may_update(postgres, database_url) as url:
        async with store.connection(url, "redecoding") as other:
            user = other.info.user
            await conn.execute(f"REVOKE UPDATE ON eventstore.events FROM {user}".encode())
            await conn.execute(f"GRANT EXECUTE ON FUNCTION eventstore.redecode(jsonb) TO {user}".encode())
            done = await redecode(other, on_progress=ignore_progress)
            await conn.execute(f"REVOKE EXECUTE ON FUNCTION eventstore.redecode(jsonb) FROM {user}".encode())
    assert (done.changed, done.refused) == (1, 0)
    assert await rows(conn) == before


async def test_the_function_removes_its_permit(conn: AsyncConnection) -> None:
    await change(conn, 1, ppnum="stale")
    with pytest.raises(errors.NotNullViolation):
        await conn.execute("SELECT eventstore.redecode(%s)", ['[{"position": 1}]'])  # an event needs a time
    assert await store.value(conn, "SELECT count(*) FROM eventstore.change_permits") == 0
    async with conn.transaction():
        await redecode(conn, on_progress=ignore_progress)
        with pytest.raises(errors.ModifyingSqlDataNotPermitted, match=REFUSED):
            async with conn.transaction():
                await conn.execute("UPDATE eventstore.events SET ppnum = 'x' WHERE position = 1")


async def test_no_function_of_ours_depends_on_message_texts(conn: AsyncConnection) -> None:
    """Postgres translates its messages by a setting that only superusers can change."""
    query = (
        "SELECT p.proname FROM pg_catalog.pg_proc AS p WHERE p.pronamespace = 'eventstore'::regnamespace"
        " AND p.prosrc ~* 'pg_context|sqlerrm|message_text|pg_exception'"
    )
    assert await fetch_all(conn, query) == []


async def test_only_the_owner_may_run_the_function(conn: AsyncConnection) -> None:
    query = "SELECT has_function_privilege('public', 'eventstore.redecode(jsonb)', 'EXECUTE')"
    assert await store.value(conn, query) is False


# Together with rebuilds


async def run_rebuild(url: str, projection: Projection) -> None:
    await rebuild(ReplayContext(url, QUICK, ReplaySettings(window=3)), projection, limits=Limits(removal=True))


async def test_the_projections_that_need_a_rebuild_are_named(database_url: str, conn: AsyncConnection) -> None:
    await change(conn, 4, message_id="stale")
    assert (await run_redecode(database_url))[1] == [], "no projection has folded it"
    await folding.fold_all(database_url)
    await run_rebuild(database_url, PollTallies())
    for position, names in (
        (4, ["poll_tallies", "request_status"]),
        (6, ["request_status"]),
        (3, ["consent_registry", "people", "request_status"]),
        (8, []),  # a type that no projection handles
    ):
        await change(conn, position, message_id="stale")
        assert (await run_redecode(database_url))[1] == names
        for projection in READ_MODELS:
            if projection.name in names:
                await run_rebuild(database_url, projection())
    await change(conn, 8, event_type=oracle.POLL_RESPONSE)  # it was decoded as another type before
    assert (await run_redecode(database_url))[1] == ["poll_tallies", "request_status"]


async def test_marks_for_a_rebuild_survive_a_killed_redecode(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redecoding, "BATCH", 1)
    await folding.fold_all(database_url)
    await conn.execute(
        "INSERT INTO projections.checkpoints (name, version, position, state) VALUES ('elsewhere', 1, 9, 'running')"
    )
    for position in (4, 6):
        await change(conn, position, message_id="stale")

    def dies(position: int, _head: int) -> None:
        if position == 4:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_redecode(database_url, on_progress=dies)
    marked = ["elsewhere", "poll_tallies", "request_status"]
    assert await marked_for_rebuild(conn) == marked, "a projection that isn't installed here may be affected, too"
    assert await run_redecode(database_url) == (Redecoded(read=9, changed=1, types={oracle.COMPLETED}), marked[1:])
    assert await run_redecode(database_url) == (Redecoded(read=9), marked[1:])
    notes = {one.name: one.note for one in (await read_status(conn, find_projections())).projections}
    assert notes["poll_tallies"] == (
        "projections redecode or erase changed events that it has folded; run projections rebuild poll_tallies"
    )
    assert notes["consent_registry"] is None
    await run_rebuild(database_url, PollTallies())
    assert await marked_for_rebuild(conn) == ["elsewhere", "request_status"]


async def test_redecode_waits_for_a_window_that_read_the_old_columns(database_url: str, conn: AsyncConnection) -> None:
    await change(conn, 4, message_id="stale")
    one = folding.worker(database_url, PollTallies())
    async with folding.worker_connection(one) as own, store.connection(database_url, "holder") as holder:
        async with holder.transaction():
            await holder.execute("LOCK TABLE public.poll_responses IN SHARE MODE")
            folds = asyncio.create_task(one.step(own))
            await store.wait_until_blocked(conn, own.info.backend_pid)
            redecodes = asyncio.create_task(run_redecode(database_url))

            async def is_waiting() -> bool:
                query = (
                    "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name LIKE 'projections redecode%%' AND wait_event_type = 'Lock'"
                )
                return bool(await store.value(conn, query))

            await store.wait_until(is_waiting, "the redecode to wait for the window")
        await folds
        assert (await redecodes)[1] == ["poll_tallies"]


async def test_no_redecode_starts_while_a_rebuild_runs(database_url: str, conn: AsyncConnection) -> None:
    await change(conn, 1, ppnum="stale")
    before = await rows(conn)
    for projection in READ_MODELS:
        key = rebuild_lock(projection.name)
        async with hold_lock(database_url, key, name="projections rebuild x at host:1", what="it", waits=QUICK):
            held = f"projection {projection.name}: held by projections rebuild x at host:1;"
            with pytest.raises(LockHeld, match=held):
                await run_redecode(database_url)
    assert await rows(conn) == before


async def test_no_rebuild_starts_while_a_redecode_runs(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    async def try_rebuilds(*_: object, **__: object) -> Redecoded:
        for projection in READ_MODELS:
            with pytest.raises(LockHeld, match="projections redecode"):
                async with hold_lock(database_url, rebuild_lock(projection.name), name="x", what="it", waits=QUICK):
                    pass
            refused.append(projection.name)
        return Redecoded()

    monkeypatch.setattr("projections.rebuilding.redecode_and_mark.redecode", try_rebuilds)
    await run_redecode(database_url)
    assert refused == [projection.name for projection in READ_MODELS]
    assert len(await rows(conn)) == 9


async def test_a_rebuild_interrupted_before_a_redecode_is_not_resumed(database_url: str, conn: AsyncConnection) -> None:
    await folding.create_watched_table(conn)
    await conn.execute(
        "INSERT INTO projections.rebuilds"
        " (id, name, version, fingerprint, holder, state, dry_run, position, started_at)"
        " OVERRIDING SYSTEM VALUE VALUES (1, 'watched', 1, '', '', 'running', false, 0, now())"
    )
    async with store.connection(database_url, "rebuilding") as own:
        shadow = Shadow(own, Watched(), [], run=1, is_rebuild=True)
        await shadow.begin()
        await shadow.fold_to(5, 2)
        assert await Shadow(own, Watched(), [], run=1, is_rebuild=True).resume() is None
        await run_redecode(database_url)
        assert await Shadow(own, Watched(), [], run=1, is_rebuild=True).resume() == "no interrupted rebuild found"


async def test_rebuilt_read_models_use_the_new_columns(database_url: str, conn: AsyncConnection) -> None:
    await change(conn, 2, ppnum="12300000009")
    await folding.fold_all(database_url)
    done, names = await run_redecode(database_url)
    assert (done.changed, names) == (1, ["consent_registry", "people", "request_status"])
    for projection in READ_MODELS:
        if projection.name in names:
            await run_rebuild(database_url, projection())
    await folding.assert_rows_match_oracle(conn)
