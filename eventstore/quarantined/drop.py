"""Deletes quarantined messages, and makes the numbers right that say how much room is left.

Invariants. The quarantine of an app is locked, its messages are deleted and the rest is counted again in one
transaction whose statements are sent together: a process that freezes while it drops holds up no append. The numbers of
``quarantine_counts`` stay: they say how many messages were ever quarantined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.appending.quarantine_limits import QuarantineLimits
from eventstore.appending.quarantine_usage import LOCK_USAGE, RECOUNT_USAGE, recount_values
from eventstore.quarantined.messages import MATCHES, MessageTotal, SelectedReason, Selection

BATCH = 1_000
# The whole condition again: a message may have been received once more since somebody looked.
_DELETE = sql.SQL("""
WITH gone AS (DELETE FROM eventstore.quarantine WHERE id = ANY(%(batch)s) AND {matches}
              RETURNING octet_length(payload) AS size)
SELECT count(*), coalesce(sum(size), 0)::bigint FROM gone
""").format(matches=MATCHES)


async def drop_messages(
    conn: AsyncConnection[Any], selection: Selection, chosen: Sequence[SelectedReason], limits: QuarantineLimits
) -> MessageTotal:
    """Delete messages that were chosen and that the selection still means; return what was deleted.

    Args:
        conn: an autocommit connection, used by nobody else meanwhile.
        selection: which messages.
        chosen: what :func:`~eventstore.quarantined.messages.select_messages` returned for it, and somebody agreed to.
        limits: how much the quarantine keeps, to tell whether it has room afterwards.

    Raises:
        psycopg.Error: the database failed, or the connection; whole batches may be deleted.

    """
    messages = size = 0
    for app in sorted({each.app for each in chosen}):
        ids = sorted(number for each in chosen if each.app == app for number in each.ids)
        for begin in range(0, len(ids), BATCH):
            values = {**selection.values, "app": app, "batch": ids[begin : begin + BATCH]}
            async with conn.pipeline(), conn.transaction():
                await conn.execute(LOCK_USAGE, [app])
                deleted = await conn.execute(_DELETE, values)
                await conn.execute(RECOUNT_USAGE, recount_values(app, limits))
            row = await deleted.fetchone()
            if row is not None:
                messages, size = messages + row[0], size + row[1]
    return MessageTotal(messages, size)
