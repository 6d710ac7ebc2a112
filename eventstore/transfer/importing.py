"""Imports the events of a file: into an empty store, after the head of a store, or where positions are missing.

Invariants. The whole file is checked before anything of it is stored: each record by itself, then the events against
this log. An event is stored at the position that it had, or not at all. Its columns are decoded again from its payload.

A file's erasures are restored before its events, so that an event of an erased person gets the token, whatever the file
has under its id. If the file has erased persons whose events this log still has unchanged, the import is refused:
``projections erase --again`` erases them here.

Nobody follows the file's apps during an import, nor any app if the file continues after the head, because appends would
use positions that belong to the file. Each batch is one transaction: a process that is killed leaves whole batches, and
the same import can be run again for the rest. Cursors are saved last, so a cursor never moves past events that are not
stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from psycopg import AsyncConnection

from eventstore.appending.restore import restore_events
from eventstore.contracts import Contract, decode
from eventstore.contracts._generated.eventstore import archive_pb2 as archive
from eventstore.erasure.erasure_rows import settle_erasures
from eventstore.errors import ArchiveError, OtherLog, Undecodable
from eventstore.event_reader import StoredEvent, read_head, read_last_event
from eventstore.ingest.app_lease import raise_epoch
from eventstore.ingest.context import IngestContext
from eventstore.locks import ERASE_LOCK, IMPORT_LOCK, app_lock
from eventstore.postgres.byte_pages import PAGE_BYTES
from eventstore.postgres.connection import connect
from eventstore.postgres.queries import fetch_all
from eventstore.postgres.session_lock import Lock, run_under_locks, session_name
from eventstore.transfer.archive import Contents, check_archive, moment, read_archive
from eventstore.transfer.archive_checks import FAR_FUTURE, RecordCheck, read_gaps
from eventstore.transfer.archive_fit import check_fit
from eventstore.transfer.restore_erasures import restore_erasures_of_file
from eventstore.waits import Waits

BATCH = 5_000

_FOLLOWED = "SELECT app FROM eventstore.cursors WHERE app = ANY(%s) ORDER BY app"
_CURSOR = """
INSERT INTO eventstore.cursors AS c (app, contract, last_event_id, last_received_at, holes)
VALUES (%s, %s, %s, %s, %s::text::jsonb)
ON CONFLICT (app) DO UPDATE SET contract = coalesce(excluded.contract, c.contract),
    last_event_id = excluded.last_event_id, last_received_at = excluded.last_received_at, holes = excluded.holes
WHERE c.reset_position IS NULL AND (c.last_event_id IS NULL OR c.last_received_at < excluded.last_received_at)
"""
# A message whose payload was erased has no digest by which it would be known; so the file's copy of it is known by when
# it was first received.
_QUARANTINE = """
INSERT INTO eventstore.quarantine
    (app, contract, sha256, event_id, reason, payload, first_seen, last_seen, count, erased_at)
SELECT %(app)s, %(contract)s, %(sha256)b, %(event_id)s, %(reason)s, %(payload)b, %(first_seen)s, %(last_seen)s,
       %(count)s, %(erased_at)s::timestamptz
WHERE %(erased_at)s::timestamptz IS NOT NULL OR NOT EXISTS (
    SELECT FROM eventstore.quarantine AS q WHERE q.erased_at IS NOT NULL AND q.app = %(app)s
    AND q.contract = %(contract)s AND q.first_seen = %(first_seen)s AND q.event_id IS NOT DISTINCT FROM %(event_id)s)
ON CONFLICT (app, contract, sha256) DO NOTHING
RETURNING app, reason, count, first_seen, last_seen
"""
_COUNT_QUARANTINED = """
INSERT INTO eventstore.quarantine_counts AS c (app, reason, messages, not_kept, first_seen, last_seen)
VALUES (%s, %s, %s, 0, %s, %s)
ON CONFLICT (app, reason) DO UPDATE SET messages = c.messages + excluded.messages,
    first_seen = least(c.first_seen, excluded.first_seen), last_seen = greatest(c.last_seen, excluded.last_seen)
"""
_RECOUNT_USAGE = "UPDATE eventstore.quarantine_usage SET counted_at = NULL WHERE app = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: the number of events in the file, and how many of them were stored."""

    events: int
    stored: int


async def import_events(context: IngestContext, path: Path, *, on_progress: Callable[[int, int], None]) -> Imported:
    """Store the events of a file at their positions.

    Args:
        context: the database and the timeouts; everything is kept, whatever the quarantine's limits are.
        path: a file that :func:`eventstore.transfer.export.export_events` wrote.
        on_progress: is called after each batch with the number of events done, and of all events.

    Raises:
        OtherLog: the file doesn't fit this log, or has erased persons who are not erased here; nothing was stored.
        ArchiveError: the file can't be read, is damaged, or contains what no event store writes; nothing was stored.
        LockHeld: persons are being erased; or one of the file's apps is followed, or any app and the file continues
            after the head; nothing was stored.
        psycopg.Error: the database or the connection failed; import the file again.

    """
    url, waits = context.url, context.waits
    async with await connect(url, name=session_name("import"), waits=waits) as conn:
        latest = await _latest_possible_time(conn)
    contents = await check_archive(path, RecordCheck(latest).fault)
    # Also without erasures: an erase doesn't look again at positions that it has passed, which an import may fill.
    locks = [Lock(ERASE_LOCK, "the stored events")]
    locks += [Lock(app_lock(app), f"app {app!r}") for app in sorted(contents.apps)]
    async with await connect(url, name=session_name("import"), waits=waits) as conn:
        if contents.last > await read_head(conn):
            locks.append(Lock(IMPORT_LOCK, "the head of the log, after which the file continues"))
    return await run_under_locks(
        url,
        locks,
        name=session_name("import"),
        waits=waits,
        work=lambda: _import(context, path, contents, on_progress),
    )


async def _import(
    context: IngestContext, path: Path, contents: Contents, on_progress: Callable[[int, int], None]
) -> Imported:
    waits = context.waits
    async with await connect(context.url, name=session_name("import"), waits=waits) as conn:
        await check_fit(conn, path, (events for events, _ in _batches(path) if events))
        if contents.erasures:
            await restore_erasures_of_file(conn, path, waits)
        await _fence_followers(conn, contents.apps, waits)
        done = stored = 0
        for events, quarantined in _batches(path):
            if events:
                stored += await restore_events(conn, events, waits, context.key)
                done += len(events)
                on_progress(done, contents.events)
            if quarantined:
                await _keep_quarantined(conn, quarantined)
        if done != contents.events:
            raise ArchiveError(f"{path} was changed during the import; import it again")
        if contents.erasures:
            await settle_erasures(conn)
        async with conn.transaction():
            for cursor in contents.header.cursors:
                await _save_cursor(conn, cursor, contents.header.head)
    return Imported(contents.events, stored)


async def _fence_followers(conn: AsyncConnection, apps: Iterable[str], waits: Waits) -> None:
    """Stop followers that are frozen now and may wake up during the import; an app without a cursor has none."""
    rows = await fetch_all(conn, _FOLLOWED, [list(apps)])
    for (app,) in rows:
        await raise_epoch(conn, app, waits)


async def _latest_possible_time(conn: AsyncConnection) -> datetime:
    """Return the latest time at which anything in the file may have been received.

    Times in this log are accepted, so a store whose clock was far ahead can be repaired from its own export.
    """
    last = await read_last_event(conn)
    return max(last.now + FAR_FUTURE, last.received_at or last.now)


def _batches(path: Path) -> Iterator[tuple[list[StoredEvent], list[archive.Quarantined]]]:
    """Yield the events and quarantined messages of the file in batches.

    The file is never read inside a transaction, because Postgres would end a transaction that is idle for too long.
    """
    events: list[StoredEvent] = []
    quarantined: list[archive.Quarantined] = []
    size = 0
    for record in read_archive(path):
        if record.HasField("event"):
            events.append(_stored(record.event))
            size += len(record.event.payload)
        elif record.HasField("quarantined"):
            quarantined.append(record.quarantined)
            size += len(record.quarantined.payload)
        if len(events) + len(quarantined) == BATCH or size >= PAGE_BYTES:
            yield events, quarantined
            events, quarantined, size = [], [], 0
    if events or quarantined:
        yield events, quarantined


def _stored(record: archive.StoredEvent) -> StoredEvent:
    try:
        event = decode(record.payload, record.app, Contract(record.contract))
    except (Undecodable, ValueError) as error:
        raise OtherLog(f"the event at position {record.position:,} of the file can't be decoded: {error}") from error
    return StoredEvent(record.position, moment(record.received_at), event)


async def _keep_quarantined(conn: AsyncConnection, quarantined: Sequence[archive.Quarantined]) -> None:
    rows = [_quarantine_row(kept) for kept in quarantined]
    # Everything in the file is kept, regardless of the limits, since a person asked for it. Later messages must fit.
    async with conn.transaction(), conn.cursor() as cursor:
        await cursor.executemany(_QUARANTINE, rows, returning=True)
        added = [row async for result in cursor.results() for row in await result.fetchall()]
        if added:
            await cursor.executemany(_COUNT_QUARANTINED, added)
            await cursor.execute(_RECOUNT_USAGE, [sorted({row[0] for row in added})])


def _quarantine_row(kept: archive.Quarantined) -> dict[str, object]:
    is_erased = kept.HasField("erased_at")
    return {
        "app": kept.app,
        "contract": kept.contract,
        "sha256": kept.digest if is_erased else hashlib.sha256(kept.payload).digest(),
        "event_id": kept.event_id if kept.HasField("event_id") else None,
        "reason": kept.reason,
        "payload": b"" if is_erased else kept.payload,
        "first_seen": moment(kept.first_seen),
        "last_seen": moment(kept.last_seen),
        "count": kept.count,
        "erased_at": moment(kept.erased_at) if is_erased else None,
    }


async def _save_cursor(conn: AsyncConnection, cursor: archive.Cursor, head: int) -> None:
    # No gap is after the file's own head: events that are stored later come after the gap.
    gaps = [
        gap | {"position": min(gap["position"], head)} if "position" in gap else gap for gap in read_gaps(cursor.holes)
    ]
    row = [
        cursor.app,
        cursor.contract if cursor.HasField("contract") else None,
        cursor.last_event_id if cursor.HasField("last_event_id") else None,
        moment(cursor.last_received_at) if cursor.HasField("last_received_at") else None,
        json.dumps(gaps),
    ]
    await conn.execute(_CURSOR, row)
