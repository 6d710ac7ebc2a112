"""The event table refuses every change, even one that matches no row, to its owner and to replication."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import pytest
from psycopg import AsyncConnection, errors

from tests import store
from tests.databases import Server
from tests.queries import fetch_all

CHANGES = {
    "update": "UPDATE eventstore.events SET app = app",
    "update of no row": "UPDATE eventstore.events SET app = 'x' WHERE false",
    "update of the payload": r"UPDATE eventstore.events SET payload = '\x00'",
    "delete": "DELETE FROM eventstore.events",
    "delete of no row": "DELETE FROM eventstore.events WHERE event_id = 'none'",
    "truncate": "TRUNCATE eventstore.events",
    "truncate cascade": "TRUNCATE eventstore.events RESTART IDENTITY CASCADE",
    "truncate among others": "TRUNCATE eventstore.quarantine, eventstore.events",
    "merge that updates": (
        "MERGE INTO eventstore.events e USING (SELECT event_id AS id FROM eventstore.events) s"
        " ON e.event_id = s.id WHEN MATCHED THEN UPDATE SET app = 'x'"
    ),
    "merge that deletes": (
        "MERGE INTO eventstore.events e USING (SELECT event_id AS id FROM eventstore.events) s"
        " ON e.event_id = s.id WHEN MATCHED THEN DELETE"
    ),
    "merge of no row": (
        "MERGE INTO eventstore.events e USING (SELECT 'none' AS id) s ON e.event_id = s.id WHEN MATCHED THEN DELETE"
    ),
    "upsert": (
        "INSERT INTO eventstore.events SELECT * FROM eventstore.events"
        " ON CONFLICT (event_id) DO UPDATE SET app = excluded.app"
    ),
    "update through a CTE": "WITH gone AS (DELETE FROM eventstore.events RETURNING 1) SELECT count(*) FROM gone",
    "update through the view": "UPDATE eventstore.event_log SET app = 'x'",
    "delete through the view": "DELETE FROM eventstore.event_log",
    "update through the view in public": "UPDATE public.event_log SET app = 'x'",
}


@pytest.fixture
async def filled(database_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection of the tables' owner to a log of two events."""
    async with store.appender(database_url) as appender, store.connection(database_url) as conn:
        await appender.append(store.new_events(2))
        yield conn


async def rows(conn: AsyncConnection) -> list[tuple[object, ...]]:
    return await fetch_all(conn, "SELECT * FROM eventstore.events ORDER BY position")


async def assert_all_changes_refused(conn: AsyncConnection, subtests: pytest.Subtests) -> None:
    before = await rows(conn)
    assert len(before) == 2
    for name, change in CHANGES.items():
        with subtests.test(name):
            with pytest.raises(errors.ModifyingSqlDataNotPermitted, match=r"eventstore\.events is refused"):
                await conn.execute(change.encode())
            assert await rows(conn) == before


async def test_the_owner_cannot_change_events(filled: AsyncConnection, subtests: pytest.Subtests) -> None:
    owner = await store.value(filled, "SELECT tableowner = current_user FROM pg_tables WHERE tablename = 'events'")
    assert owner is True
    await assert_all_changes_refused(filled, subtests)


async def test_a_superuser_in_the_role_of_a_replica_cannot_change_events(
    filled: AsyncConnection, postgres: Server, subtests: pytest.Subtests
) -> None:
    name = str(await store.value(filled, "SELECT current_database()"))
    url = urlunsplit(urlsplit(postgres.superuser_url)._replace(path=f"/{name}"))
    async with store.connection(url) as conn:
        await conn.execute("SET session_replication_role = replica")
        await assert_all_changes_refused(conn, subtests)


async def test_row_by_row_changes_are_refused_by_a_trigger_of_their_own(filled: AsyncConnection) -> None:
    triggers = await fetch_all(
        filled,
        "SELECT tgname, tgenabled, tgtype & 1 = 1 AS each_row, tgtype & 2 = 2 AS before, tgtype & 8 = 8 AS on_delete,"
        " tgtype & 16 = 16 AS on_update, tgtype & 32 = 32 AS on_truncate"
        " FROM pg_trigger WHERE tgrelid = 'eventstore.events'::regclass AND NOT tgisinternal ORDER BY tgname",
    )
    assert triggers == [
        ("refuse_change_row", "A", True, True, True, True, False),
        ("refuse_change_statement", "A", False, True, True, True, True),
    ]


async def test_new_events_are_still_appended(filled: AsyncConnection, database_url: str) -> None:
    async with store.appender(database_url) as appender:
        assert (await appender.append(store.new_events(1))).head == 3
    assert len(await rows(filled)) == 3
