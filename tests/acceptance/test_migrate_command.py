"""``projections migrate``, run as a process."""

from __future__ import annotations

import re

import psycopg

from tests.acceptance.command import Commands


async def test_migrate_reports_what_it_did_and_then_that_the_schema_is_current(
    commands: Commands, empty_database_url: str
) -> None:
    first = await commands.run("migrate", DATABASE_URL=empty_database_url)
    again = await commands.run("migrate", DATABASE_URL=empty_database_url)
    assert (first.code, again.code) == (0, 0), first.transcript + again.transcript
    migrated = re.fullmatch(r"migrated the schema from nothing to revision (\w+)", first.stderr_line)
    assert migrated is not None, first.transcript
    assert again.stderr_line == f"the engine's schema is already at revision {migrated[1]}"
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM eventstore.events").fetchone() == (0,)


async def test_migrate_reports_why_it_failed(commands: Commands) -> None:
    url = "postgresql://u:pass-word@127.0.0.1:1/d"
    result = await commands.run("migrate", "--wait-for-database", "0", DATABASE_URL=url)
    assert result.code == 1
    assert "database unavailable: " in result.stderr_line
    assert "Connection refused" in result.stderr_line
    assert "pass-word" not in result.transcript
