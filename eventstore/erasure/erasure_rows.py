"""Reads and writes the record of erased persons: ``eventstore.erasures`` and ``eventstore.erased_events``.

Invariants. Erasures are committed one after another (:data:`eventstore.locks.ERASE_LOCK`), each under the append lock.
So the greatest id that a transaction reads says exactly which erasures it can see, and a transaction that holds the
append lock sees all of them. Neither table has a phone number or a digest that could be guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from eventstore.postgres.queries import fetch_all, fetch_value

LAST_ERASURE = "(SELECT max(id) FROM eventstore.erasures)"
"""The SQL expression for the id of the newest erasure; NULL while there is none."""

_READ_LAST = "SELECT coalesce((SELECT max(id) FROM eventstore.erasures), 0)"
_INSERT = """
INSERT INTO eventstore.erasures (token, app, erased_at, why, erased_by, position, mac, key_check, rows, awaited)
VALUES (%(token)s, %(app)s, %(erased_at)s, %(why)s, %(erased_by)s, %(position)s, %(mac)b, %(key_check)b,
        %(rows)s::text::jsonb, %(awaited)s)
"""
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
    rows = [
        {
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
        for one in erasures
    ]
    async with conn.cursor() as cursor:
        await cursor.executemany(_INSERT, rows)


async def find_tokens_of_events(conn: AsyncConnection[Any], event_ids: Sequence[str]) -> dict[str, str]:
    """Return the tokens of those of these events that belong to erased persons, by event_id."""
    return dict(await fetch_all(conn, _TOKENS_OF, [list(event_ids)]))
