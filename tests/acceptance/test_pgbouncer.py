"""PgBouncer in front of the database: session mode works; modes that can't work are refused in one sentence."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psycopg
import pytest

from eventstore.postgres import certificate_authorities
from eventstore.postgres.connection import connect
from tests import folding, store
from tests.acceptance.command import QUICK, Commands
from tests.bouncer import bouncer, needed
from tests.certificates import Authority
from tests.store import QUICK as QUICK_WAITS

pytestmark = needed

IGNORED = {"ignore_startup_parameters": "extra_float_digits,options"}
IMPATIENT = {"PROJECTIONS_DATABASE_CONNECT": "4"}
"""A command waits so many seconds for a session of the pool, where none is left for it."""


async def test_session_mode_works(commands: Commands, database_url: str) -> None:
    async with store.connection(database_url) as conn:
        await folding.append(conn, *(folding.new_record() for _ in range(9)))
        with bouncer(database_url, pool_mode="session", **IGNORED) as url:
            variables = {**QUICK, "DATABASE_URL": url}
            for arguments in (
                ("migrate",),
                ("run", "--no-ingest", "--until-idle", "0.2"),
                ("verify",),
                ("rebuild", "--all"),
                ("status",),
                ("export", "events", "log"),
                ("import", "events", "log"),
                ("redecode",),
            ):
                result = await commands.run(*arguments, **variables)
                assert result.code == 0, result.transcript
            await folding.assert_rows_match_oracle(conn)


async def test_a_session_has_its_timeouts_although_the_startup_options_are_ignored(database_url: str) -> None:
    expected = {
        "idle_session_timeout": "7s",
        "lock_timeout": "9s",
        "statement_timeout": "0",
        "default_transaction_isolation": "read committed",
    }
    for pool in ({}, {"server_reset_query": ""}):  # a new session, then a session that another client used
        with bouncer(database_url, pool_mode="session", **IGNORED, **pool) as url:
            for _ in range(2):
                conn = await connect(url, name="behind", waits=QUICK_WAITS, idle_session_timeout=7, lock_timeout=9)
                async with conn:
                    for name, value in expected.items():
                        assert await store.value(conn, "SELECT current_setting(%s)", name) == value


@pytest.mark.parametrize("command", [("migrate",), ("run", "--no-ingest"), ("verify",), ("status",)])
async def test_refused_startup_options_are_not_mistaken_for_an_unavailable_database(
    commands: Commands, database_url: str, command: tuple[str, ...]
) -> None:
    with bouncer(database_url, pool_mode="session") as url:
        result = await commands.run(*command, DATABASE_URL=url)
        assert result.code == 2, result.transcript
        assert result.stderr_line.startswith("projections: the server or a pooler rejects our startup options: ")
        assert "ignore_startup_parameters = options and pool_mode = session" in result.stderr_line


@pytest.mark.parametrize(
    "settings",
    [
        {"pool_mode": "transaction"},
        {"pool_mode": "transaction", "server_round_robin": "1"},
        {"pool_mode": "transaction", "default_pool_size": "1"},
        {"pool_mode": "statement"},
    ],
    ids=["transaction", "round robin", "one session", "statement"],
)
async def test_a_pool_that_shares_sessions_is_refused(
    commands: Commands, database_url: str, settings: dict[str, str]
) -> None:
    one_session = "default_pool_size" in settings

    async def run(*command: str) -> None:
        with bouncer(database_url, **IGNORED, **settings) as url:
            result = await commands.run(*command, DATABASE_URL=url, **(IMPATIENT if one_session else {}))
        assert result.code == 2, result.transcript
        assert "gives each transaction another session" in result.stderr_line
        assert "pool_mode = session" in result.stderr_line

    await asyncio.gather(run("run", "--no-ingest"), run("migrate"))


async def test_a_pool_of_a_single_session_is_refused(commands: Commands, database_url: str) -> None:
    with bouncer(database_url, pool_mode="session", default_pool_size="1", **IGNORED) as url:
        result = await commands.run("run", "--no-ingest", DATABASE_URL=url, **IMPATIENT)
        assert result.code == 2, result.transcript
        assert "gives this process a single session" in result.stderr_line


async def test_it_waits_for_a_pooler_whose_server_is_not_available_yet(commands: Commands, database_url: str) -> None:
    with bouncer(database_url.replace("127.0.0.1:", "127.0.0.2:"), pool_mode="session", **IGNORED) as url:
        waiting = ("run", "--no-ingest", "--wait-for-database", "0.1")
        result = await commands.run(*waiting, DATABASE_URL=url, **IMPATIENT)
        assert result.code == 1, result.transcript
        assert "database unavailable" in result.err


async def test_sslrootcert_system_uses_the_certificate_authorities_of_the_system(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, others = Authority("ours"), Authority("others'")
    for name, content in zip(("certificate", "key"), ours.sign("bouncer"), strict=True):
        (tmp_path / name).write_bytes(content)
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    monkeypatch.setenv("SSL_CERT_FILE", "restored at the end")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    files = {"client_tls_cert_file": certificate, "client_tls_key_file": key}
    with bouncer(database_url, pool_mode="session", client_tls_sslmode="require", **IGNORED, **files) as url:
        for authority, is_trusted in ((others, False), (ours, True)):
            bundle = tmp_path / "bundle"
            bundle.write_bytes(authority.certificate)
            monkeypatch.setattr(certificate_authorities, "_system_bundle", lambda: str(bundle))  # noqa: B023 - called in this round only
            os.environ.pop("SSL_CERT_FILE", None)
            opening = connect(f"{url}?sslrootcert=system", name="trusting", waits=QUICK_WAITS)
            if is_trusted:
                async with await opening as conn:
                    assert conn.pgconn.ssl_in_use
            else:
                with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
                    await opening
