"""Doctor finds a ledger that is newer than the log or can't be read, and a missing erasure key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventstore.transfer.export import export_erasures
from tests import store
from tests.databases import Server
from tests.doctoring import codes, findings, only
from tests.erasing import KEY, OTHER_KEY, erase

ERASURES = (
    "erasure_ledger_newer",
    "erasure_ledger_older",
    "erasure_ledger_unreadable",
    "erasure_unfinished",
    "erasure_key_missing",
    "erasure_key_other",
)


async def found(url: str, **options: Any) -> list[str]:  # noqa: ANN401 - of DoctorOptions
    """Return the codes that are about erasures."""
    return [code for code in codes(await findings(url, **options)) if code in ERASURES]


@pytest.mark.folded
async def test_a_ledger_that_is_newer_than_the_log(database_url: str, postgres: Server, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with store.connection(database_url) as conn:
        assert await found(database_url, ledger=ledger) == []  # it isn't written yet
        await export_erasures(conn, ledger)
        assert await found(database_url, ledger=ledger) == []
        await erase(database_url, "12300000000")
        assert await found(database_url, ledger=ledger) == ["erasure_ledger_older"]
        await export_erasures(conn, ledger)
        assert await found(database_url, ledger=ledger) == []
        await conn.execute("UPDATE eventstore.erasures SET applied = false")
        assert await found(database_url, ledger=ledger) == ["erasure_unfinished"]
    with postgres.database() as restored:
        one = only(await findings(restored, ledger=ledger), "erasure_ledger_newer")
        assert one.command == f"projections erase --again {ledger}"
        ledger.write_bytes(b"not a ledger")
        assert await found(restored, ledger=ledger) == ["erasure_ledger_unreadable"]


async def test_a_missing_erasure_key(database_url: str) -> None:
    assert await found(database_url) == []
    await erase(database_url, "12300000000", key=KEY)
    assert await found(database_url, key=KEY) == []
    for key, words in ((None, "no key is set"), (OTHER_KEY, "another key is set")):
        assert words in only(await findings(database_url, key=key), "erasure_key_missing").sentence
    await erase(database_url, "12300000001", key=OTHER_KEY)
    for one in (KEY, OTHER_KEY):
        assert await found(database_url, key=one) == ["erasure_key_other"]
    assert await found(database_url) == ["erasure_key_missing"]
