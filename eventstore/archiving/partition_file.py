"""Writes a range of the log to a file in the export format, and compares such a file with the stored events.

Invariants. A file has each position of its range once, in order. Before a file is trusted it is read back from the disk
and compared with the stored events: their number, their payloads byte for byte, and every column, which a reader
decodes from the payload again. So a file from which other columns would be read is never trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

from psycopg import AsyncConnection

from eventstore.archived_rows import EventBounds
from eventstore.contracts import Contract, Event, decode
from eventstore.contracts._generated.eventstore import archive_pb2 as archive
from eventstore.errors import ArchiveError, Undecodable
from eventstore.event_reader import StoredEvent, read
from eventstore.transfer.archive import ArchiveWriter, Record, check_archive, microseconds, moment, read_archive

FIRST_FORMAT = 1
PROGRESS_EVERY = 10_000

OnEvent = Callable[[int], None]
"""Is called now and then with the position that is reached."""


def as_record(position: int, received_at: datetime, event: Event) -> archive.Record:
    """Return an event as it is written in a file."""
    stored = archive.StoredEvent(
        position=position,
        app=event.app,
        contract=event.contract,
        received_at=microseconds(received_at),
        occurred_at=microseconds(event.occurred_at),
        payload=event.payload,
    )
    return Record(event=stored)


def range_header(last: int) -> archive.Record:
    """Return the header of a file whose last position this is; it has no cursors."""
    return Record(header=archive.Header(version=FIRST_FORMAT, head=last))


async def write_range(
    conn: AsyncConnection, path: Path, first: int, last: int, on_event: OnEvent, *, replace: bool = False
) -> None:
    """Write the events at some positions to a file.

    Args:
        conn: an autocommit connection.
        path: the file; it appears only when it is complete.
        first: the first position.
        last: the last one.
        on_event: receives the progress.
        replace: whether an existing file is replaced.

    Raises:
        ArchiveError: a position is missing, or the file can't be written; no file is left.
        psycopg.Error: the database failed, or the connection; no file is left.

    """
    with ArchiveWriter(path, replace=replace) as file:
        file.write(range_header(last))
        wanted = first
        async for position, received_at, event in read(conn, first - 1, up_to=last):
            if position != wanted:
                break
            file.write(as_record(position, received_at, event))
            wanted += 1
            if position % PROGRESS_EVERY == 0:
                on_event(position)
        if wanted != last + 1:
            raise ArchiveError(
                f"position {wanted:,} is missing in the log, so positions {first:,} to {last:,} can't be archived:"
                " import an export that has it: projections import events FILE"
            )


async def compare_with_log(conn: AsyncConnection, path: Path, first: int, last: int, on_event: OnEvent) -> EventBounds:
    """Read a file and compare it with the stored events at some positions.

    Returns:
        The first and the last event.

    Raises:
        ArchiveError: the file is damaged, or has something else than the log; the message says what.
        psycopg.Error: the database failed, or the connection.

    """
    contents = await check_archive(path)
    if contents.events != last - first + 1:
        raise ArchiveError(
            f"{path} has {contents.events:,} events, but positions {first:,} to {last:,} have {last - first + 1:,}"
        )
    in_file = read_stored_events(path)
    begin: StoredEvent | None = None
    end: StoredEvent | None = None
    wanted = first
    async for stored in read(conn, first - 1, up_to=last):
        found = next(in_file, None)
        if stored.position != wanted or found != stored:
            raise ArchiveError(describe_event_difference(path, wanted, stored, found))
        begin, end, wanted = begin or stored, stored, wanted + 1
        if stored.position % PROGRESS_EVERY == 0:
            on_event(stored.position)
    if begin is None or end is None or wanted != last + 1:
        raise ArchiveError(f"position {wanted:,} is in {path}, but missing in the log")
    return EventBounds(begin.event.event_id, end.event.event_id, begin.received_at, end.received_at)


def describe_event_difference(path: Path, position: int, stored: StoredEvent, found: StoredEvent | None) -> str:
    """Return which position of a file differs from the log, in which column, and what to do."""
    if found is None or found.position != stored.position or found.event.event_id != stored.event.event_id:
        return f"{path} has another event at position {position:,} than the log"
    if found.received_at != stored.received_at:
        return f"{path} has another received_at at position {position:,} than the log"
    pairs = zip(Event._fields, found.event, stored.event, strict=True)
    name = next(name for name, one, other in pairs if one != other)
    if name in ("payload", "app", "contract"):
        return f"{path} has another {name} at position {position:,} than the log"
    return (
        f"column {name} of position {position:,} differs from what its payload says, and a file has only the payload:"
        " run projections redecode, then try again"
    )


def read_stored_events(path: Path, after: int = 0) -> Iterator[StoredEvent]:
    """Yield the events of a file after a position, decoded from their payloads.

    Raises:
        ArchiveError: the file can't be read, is incomplete, or an event can't be decoded.

    """
    for record in read_archive(path):
        if record.HasField("event") and record.event.position > after:
            yield as_stored_event(record.event)


def as_stored_event(record: archive.StoredEvent) -> StoredEvent:
    """Return an event of a file, decoded from its payload.

    Raises:
        ArchiveError: it can't be decoded.

    """
    try:
        event = decode(record.payload, record.app, Contract(record.contract))
    except (Undecodable, ValueError) as error:
        raise ArchiveError(
            f"the payload at position {record.position:,} can't be decoded ({error}), so it can't be in a file of"
            " archived events"
        ) from error
    return StoredEvent(record.position, moment(record.received_at), event)


def in_batches(events: Iterator[StoredEvent], size: int) -> Iterator[list[StoredEvent]]:
    """Yield events in lists of so many."""
    while batch := list(islice(events, size)):
        yield batch
