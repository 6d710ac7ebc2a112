"""Keeps the bytes that can't be an event, with the reason, in the transaction that moves the cursor past them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from psycopg import AsyncConnection


class Rejected(NamedTuple):
    """Bytes that can't be an event.

    ``reason`` is in words that carry none of the values; ``event_id`` is their ULID where one could be read.
    """

    app: str
    contract: str
    payload: bytes
    reason: str
    event_id: str | None = None


_KEEP = """
INSERT INTO eventstore.quarantine AS q
    (app, contract, sha256, event_id, reason, payload, first_seen, last_seen, count)
VALUES (%s, %s, %s, %s, %s, %b, statement_timestamp(), statement_timestamp(), %s)
ON CONFLICT (app, contract, sha256)
DO UPDATE SET last_seen = excluded.last_seen, count = q.count + excluded.count, reason = excluded.reason
"""


async def quarantine(conn: AsyncConnection, rejected: Iterable[Rejected]) -> None:
    """Keep these bytes, inside the caller's transaction; bytes that came before are counted, not kept again."""
    times: dict[tuple[str, str, bytes], tuple[Rejected, int]] = {}
    for item in rejected:
        key = (item.app, item.contract, hashlib.sha256(item.payload).digest())
        times[key] = (item, times[key][1] + 1 if key in times else 1)
    if not times:
        return
    async with conn.cursor() as cursor:
        await cursor.executemany(
            _KEEP,
            [
                (app, contract, digest, item.event_id, item.reason, item.payload, count)
                for (app, contract, digest), (item, count) in sorted(times.items(), key=lambda entry: entry[0])
            ],
        )
