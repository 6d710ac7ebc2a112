"""Reads quarantined messages: how many by app and reason, page by page, and one with everything.

The table ``quarantine`` has the messages whose bytes are kept; ``quarantine_counts`` has how many were received.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from eventstore.postgres.queries import fetch_all, fetch_row

MATCHES = sql.SQL(
    "(%(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s)) AND (%(app)s::text IS NULL OR app = %(app)s)"
    " AND (%(reason)s::text IS NULL OR strpos(reason, %(reason)s) > 0)"
    " AND (%(before)s::timestamptz IS NULL OR last_seen < %(before)s)"
)
"""The condition of a :class:`Selection` on the table ``quarantine``; its parameters are the selection's fields."""
MESSAGE_COLUMNS = sql.SQL(
    "id, app, contract, event_id, reason, octet_length(payload)::bigint AS size, count AS times,"
    " first_seen, last_seen, is_sample, sha256, erased_at"
)
"""What a :class:`QuarantinedMessage` is made of, without its bytes."""
_PAGE = sql.SQL(
    "SELECT {columns} FROM eventstore.quarantine WHERE id > %(after)s AND {matches} ORDER BY id LIMIT %(limit)s"
).format(columns=MESSAGE_COLUMNS, matches=MATCHES)
_MESSAGE_AND_PAYLOAD = sql.SQL("SELECT {columns}, payload FROM eventstore.quarantine WHERE id = %s").format(
    columns=MESSAGE_COLUMNS
)
_GROUPS = """
SELECT app, reason, coalesce(c.messages, 0)::bigint AS received, coalesce(c.not_kept, 0)::bigint AS not_kept,
       coalesce(k.kept, 0)::bigint AS kept, coalesce(k.size, 0)::bigint AS size,
       least(c.first_seen, k.first_seen) AS first_seen, greatest(c.last_seen, k.last_seen) AS last_seen
FROM (SELECT app, reason, count(*) AS kept, sum(octet_length(payload)) AS size, min(first_seen) AS first_seen,
             max(last_seen) AS last_seen FROM eventstore.quarantine GROUP BY app, reason) AS k
FULL JOIN eventstore.quarantine_counts AS c USING (app, reason)
WHERE (%(app)s::text IS NULL OR app = %(app)s) AND (%(reason)s::text IS NULL OR strpos(reason, %(reason)s) > 0)
ORDER BY app, reason
"""
_SELECTED = sql.SQL("""
SELECT app, reason, count(*), sum(octet_length(payload))::bigint, array_agg(id ORDER BY id)
FROM eventstore.quarantine WHERE {matches} GROUP BY app, reason ORDER BY app, reason
""").format(matches=MATCHES)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages are meant; a field that is None excludes none.

    Attributes:
        ids: the numbers of their rows.
        app: the app on whose stream they were received.
        reason: the reason, or a part of it.
        before: when they were last received, at the latest (exclusive).

    """

    ids: tuple[int, ...] | None = None
    app: str | None = None
    reason: str | None = None
    before: datetime | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of :data:`MATCHES`."""
        ids = None if self.ids is None else list(self.ids)
        return {"ids": ids, "app": self.app, "reason": self.reason, "before": self.before}


@dataclass(frozen=True, slots=True)
class QuarantinedMessage:
    """A kept message; ``size`` is in bytes, ``times`` says how often it was received. The payload may be left out.

    ``erased_at`` is when the payload was erased with a person; None if it is there.
    """

    id: int
    app: str
    contract: str
    event_id: str | None
    reason: str
    size: int
    times: int
    first_seen: datetime
    last_seen: datetime
    is_sample: bool
    sha256: bytes
    erased_at: datetime | None = None
    payload: bytes | None = None


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """The messages of an app that were quarantined for one reason.

    Attributes:
        app: the app.
        reason: the reason.
        received: how many were ever received, repetitions included.
        not_kept: how many of them were only counted, because the quarantine was full.
        kept: how many different ones are in quarantine now; ``size`` is the bytes of their payloads.
        size: see above.
        first_seen: when the first one was received.
        last_seen: when the last one was received.

    """

    app: str
    reason: str
    received: int
    not_kept: int
    kept: int
    size: int
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class SelectedReason:
    """The kept messages of one app and reason that a selection means: bytes of payloads, numbers of rows."""

    app: str
    reason: str
    count: int
    size: int
    ids: tuple[int, ...]


class MessageTotal(NamedTuple):
    """How many messages were dropped or written, and the bytes of their payloads."""

    messages: int
    size: int


async def count_by_reason(conn: AsyncConnection[Any], app: str | None, reason: str | None) -> list[ReasonCount]:
    """Return the numbers for each app and reason, all of them or those of an app or of a part of a reason."""
    async with conn.cursor(row_factory=class_row(ReasonCount)) as cursor:
        return await fetch_all(cursor, _GROUPS, {"app": app, "reason": reason})


async def read_messages(
    conn: AsyncConnection[Any], selection: Selection, *, after: int, limit: int
) -> list[QuarantinedMessage]:
    """Return a page of messages without their bytes, in the order in which they were first received.

    Args:
        conn: a connection.
        selection: which messages.
        after: the number of the last message of the page before; 0 for the first page.
        limit: messages of a page, at the most.

    """
    async with conn.cursor(row_factory=class_row(QuarantinedMessage)) as cursor:
        return await fetch_all(cursor, _PAGE, {**selection.values, "after": after, "limit": limit})


async def read_message(conn: AsyncConnection[Any], number: int) -> QuarantinedMessage | None:
    """Return one message with its bytes; None if there is none of this number."""
    async with conn.cursor(row_factory=class_row(QuarantinedMessage)) as cursor:
        return await fetch_row(cursor, _MESSAGE_AND_PAYLOAD, [number])


async def select_ids(conn: AsyncConnection[Any], selection: Selection) -> list[int]:
    """Return the numbers of the messages that a selection means now, in order."""
    return sorted(number for each in await select_messages(conn, selection) for number in each.ids)


async def select_messages(conn: AsyncConnection[Any], selection: Selection) -> list[SelectedReason]:
    """Return which messages a selection means now, by app and reason."""
    rows = await fetch_all(conn, _SELECTED, selection.values)
    return [SelectedReason(app, reason, count, size, tuple(ids)) for app, reason, count, size, ids in rows]
