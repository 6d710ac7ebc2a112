"""Stores quarantined messages that decode now as events, at new positions after the head.

Invariants. The steps are those of an append: the append lock, the head, the search for duplicates, COPY, NOTIFY. An
event's row, its mark in ``retried_events`` and the end of its row in ``quarantine`` are one transaction: a crash at any
moment leaves the message in quarantine or the event in the log, never both and never neither. Rows are read again under
the append lock, so two retries at once store a message once. Cursors are untouched, so a follower of the same app goes
on beside it: a follower compares the fencing token of its cursor, and checks that the head did not fall.

The app's row of ``quarantine_usage`` is locked under the append lock, never before it: appends lock the two in that
order, and the other order could deadlock with them. Whoever has the row without the append lock waits for nothing else.
If such a process freezes, a retry waits under the append lock until an append that waits for that lock ends it
(``append_lock``); then nothing of it is stored.

The numbers of ``quarantine_counts`` stay: they say how many messages were ever quarantined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from psycopg import AsyncConnection, sql

from eventstore.appending.append_lock import acquire_append_lock, retry_while_append_lock_is_busy
from eventstore.appending.copying import copy_new_events
from eventstore.appending.duplicates import compare_repeats, find_stored_ids, split_repeats
from eventstore.appending.notify_channel import NOTIFY
from eventstore.appending.partition_room import make_room
from eventstore.appending.quarantine import Rejected
from eventstore.appending.quarantine_limits import QuarantineLimits
from eventstore.appending.quarantine_usage import lock_usage, recount_usage
from eventstore.contracts import Event
from eventstore.distributed_log import is_distributed
from eventstore.erasure.erasure_key import ErasureKey
from eventstore.erasure.late_events import LateEvents
from eventstore.errors import LockHeld
from eventstore.locks import IMPORT_LOCK, TRY_SHARED_TRANSACTION_LOCK
from eventstore.partitions import BY_ID_IN_MODE
from eventstore.postgres.lock_holder import try_lock
from eventstore.postgres.queries import fetch_all, fetch_column
from eventstore.waits import Waits

_LOCK_ROWS = (
    "SELECT id FROM eventstore.quarantine WHERE app = %s AND id = ANY(%s) AND erased_at IS NULL ORDER BY id FOR UPDATE"
)
_WITH_ID = sql.SQL("SELECT {id}, e.app FROM {by_id} WHERE {id} = ANY(%s) AND e.app <> %s")
_STORED_ELSEWHERE = {mode: _WITH_ID.format(**parts) for mode, parts in BY_ID_IN_MODE.items()}
_MARK = """
INSERT INTO eventstore.retried_events (event_id, app, reason, first_seen, last_seen, retried_at)
SELECT stored.event_id, q.app, q.reason, q.first_seen, q.last_seen, clock_timestamp()
FROM unnest(%(ids)s::bigint[], %(event_ids)s::text[]) AS stored (id, event_id)
JOIN eventstore.quarantine AS q ON q.id = stored.id
ON CONFLICT (event_id) DO NOTHING
"""
_REMOVE = "DELETE FROM eventstore.quarantine WHERE id = ANY(%s)"


class Candidate(NamedTuple):
    """A quarantined message that decodes now: its row's number, and the event."""

    id: int
    event: Event


@dataclass(slots=True)
class Retried:
    """What became of quarantined messages, by the numbers of their rows.

    Attributes:
        stored: those whose events were stored.
        duplicates: those whose events were stored already, or twice among them; they are no longer in quarantine.
        refused: why each of the others can't be stored.
        gone: those that somebody else removed meanwhile.

    """

    stored: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)


async def store_quarantined(
    conn: AsyncConnection,
    candidates: Sequence[Candidate],
    limits: QuarantineLimits,
    waits: Waits,
    key: ErasureKey | None = None,
) -> Retried:
    """Store events of one app in one transaction, and remove their messages from quarantine.

    Args:
        conn: an autocommit connection, used by nobody else meanwhile.
        candidates: at least one, all of one app.
        limits: how much the quarantine keeps.
        waits: ``append_lock`` counts.
        key: the erasure key; None without one.

    Raises:
        LockHeld: an import adds events after the head.
        psycopg.Error: the database failed, or the connection; retry again.

    """
    return await retry_while_append_lock_is_busy(
        conn, waits, lambda: _try_to_store(conn, candidates, limits, waits, key)
    )


async def judge_candidates(conn: AsyncConnection, candidates: Sequence[Candidate]) -> Retried:
    """Return what :func:`store_quarantined` would do, as far as that can be known without doing it."""
    mode = await is_distributed(conn)
    possible, result = await _leave_out_stored_elsewhere(conn, candidates, distributed=mode)
    events = [one.event for one in possible]
    stored_ids, conflicting = await find_stored_ids(conn, events, is_distributed=mode)
    first, repeated = split_repeats([event for event in events if event.event_id not in stored_ids])
    _, conflicting_repeats = compare_repeats(first, repeated)
    _divide(result, possible, stored_ids, [*conflicting, *conflicting_repeats])
    return result


async def _try_to_store(
    conn: AsyncConnection,
    candidates: Sequence[Candidate],
    limits: QuarantineLimits,
    waits: Waits,
    key: ErasureKey | None,
) -> Retried:
    late = LateEvents(key)
    app = candidates[0].event.app
    async with conn.transaction():
        if (holder := await try_lock(conn, TRY_SHARED_TRANSACTION_LOCK, IMPORT_LOCK)) is not None:
            raise LockHeld("the head of the log, after which an import adds events", holder)
        head = await acquire_append_lock(conn, waits)
        await lock_usage(conn, app)
        ids = await fetch_column(conn, _LOCK_ROWS, [app, [one.id for one in candidates]])
        present = [one for one in candidates if one.id in set(ids)]
        possible, result = await _leave_out_stored_elsewhere(conn, present, distributed=head.is_distributed)
        result.gone = [one.id for one in candidates if one.id not in set(ids)]
        events = await late.erase(conn, [one.event for one in possible], head.erasure, may_be_old=True)
        possible = [Candidate(one.id, event) for one, event in zip(possible, events, strict=True)]
        stored_ids, conflicting = await find_stored_ids(conn, events, is_distributed=head.is_distributed)
        new = [event for event in events if event.event_id not in stored_ids]
        await make_room(conn, head.partition, head.position + len(new))
        copied = await copy_new_events(conn, new, head)
        await late.record(conn, new, is_distributed=head.is_distributed)
        _divide(result, possible, stored_ids, [*conflicting, *copied.rejected])
        await _remove(conn, result, {one.id: one.event.event_id for one in possible})
        await recount_usage(conn, app, limits)
        if copied.stored:
            await conn.execute(NOTIFY)
    return result


async def _leave_out_stored_elsewhere(
    conn: AsyncConnection, candidates: Sequence[Candidate], *, distributed: bool
) -> tuple[list[Candidate], Retried]:
    """Return the candidates whose ids no other app has, and a result that has the others."""
    result = Retried()
    if not candidates:
        return [], result
    app = candidates[0].event.app
    owners: dict[str, str] = dict(
        await fetch_all(conn, _STORED_ELSEWHERE[distributed], [[one.event.event_id for one in candidates], app])
    )
    for one in candidates:
        if one.event.event_id in owners:
            result.refused[one.id] = f"its event_id is already stored under app {owners[one.event.event_id]!r}"
    return [one for one in candidates if one.id not in result.refused], result


def _divide(
    result: Retried, candidates: Sequence[Candidate], stored_ids: set[str], rejected: Sequence[Rejected]
) -> None:
    """Add to the result what became of each candidate: refused, stored, or a duplicate."""
    reasons = {(each.contract, each.payload): each.reason for each in rejected}
    new: set[str] = set()
    for number, event in candidates:
        reason = reasons.get((event.contract, event.payload))
        if reason is not None:
            result.refused[number] = reason
        elif event.event_id in stored_ids or event.event_id in new:
            result.duplicates.append(number)
        else:
            result.stored.append(number)
            new.add(event.event_id)


async def _remove(conn: AsyncConnection, result: Retried, event_ids: dict[int, str]) -> None:
    if result.stored:
        marked = {"ids": result.stored, "event_ids": [event_ids[number] for number in result.stored]}
        await conn.execute(_MARK, marked)
    if result.stored or result.duplicates:
        await conn.execute(_REMOVE, [[*result.stored, *result.duplicates]])
