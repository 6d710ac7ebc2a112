"""The queries in README and docs/read-models.md work, and use indexes on a filled database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from projections.migrating.metadata import READ_MODELS
from tests import folding, oracle, store
from tests.folding import append, new_record
from tests.integration.test_plans import full_reads
from tests.queries import fetch_row

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "read-models.md"]
KEYS = re.compile(r"\b(?:send_request_id|ppnum|poll_id) = '")
REQUESTS = 1_000


def queries() -> list[str]:
    """Return every query on the pages."""
    blocks = [block for page in PAGES for block in re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)]
    return [query.strip() for block in blocks for query in re.sub(r"--.*", "", block).split(";") if query.strip()]


@pytest.fixture
async def filled(database_url: str) -> str:
    """A folded log of two apps with many requests and polls, and up-to-date statistics."""
    async with store.connection(database_url) as conn:
        for app in ("default", "demo"):
            for event_type in (oracle.GRANTED, oracle.DELIVERED, oracle.POLL_RESPONSE):
                options = ("yes", "no") if event_type == oracle.POLL_RESPONSE else None
                await append(
                    conn,
                    *(
                        new_record(
                            event_type, f"1230{number:07}", app=app, request=f"request {number}", options=options
                        )
                        for number in range(REQUESTS)
                    ),
                )
        await folding.fold_all(database_url)
        await conn.execute("VACUUM ANALYZE")
    return database_url


async def test_the_queries_work_and_use_indexes(filled: str, subtests: pytest.Subtests) -> None:
    tables = {"events", *(table.name for each in READ_MODELS for table in each.tables)}
    found = queries()
    assert len(found) >= 9
    async with store.connection(filled) as conn:
        for query in found:
            with subtests.test(query):
                await conn.execute(query.encode())
                if KEYS.search(query):
                    assert " app = '" in query
                    assert full_reads(await plan_of(conn, query), tables) == []


async def plan_of(conn: AsyncConnection, query: str) -> dict[str, object]:
    row = await fetch_row(conn, b"EXPLAIN (FORMAT JSON) " + query.encode())
    assert row is not None
    plan: dict[str, object] = row[0][0]["Plan"]
    return plan
