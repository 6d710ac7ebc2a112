"""Erases events of erased persons from the files of archived partitions.

Invariants. ``eventstore.erased_events`` alone says which events are erased, and with which tokens: no number is needed,
so this can be repeated by anyone at any time, and a killed run is finished by the next one. A file is never changed: a
new one is written beside it, read back from the disk and compared event by event; then the database names the new one,
and the old one is deleted. Until the old one is deleted the database remembers that it must be.

The caller holds :data:`eventstore.locks.ERASE_LOCK`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from eventstore.archived_rows import (
    ArchivedPartition,
    WrittenFile,
    read_archived_partitions,
    record_deleted,
    record_reached,
    record_replaced,
)
from eventstore.archiving.archive_folder import check_file, describe_written_file, sync_archive_folder
from eventstore.archiving.archived_events import BATCH, with_tokens
from eventstore.archiving.parquet_file import check_parquet_is_installed, write_parquet
from eventstore.archiving.partition_file import as_record, in_batches, range_header, read_stored_events
from eventstore.erasure.erasure_rows import read_last_erasure
from eventstore.errors import ArchiveError
from eventstore.event_reader import StoredEvent
from eventstore.transfer.archive import ArchiveWriter, check_archive

_OF_ERASURE = re.compile(r"\.e\d+$")


async def find_files_to_rewrite(conn: AsyncConnection[Any]) -> list[ArchivedPartition]:
    """Return the partitions whose files may have events of persons who were erased since, or have leftover files."""
    last = await read_last_erasure(conn)
    return [one for one in await read_archived_partitions(conn) if one.erasure < last or one.to_delete]


async def rewrite_all_files(conn: AsyncConnection[Any], folder: Path, on_file: Callable[[str], None]) -> Counter[str]:
    """Erase the events of erased persons from all files that may have some.

    Args:
        conn: an autocommit connection.
        folder: where the files are.
        on_file: is called with the name of each such file.

    Returns:
        How many events were erased, by the names that the files had.

    Raises:
        ArchiveError, psycopg.Error: as :func:`rewrite_files` raises them; the other files are done the next time.

    """
    erased: Counter[str] = Counter()
    for partition in await find_files_to_rewrite(conn):
        if partition.dropped_at is None and not (folder / partition.file).exists():
            continue  # a copy somewhere else, which is written anew when its partition is archived
        on_file(partition.file)
        if (count := await rewrite_files(conn, folder, partition)) > 0:
            erased[partition.file] += count
    return erased


async def rewrite_files(conn: AsyncConnection[Any], folder: Path, partition: ArchivedPartition) -> int:
    """Erase the events of erased persons from the files of a partition, and delete earlier files.

    Args:
        conn: an autocommit connection.
        folder: where the files are.
        partition: as the database has it.

    Returns:
        How many events were erased.

    Raises:
        ArchiveError: a file can't be read or written, or isn't the one that was written; it is as it was.
        psycopg.Error: the database failed, or the connection; run it again.

    """
    erasure = await read_last_erasure(conn)
    if not (folder / partition.file).exists():
        raise ArchiveError(f"{folder / partition.file} is missing, so persons can't be erased from it")
    await _delete_files(conn, folder, partition.to_delete)
    if partition.erasure >= erasure:
        return 0
    for one in partition.files:
        await check_file(folder, one)
    path = folder / partition.file
    changed = [position async for position, before, after in _pairs(conn, path) if before != after]
    if not changed:
        await record_reached(conn, partition.first, erasure)
        return 0
    new = folder / _new_name(partition.file, erasure)
    await _write(conn, path, new, partition.last)
    parquet: WrittenFile | None = None
    if partition.parquet_file is not None:
        check_parquet_is_installed()
        new_parquet = folder / _new_name(partition.parquet_file, erasure)
        await write_parquet(new, new_parquet, replace=True)
        parquet = describe_written_file(new_parquet)
    sync_archive_folder(folder)
    file = describe_written_file(new)
    if not await record_replaced(conn, partition, file, parquet, erasure=erasure):
        raise ArchiveError(f"{partition.file} was replaced meanwhile by another command; run it again")
    await _delete_files(conn, folder, [one.name for one in partition.files])
    return len(changed)


def _new_name(name: str, erasure: int) -> str:
    path = Path(name)
    return f"{_OF_ERASURE.sub('', path.stem)}.e{erasure}{path.suffix}"


async def _pairs(conn: AsyncConnection[Any], path: Path) -> AsyncIterator[tuple[int, StoredEvent, StoredEvent]]:
    """Yield the position of each event of a file, the event as it is, and as it must be."""
    for batch in in_batches(read_stored_events(path), BATCH):
        for before, after in zip(batch, await with_tokens(conn, batch), strict=True):
            yield before.position, before, after


async def _write(conn: AsyncConnection[Any], path: Path, new: Path, last: int) -> None:
    with ArchiveWriter(new) as file:
        file.write(range_header(last))
        async for position, _, after in _pairs(conn, path):
            file.write(as_record(position, after.received_at, after.event))
    describe_written_file(new)  # reads it back from the disk
    await check_archive(new)
    written = read_stored_events(new)
    async for position, _, after in _pairs(conn, path):
        if next(written, None) != after:
            raise ArchiveError(f"{new} differs from what was written to it at position {position:,}")
    if next(written, None) is not None:
        raise ArchiveError(f"{new} has more events than {path.name}")


async def _delete_files(conn: AsyncConnection[Any], folder: Path, names: Sequence[str]) -> None:
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise ArchiveError(
                f"{folder / name} has events of erased persons and can't be deleted: {error.strerror}"
            ) from error
        await record_deleted(conn, name)
    if names:
        sync_archive_folder(folder)
