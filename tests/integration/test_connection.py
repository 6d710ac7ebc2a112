"""Connections have the settings that the project counts on, whatever a role or a database has as its own."""

from __future__ import annotations

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests import store


@pytest.mark.parametrize(
    ("setting", "theirs", "ours"),
    [
        ("idle_session_timeout", "300ms", "0"),
        ("lock_timeout", "1ms", "0"),
        ("default_transaction_isolation", "serializable", "read committed"),
        ("statement_timeout", "10ms", "0"),
        ("timezone", "Asia/Kathmandu", "UTC"),
        ("datestyle", "German", "ISO, MDY"),
        ("intervalstyle", "sql_standard", "postgres"),
        ("extra_float_digits", "-3", "1"),
        ("bytea_output", "escape", "hex"),
    ],
)
async def test_a_role_s_own_settings_are_left_aside(database_url: str, setting: str, theirs: str, ours: str) -> None:
    async with store.connection(database_url, "owner") as owner:
        command = sql.SQL("ALTER ROLE CURRENT_USER IN DATABASE {} SET {} = {}")
        names = (sql.Identifier(owner.info.dbname), sql.Identifier(setting), sql.Literal(theirs))
        await owner.execute(command.format(*names))
    async with store.connection(database_url, "looking") as conn:
        assert await store.value(conn, "SELECT current_setting(%s)", setting) == ours


async def test_no_transaction_is_cut_short_by_a_role(database_url: str) -> None:
    async with store.connection(database_url, "owner") as owner:
        if owner.info.server_version < 170_000:
            pytest.skip("this server has no transaction_timeout")
        command = sql.SQL("ALTER ROLE CURRENT_USER IN DATABASE {} SET transaction_timeout = '10ms'")
        await owner.execute(command.format(sql.Identifier(owner.info.dbname)))
    async with store.connection(database_url, "looking") as conn, conn.transaction():
        await conn.execute("SELECT pg_sleep(0.1)")


@pytest.mark.parametrize(
    ("variable", "theirs", "setting", "ours"),
    [("PGTZ", "Asia/Kathmandu", "timezone", "UTC"), ("PGDATESTYLE", "German", "datestyle", "ISO, MDY")],
)
async def test_the_environment_does_not_decide_how_times_are_written(
    database_url: str, monkeypatch: pytest.MonkeyPatch, variable: str, theirs: str, setting: str, ours: str
) -> None:
    monkeypatch.setenv(variable, theirs)
    async with store.connection(database_url, "looking") as conn:
        assert await store.value(conn, "SELECT current_setting(%s)", setting) == ours


async def test_the_url_has_its_say_about_timeouts_alone(database_url: str) -> None:
    url = make_conninfo(database_url, options="-c timezone=Asia/Kathmandu -c statement_timeout=7s")
    async with store.connection(url, "looking") as conn:
        assert await store.value(conn, "SHOW timezone") == "UTC"
        assert await store.value(conn, "SHOW statement_timeout") == "7s"
