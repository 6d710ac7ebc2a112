"""Connections have the settings that the project counts on, whatever a role or a database has as its own."""

from __future__ import annotations

import pytest
from psycopg import sql

from tests import store


@pytest.mark.parametrize(
    ("setting", "theirs", "ours"),
    [
        ("idle_session_timeout", "300ms", "0"),
        ("lock_timeout", "1ms", "0"),
        ("default_transaction_isolation", "serializable", "read committed"),
        ("timezone", "Asia/Kathmandu", "UTC"),
        ("intervalstyle", "sql_standard", "postgres"),
    ],
)
async def test_a_role_s_own_settings_are_left_aside(database_url: str, setting: str, theirs: str, ours: str) -> None:
    async with store.connection(database_url, "owner") as owner:
        command = sql.SQL("ALTER ROLE CURRENT_USER IN DATABASE {} SET {} = {}")
        names = (sql.Identifier(owner.info.dbname), sql.Identifier(setting), sql.Literal(theirs))
        await owner.execute(command.format(*names))
    async with store.connection(database_url, "looking") as conn:
        assert await store.value(conn, "SELECT current_setting(%s)", setting) == ours
