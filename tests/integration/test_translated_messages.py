"""Nothing depends on the text of Postgres's messages: a server with Japanese messages works as well."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import psycopg
import pytest
from psycopg import errors

from projections.migrating.migrate import upgrade
from projections.read_models.consent_registry import ConsentRegistry
from projections.running.window_step import Step
from projections.sandbox.embedded import processes
from tests import folding, oracle, rebuilding, store
from tests.folding import append, new_record
from tests.servers import DEBIAN_15, embedded, temporary_home

LOCALE, CHARACTERS = "ja_JP.EUC-JP", "EUC-JP"
"""The server converts messages to UTF-8; to compile the locale with fewer characters takes half as long."""
TRANSLATION = Path("/usr/share/locale/ja/LC_MESSAGES/postgres-15.mo")
pytestmark = pytest.mark.skipif(
    not (DEBIAN_15.exists() and TRANSLATION.exists() and shutil.which("localedef")),
    reason="needs Debian's PostgreSQL 15 with its translations",
)


@pytest.fixture
def japanese_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a migrated database on a server whose messages are Japanese."""
    with tempfile.TemporaryDirectory() as folder, temporary_home() as home:
        Path(folder).chmod(0o755)  # the server runs as another user
        made = subprocess.run(
            ["localedef", "-i", "ja_JP", "-f", CHARACTERS, f"{folder}/{LOCALE}"], check=False, capture_output=True
        )
        if made.returncode:
            pytest.skip("this system has no source of the locale")
        known = MappingProxyType({**processes.CLEAN_ENVIRONMENT, "LOCPATH": folder})
        monkeypatch.setattr(processes, "CLEAN_ENVIRONMENT", known)
        server = embedded(home, "15", DEBIAN_15)
        url = server.start()
        with psycopg.connect(server.superuser_url() or "", autocommit=True) as superuser:
            superuser.execute(f"ALTER ROLE ALL SET lc_messages = '{LOCALE}'".encode())
        upgrade(url, projections=())
        yield url


async def test_redecode_and_folds_work_on_a_server_with_japanese_messages(japanese_url: str) -> None:
    async with store.connection(japanese_url) as conn:
        with pytest.raises(errors.DivisionByZero, match="0 による除算"):
            await conn.execute("SELECT 1 / 0")
        await append(conn, new_record(oracle.GRANTED), new_record(), new_record(ppnum=folding.DIVIDES_BY_ZERO))
        await conn.execute(
            "SELECT eventstore.redecode(jsonb_build_array(to_jsonb(e) || jsonb_build_object('ppnum', 'stale')))"
            " FROM eventstore.events AS e WHERE position = 1"
        )
        assert await store.value(conn, "SELECT ppnum FROM eventstore.events WHERE position = 1") == "stale"
        with pytest.raises(errors.ModifyingSqlDataNotPermitted):
            await conn.execute("UPDATE eventstore.events SET ppnum = 'x'")
        await folding.fold_all(japanese_url)
        await folding.create_watched_table(conn)
        one = folding.worker(japanese_url, folding.Watched())
        async with folding.worker_connection(one) as own:
            assert await folding.fold(one, own) is Step.STOPPED
        assert "0 による除算" in str((await folding.checkpoint_row(conn, "watched")).last_error)
    await rebuilding.rebuild(japanese_url, ConsentRegistry())
    assert (await rebuilding.verify(japanese_url, ConsentRegistry())).equal
