"""Archives partitions of the event table, the oldest first: the steps of ``projections archive``.

1. Under :data:`eventstore.locks.ERASE_LOCK`, so that no event changes: write earlier files anew that have events of
   persons who were erased since, and choose the partitions that lie wholly before a position and that every projection
   and consumer has passed.
2. For each of them: write the file, read it back from the disk and compare it with the stored events; the same for the
   Parquet file; then record both, and copy the ids of its events to where they stay.
3. Under the rebuild locks of all projections: drop the partition, in one transaction with the record of it.

Invariants. Until the transaction of step 3 commits, all events are in the log, and a file is only a copy. A process
that is killed leaves each partition whole: in the log, or in a recorded file. The same command goes on: it uses a file
that is recorded or equals the stored events, and replaces none that isn't its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from eventstore.archived_rows import (
    ArchivedPartition,
    WrittenFile,
    read_archived_partitions,
    record_archived,
)
from eventstore.archiving.archive_folder import check_file, describe_written_file, sync_archive_folder
from eventstore.archiving.erased_files import rewrite_all_files
from eventstore.archiving.parquet_file import check_parquet_is_installed, compare_parquet, write_parquet
from eventstore.archiving.partition_file import compare_with_log, write_range
from eventstore.distributed_log import is_distributed
from eventstore.erasure.erasure_rows import read_last_erasure
from eventstore.errors import ArchiveError, UsageError
from eventstore.locks import ERASE_LOCK
from eventstore.partitions import Partition, list_partitions
from eventstore.postgres.session_lock import Lock, run_under_locks, session_name
from eventstore.ulid import is_ulid
from projections.archiving.archive_request import ArchivedRange, ArchiveRequest, ArchiveResult
from projections.archiving.event_partitions import (
    drop_partition,
    find_who_needs,
    keep_ids,
    refuse_others_than_owner,
)
from projections.projection import Projection
from projections.rebuilding.as_of_position import find_position
from projections.rebuilding.exclusive_run import run_exclusively
from projections.rebuilding.replay_context import ReplayContext

EVENTS_SUFFIX, PARQUET_SUFFIX = ".events", ".parquet"
NOT_PARTITIONED = (
    "the event table has no partitions, and only whole partitions are archived; run projections migrate"
    " --partition-events first"
)
DISTRIBUTED = (
    "the log is distributed by Citus, and only partitions of a log on one server are archived: export it, and import it"
    " into an empty database that is partitioned; see projections docs scaling"
)


async def archive_partitions(
    context: ReplayContext, projections: Mapping[str, Projection], request: ArchiveRequest, *, dry_run: bool = False
) -> ArchiveResult:
    """Archive partitions, or find which would be.

    Args:
        context: the database, settings, and who receives the progress.
        projections: all that are installed.
        request: what, and where to.
        dry_run: write and change nothing.

    Raises:
        UsageError: the event table has no partitions, the position can't be read, or one file can't hold all.
        LockHeld: an erase, a redecode or another archive runs, or a rebuild at the moment of the drop; what was written
            stays, and the same command goes on.
        ArchiveError: a file can't be written or read, or isn't what it should be; no event of it was dropped.
        CannotArchive: this role may not archive, or somebody needs the events of a partition now; none of it was
            dropped.
        psycopg.Error: the database failed, or the connection.

    """
    if request.parquet:
        check_parquet_is_installed()

    async def work() -> ArchiveResult:
        async with context.connection("archive", values_in_text=True) as conn:
            run = _ArchiveRun(conn, context, projections, request)
            return await run.choose() if dry_run else await run.run()

    lock = Lock(ERASE_LOCK, "the stored events")
    return await run_under_locks(context.url, [lock], name=session_name("archive"), waits=context.waits, work=work)


class _ArchiveRun:
    """One run."""

    def __init__(
        self,
        conn: AsyncConnection[Any],
        context: ReplayContext,
        projections: Mapping[str, Projection],
        request: ArchiveRequest,
    ) -> None:
        self._conn = conn
        self._context = context
        self._projections = projections
        self._request = request
        self._chosen: list[Partition] = []

    async def choose(self) -> ArchiveResult:
        """Find the partitions to archive, and what keeps the others."""
        await refuse_others_than_owner(self._conn)
        partitions = await list_partitions(self._conn)
        if not partitions:
            raise UsageError(DISTRIBUTED if await is_distributed(self._conn) else NOT_PARTITIONED)
        if self._request.before is None:
            return ArchiveResult([], None, [])
        before = await self._read_position(self._request.before)
        held_back: Sequence[str] = ()
        for partition in partitions:
            if partition.last_position >= before:
                break
            held_back = await find_who_needs(self._conn, partition.last_position, self._projections)
            if held_back:
                break
            self._chosen.append(partition)
        if self._request.file_name is not None and len(self._chosen) > 1:
            raise UsageError(
                f"{len(self._chosen)} partitions lie before that, but {self._request.folder / self._request.file_name}"
                " is one file: give a folder, or an earlier position"
            )
        return ArchiveResult([self._range_of(one) for one in self._chosen], before, held_back)

    async def run(self) -> ArchiveResult:
        """Archive them."""
        result = await self.choose()
        rewritten = await rewrite_all_files(self._conn, self._request.archive, self._note_file)
        done = []
        for partition in self._chosen:
            where = self._range_of(partition)
            erasure = await read_last_erasure(self._conn)
            size = await self._write(partition, where, erasure)
            self._phase("keeping the ids of", partition)
            await keep_ids(self._conn, partition, self._context.progress.at)
            await self._drop(partition, erasure)
            done.append(ArchivedRange(where.first, where.last, where.file, where.parquet_file, size))
        return ArchiveResult(done, result.before, result.held_back, rewritten)

    def _note_file(self, name: str) -> None:
        self._context.progress.phase(f"looking for erased persons in {name}")

    async def _read_position(self, before: str) -> int:
        text = before.strip().replace(",", "").replace("_", "")
        if text.isascii() and text.isdigit() and len(text) < 19:
            return int(text)
        # A time stands for the last event that was received by then, which still is before it; an event_id for itself.
        position = await find_position(self._conn, before)
        return position if is_ulid(before.strip()) else position + 1

    def _range_of(self, partition: Partition) -> ArchivedRange:
        name = (
            self._request.file_name
            or f"events-{partition.first_position:012}-{partition.last_position:012}{EVENTS_SUFFIX}"
        )
        file = self._request.folder / name
        parquet = file.with_suffix(PARQUET_SUFFIX) if self._request.parquet else None
        if parquet == file:
            raise UsageError(f"{file}: a file named {PARQUET_SUFFIX} is the Parquet file; give another name")
        return ArchivedRange(partition.first_position, partition.last_position, file, parquet)

    async def _write(self, partition: Partition, where: ArchivedRange, erasure: int) -> int:
        """Write and record the files, unless they are; return their size."""
        recorded = await self._find_recorded(partition)
        if recorded is not None and recorded.erasure == erasure and await self._is_whole(recorded, where):
            return sum(one.size for one in recorded.files)
        is_ours = recorded is not None  # a file of an earlier attempt may be replaced, and no other one
        is_new = is_ours or not where.file.exists()
        if is_new:
            self._phase("writing", partition)
            replace = is_ours and recorded is not None and where.file.name == recorded.file
            await write_range(
                self._conn, where.file, where.first, where.last, self._context.progress.at, replace=replace
            )
        sync_archive_folder(where.file.parent)
        file = describe_written_file(where.file)
        self._phase("comparing", partition)
        try:
            bounds = await compare_with_log(self._conn, where.file, where.first, where.last, self._context.progress.at)
        except ArchiveError as error:
            if is_new:
                raise
            raise ArchiveError(
                f"{where.file} already exists, and isn't a file of this partition; move it away, or choose another"
                f" folder ({error})"
            ) from error
        parquet = await self._write_parquet(where, recorded) if where.parquet_file is not None else None
        await record_archived(
            self._conn,
            where.first,
            where.last,
            bounds,
            file,
            parquet,
            erasure=erasure,
            system_user=self._request.system_user,
        )
        return file.size + (parquet.size if parquet is not None else 0)

    async def _write_parquet(self, where: ArchivedRange, recorded: ArchivedPartition | None) -> WrittenFile:
        path = where.parquet_file
        assert path is not None  # noqa: S101 - the caller looked
        self._context.progress.phase(f"writing {path.name}")
        if path.exists() and (recorded is None or recorded.parquet_file != path.name):
            await compare_parquet(where.file, path)
        else:
            await write_parquet(where.file, path, replace=recorded is not None)
        sync_archive_folder(path.parent)
        return describe_written_file(path)

    async def _find_recorded(self, partition: Partition) -> ArchivedPartition | None:
        for one in await read_archived_partitions(self._conn):
            if one.first == partition.first_position:
                return one
        return None

    async def _is_whole(self, recorded: ArchivedPartition, where: ArchivedRange) -> bool:
        """Return whether the recorded files are where this command writes them, and as they were written."""
        parquet = where.parquet_file and where.parquet_file.name
        if (recorded.last, recorded.file, recorded.parquet_file) != (where.last, where.file.name, parquet):
            return False
        try:
            for one in recorded.files:
                await check_file(where.file.parent, one)
        except ArchiveError:
            return False
        return True

    async def _drop(self, partition: Partition, erasure: int) -> None:
        async def work() -> None:
            self._phase("dropping", partition)
            await drop_partition(self._conn, partition, erasure, self._projections, self._context.progress.note)

        await run_exclusively(self._context, self._projections.values(), "archive", work)

    def _phase(self, what: str, partition: Partition) -> None:
        name = f"{what} positions {partition.first_position:,} to {partition.last_position:,}"
        self._context.progress.phase(name, position=partition.first_position - 1, target=partition.last_position)


def split_destination(to: Path) -> tuple[Path, str | None]:
    """Return the folder of the files, and the name of the only one; None for names by positions.

    Raises:
        UsageError: the folder doesn't exist.

    """
    if to.is_dir():
        return to, None
    if not to.parent.is_dir():
        raise UsageError(f"{to.parent} is not a folder; create it first")
    if to.suffix:
        return to.parent, to.name
    raise UsageError(f"{to} is not a folder; create it first, or give a file name such as {to}{EVENTS_SUFFIX}")
