"""Quarantines messages that can't be events, with the reason, in the transaction that moves the cursor past them.

Invariants. Every quarantined message is counted, by app and reason, in ``quarantine_counts``; these numbers never fall.
The bytes that are kept for an app stay within its limits. Messages are kept in the order in which they are received,
until nine tenths of a limit are used; the rest is for samples, at most one a minute for each reason, and new samples
replace the oldest. Repetitions of kept bytes are counted on their row and need no room.

The table ``quarantine`` itself is the truth about what is kept. ``quarantine_usage`` has the numbers that the limits
are compared with, so that no batch counts rows. Its row is locked first, so only one transaction at a time writes an
app's quarantine. When a message doesn't fit, the rows are counted again (a bounded scan), at most once a minute, so
that rows that people deleted make room.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from psycopg import AsyncConnection

from eventstore.appending.erased_messages import count_erased_messages
from eventstore.appending.quarantine_limits import DEFAULT_LIMITS, QuarantineLimits
from eventstore.postgres.queries import fetch_all, fetch_column, fetch_row

RECOUNT_AFTER = timedelta(minutes=1)
"""The maximum age of the count of kept rows when a message doesn't fit."""
SAMPLE_EVERY = timedelta(minutes=1)
"""The time between two samples of one reason."""


class Rejected(NamedTuple):
    """Bytes that can't be an event.

    ``reason`` contains none of the values; ``event_id`` is the ULID, if it could be decoded. ``digest`` stands for the
    SHA-256 of a message of an erased person, whose payload is empty; None for others.
    """

    app: str
    contract: str
    payload: bytes
    reason: str
    event_id: str | None = None
    digest: bytes | None = None


class _Message(NamedTuple):
    """One distinct message of an app in a batch, and how often it was received."""

    item: Rejected
    sha256: bytes
    times: int


class _Usage(NamedTuple):
    """What an app's quarantine contains without samples; ``is_recent`` tells whether it was counted recently."""

    rows: int
    size: int
    is_recent: bool


_LOCK_USAGE = """
INSERT INTO eventstore.quarantine_usage AS u (app) VALUES (%s) ON CONFLICT (app) DO UPDATE SET app = excluded.app
RETURNING kept_rows, kept_bytes, coalesce(counted_at > clock_timestamp() - %s, false), counted_at IS NULL
"""
_RECOUNT = """
UPDATE eventstore.quarantine_usage AS u
SET kept_rows = found.kept_rows, kept_bytes = found.kept_bytes, counted_at = clock_timestamp()
FROM (SELECT count(*) AS kept_rows, coalesce(sum(size), 0)::bigint AS kept_bytes
      FROM (SELECT octet_length(payload) AS size FROM eventstore.quarantine
            WHERE app = %(app)s AND NOT is_sample LIMIT %(limit)s) AS kept) AS found
WHERE u.app = %(app)s RETURNING u.kept_rows, u.kept_bytes
"""
_COUNT_REPETITIONS = """
UPDATE eventstore.quarantine AS q
SET last_seen = statement_timestamp(), count = q.count + received.times, reason = received.reason
FROM unnest(%(contracts)s::text[], %(digests)b::bytea[], %(times)s::bigint[], %(reasons)s::text[])
     AS received (contract, sha256, times, reason)
WHERE q.app = %(app)s AND q.contract = received.contract AND q.sha256 = received.sha256
RETURNING q.contract, q.sha256
"""
_KEEP = """
INSERT INTO eventstore.quarantine AS q
    (app, contract, sha256, event_id, reason, payload, first_seen, last_seen, count, is_sample, erased_at)
VALUES (%s, %s, %s, %s, %s, %b, statement_timestamp(), statement_timestamp(), %s, %s,
        CASE WHEN %s THEN statement_timestamp() END)
ON CONFLICT (app, contract, sha256)
DO UPDATE SET last_seen = excluded.last_seen, count = q.count + excluded.count, reason = excluded.reason
"""
_RECENTLY_SAMPLED = """
SELECT reason FROM eventstore.quarantine_counts
WHERE app = %s AND reason = ANY(%s) AND last_sample_at > clock_timestamp() - %s
"""
_MAKE_ROOM_FOR_SAMPLES = """
DELETE FROM eventstore.quarantine WHERE id IN (
    SELECT id FROM (SELECT id, row_number() OVER newest AS rows, sum(octet_length(payload)) OVER newest AS size
                    FROM eventstore.quarantine WHERE app = %s AND is_sample WINDOW newest AS (ORDER BY id DESC)) AS kept
    WHERE rows > %s OR size > %s)
"""
_COUNT = """
INSERT INTO eventstore.quarantine_counts AS c (app, reason, messages, not_kept, first_seen, last_seen, last_sample_at)
VALUES (%(app)s, %(reason)s, %(messages)s, %(not_kept)s, statement_timestamp(), statement_timestamp(),
        CASE WHEN %(sampled)s THEN clock_timestamp() END)
ON CONFLICT (app, reason) DO UPDATE SET messages = c.messages + excluded.messages,
    not_kept = c.not_kept + excluded.not_kept, last_seen = excluded.last_seen,
    last_sample_at = coalesce(excluded.last_sample_at, c.last_sample_at)
"""
_SAVE_USAGE = """
UPDATE eventstore.quarantine_usage SET kept_rows = %(rows)s, kept_bytes = %(size)s,
    full_since = CASE WHEN %(is_full)s THEN coalesce(full_since, clock_timestamp())
                      WHEN %(has_room)s THEN NULL ELSE full_since END
WHERE app = %(app)s
"""


async def quarantine(
    conn: AsyncConnection, rejected: Iterable[Rejected], limits: QuarantineLimits = DEFAULT_LIMITS
) -> int:
    """Count these messages, and keep their bytes within the limits, inside the caller's transaction.

    Returns:
        How many of the messages were only counted, not kept.

    """
    by_app: dict[str, list[Rejected]] = {}
    for item in rejected:
        by_app.setdefault(item.app, []).append(item)
    # In one order, so that two transactions can't deadlock.
    return sum([await _quarantine_of_app(conn, app, by_app[app], limits) for app in sorted(by_app)])


async def _quarantine_of_app(
    conn: AsyncConnection, app: str, items: Sequence[Rejected], limits: QuarantineLimits
) -> int:
    messages = _distinct_messages(items)
    usage = await _lock_usage(conn, app, limits)
    known = await _count_repetitions(conn, app, messages)
    new = [message for message in messages if (message.item.contract, message.sha256) not in known]
    named = [(message.item.contract, message.item.event_id, message.times) for message in new]
    erased = await count_erased_messages(conn, app, named)
    new = [message for message in new if (message.item.contract, message.item.event_id) not in erased]
    fitting, left = _split_by_room(new, usage, limits)
    if left and not usage.is_recent:
        usage = await _recount(conn, app, limits)
        fitting, left = _split_by_room(new, usage, limits)
    samples = await _choose_samples(conn, app, left, limits) if left else []
    await _keep(conn, fitting, is_sample=False)
    await _keep(conn, samples, is_sample=True)
    not_kept = Counter[str]()
    for message in left:
        if message not in samples:
            not_kept[message.item.reason] += message.times
    counted = Counter(item.reason for item in items)
    async with conn.cursor() as cursor:
        reasons = {message.item.reason for message in samples}
        rows = [
            {"app": app, "reason": reason, "messages": n, "not_kept": not_kept[reason], "sampled": reason in reasons}
            for reason, n in counted.items()
        ]
        await cursor.executemany(_COUNT, rows)
    used = _Usage(
        usage.rows + len(fitting), usage.size + sum(len(message.item.payload) for message in fitting), usage.is_recent
    )
    await _save_usage(conn, app, used, limits, is_full=bool(left))
    return not_kept.total()


def _distinct_messages(items: Sequence[Rejected]) -> list[_Message]:
    """Return the distinct messages, in the order of their first copies; of each the last copy."""
    found: dict[tuple[str, bytes], tuple[Rejected, int]] = {}
    for item in items:
        key = (item.contract, item.digest or hashlib.sha256(item.payload).digest())
        found[key] = (item, found[key][1] + 1 if key in found else 1)
    return [_Message(item, digest, times) for (_, digest), (item, times) in found.items()]


def _split_by_room(
    messages: Sequence[_Message], usage: _Usage, limits: QuarantineLimits
) -> tuple[list[_Message], list[_Message]]:
    """Split messages into those that fit and those that don't."""
    rows = limits.max_rows - limits.sample_rows - usage.rows
    size = limits.max_bytes - limits.sample_bytes - usage.size
    fitting: list[_Message] = []
    left: list[_Message] = []
    for message in messages:
        if rows > 0 and len(message.item.payload) <= size:
            rows, size = rows - 1, size - len(message.item.payload)
            fitting.append(message)
        else:
            left.append(message)
    return fitting, left


async def _lock_usage(conn: AsyncConnection, app: str, limits: QuarantineLimits) -> _Usage:
    row = await fetch_row(conn, _LOCK_USAGE, [app, RECOUNT_AFTER])
    if row is None or row[3]:
        return await _recount(conn, app, limits)
    return _Usage(row[0], row[1], row[2])


async def _recount(conn: AsyncConnection, app: str, limits: QuarantineLimits) -> _Usage:
    row = await fetch_row(conn, _RECOUNT, {"app": app, "limit": limits.max_rows + 1})
    rows, size = row or (0, 0)
    return _Usage(rows, size, is_recent=True)


async def _count_repetitions(conn: AsyncConnection, app: str, messages: Sequence[_Message]) -> set[tuple[str, bytes]]:
    """Count the messages that are kept already; return contract and SHA-256 of each."""
    received = {
        "app": app,
        "contracts": [message.item.contract for message in messages],
        "digests": [message.sha256 for message in messages],
        "times": [message.times for message in messages],
        "reasons": [message.item.reason for message in messages],
    }
    return {(contract, digest) for contract, digest in await fetch_all(conn, _COUNT_REPETITIONS, received, binary=True)}


async def _choose_samples(
    conn: AsyncConnection, app: str, left: Sequence[_Message], limits: QuarantineLimits
) -> list[_Message]:
    """Choose samples among the messages that don't fit, and delete the oldest samples to make room."""
    latest = {message.item.reason: message for message in left}
    recent = set(await fetch_column(conn, _RECENTLY_SAMPLED, [app, list(latest), SAMPLE_EVERY]))
    due = [message for reason, message in latest.items() if reason not in recent]
    samples = list(_take_while_room(due, limits.sample_rows, limits.sample_bytes))
    if samples:
        room = limits.sample_bytes - sum(len(message.item.payload) for message in samples)
        await conn.execute(_MAKE_ROOM_FOR_SAMPLES, [app, limits.sample_rows - len(samples), room])
    return samples


def _take_while_room(messages: Sequence[_Message], rows: int, size: int) -> Iterator[_Message]:
    for message in messages:
        if rows > 0 and len(message.item.payload) <= size:
            rows, size = rows - 1, size - len(message.item.payload)
            yield message


async def _keep(conn: AsyncConnection, messages: Sequence[_Message], *, is_sample: bool) -> None:
    if not messages:
        return
    rows = [
        (
            item.app,
            item.contract,
            digest,
            item.event_id,
            item.reason,
            item.payload,
            times,
            is_sample,
            item.digest is not None,
        )
        for item, digest, times in messages
    ]
    async with conn.cursor() as cursor:
        await cursor.executemany(_KEEP, rows)


async def _save_usage(
    conn: AsyncConnection, app: str, used: _Usage, limits: QuarantineLimits, *, is_full: bool
) -> None:
    has_room = used.rows < limits.max_rows * 0.8 and used.size < limits.max_bytes * 0.8
    values = {"app": app, "rows": used.rows, "size": used.size, "is_full": is_full, "has_room": has_room}
    await conn.execute(_SAVE_USAGE, values)
