"""Reads and writes the record of erased persons: ``eventstore.erasures`` and ``eventstore.erased_events``.

Invariants. Erasures are committed one after another (:data:`eventstore.locks.ERASE_LOCK`), each under the append lock.
So the greatest id that a transaction reads says exactly which erasures it can see, and a transaction that holds the
append lock sees all of them. Neither table has a phone number or a digest that could be guessed.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.distributed_log import is_distributed
from eventstore.erasure.erasure_token import TOKEN_PATTERN
from eventstore.partitions import joining_by_id
from eventstore.postgres.queries import fetch_all, fetch_column, fetch_row, fetch_value

_READ_LAST = "SELECT coalesce((SELECT max(id) FROM eventstore.erasures), 0)"
_INSERT = """
INSERT INTO eventstore.erasures (token, app, erased_at, why, erased_by, position, mac, key_check, rows, awaited)
VALUES (%(token)s, %(app)s, %(erased_at)s, %(why)s, %(erased_by)s, %(position)s, %(mac)b, %(key_check)b,
        %(rows)s::text::jsonb, %(awaited)s)
"""
_COLUMNS = "token, app, erased_at, why, erased_by, position, mac, key_check, rows, awaited"
_READ = sql.SQL("SELECT id, {} FROM eventstore.erasures WHERE id > %s ORDER BY id LIMIT %s").format(sql.SQL(_COLUMNS))
_READ_EVENTS = "SELECT event_id, token FROM eventstore.erased_events WHERE event_id > %s ORDER BY event_id LIMIT %s"
_NEWEST = (
    "SELECT (SELECT count(*) FROM eventstore.erasures),"
    " (SELECT token FROM eventstore.erasures ORDER BY erased_at DESC, id DESC LIMIT 1)"
)
_OF_MAC = sql.SQL("SELECT {} FROM eventstore.erasures WHERE mac = %b ORDER BY erased_at, id").format(sql.SQL(_COLUMNS))
_IS_KNOWN = "SELECT EXISTS (SELECT FROM eventstore.erasures WHERE token = %s)"
_INSERT_NEW = _INSERT + " ON CONFLICT (token) DO NOTHING"
_INSERT_EVENTS = """
INSERT INTO eventstore.erased_events (event_id, token) SELECT * FROM unnest(%s::text[], %s::text[])
ON CONFLICT (event_id) DO NOTHING
"""
# A new id tells every appender to look again whether events are awaited, and every replay that events may have changed.
_RENEW = "UPDATE eventstore.erasures SET id = DEFAULT, awaited = awaited OR %s WHERE token = ANY(%s)"
_SETTLE = {
    False: """
UPDATE eventstore.erasures AS x SET awaited = false
WHERE x.awaited AND NOT EXISTS (
    SELECT FROM eventstore.erased_events AS k WHERE k.token = x.token
    AND (SELECT i.position FROM eventstore.event_positions AS i WHERE i.event_id = k.event_id) IS NULL)
""",
    True: """
UPDATE eventstore.erasures AS x SET awaited = false
WHERE x.awaited AND x.token NOT IN (
    SELECT k.token FROM (
        SELECT w.event_id, w.token FROM eventstore.erased_events AS w
        JOIN eventstore.erasures AS y ON y.token = w.token WHERE y.awaited) AS k
    LEFT JOIN (
        SELECT e.event_id FROM eventstore.events AS e JOIN (
            SELECT w.event_id FROM eventstore.erased_events AS w JOIN eventstore.erasures AS y ON y.token = w.token
            WHERE y.awaited) AS awaited ON awaited.event_id = e.event_id) AS stored ON stored.event_id = k.event_id
    WHERE stored.event_id IS NULL)
""",
}
_NOT_APPLIED = "UPDATE eventstore.erasures SET applied = false WHERE token = ANY(%s)"
_APPLIED = joining_by_id(
    """
UPDATE eventstore.erasures AS x SET applied = true
WHERE NOT x.applied AND x.token NOT IN (
    SELECT k.token FROM (
        SELECT w.event_id, w.token FROM eventstore.erased_events AS w
        JOIN eventstore.erasures AS y ON y.token = w.token WHERE NOT y.applied) AS k
    {events} WHERE e.ppnum <> '' AND e.ppnum !~ %s)
""",
    "k",
)
_ARE_APPLIED = "SELECT NOT EXISTS (SELECT FROM eventstore.erasures WHERE NOT applied)"
_UNKNOWN = "SELECT unnest(%s::text[]) EXCEPT SELECT token FROM eventstore.erasures WHERE token = ANY(%s)"
_UNRECOGNISABLE = "SELECT count(*) FROM eventstore.erasures WHERE key_check IS DISTINCT FROM %b"
_PAGE = 5_000
_TOKENS_OF = "SELECT event_id, token FROM eventstore.erased_events WHERE event_id = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Erasure:
    """One erased person.

    Attributes:
        token: what stands in place of the number.
        app: the app in which the person was erased; None for every app.
        erased_at: when.
        why: the reason that was given.
        erased_by: who ran the command.
        position: the head of the log then.
        mac: the keyed digest of the number; None without a key.
        key_check: tells whether a key is that of ``mac``; None without a key.
        rows: how many rows were changed, by table.
        awaited: whether erased events of the person may be missing in the log, and be received again.

    """

    token: str
    app: str | None
    erased_at: datetime
    why: str
    erased_by: str
    position: int
    mac: bytes | None = None
    key_check: bytes | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    awaited: bool = False


async def read_last_erasure(conn: AsyncConnection[Any]) -> int:
    """Return the id of the newest erasure; 0 while there is none."""
    return int(await fetch_value(conn, _READ_LAST))


async def insert_erasures(conn: AsyncConnection[Any], erasures: Sequence[Erasure]) -> None:
    """Record erased persons, inside the caller's transaction that holds the append lock."""
    async with conn.cursor() as cursor:
        await cursor.executemany(_INSERT, [_as_row(one) for one in erasures])


def _as_row(one: Erasure) -> dict[str, object]:
    return {
        "token": one.token,
        "app": one.app,
        "erased_at": one.erased_at,
        "why": one.why,
        "erased_by": one.erased_by,
        "position": one.position,
        "mac": one.mac,
        "key_check": one.key_check,
        "rows": json.dumps(one.rows),
        "awaited": one.awaited,
    }


async def read_erasures(conn: AsyncConnection[Any]) -> AsyncIterator[Erasure]:
    """Yield all erasures, the oldest first, page by page."""
    after = 0
    while rows := await fetch_all(conn, _READ, [after, _PAGE]):
        for _, *values in rows:
            yield Erasure(*values)
        after = rows[-1][0]


async def read_erased_events(conn: AsyncConnection[Any]) -> AsyncIterator[tuple[str, str]]:
    """Yield all erased events with their tokens, page by page."""
    after = ""
    while rows := await fetch_all(conn, _READ_EVENTS, [after, _PAGE]):
        for event_id, token in rows:
            yield event_id, token
        after = rows[-1][0]


async def count_erasures(conn: AsyncConnection[Any]) -> tuple[int, str | None]:
    """Return how many erasures there are, and the token of the newest one."""
    row = await fetch_row(conn, _NEWEST)
    return (int(row[0]), row[1]) if row else (0, None)


async def find_erasures_of_number(conn: AsyncConnection[Any], mac: bytes) -> list[Erasure]:
    """Return the erasures of the number with this digest, the oldest first."""
    return [Erasure(*row) for row in await fetch_all(conn, _OF_MAC, [mac])]


async def has_token(conn: AsyncConnection[Any], token: str) -> bool:
    """Return whether this log has the erasure of a token."""
    return bool(await fetch_value(conn, _IS_KNOWN, [token]))


async def restore_erasures(conn: AsyncConnection[Any], erasures: Sequence[Erasure]) -> None:
    """Record erasures of another copy of this log that aren't known here, as :func:`insert_erasures` does."""
    async with conn.cursor() as cursor:
        await cursor.executemany(_INSERT_NEW, [_as_row(one) for one in erasures])


async def restore_erased_events(conn: AsyncConnection[Any], events: Sequence[tuple[str, str]]) -> None:
    """Record erased events of another copy of this log that aren't known here: event_id and token."""
    await conn.execute(_INSERT_EVENTS, [[one[0] for one in events], [one[1] for one in events]])


async def renew_erasures(conn: AsyncConnection[Any], tokens: Sequence[str], *, awaited: bool = False) -> None:
    """Give erasures new ids, because their events change now, or may be received again (``awaited``)."""
    await conn.execute(_RENEW, [awaited, list(tokens)])


async def mark_not_applied(conn: AsyncConnection[Any], tokens: Sequence[str]) -> None:
    """Note that events of these persons are in the log with their numbers, until :func:`settle_erasures`."""
    await conn.execute(_NOT_APPLIED, [list(tokens)])


async def settle_erasures(conn: AsyncConnection[Any]) -> None:
    """Note which erasures have all their events in the log, and which have none there that is not erased."""
    distributed = await is_distributed(conn)
    await conn.execute(_SETTLE[distributed])
    await conn.execute(_APPLIED[distributed], [TOKEN_PATTERN])


async def are_all_applied(conn: AsyncConnection[Any]) -> bool:
    """Return whether no erasure waits for ``projections erase --again`` to be run to its end."""
    return bool(await fetch_value(conn, _ARE_APPLIED))


async def find_unknown_tokens(conn: AsyncConnection[Any], tokens: Sequence[str]) -> list[str]:
    """Return which of these tokens this log doesn't have."""
    return await fetch_column(conn, _UNKNOWN, [list(tokens), list(tokens)])


async def count_unrecognisable(conn: AsyncConnection[Any], key_check: bytes) -> int:
    """Return how many erasures have no digest of the number with this key."""
    return int(await fetch_value(conn, _UNRECOGNISABLE, [key_check]))


async def find_tokens_of_events(conn: AsyncConnection[Any], event_ids: Sequence[str]) -> dict[str, str]:
    """Return the tokens of those of these events that belong to erased persons, by event_id."""
    return dict(await fetch_all(conn, _TOKENS_OF, [list(event_ids)]))
