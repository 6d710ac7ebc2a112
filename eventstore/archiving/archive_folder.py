"""The folder with the files of archived partitions: where it is, and whether its files are those that were written.

Invariants. A file is used only if its size and its SHA-256 are those that the database recorded. A replay checks this
for all the files that it needs before it does anything. A file is checked once in a process, unless it was changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from psycopg import AsyncConnection
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventstore.archived_rows import ArchivedPartition, WrittenFile, read_archived_partitions
from eventstore.errors import ArchiveError, EventsArchived, UsageError
from eventstore.settings_loader import load_settings

T = TypeVar("T")

_CHUNK = 2**20
_CHECKED: dict[tuple[Path, int, int, int], bytes] = {}
"""The SHA-256 of files that this process has read: by path, inode, size and time of change."""

SET_FOLDER = "set PROJECTIONS_ARCHIVE to the folder of its files"


class ArchiveSettings(BaseSettings):
    """Where the files of archived partitions are."""

    model_config = SettingsConfigDict(env_prefix="PROJECTIONS_", frozen=True, env_ignore_empty=True)

    archive: Path | None = Field(
        None,
        description="folder with the files of `projections archive`; rebuilds, verifications and erasures need it once"
        " events are archived",
    )


def load_archive_folder() -> Path | None:
    """Return the folder that ``PROJECTIONS_ARCHIVE`` names; None if it isn't set.

    Raises:
        UsageError: it is not a folder.

    """
    folder = load_settings(ArchiveSettings).archive
    if folder is not None and not folder.is_dir():
        raise UsageError(f"PROJECTIONS_ARCHIVE: {folder} is not a folder")
    return folder


async def find_archive_files(
    conn: AsyncConnection[Any], folder: Path | None, *, after: int = 0
) -> list[tuple[ArchivedPartition, Path]]:
    """Return the archived partitions that have events after a position, and their checked files.

    Args:
        conn: a connection.
        folder: where they are; None if no folder is configured.
        after: the position.

    Raises:
        EventsArchived: no folder is configured, or files are missing; the message says which positions are missing.
        ArchiveError: a file can't be read, or isn't the one that was written.

    """
    while True:
        partitions = await _read_dropped(conn, after)
        try:
            return await _check_files(partitions, folder)
        except (EventsArchived, ArchiveError):
            # An erasure writes files anew, records that, and then deletes the earlier ones.
            if await _read_dropped(conn, after) == partitions:
                raise


async def read_file_with(conn: AsyncConnection[Any], position: int, reader: Callable[[Path], T]) -> T:
    """Return what is read from the file that has an archived position; read again if it was written anew meanwhile.

    Args:
        conn: a connection.
        position: an archived position.
        reader: reads the file, in another thread; raises an ArchiveError if it can't be read.

    Raises:
        EventsArchived, ArchiveError, UsageError: the file can't be read.
        psycopg.Error: the database failed, or the connection.

    """
    read_before: Path | None = None
    while True:
        [(_, path), *_] = await find_archive_files(conn, load_archive_folder(), after=position - 1)
        try:
            return await asyncio.to_thread(reader, path)  # it may take minutes, and locks are kept meanwhile
        except ArchiveError:
            if path == read_before:
                raise
            read_before = path


async def _read_dropped(conn: AsyncConnection[Any], after: int) -> list[ArchivedPartition]:
    return [one for one in await read_archived_partitions(conn) if one.dropped_at and one.last > after]


async def _check_files(
    partitions: Sequence[ArchivedPartition], folder: Path | None
) -> list[tuple[ArchivedPartition, Path]]:
    if not partitions:
        return []
    if folder is None:
        raise EventsArchived(partitions[0].first, partitions[-1].last, SET_FOLDER)
    missing = [one for one in partitions if not (folder / one.file).exists()]
    if missing:
        remedy = _where(missing, folder)
        raise EventsArchived(missing[0].first, missing[-1].last, remedy, ranges=_join_ranges(missing))
    for one in partitions:
        await check_file(folder, WrittenFile(one.file, one.file_bytes, one.sha256))
    return [(one, folder / one.file) for one in partitions]


def _join_ranges(partitions: Iterable[ArchivedPartition]) -> list[tuple[int, int]]:
    """Return the first and the last position of each run of partitions that follow each other."""
    ranges: list[tuple[int, int]] = []
    for one in partitions:
        first = ranges.pop()[0] if ranges and ranges[-1][1] + 1 == one.first else one.first
        ranges.append((first, one.last))
    return ranges


def _where(missing: Iterable[ArchivedPartition], folder: Path) -> str:
    first, *others = [one.file for one in missing]
    if not others:
        return f"{first} is missing in {folder}; put it back, or set PROJECTIONS_ARCHIVE to the folder that has it"
    return (
        f"{first} and {len(others):,} more are missing in {folder}; put them back, or set PROJECTIONS_ARCHIVE to the"
        " folder that has all files"
    )


async def check_file(folder: Path, written: WrittenFile) -> None:
    """Check that a file is the one that was written.

    Raises:
        ArchiveError: it can't be read, or was changed.

    """
    path = folder / written.name
    try:
        size = path.stat().st_size
        if size != written.size:
            raise ArchiveError(
                f"{path} was changed after it was written: it has {size:,} bytes instead of {written.size:,}; put the"
                " original back"
            )
        digest = await asyncio.to_thread(digest_of_file, path)
    except OSError as error:
        raise ArchiveError(f"{path} can't be read: {error.strerror}") from error
    if digest != written.sha256:
        raise ArchiveError(f"{path} was changed after it was written: its digest doesn't match; put the original back")


def digest_of_file(path: Path) -> bytes:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        key = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if key not in _CHECKED:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            _CHECKED[key] = digest.digest()
    return _CHECKED[key]


def describe_written_file(path: Path) -> WrittenFile:
    """Return the name, the size and the SHA-256 of a file that was just written.

    Raises:
        ArchiveError: it can't be read.

    """
    try:
        drop_from_cache(path)
        return WrittenFile(path.name, path.stat().st_size, digest_of_file(path))
    except OSError as error:
        raise ArchiveError(f"{path} can't be read: {error.strerror}") from error


def drop_from_cache(path: Path) -> None:
    """Make sure that a file is read from its disk and not from memory, as far as the system allows it."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync_archive_folder(folder: Path) -> None:
    """Make the names of new files durable.

    Raises:
        ArchiveError: the folder can't be synced.

    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ArchiveError(f"{folder} can't be written: {error.strerror}") from error
