"""Erasures in a file: how they are written, checked and read again.

Invariants. A file has no number of an erased person, nor a digest of one without the erasure key. Erasures come after
the events of a file: whoever was erased while it was written is in it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from eventstore import ulid
from eventstore.contracts._generated.eventstore import archive_pb2 as archive
from eventstore.erasure.erasure_rows import Erasure, read_erased_events, read_erasures
from eventstore.erasure.erasure_token import is_token
from eventstore.errors import ArchiveError
from eventstore.transfer.archive import Record, microseconds, moment, read_archive

DIGEST_BYTES = 32
MAX_TABLES = 1_000


async def read_erasure_records(conn: AsyncConnection[Any]) -> AsyncIterator[archive.Record]:
    """Yield the erasures of this log as records, and then their events.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    tokens = set()
    async for erasure in read_erasures(conn):
        tokens.add(erasure.token)
        yield Record(erasure=_as_record(erasure))
    async for event_id, token in read_erased_events(conn):
        if token in tokens:
            yield Record(erased_event=archive.ErasedEvent(event_id=event_id, token=token))


def _as_record(one: Erasure) -> archive.Erasure:
    return archive.Erasure(
        token=one.token,
        app=one.app,
        erased_at=microseconds(one.erased_at),
        why=one.why,
        erased_by=one.erased_by,
        position=one.position,
        mac=one.mac,
        key_check=one.key_check,
        rows=json.dumps(one.rows),
    )


def erasures_of_file(path: Path) -> Iterator[Erasure]:
    """Yield the erasures of a file that was checked."""
    for record in read_archive(path):
        if record.HasField("erasure"):
            yield _from_record(record.erasure)


def erased_events_of_file(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the erased events of a file that was checked: event_id and token."""
    for record in read_archive(path):
        if record.HasField("erased_event"):
            yield record.erased_event.event_id, record.erased_event.token


def _from_record(one: archive.Erasure) -> Erasure:
    return Erasure(
        token=one.token,
        app=one.app if one.HasField("app") else None,
        erased_at=moment(one.erased_at),
        why=one.why,
        erased_by=one.erased_by,
        position=one.position,
        mac=one.mac if one.HasField("mac") else None,
        key_check=one.key_check if one.HasField("key_check") else None,
        rows=read_row_counts(one.rows),
    )


def read_row_counts(text: str) -> dict[str, int]:
    """Return the rows by table of an erasure.

    Raises:
        ArchiveError: the text isn't such an object.

    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or len(found) > MAX_TABLES:
        raise ArchiveError("rows is not an object of tables")
    if not all(isinstance(name, str) and type(count) is int and 0 <= count < 2**63 for name, count in found.items()):
        raise ArchiveError("rows has something else than numbers")
    return found


def erasure_faults(one: archive.Erasure) -> Iterator[str | None]:
    """Yield what is wrong with an erasure, apart from its times, texts and app."""
    yield None if is_token(one.token) else "its token is not one"
    yield "its position is negative" if one.position < 0 else None
    yield "mac and key_check come together" if one.HasField("mac") != one.HasField("key_check") else None
    yield "its mac has the wrong length" if one.HasField("mac") and len(one.mac) != DIGEST_BYTES else None
    try:
        read_row_counts(one.rows)
    except ArchiveError as error:
        yield str(error)


def erased_event_faults(one: archive.ErasedEvent) -> Iterator[str | None]:
    """Yield what is wrong with an erased event."""
    yield None if ulid.is_ulid(one.event_id) else "event_id is not an upper-case ULID"
    yield None if is_token(one.token) else "its token is not one"


def newest_erasure_of_file(path: Path) -> str | None:
    """Return the token of the newest erasure of a ledger, reading only its beginning; None without any, or a file.

    Raises:
        ArchiveError: the file can't be read, or isn't such a file.

    """
    if not path.exists():
        return None
    record = next(read_archive(path), None)
    if record is None or not record.HasField("header"):
        raise ArchiveError(f"{path} is not a file written by projections export erasures")
    return record.header.newest_erasure if record.header.HasField("newest_erasure") else None
