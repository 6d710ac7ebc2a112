"""``projections cursor`` and ``projections apps`` as processes."""

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

SENTENCE = "projections: nothing was changed; give --yes to do it"


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Two followed apps: shop with events and a gap, clinic with nothing; and events of one that has no cursor."""
    async with store.connection(database_url, "looking") as conn:
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
    ended = await commands.run("cursor", "show", DATABASE_URL=database_url)
    assert (ended.code, ended.err) == (0, ""), ended.said
    clinic, shop = ended.out.split("\n\n")
    assert "next connect    no event_id: nothing is stored, so all events that the upstream has" in clinic
    assert "contract        not yet known; the next connect uses chat.external" in clinic
    assert "a stored event, if possible 5 s before the last event_id received" in shop
    assert "received at 2026-01-02T03:04:05Z" in shop
    assert "noticed at 2026-01-02T03:04:05+00:00: too old" in shop
    ended = await commands.run("cursor", "show", "clinic", "--json", "--since", "2d", DATABASE_URL=database_url)
    (found,) = json.loads(ended.out)
    assert found["next_dial"]["why"] == "nothing is stored, so from since"
    assert (found["app"], found["gaps"], found["reset"], found["followed_by"]) == ("clinic", [], None, None)


@pytest.mark.usefixtures("conn")
async def test_cursor_reset_prints_what_would_happen_and_then_does_it(commands: Commands, database_url: str) -> None:
    command = ("cursor", "reset", "shop", "--since", "2d")
    ended = await commands.run(*command, DATABASE_URL=database_url)
    assert (ended.code, ended.out, ended.err.splitlines()[-1]) == (2, "", SENTENCE), ended.said
    assert "would start again at 20" in ended.err
    assert "recorded gaps stay" in ended.err
    ended = await commands.run(*command, "--yes", DATABASE_URL=database_url)
    assert (ended.code, ended.err) == (0, ""), ended.said
    assert ended.out.endswith(": the cursor was reset, so from since\n")
    (found,) = json.loads((await commands.run("cursor", "show", "shop", "--json", DATABASE_URL=database_url)).out)
    assert (found["last_event_id"], found["reset"]["position"], len(found["gaps"])) == (None, 3, 1)
    ended = await commands.run("cursor", "reset", "shop", "--since", "tomorrow", "--yes", DATABASE_URL=database_url)
    assert (ended.code, "neither a duration" in ended.sentence) == (2, True), ended.said


@pytest.mark.usefixtures("conn")
async def test_apps_are_listed_and_forgotten(commands: Commands, database_url: str, conn: AsyncConnection) -> None:
    for command in (("apps",), ("apps", "list")):
        ended = await commands.run(*command, DATABASE_URL=database_url)
        assert (ended.code, ended.err) == (0, ""), ended.said
        assert [name for name in ("clinic", "old", "shop") if name not in ended.out] == []
    ended = await commands.run("apps", "forget", "shop", DATABASE_URL=database_url)
    assert (ended.code, ended.err.splitlines()[-1]) == (2, SENTENCE), ended.said
    ended = await commands.run("apps", "forget", "shop", "--yes", DATABASE_URL=database_url)
    stays = "2 events and 0 quarantined messages of 'shop' and its rows in read models stay"
    assert (ended.code, ended.sentence) == (0, f"app 'shop' is forgotten: {stays}"), ended.said
    found = json.loads((await commands.run("apps", "--json", DATABASE_URL=database_url)).out)
    assert [(one["app"], one["has_cursor"]) for one in found] == [("clinic", True), ("old", False), ("shop", False)]
    status = json.loads((await commands.run("status", "--json", DATABASE_URL=database_url)).out)
    assert [one["app"] for one in status["apps"]] == ["clinic"]
    assert len(await store.positions(conn)) == 3


async def test_an_app_that_is_followed_or_unknown_is_reported(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    async with store.connection(database_url, "projections ingest shop host:1") as other:
        await other.execute("SELECT pg_advisory_lock(%s)", [app_lock("shop")])
        for command in (("cursor", "reset", "shop"), ("apps", "forget", "shop")):
            for options in ((), ("--yes",)):
                ended = await commands.run(*command, *options, DATABASE_URL=database_url)
                said = "projections: app 'shop': held by projections ingest shop host:1; try again later"
                assert (ended.code, ended.sentence) == (1, said), ended.said
    for group, name in (("cursor", "show"), ("cursor", "reset"), ("apps", "forget")):
        ended = await commands.run(group, name, "shopp", DATABASE_URL=database_url)
        said = "projections: app 'shopp' has no cursor here; apps with a cursor: clinic, shop"
        assert (ended.code, ended.sentence) == (2, said), ended.said
    assert await store.cursor_of(conn, "shop") is not None
