"""Erases the payloads of quarantined messages that hold a number; their reasons and counts stay.

Invariants. The digest of such a message goes with its payload: from it, and from what else is known of the message, the
number could be guessed. A keyed digest, or a random text, takes its place. A chunk is one transaction, which holds the
app's row of ``quarantine_usage`` and writes the new numbers, as whoever removes messages does. A retry stores no
message whose payload was erased after it had been read.
"""

from __future__ import annotations

import secrets
from typing import Any

from psycopg import AsyncConnection

from eventstore.appending.quarantine_limits import QuarantineLimits
from eventstore.appending.quarantine_usage import lock_usage, recount_usage
from eventstore.erasure.erasure_key import ErasureKey
from eventstore.erasure.number_finder import NumberFinder
from eventstore.postgres.byte_pages import read_pages
from eventstore.schema import quarantine

_ERASE = """
UPDATE eventstore.quarantine AS q SET payload = '', erased_at = clock_timestamp(),
    sha256 = CASE WHEN EXISTS (SELECT FROM eventstore.quarantine AS o  -- the same bytes were erased before
                               WHERE o.app = q.app AND o.contract = q.contract AND o.sha256 = e.digest)
                  THEN e.random ELSE e.digest END
FROM unnest(%s::bigint[], %b::bytea[], %b::bytea[]) AS e (id, digest, random)
WHERE q.id = e.id AND q.app = %s AND q.erased_at IS NULL
"""


async def erase_messages(
    conn: AsyncConnection[Any],
    finder: NumberFinder,
    limits: QuarantineLimits,
    key: ErasureKey | None,
    *,
    app: str | None,
    dry_run: bool,
) -> int:
    """Erase the payloads of the messages in which a number is found.

    Args:
        conn: an autocommit connection.
        finder: finds the numbers.
        limits: how much the quarantine keeps, to tell whether it has room afterwards.
        key: the erasure key; with it the same bytes are known when they are received again. None without one.
        app: only messages of this app; None for all.
        dry_run: only count them.

    Returns:
        How many messages it were.

    """
    found: dict[str, dict[int, bytes]] = {}
    async for page in read_pages(conn, quarantine, "id", ("app", "payload")):
        for number, of_app, payload in page:
            if app in (None, of_app) and finder.is_in(payload):
                digest = secrets.token_bytes(32) if key is None else key.message_digest(payload)
                found.setdefault(of_app, {})[number] = digest
    if not dry_run:
        for of_app in sorted(found):
            async with conn.transaction():
                await lock_usage(conn, of_app)
                random = [secrets.token_bytes(32) for _ in found[of_app]]
                await conn.execute(_ERASE, [list(found[of_app]), list(found[of_app].values()), random, of_app])
                await recount_usage(conn, of_app, limits)
    return sum(map(len, found.values()))
