"""Every command works for a role with hostile settings, in a database whose schema public is full of traps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

import psycopg
import pytest

from projections.sandbox.simulator import SimulatedEvent
from tests import folding, hostile_database, store, wire
from tests.acceptance.command import QUICK, CommandResult, Commands
from tests.databases import Server
from tests.fix_simulator import TOKEN, SimulatorFactory, entries_of
from tests.following import REQUEST
from tests.store import CHAT

pytestmark = pytest.mark.oldest

CODE, POLL_OPTION, PPNUM = "недоступен", "はい 👍", "12300000042"
ENVIRONMENT = {
    **QUICK,
    "PGTZ": "Asia/Kathmandu",
    "PGDATESTYLE": "German",
    "PGCLIENTENCODING": "WIN1252",
    "PGGEQO": "off",
    "PROJECTIONS_TOKEN": TOKEN,
}
OPTIONS = "-c search_path=public,pg_catalog -c standard_conforming_strings=off -c enable_indexscan=off"


def log() -> list[SimulatedEvent]:
    """The simulator's log, and events with texts that only UTF-8 can encode."""
    first, second = (wire.ulid_at(datetime.now(UTC), tail) for tail in (1, 2))
    failed = wire.event(first, 2, recipient=wire.recipient(PPNUM, error_code=CODE))
    answer = wire.event(second, 7, recipient=wire.recipient(PPNUM), poll_response=wire.poll("опрос", POLL_OPTION, "no"))
    return [
        *entries_of(CHAT),
        SimulatedEvent(first, REQUEST, {CHAT: failed}),
        SimulatedEvent(second, REQUEST, {CHAT: answer}),
    ]


@pytest.fixture
def hostile_url(empty_database_url: str) -> str:
    """The URL of an empty database, made as hostile as its owner and roles that may create in public can make it."""
    return make_hostile(empty_database_url)


@pytest.fixture
def another_hostile_url(postgres: Server) -> Iterator[str]:
    with postgres.database(migrated=False) as url:
        yield make_hostile(url)


def make_hostile(url: str) -> str:
    """Set the traps and the hostile settings; returns a URL with more hostile settings."""
    hostile_database.set_traps(url)
    hostile_database.make_hostile(url)
    with psycopg.connect(url) as user, pytest.raises(psycopg.errors.RaiseException, match="a trap in schema public"):
        user.execute("SELECT cardinality(ARRAY['a'])")
    return f"{url}?{urlencode({'options': OPTIONS, 'client_encoding': 'LATIN1'}, quote_via=quote)}"


async def run_ok(commands: Commands, url: str, *arguments: str, **more: str) -> CommandResult:
    """Run a command that must succeed; returns its result."""
    result = await commands.run(*arguments, **ENVIRONMENT, DATABASE_URL=url, **more)
    assert result.code == 0, result.transcript
    return result


async def test_every_command_works(
    commands: Commands, hostile_url: str, another_hostile_url: str, simulator_factory: SimulatorFactory
) -> None:
    events = log()
    upstream = {"PCS_EXTERNAL_API_URL": (await simulator_factory(events)).address}
    await asyncio.gather(*(run_ok(commands, hostile_url, "migrate") for _ in range(4)))
    await run_ok(commands, hostile_url, "run", "--until-idle", "1", **upstream)

    status = json.loads((await run_ok(commands, hostile_url, "status", "--json")).out)
    assert status["head"] == len(events)
    assert [app["quarantined"] for app in status["apps"]] == [0]
    assert {one["events_behind"] for one in status["projections"]} == {0}
    async with store.connection(hostile_url) as conn:
        await folding.assert_rows_match_oracle(conn)
        codes = "SELECT error_code FROM public.request_recipients WHERE ppnum = %s"
        assert await store.value(conn, codes, PPNUM) == CODE
        last = str(await store.value(conn, "SELECT max(event_id) FROM eventstore.events"))
        await conn.execute("UPDATE public.consent_registry SET consent_request_id = 'damaged'")

    differs = await commands.run("verify", **ENVIRONMENT, DATABASE_URL=hostile_url)
    assert differs.code == 1, differs.transcript
    await run_ok(commands, hostile_url, "rebuild", "--all", "--yes")
    await run_ok(commands, hostile_url, "verify")
    explained = await run_ok(commands, hostile_url, "explain", "poll_responses", REQUEST, "опрос", PPNUM)
    assert POLL_OPTION in explained.out
    await run_ok(commands, hostile_url, "rebuild", "--all", "--as-of", last, "--into", "as_of")
    await run_ok(commands, hostile_url, "wait", "--event-id", last)
    for command in ("pause", "resume"):
        await run_ok(commands, hostile_url, command, "poll_tallies")
    async with store.connection(hostile_url) as conn:
        await conn.execute(
            'SELECT eventstore.redecode(jsonb_build_array(to_jsonb(e) || \'{"ppnum": "stale"}\'))'
            " FROM eventstore.events AS e WHERE position = 1"
        )
    redecoded = await run_ok(commands, hostile_url, "redecode")
    assert redecoded.out == f"{len(events)} events read, 1 of them changed\n"

    await run_ok(commands, hostile_url, "export", "events", "log")
    await run_ok(commands, another_hostile_url, "migrate")
    await run_ok(commands, another_hostile_url, "import", "events", "log")
    await run_ok(commands, another_hostile_url, "run", "--no-ingest", "--until-idle", "0.3")
    await run_ok(commands, another_hostile_url, "verify")
    async with store.connection(another_hostile_url) as conn:
        await folding.assert_rows_match_oracle(conn)
