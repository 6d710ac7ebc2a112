"""``projections cursor`` and ``projections apps``, run as processes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from eventstore.locks import app_lock
from tests import store
from tests.acceptance.command import Commands
from tests.folding import append, new_record

NEEDS_YES = "projections: nothing was changed; give --yes to do it"


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Two followed apps, shop with events and a gap, clinic without events; and an app with events but no cursor."""
    async with store.connection(database_url, "observer") as conn:
        last = new_record(app="shop")
        await append(conn, new_record(app="shop"), last, new_record(app="old"))
        gap = {
            "lower": last.event_id,
            "upper": store.next_ulid(),
            "noticed_at": "2026-01-02T03:04:05+00:00",
            "detail": "too old",
            "position": 0,
        }
        for app in ("clinic", "shop"):
            await store.set_epoch(conn, app)
        await conn.execute(
            "UPDATE eventstore.cursors SET contract = 'pcs.external.v1', last_event_id = %s,"
            " last_received_at = '2026-01-02T03:04:05Z', holes = %s WHERE app = 'shop'",
            [last.event_id, Jsonb([gap])],
        )
        yield conn


@pytest.mark.usefixtures("conn")
async def test_cursor_show_prints_what_the_next_call_sends_and_why(commands: Commands, database_url: str) -> None:
    result = await commands.run("cursor", "show", DATABASE_URL=database_url)
    assert (result.code, result.err) == (0, ""), result.transcript
    clinic, shop = result.out.split("\n\n")
    assert "next connect    no event_id: nothing is stored; starting with all events the upstream has" in clinic
    assert "contract        not yet known; the next connect uses chat.external" in clinic
    assert "the oldest recent event; none is at least 5 s before the last event_id received" in shop
    assert "received at 2026-01-02T03:04:05Z" in shop
    assert "noticed at 2026-01-02T03:04:05+00:00: too old" in shop
    result = await commands.run("cursor", "show", "clinic", "--json", "--since", "2d", DATABASE_URL=database_url)
    (found,) = json.loads(result.out)
    assert found["next_dial"]["why"] == "nothing is stored; starting with the events after `since`"
    assert (found["app"], found["gaps"], found["reset"], found["followed_by"]) == ("clinic", [], None, None)


@pytest.mark.usefixtures("conn")
async def test_cursor_reset_prints_what_would_happen_and_then_does_it(commands: Commands, database_url: str) -> None:
    command = ("cursor", "reset", "shop", "--since", "2d")
    result = await commands.run(*command, DATABASE_URL=database_url)
    assert (result.code, result.out, result.err.splitlines()[-1]) == (2, "", NEEDS_YES), result.transcript
    assert "would start again at 20" in result.err
    assert "recorded gaps stay" in result.err
    result = await commands.run(*command, "--yes", DATABASE_URL=database_url)
    assert (result.code, result.err) == (0, ""), result.transcript
    assert result.out.endswith(": the cursor was reset; starting with the events after `since`\n")
    (found,) = json.loads((await commands.run("cursor", "show", "shop", "--json", DATABASE_URL=database_url)).out)
    assert (found["last_event_id"], found["reset"]["position"], len(found["gaps"])) == (None, 3, 1)
    result = await commands.run("cursor", "reset", "shop", "--since", "tomorrow", "--yes", DATABASE_URL=database_url)
    assert (result.code, "neither a duration" in result.stderr_line) == (2, True), result.transcript


@pytest.mark.oldest
@pytest.mark.usefixtures("conn")
async def test_apps_are_listed_and_forgotten(commands: Commands, database_url: str, conn: AsyncConnection) -> None:
    for command in (("apps",), ("apps", "list")):
        result = await commands.run(*command, DATABASE_URL=database_url)
        assert (result.code, result.err) == (0, ""), result.transcript
        assert [name for name in ("clinic", "old", "shop") if name not in result.out] == []
    result = await commands.run("apps", "forget", "shop", DATABASE_URL=database_url)
    assert (result.code, result.err.splitlines()[-1]) == (2, NEEDS_YES), result.transcript
    result = await commands.run("apps", "forget", "shop", "--yes", DATABASE_URL=database_url)
    unchanged = "2 events and 0 quarantined messages of 'shop' and its rows in read models stay"
    assert (result.code, result.stderr_line) == (0, f"app 'shop' is forgotten: {unchanged}"), result.transcript
    found = json.loads((await commands.run("apps", "--json", DATABASE_URL=database_url)).out)
    assert [(one["app"], one["has_cursor"]) for one in found] == [("clinic", True), ("old", False), ("shop", False)]
    status = json.loads((await commands.run("status", "--json", DATABASE_URL=database_url)).out)
    assert [one["app"] for one in status["apps"]] == ["clinic"]
    assert len(await store.positions(conn)) == 3


async def test_a_followed_or_unknown_app_is_reported(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    async with store.connection(database_url, "projections ingest shop host:1") as other:
        await other.execute("SELECT pg_advisory_lock(%s)", [app_lock("shop")])
        for command in (("cursor", "reset", "shop"), ("apps", "forget", "shop")):
            for options in ((), ("--yes",)):
                result = await commands.run(*command, *options, DATABASE_URL=database_url)
                expected = "projections: app 'shop': held by projections ingest shop host:1; try again later"
                assert (result.code, result.stderr_line) == (1, expected), result.transcript
    for group, name in (("cursor", "show"), ("cursor", "reset"), ("apps", "forget")):
        result = await commands.run(group, name, "shopp", DATABASE_URL=database_url)
        expected = "projections: app 'shopp' has no cursor here; apps with a cursor: clinic, shop"
        assert (result.code, result.stderr_line) == (2, expected), result.transcript
    assert await store.cursor_of(conn, "shop") is not None
