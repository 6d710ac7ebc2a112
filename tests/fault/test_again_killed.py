"""An ``erase --again`` that is killed leaves whole persons, says so until it is run again, and can be run again."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg import AsyncConnection

from eventstore.errors import LockLost
from eventstore.ingest.context import IngestContext
from eventstore.transfer.export import export_erasures, export_events
from eventstore.transfer.importing import import_events
from projections.inspecting.erasure_ledger import describe_ledger
from tests import folding, oracle, store
from tests.databases import Server
from tests.erasing import again, erase
from tests.fault.cut_connection import ended_before_cut
from tests.folding import append, new_record
from tests.queries import fetch_all

STEP = 31
"""Every 31st message: the places are spread over the whole run, and each run gets a restored database."""
PERSONS = [f"1230000{person:04}" for person in range(5)]
KINDS = (oracle.PENDING_CONSENT, oracle.DELIVERED, oracle.POLL_RESPONSE)


async def run_killed(url: str, message: int, ledger: Path) -> bool:
    """Erase again through a connection that is cut before a message; return whether it ended before that."""
    return await ended_before_cut(url, message, lambda cut: again(cut, ledger), LockLost)


async def count_persons_left(conn: AsyncConnection) -> int:
    """Return how many persons have their numbers; assert that nobody is half erased."""
    query = "SELECT count(*) FROM eventstore.events WHERE ppnum = ANY(%s) GROUP BY ppnum"
    events = [count for (count,) in await fetch_all(conn, query, [PERSONS])]
    assert set(events) <= {len(KINDS)}
    await folding.assert_rows_match_oracle(conn)
    return len(events)


async def test_a_killed_again_is_reported_until_it_is_run_again(
    database_url: str, postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.erasing.person_batches.BATCH_PERSONS", 2)
    backup, ledger = tmp_path / "backup", tmp_path / "ledger"
    records = [new_record(kind, person, options=("yes",)) for person in PERSONS for kind in KINDS]
    async with store.connection(database_url) as conn:
        await append(conn, *records)
        await export_events(conn, backup, lambda *_: None)
        await erase(database_url, *PERSONS)
        await export_erasures(conn, ledger)
    outcomes: list[int] = []
    message, ended = 1, False
    with postgres.database() as original:
        await import_events(IngestContext(original, store.QUICK), backup, on_progress=lambda *_: None)
        await folding.fold_all(original)
        while not ended:
            with postgres.copy(original) as restored:
                ended = await run_killed(restored, message, ledger)
                async with store.connection(restored) as conn:
                    outcomes.append(await count_persons_left(conn))
                    is_reported = await describe_ledger(conn, ledger) is not None
                    assert is_reported or outcomes[-1] == 0
                    await again(restored, ledger)
                    assert await describe_ledger(conn, ledger) is None
                    assert await count_persons_left(conn) == 0
            message += STEP
    assert (outcomes[0], outcomes[-1]) == (len(PERSONS), 0)
