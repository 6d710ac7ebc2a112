"""Counts messages that are received again after their payloads were erased with a person.

Invariant. The bytes of an erased message aren't there to be compared, and without the erasure key their digest is
random. So the message is known by its app, contract and event_id, if one could be read, and its bytes are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection

from eventstore.postgres.queries import fetch_all

_COUNT = """
UPDATE eventstore.quarantine AS q SET last_seen = statement_timestamp(), count = q.count + received.times
FROM (SELECT contract, event_id, sum(times)::bigint AS times
      FROM unnest(%(contracts)s::text[], %(ids)s::text[], %(times)s::bigint[]) AS each (contract, event_id, times)
      GROUP BY contract, event_id) AS received
WHERE q.erased_at IS NOT NULL AND q.app = %(app)s AND q.contract = received.contract AND q.event_id = received.event_id
RETURNING q.contract, q.event_id
"""


async def count_erased_messages(
    conn: AsyncConnection, app: str, messages: Sequence[tuple[str, str | None, int]]
) -> set[tuple[str, str | None]]:
    """Count those of an app's messages whose payloads were erased, on their rows.

    Args:
        conn: the connection with the caller's transaction, which has locked the app's ``quarantine_usage``.
        app: the app.
        messages: contract, event_id and how often it was received, of each message that isn't kept.

    Returns:
        Contract and event_id of those that were counted.

    """
    named = [message for message in messages if message[1] is not None]
    if not named:
        return set()
    contracts, ids, times = ([message[place] for message in named] for place in range(3))
    rows = await fetch_all(conn, _COUNT, {"app": app, "contracts": contracts, "ids": ids, "times": times})
    return {(contract, event_id) for contract, event_id in rows}
