"""``projections migrate``, run as people run it."""

from __future__ import annotations

import re

import psycopg

from tests.acceptance.command import Commands


async def test_migrate_says_what_it_did_and_a_second_time_that_there_is_nothing_to_do(
    commands: Commands, empty_database_url: str
) -> None:
    first = await commands.run("migrate", DATABASE_URL=empty_database_url)
    again = await commands.run("migrate", DATABASE_URL=empty_database_url)
    assert (first.code, again.code) == (0, 0), first.said + again.said
    migrated = re.fullmatch(r"migrated the schema from nothing to revision (\w+)", first.sentence)
    assert migrated is not None, first.said
    assert again.sentence == f"the schema is already at revision {migrated[1]}"
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM eventstore.events").fetchone() == (0,)


async def test_migrate_says_why_it_can_not(commands: Commands) -> None:
    url = "postgresql://u:pass-word@127.0.0.1:1/d"
    ended = await commands.run("migrate", "--wait-for-database", "0", DATABASE_URL=url)
    assert ended.code == 1
    assert "database unavailable: " in ended.sentence
    assert "Connection refused" in ended.sentence
    assert "pass-word" not in ended.said
