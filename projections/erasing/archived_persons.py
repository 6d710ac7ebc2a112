"""Erases persons from archived events: finds theirs in the files, records them in a batch, and writes the files anew.

Invariants. The files are read before anything is erased: if one is missing or isn't the one that was written, nothing
is done. The ids of a person's archived events are recorded in the transaction that erases the person; from then on
every reader of a file puts the token in place of the number. So the files can be written anew afterwards, and a killed
run is finished by the next one without the number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql

from eventstore.appending.copying import COLUMNS, as_timestamptz, copy_rows
from eventstore.archived_rows import ArchivedPartition
from eventstore.archiving.archive_folder import check_file, find_archive_files, load_archive_folder
from eventstore.archiving.archived_events import BATCH, with_tokens
from eventstore.archiving.erased_files import rewrite_all_files
from eventstore.archiving.parquet_file import check_parquet_is_installed
from eventstore.archiving.partition_file import in_batches, read_stored_events
from eventstore.erasure.erasure_token import is_token
from eventstore.erasure.person_events import Person
from eventstore.event_reader import StoredEvent
from eventstore.postgres.queries import fetch_all

FILES_TABLE = "eventstore.archived_partitions"
"""The table for which a receipt counts the events in files."""

_CREATE_TIMES = (
    "DROP TABLE IF EXISTS pg_temp.erasing_times",
    "CREATE TEMPORARY TABLE erasing_times (ppnum text NOT NULL, occurred_at timestamptz NOT NULL)",
)
_INSERT_TIMES = "INSERT INTO pg_temp.erasing_times SELECT * FROM unnest(%s::text[], %s::timestamptz[])"
_COPY = sql.SQL("COPY pg_temp.erasing_archived ({}) FROM STDIN (FORMAT binary)").format(
    sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
)
_FOUND = (
    "ALTER TABLE pg_temp.erasing_archived ALTER COLUMN ppnum SET STATISTICS 0",
    "CREATE INDEX ON pg_temp.erasing_archived (ppnum)",
    "ANALYZE pg_temp.erasing_archived",
)
_COUNT = """
SELECT p.person, count(*) FROM pg_temp.erasing_archived AS a
JOIN pg_temp.erasing_persons AS p ON p.ppnum = a.ppnum GROUP BY p.person ORDER BY p.person
"""
_RECORD = """
WITH added AS (
    INSERT INTO eventstore.erased_events (event_id, token)
    SELECT a.event_id, p.token FROM pg_temp.erasing_archived AS a
    JOIN pg_temp.erasing_persons AS p ON p.ppnum = a.ppnum WHERE p.person = ANY(%s)
    ON CONFLICT (event_id) DO NOTHING RETURNING event_id, token
)
SELECT p.person, count(*), min(a.position), array_agg(DISTINCT a.event_type)
FROM added AS x JOIN pg_temp.erasing_archived AS a ON a.event_id = x.event_id
JOIN pg_temp.erasing_persons AS p ON p.token = x.token GROUP BY p.person
"""


class ArchivedOfPerson(NamedTuple):
    """How many archived events a person of a batch has, the first position of them, and their event types."""

    person: int
    events: int
    first: int
    types: Sequence[int]


class ArchiveFiles:
    """The files of archived events, as an erasure works on them.

    Args:
        conn: the session of the erasure.
        files: the archived partitions and their checked files.
        folder: the folder of all of them; None if nothing is archived.

    """

    def __init__(
        self, conn: AsyncConnection[Any], files: Sequence[tuple[ArchivedPartition, Path]], folder: Path | None
    ) -> None:
        self._conn = conn
        self._files = files
        self._folder = folder

    @property
    def up_to(self) -> int:
        """The last archived position; 0 if nothing is archived."""
        return self._files[-1][0].last if self._files else 0

    async def read_last_times(self, app: str | None, on_progress: Callable[[int], None]) -> None:
        """Put into the temporary table ``erasing_times`` when the last archived event of each person occurred."""
        for statement in _CREATE_TIMES:
            await self._conn.execute(statement)
        for _, path in self._files:
            latest: dict[str, datetime] = {}
            for batch in in_batches(read_stored_events(path), BATCH):
                for one in await with_tokens(self._conn, batch):
                    if _is_of_person(one, app) and one.event.ppnum is not None:
                        known = latest.get(one.event.ppnum)
                        latest[one.event.ppnum] = max(known or one.event.occurred_at, one.event.occurred_at)
                on_progress(batch[-1].position)
            await self._conn.execute(_INSERT_TIMES, [[*latest], [*latest.values()]])

    async def find(
        self, persons: Sequence[Person], app: str | None, on_progress: Callable[[int], None]
    ) -> dict[int, int]:
        """Find the persons' events in the files.

        Args:
            persons: the prepared persons.
            app: only events of this app; None for all.
            on_progress: receives the position.

        Returns:
            How many events each person has that has any, by index.

        Raises:
            ArchiveError: a file can't be read.
            psycopg.Error: the database failed, or the connection.

        """
        known = {person.ppnum for person in persons}
        for _, path in self._files:
            for batch in in_batches(read_stored_events(path), BATCH):
                found = [
                    (*one.event._replace(payload=b""), one.position, as_timestamptz(one.received_at))
                    for one in await with_tokens(self._conn, batch)
                    if _is_of_person(one, app) and one.event.ppnum in known
                ]
                if found:
                    await copy_rows(self._conn, found, _COPY)
                on_progress(batch[-1].position)
        for statement in _FOUND:
            await self._conn.execute(statement)
        return dict(await fetch_all(self._conn, _COUNT))

    async def rewrite(self, on_file: Callable[[str], None]) -> Counter[str]:
        """Write the files anew that have events of erased persons; return how many events were erased, by file."""
        return Counter() if self._folder is None else await rewrite_all_files(self._conn, self._folder, on_file)


def _is_of_person(one: StoredEvent, app: str | None) -> bool:
    number = one.event.ppnum
    return bool(number) and not is_token(number or "") and app in (None, one.event.app)


async def open_archive_files(conn: AsyncConnection[Any]) -> ArchiveFiles:
    """Return the files of archived events, once all of them were checked.

    Raises:
        EventsArchived: ``PROJECTIONS_ARCHIVE`` isn't set, or files are missing; the message says which positions.
        ArchiveError: a file can't be read, or isn't the one that was written.
        UsageError: ``PROJECTIONS_ARCHIVE`` is not a folder, or pyarrow is missing for a Parquet file.
        psycopg.Error: the database failed, or the connection.

    """
    folder = load_archive_folder()
    files = await find_archive_files(conn, folder)
    for partition, _ in files:
        for one in partition.files:
            if folder is not None:
                await check_file(folder, one)
        if partition.parquet_file is not None:
            check_parquet_is_installed()
    return ArchiveFiles(conn, files, folder)


async def record_archived_of_batch(conn: AsyncConnection[Any], persons: Sequence[int]) -> list[ArchivedOfPerson]:
    """Record the archived events of a batch's persons as erased, inside the batch's transaction."""
    return [ArchivedOfPerson(*row) for row in await fetch_all(conn, _RECORD, [list(persons)])]
