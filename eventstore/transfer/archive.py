"""The file that holds a whole event store: length-delimited records, and at the end how many, with a digest.

proto/eventstore/archive.proto says what the records are. A file that was cut short, or changed on the way, is found out
before anything is read from it in earnest.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import stat
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

VERSION = 1
MAX_RECORD_BYTES = 2**28
"""A length beyond it is none: no message of the wire is longer than a quarter of that."""
TURN = 100
"""Records that are checked before others get their turn."""

Record = archive.Record

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """Return a time as the file has it."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime:
    """Return the time that the file has."""
    return _EPOCH + value * _MICROSECOND


def check_output_path(path: Path) -> Path:
    """Return the file that a path means: itself, or where its symbolic links lead.

    Raises:
        ArchiveError: something is there that is no regular file, and would be lost; the message says what to do.

    """
    if str(path) == "-":
        raise ArchiveError("- is not a file; the events can't be written to stdout, so give a file name")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise ArchiveError(f"{path} can't be written: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise ArchiveError(f"{path} is a folder; give a file name")
    if not stat.S_ISREG(mode):
        raise ArchiveError(f"{path} is a pipe or a device, not a regular file; give another file name")
    return path.resolve()


class ArchiveWriter:
    """Writes a file beside its name, readable by its owner only, and gives it the name once it is whole.

    A context manager; left by an error it leaves no file. Where the name is a symbolic link, it is the file that the
    link leads to.

    Args:
        path: the file's name.
        replace: whether a file that is there goes, also one that came there while this one was written.

    """

    def __init__(self, path: Path, *, replace: bool = True) -> None:
        self._path = path
        self._replace = replace
        self._target: Path
        self._part: Path
        self._digest = hashlib.sha256()
        self._file: BinaryIO
        self.events = 0

    def __enter__(self) -> Self:
        self._target = check_output_path(self._path)
        # Two that write the same file at once don't write into each other's.
        self._part = self._target.with_name(f"{self._target.name}.{secrets.token_hex(6)}.part")
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise ArchiveError(f"{self._path} can't be written: {error.strerror}") from error
        self._file = os.fdopen(descriptor, "wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                if error is None:
                    end = archive.End(events=self.events, sha256=self._digest.digest())
                    self._file.write(_delimited(Record(end=end)))
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    self._give_name()
        except FileExistsError as taken:
            raise ArchiveError(f"{self._path} already exists; choose another name or use --force") from taken
        except OSError as failed:
            if error is None:
                raise ArchiveError(f"{self._path} can't be written: {failed.strerror}") from failed
        finally:
            self._part.unlink(missing_ok=True)

    def _give_name(self) -> None:
        if self._replace:
            self._part.replace(self._target)
            return
        try:
            self._target.hardlink_to(self._part)  # which a file that is there refuses
        except FileExistsError:
            raise
        except OSError:  # a file system without links, on which nothing can be taken and given at once
            if self._target.exists():
                raise FileExistsError from None
            self._part.replace(self._target)

    def write(self, record: archive.Record) -> None:
        """Write one record.

        Raises:
            ArchiveError: the disk is full, or the like.

        """
        data = _delimited(record)
        self._digest.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise ArchiveError(f"{self._path} can't be written: {error.strerror}") from error
        if record.HasField("event"):
            self.events += 1


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds: its header, how many events, whose, and up to which position."""

    header: archive.Header
    events: int
    last: int
    apps: frozenset[str] = field(default_factory=frozenset)


async def check_archive(path: Path, fault: Callable[[archive.Record], str | None] = lambda _: None) -> Contents:
    """Read a file to its end, and make sure that it is whole; others get their turn now and then.

    Args:
        path: the file.
        fault: returns what is wrong with a record, None for one that is right.

    Raises:
        ArchiveError: it is no such file, of a newer version, cut short, or changed, or one of its records is wrong; the
            message says which.

    """
    tally = _Tally(path)
    wrong: str | None = None
    number = 0
    async for record, digest in _in_turns(path):
        tally.add(record, digest)
        number += 1
        if wrong is None and (why := fault(record)):
            wrong = f"record {number} of {path} is invalid: {why}"
    contents = tally.contents()
    if wrong is not None:  # only now: what is wrong with a file that was damaged is that it was
        raise ArchiveError(wrong)
    return contents


class _Tally:
    """Counts what is in a file, and makes sure that it begins, ends and adds up as it should."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header: archive.Header | None = None
        self._apps: set[str] = set()
        self._events = self._last = 0
        self._ended = False

    def add(self, record: archive.Record, digest: bytes) -> None:
        kind = record.WhichOneof("record")
        if self._ended or (self._header is None) != (kind == "header"):
            raise ArchiveError(f"{self._path} is not a file written by projections export events")
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
        elif kind == "quarantined":
            self._apps.add(record.quarantined.app)
        elif kind == "end":
            if record.end.events != self._events or record.end.sha256 != digest:
                raise ArchiveError(f"{self._path} was changed after it was written: its digest doesn't match")
            self._ended = True

    def contents(self) -> Contents:
        if self._header is None or not self._ended:
            raise ArchiveError(f"{self._path} is incomplete, or not a file written by projections export events")
        return Contents(self._header, self._events, self._last, frozenset(self._apps))


def read_archive(path: Path) -> Iterator[archive.Record]:
    """Yield the records of a file that :func:`check_archive` found whole."""
    for record, _ in _records(path):
        yield record


async def _in_turns(path: Path) -> AsyncIterator[tuple[archive.Record, bytes]]:
    """Yield what :func:`_records` does; without a turn for others no signal would be heard while a file is long."""
    for number, found in enumerate(_records(path)):
        if number % TURN == 0:
            await asyncio.sleep(0)
        yield found


def _records(path: Path) -> Iterator[tuple[archive.Record, bytes]]:
    """Yield each record, with the digest of all that lies before it."""
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
                    raise ArchiveError(f"{path} is not a file written by projections export events") from error
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
    raise ArchiveError(f"{path} is incomplete, or not a file written by projections export events")


def _delimited(record: archive.Record) -> bytes:
    data = BytesIO()
    serialize_length_prefixed(record, data)
    return data.getvalue()
