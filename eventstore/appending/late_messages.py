"""Erases the bytes of messages that can't be events and name an erased person, before they are quarantined.

Invariant. The bytes are erased unless the message's event_id tells that it was created after the erasure: then it may
be of a person who came back. The same bytes are known by a keyed digest, so that they are counted on one row.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection

from eventstore.appending.quarantine import Rejected
from eventstore.erasure.late_events import LateEvents, LateMessage


async def erase_late_messages(
    conn: AsyncConnection, late: LateEvents, rejected: Sequence[Rejected], last_erasure: int | None
) -> Sequence[Rejected]:
    """Return the messages, those of erased persons without their bytes; inside the caller's transaction."""
    if not rejected or last_erasure is None:
        return rejected
    messages = [LateMessage(one.app, one.payload, one.event_id) for one in rejected]
    digests = await late.find_messages(conn, messages, last_erasure)
    return [
        one._replace(payload=b"", digest=digests[place]) if place in digests else one
        for place, one in enumerate(rejected)
    ]
