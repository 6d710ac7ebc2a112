"""Reads archived events for replays: a window's events are loaded into a temporary table that looks like the log's.

Invariants. The table ``pg_temp.events`` has the columns of ``eventstore.events`` and the events of the last window that
was loaded, each position of it. Events of erased persons are loaded with their tokens, also from a file that an erasure
hasn't rewritten. Memory holds a batch of events, whatever the size of a file. A file is read from its beginning, and
windows that follow each other are read in one pass.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.appending.copying import COLUMNS, as_timestamptz, copy_rows
from eventstore.archived_rows import ArchivedPartition
from eventstore.archiving.archive_folder import find_archive_files, load_archive_folder
from eventstore.archiving.partition_file import in_batches, read_stored_events
from eventstore.erasure.erased_payload import erase_event
from eventstore.erasure.erasure_rows import find_tokens_of_events, read_last_erasure
from eventstore.erasure.erasure_token import is_token
from eventstore.errors import ArchiveError, EventsArchived
from eventstore.event_reader import StoredEvent, read
from eventstore.schema import events

TEMPORARY = "pg_temp"
"""The schema of the loaded events; folds are given it instead of the log's."""
BATCH = 5_000
WINDOW = 50_000
"""How many positions a window of archived events has at the most: it is loaded while no lock is held."""

_TABLE = sql.Identifier(TEMPORARY, events.name)
# A replay that starts over uses the same session.
_CREATE = sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} (LIKE eventstore.events)").format(
    sql.Identifier(events.name)
)
_EMPTY = sql.SQL("TRUNCATE {}").format(_TABLE)
_ANALYZE = sql.SQL("ANALYZE {}").format(_TABLE)
_COPY = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
    _TABLE, sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
)


class ArchivedEvents:
    """The archived events of a log, for one session.

    Args:
        conn: the session, in autocommit or between two transactions when a window is loaded.
        files: the archived partitions, from the beginning of the log, and their checked files.
        folder: where the files are, also those that are written anew meanwhile.
        erasure: the newest erasure, as it was before the files were looked for.

    Attributes:
        up_to: the last archived position; 0 if nothing is archived.

    """

    def __init__(
        self,
        conn: AsyncConnection[Any],
        files: Sequence[tuple[ArchivedPartition, Path]],
        folder: Path | None,
        erasure: int,
    ) -> None:
        self._conn = conn
        self._erasure = erasure
        self._folder = folder
        self._files = files
        self.up_to = files[-1][0].last if files else 0
        self._reading: Iterator[StoredEvent] = iter(())
        self._read_up_to = -1
        self._lo = self._hi = 0
        self._is_created = False

    async def load(self, lo: int, hi: int) -> None:
        """Load the events at the positions lo < p <= hi, unless they are loaded.

        Raises:
            ArchiveError: a file can't be read, or lacks one of the positions.
            psycopg.Error: the database failed, or the connection.

        """
        if self._lo <= lo and hi <= self._hi:
            return
        self._lo = self._hi = 0
        if not self._is_created:
            await self._conn.execute(_CREATE)
            self._is_created = True
        await self._conn.execute(_EMPTY)
        if self._read_up_to != lo:
            self._reading, self._read_up_to = self._events_after(lo), lo
        erasure = await read_last_erasure(self._conn)
        while self._read_up_to < hi:
            try:
                batch = list(islice(self._reading, min(BATCH, hi - self._read_up_to)))
            except ArchiveError:
                if not await self._are_files_new():
                    raise
                self._reading = self._events_after(self._read_up_to)
            else:
                await self._copy(batch, erasure)
        await self._conn.execute(_ANALYZE)
        self._lo, self._hi = lo, hi

    async def _copy(self, batch: Sequence[StoredEvent], erasure: int) -> None:
        wanted = range(self._read_up_to + 1, self._read_up_to + 1 + len(batch))
        if not batch or [one.position for one in batch] != list(wanted):
            raise ArchiveError(f"position {self._read_up_to + 1:,} isn't in the files of archived events")
        batch = await with_tokens(self._conn, batch) if erasure else batch
        rows = ((*one.event, one.position, as_timestamptz(one.received_at)) for one in batch)
        await copy_rows(self._conn, rows, _COPY)
        self._read_up_to = batch[-1].position

    async def _are_files_new(self) -> bool:
        """Return whether files were written anew and the earlier ones deleted; then those are read.

        After an erasure that came later than the replay, the replay must start over, so they don't matter to it.
        """
        if await read_last_erasure(self._conn) != self._erasure:
            return False
        before, self._files = self._files, await find_archive_files(self._conn, self._folder)
        return [path for _, path in before] != [path for _, path in self._files]

    def _events_after(self, position: int) -> Iterator[StoredEvent]:
        for partition, path in self._files:
            if partition.last > position:
                yield from read_stored_events(path, position)


async def with_tokens(conn: AsyncConnection[Any], batch: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
    """Return events, those of erased persons with their tokens; events that have a token already stay as they are."""
    tokens = await find_tokens_of_events(conn, [one.event.event_id for one in batch])
    if not tokens:
        return batch
    return [
        one._replace(event=erase_event(one.event, tokens[one.event.event_id]))
        if one.event.event_id in tokens and one.event.ppnum and not is_token(one.event.ppnum)
        else one
        for one in batch
    ]


async def read_whole_log(conn: AsyncConnection[Any], folder: Path | None, up_to: int) -> AsyncIterator[StoredEvent]:
    """Yield all events up to a position in commit order: those of the files, and then those of the log.

    Events that are archived meanwhile, and files that are written anew, are read where they are then.

    Args:
        conn: an autocommit connection.
        folder: where the files are; None if no folder is configured.
        up_to: the position.

    Raises:
        EventsArchived: no folder is configured, or files are missing; the message says which positions.
        ArchiveError: a file can't be read, or isn't the one that was written.
        psycopg.Error: the database failed, or the connection.

    """
    last, read_before = 0, None
    while True:
        files = await find_archive_files(conn, folder, after=last)
        try:
            async for one in _read_files(conn, files, last, up_to):
                last = one.position
                yield one
            async for one in read(conn, last, up_to=up_to):
                last = one.position
                yield one
        except (ArchiveError, EventsArchived):
            # A file was deleted after it was written anew, or a partition was archived; unless it is what it was.
            if (last, files) == read_before:
                raise
            read_before = last, files
        else:
            return


async def _read_files(
    conn: AsyncConnection[Any], files: Sequence[tuple[ArchivedPartition, Path]], after: int, up_to: int
) -> AsyncIterator[StoredEvent]:
    for partition, path in files:
        for batch in in_batches(read_stored_events(path, after), BATCH):
            for one in await with_tokens(conn, batch):
                if one.position > up_to:
                    return
                yield one
        after = partition.last


async def open_archived_events(conn: AsyncConnection[Any]) -> ArchivedEvents:
    """Return the archived events of the log, once all their files were checked.

    Raises:
        EventsArchived: ``PROJECTIONS_ARCHIVE`` isn't set, or files are missing; the message says which positions.
        ArchiveError: a file can't be read, or isn't the one that was written.
        UsageError: ``PROJECTIONS_ARCHIVE`` is not a folder.
        psycopg.Error: the database failed, or the connection.

    """
    folder, erasure = load_archive_folder(), await read_last_erasure(conn)
    return ArchivedEvents(conn, await find_archive_files(conn, folder), folder, erasure)
