"""The file format of an exported event store: length-delimited records, then their number and a digest.

The records are defined in proto/eventstore/archive.proto. A file that is incomplete or was changed is detected before
anything of it is used.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from google.protobuf.message import DecodeError
from google.protobuf.proto import serialize_length_prefixed

from eventstore.contracts._generated.eventstore import archive_pb2 as archive
from eventstore.errors import ArchiveError
from eventstore.transfer.new_file import NewFile

VERSION = 2
"""The newest format that is read; a file without erasures is written in format 1, which earlier versions read too."""
MAX_RECORD_BYTES = 2**28
"""A greater length can't be right: no message on the wire is longer than a quarter of that."""
PAUSE_EVERY = 100
"""How many records are checked before other tasks run."""

Record = archive.Record

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """Return a time as it is written in the file."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime:
    """Return a time that is written in the file."""
    return _EPOCH + value * _MICROSECOND


class ArchiveWriter:
    """Writes a temporary file that only its owner can read, and renames it once it is complete.

    A context manager; after an error no file is left. If the name is a symbolic link, the file that it leads to is
    written.

    Args:
        path: the file's name.
        replace: whether an existing file is replaced, also one that was created while this one was written.

    """

    def __init__(self, path: Path, *, replace: bool = True) -> None:
        self._file = NewFile(path, replace=replace)
        self._digest = hashlib.sha256()
        self.events = 0

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._file.write(_delimited(Record(end=archive.End(events=self.events, sha256=self._digest.digest()))))
            except ArchiveError as failed:
                self._file.__exit__(type(failed), failed, failed.__traceback__)
                raise
        self._file.__exit__(kind, error, trace)

    def write(self, record: archive.Record) -> None:
        """Write one record.

        Raises:
            ArchiveError: it can't be written, for example because the disk is full.

        """
        data = _delimited(record)
        self._digest.update(data)
        self._file.write(data)
        if record.HasField("event"):
            self.events += 1


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file contains: its header, the number of events, the last position, the apps, and how many erasures."""

    header: archive.Header
    events: int
    last: int
    apps: frozenset[str] = field(default_factory=frozenset)
    erasures: int = 0


async def check_archive(path: Path, fault: Callable[[archive.Record], str | None] = lambda _: None) -> Contents:
    """Read a whole file and check that it is complete and unchanged; other tasks run in between.

    Args:
        path: the file.
        fault: returns what is wrong with a record, None if nothing is.

    Raises:
        ArchiveError: it is not such a file, or of a newer version, incomplete, or changed, or one of its records is
            invalid; the message says which.

    """
    tally = _Tally(path)
    wrong: str | None = None
    number = 0
    async for record, digest in _records_with_pauses(path):
        tally.add(record, digest)
        number += 1
        if wrong is None and (why := fault(record)):
            wrong = f"record {number} of {path} is invalid: {why}"
    contents = tally.contents()
    if wrong is not None:  # only now: if the file is damaged, that is what is reported
        raise ArchiveError(wrong)
    return contents


class _Tally:
    """Counts the records of a file, and checks its header, its end and its digest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header: archive.Header | None = None
        self._apps: set[str] = set()
        self._events = self._last = self._erasures = 0
        self._ended = False

    def add(self, record: archive.Record, digest: bytes) -> None:
        kind = record.WhichOneof("record")
        if self._ended or (self._header is None) != (kind == "header"):
            raise ArchiveError(f"{self._path} is not a file written by projections export")
        if kind == "header":
            self._header = record.header
            if record.header.version > VERSION:
                version = record.header.version
                raise ArchiveError(f"{self._path} was written by a newer version (format {version}); upgrade this one")
            self._apps |= {cursor.app for cursor in record.header.cursors}
        elif kind == "event":
            self._events += 1
            self._last = max(self._last, record.event.position)
            self._apps.add(record.event.app)
        elif kind == "erasure":
            self._erasures += 1
        elif kind == "quarantined":
            self._apps.add(record.quarantined.app)
        elif kind == "end":
            if record.end.events != self._events or record.end.sha256 != digest:
                raise ArchiveError(f"{self._path} was changed after it was written: its digest doesn't match")
            self._ended = True

    def contents(self) -> Contents:
        if self._header is None or not self._ended:
            raise ArchiveError(f"{self._path} is incomplete, or not a file written by projections export")
        return Contents(self._header, self._events, self._last, frozenset(self._apps), self._erasures)


def read_archive(path: Path) -> Iterator[archive.Record]:
    """Yield the records of a file that :func:`check_archive` found whole."""
    for record, _ in _records(path):
        yield record


async def _records_with_pauses(path: Path) -> AsyncIterator[tuple[archive.Record, bytes]]:
    """Yield what :func:`_records` yields, and let other tasks run, such as the handling of signals."""
    for number, found in enumerate(_records(path)):
        if number % PAUSE_EVERY == 0:
            await asyncio.sleep(0)
        yield found


def _records(path: Path) -> Iterator[tuple[archive.Record, bytes]]:
    """Yield each record; the last one, ``end``, with the digest of everything before it."""
    digest = hashlib.sha256()
    if path.exists() and not path.is_file():
        raise ArchiveError(f"{path} is not a regular file; an import reads it more than once")
    try:
        with path.open("rb") as file:
            while head := _length(file, path):
                length, prefix = head
                data = file.read(length)
                if len(data) < length:
                    raise ArchiveError(f"{path} is incomplete")
                try:
                    record = Record.FromString(data)
                except DecodeError as error:
                    raise ArchiveError(f"{path} is not a file written by projections export") from error
                before = digest.digest() if record.HasField("end") else b""
                digest.update(prefix)
                digest.update(data)
                yield record, before
    except OSError as error:
        raise ArchiveError(f"{path} can't be read: {error.strerror}") from error


def _length(file: BinaryIO, path: Path) -> tuple[int, bytes] | None:
    value = shift = 0
    prefix = bytearray()
    while byte := file.read(1):
        prefix += byte
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            if value > MAX_RECORD_BYTES:
                break
            return value, bytes(prefix)
        shift += 7
        if shift > 28:
            break
    if not prefix:
        return None
    raise ArchiveError(f"{path} is incomplete, or not a file written by projections export")


def _delimited(record: archive.Record) -> bytes:
    data = BytesIO()
    serialize_length_prefixed(record, data)
    return data.getvalue()
