"""Exports the whole event store to a file, page by page, so that neither memory nor a snapshot grows with the log.

Invariants. The cursors and the head are read in one snapshot before the events. So everything that a cursor has moved
past is in the file, as an event or in quarantine. Erasures are read after the events: a file that has events of a
person who was erased meanwhile has the erasure too, and an import applies it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from psycopg import AsyncConnection

from eventstore.archiving.archive_folder import load_archive_folder
from eventstore.archiving.archived_events import read_whole_log
from eventstore.archiving.partition_file import as_record
from eventstore.contracts._generated.eventstore import archive_pb2 as archive
from eventstore.erasure.erasure_rows import count_erasures, read_last_erasure
from eventstore.errors import ArchiveError
from eventstore.event_reader import read_head
from eventstore.postgres.byte_pages import PAGE_BYTES, PAGE_ROWS, read_pages
from eventstore.postgres.queries import fetch_all
from eventstore.postgres.session_settings import ONE_SNAPSHOT
from eventstore.schema import quarantine
from eventstore.transfer.archive import VERSION, ArchiveWriter, Record, microseconds
from eventstore.transfer.erasure_records import read_erasure_records

_CURSORS = "SELECT app, contract, last_event_id, last_received_at, holes FROM eventstore.cursors ORDER BY app"
PROGRESS_EVERY = 10_000


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported; ``missing`` are the ranges of positions that are missing in the log, first to last."""

    events: int
    quarantined: int
    head: int
    missing: tuple[tuple[int, int], ...]
    erasures: int = 0


@dataclass(frozen=True, slots=True)
class ExportedErasures:
    """What a ledger has: erased persons, and their events."""

    erasures: int
    events: int


async def export_erasures(conn: AsyncConnection, path: Path, *, replace: bool = True) -> ExportedErasures:
    """Write a ledger: who was erased, and which events were theirs; without any number.

    Args:
        conn: an autocommit connection.
        path: the file; it appears only when it is complete.
        replace: whether an existing file is replaced.

    Raises:
        ArchiveError: the file can't be written, or exists already.
        psycopg.Error: the database or the connection failed; no file is left.

    """
    erasures = events = 0
    with ArchiveWriter(path, replace=replace) as file:
        count, newest = await count_erasures(conn)
        header = archive.Header(version=VERSION, erasures=count, newest_erasure=newest)
        file.write(Record(header=header))
        async for record in read_erasure_records(conn):
            file.write(record)
            erasures += record.HasField("erasure")
            events += record.HasField("erased_event")
    return ExportedErasures(erasures, events)


async def export_events(
    conn: AsyncConnection, path: Path, on_progress: Callable[[int, int], None], *, replace: bool = True
) -> Exported:
    """Write all events up to the current head, archived ones included, the cursors, and the quarantine.

    Args:
        conn: an autocommit connection.
        path: the file; it appears only when it is complete.
        on_progress: is called with the position and the head, once in ten thousand events.
        replace: whether an existing file is replaced.

    Raises:
        EventsArchived: archived events can't be read; nothing was written.
        ArchiveError: the file can't be written, or exists already, or a file of archived events can't be read; or the
            first person was erased meanwhile.
        psycopg.Error: the database or the connection failed; no file is left.

    """
    folder = load_archive_folder()
    with ArchiveWriter(path, replace=replace) as file:
        async with conn.transaction():
            await conn.execute(ONE_SNAPSHOT)
            cursors = [_cursor(*row) for row in await fetch_all(conn, _CURSORS)]
            last = await read_head(conn)
        is_first_format = await read_last_erasure(conn) == 0
        version = 1 if is_first_format else VERSION
        file.write(Record(header=archive.Header(version=version, cursors=cursors, head=last)))
        missing: list[tuple[int, int]] = []
        before = 0
        async for position, received_at, event in read_whole_log(conn, folder, last):
            if position != before + 1:
                missing.append((before + 1, position - 1))
            before = position
            file.write(as_record(position, received_at, event))
            if file.events % PROGRESS_EVERY == 0:
                on_progress(position, last)
        if before != last:
            missing.append((before + 1, last))
        quarantined = 0
        async for kept in read_quarantine(conn):
            file.write(Record(quarantined=kept))
            quarantined += 1
        erasures = 0
        async for record in read_erasure_records(conn):
            file.write(record)
            erasures += record.HasField("erasure")
        if is_first_format and erasures:
            raise ArchiveError(f"{path} was not written: a person was erased meanwhile, the first one; export again")
    return Exported(file.events, quarantined, last, tuple(missing), erasures)


async def read_quarantine(
    conn: AsyncConnection, *, page_rows: int = PAGE_ROWS, page_bytes: int = PAGE_BYTES
) -> AsyncIterator[archive.Quarantined]:
    """Yield the quarantined messages as records of the file, in the order in which they were quarantined.

    A page holds at most ``page_rows`` rows and ends with the one that brings its payloads to ``page_bytes`` bytes.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    columns = (
        "app",
        "contract",
        "event_id",
        "reason",
        "payload",
        "first_seen",
        "last_seen",
        "count",
        "erased_at",
        "sha256",
    )
    async for page in read_pages(conn, quarantine, "id", columns, page_rows=page_rows, page_bytes=page_bytes):
        for _, app, contract, event_id, reason, payload, first_seen, last_seen, times, erased_at, digest in page:
            yield archive.Quarantined(
                app=app,
                contract=contract,
                event_id=event_id,
                reason=reason,
                payload=payload,
                first_seen=microseconds(first_seen),
                last_seen=microseconds(last_seen),
                count=times,
                erased_at=None if erased_at is None else microseconds(erased_at),
                digest=None if erased_at is None else digest,
            )


def _cursor(
    app: str, contract: str | None, last_event_id: str | None, last_received_at: datetime | None, holes: object
) -> archive.Cursor:
    received = None if last_received_at is None else microseconds(last_received_at)
    return archive.Cursor(
        app=app, contract=contract, last_event_id=last_event_id, last_received_at=received, holes=json.dumps(holes)
    )
