"""Erases persons again after a restore, by a ledger: which events were theirs, and with which tokens.

1. Restore the ledger's erasures (:mod:`eventstore.transfer.restore_erasures`): from then on an event of theirs that is
   received again is stored erased. Events before that are found by their ids.
2. Erase them in batches of persons, as ``erase`` does, each in one transaction under all checkpoints.

Invariants. A ledger has no numbers: who a person was is read from the events. Only events of the ledger are erased: if
the person has others, which happened after the erasure or in another app, rows can't be told apart by the number, and
the projections that handle the events are marked as needing a rebuild. Each batch gives its erasures new ids, so that
no replay that has folded the old events is applied. A process that was killed is run again with the same ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from eventstore.appending.quarantine_limits import QuarantineLimits
from eventstore.distributed_log import begin_distributed_change, changing_events
from eventstore.erasure.erasure_rows import renew_erasures, settle_erasures
from eventstore.erasure.erasure_token import TOKEN_PATTERN
from eventstore.erasure.person_events import (
    RANGE,
    NewPayload,
    Person,
    PersonFound,
    count_events_of_persons,
    encode_events,
    erase_events,
    forget_persons,
    prepare_persons,
)
from eventstore.event_reader import read_head
from eventstore.locks import AS_OF_LOCK, WAIT_FOR_TRANSACTION_LOCK
from eventstore.partitions import joining_by_id
from eventstore.postgres.lock_retry import retry_on_lock
from eventstore.postgres.queries import fetch_all, fetch_column
from eventstore.postgres.session_settings import COMMIT_DURABLY
from eventstore.transfer.archive import check_archive
from eventstore.transfer.archive_checks import RecordCheck
from eventstore.transfer.erasure_records import erased_events_of_file
from eventstore.transfer.restore_erasures import restore_erasures_of_file
from projections.erasing.all_checkpoints import let_others_fold, lock_all_checkpoints
from projections.erasing.archived_persons import open_archive_files
from projections.erasing.erase_request import ErasedPersons
from projections.erasing.erase_session import run_erasing
from projections.erasing.other_places import (
    EVENTS_TABLE,
    drop_all_shadows,
    erase_elsewhere,
    make_way,
    read_erased_by,
)
from projections.erasing.person_batches import batches_of_persons
from projections.erasing.row_moves import RowMoves, can_move
from projections.erasing.visible_head import read_visible_head
from projections.projection import Projection
from projections.rebuilding.distributed_tables import read_distribution
from projections.rebuilding.replay_context import ReplayContext
from projections.running import state_changes

BATCH = 5_000

_CREATE_LEDGER = (
    "DROP TABLE IF EXISTS pg_temp.erasing_ledger",
    'CREATE TEMPORARY TABLE erasing_ledger (event_id text COLLATE pg_catalog."C" PRIMARY KEY, token text NOT NULL)',
)
_COPY_LEDGER = "INSERT INTO pg_temp.erasing_ledger SELECT * FROM unnest(%s::text[], %s::text[]) ON CONFLICT DO NOTHING"
_ANALYZE_LEDGER = "ANALYZE pg_temp.erasing_ledger"
# One person for each token and number: an event that was erased under a token has the number of its person here.
_PERSONS = joining_by_id(
    """
SELECT DISTINCT e.ppnum, l.token FROM pg_temp.erasing_ledger AS l
{events}
WHERE e.ppnum <> '' AND e.ppnum !~ %s ORDER BY l.token, e.ppnum
""",
    "l",
)
_FIND = joining_by_id(
    """
INSERT INTO pg_temp.erasing_events (position, person, bytes)
SELECT e.position, p.person, octet_length(e.payload)
FROM pg_temp.erasing_ledger AS l
{events}
JOIN pg_temp.erasing_persons AS p ON p.token = l.token AND p.ppnum = e.ppnum
""",
    "l",
)
_TWICE = "SELECT ppnum FROM pg_temp.erasing_persons GROUP BY ppnum HAVING count(*) > 1"
# Numbers that have an event which isn't of the ledger, and those whose token has an event already: one that was
# received again has a row of its own, with which the row of the number can't be merged.
_OTHERS = """
SELECT DISTINCT e.ppnum FROM eventstore.events AS e
LEFT JOIN (SELECT position FROM pg_temp.erasing_events) AS f ON f.position = e.position
WHERE e.position > %(after)s AND e.position <= %(up_to)s
  AND e.ppnum IN (SELECT ppnum FROM pg_temp.erasing_persons) AND f.position IS NULL
UNION
SELECT p.ppnum FROM eventstore.events AS e JOIN pg_temp.erasing_persons AS p ON p.token = e.ppnum
WHERE e.position > %(after)s AND e.position <= %(up_to)s
"""


async def erase_again(
    context: ReplayContext,
    projections: Mapping[str, Projection],
    ledger: Path,
    limits: QuarantineLimits,
    *,
    system_user: str,
    drop_as_of: bool,
) -> ErasedPersons:
    """Erase the persons of a ledger whose events are in the log with their numbers.

    Args:
        context: the database, settings, and who receives the progress.
        projections: all that are installed.
        ledger: a file that ``projections export erasures`` or ``export events`` wrote.
        limits: how much the quarantine keeps.
        system_user: who runs the command on this machine.
        drop_as_of: drop as-of schemas that have rows of the persons, instead of refusing.

    Raises:
        ArchiveError: the file can't be read, is damaged, or contains what no event store writes.
        LockHeld, AsOfInTheWay, CannotErase, psycopg.Error: as :func:`projections.erasing.erase.erase_persons`.

    """
    await check_archive(ledger, RecordCheck().fault)

    async def work(conn: AsyncConnection[Any], known: Mapping[str, Projection]) -> ErasedPersons:
        run = _AgainRun(conn, context, known, limits, system_user=system_user, drop_as_of=drop_as_of)
        return await run.erase(ledger)

    return await run_erasing(context, projections, work)


class _AgainRun:
    """One run."""

    def __init__(
        self,
        conn: AsyncConnection[Any],
        context: ReplayContext,
        projections: Mapping[str, Projection],
        limits: QuarantineLimits,
        *,
        system_user: str,
        drop_as_of: bool,
    ) -> None:
        self._conn = conn
        self._context = context
        self._projections = projections
        self._limits = limits
        self._system_user = system_user
        self._drop_as_of = drop_as_of
        self._head = 0
        self._mixed: set[str] = set()
        self._distributed_by: dict[str, str] | None = None

    async def erase(self, ledger: Path) -> ErasedPersons:
        async with changing_events(self._conn):
            self._distributed_by = await read_distribution(self._conn)
            return await self._erase(ledger)

    @property
    def _is_distributed(self) -> bool:
        return self._distributed_by is not None

    async def _erase(self, ledger: Path) -> ErasedPersons:
        conn, progress = self._conn, self._context.progress
        archive = await open_archive_files(conn)
        progress.phase("restoring the erasures")
        self._head = await restore_erasures_of_file(conn, ledger, self._context.waits, may_be_stored=True)
        persons = await self._find_persons(ledger)
        erased_by = await read_erased_by(conn, self._system_user)
        result = ErasedPersons(persons, erased_by, is_distributed=self._is_distributed)
        await make_way(conn, result, drop_as_of=self._drop_as_of)
        found = await self._find_events(progress.at)
        await erase_elsewhere(conn, result, None, self._limits, dry_run=False)
        progress.phase("erasing")
        for batch in batches_of_persons(found):
            encoded = await encode_events(conn, batch)

            async def attempt(batch: Sequence[int] = batch, encoded: Sequence[NewPayload] = encoded) -> None:
                await self._erase_batch(result, batch, encoded)

            await retry_on_lock(attempt, before_retry=let_others_fold)
        result.came_back = self._mixed
        await drop_all_shadows(conn)
        await erase_elsewhere(conn, result, None, self._limits, dry_run=False)
        await forget_persons(conn)
        if archive.up_to:
            # Whose archived events these are is known by their ids only: rows of theirs can't be found by the number.
            result.need_rebuild |= set(await self._mark_all())
            result.archives = await archive.rewrite(lambda name: progress.phase(f"writing {name} anew"))
        await settle_erasures(conn)
        result.position = await read_head(conn)
        return result

    async def _mark_all(self) -> list[str]:
        async with self._conn.transaction():
            names = list(self._projections)
            return await state_changes.mark_redecoded(self._conn, names, names, 1)

    async def _find_persons(self, ledger: Path) -> list[Person]:
        for statement in _CREATE_LEDGER:
            await self._conn.execute(statement)
        for events in _batches_of(erased_events_of_file(ledger)):
            await self._conn.execute(_COPY_LEDGER, [[one[0] for one in events], [one[1] for one in events]])
        await self._conn.execute(_ANALYZE_LEDGER)
        rows = await fetch_all(self._conn, _PERSONS[self._is_distributed], [TOKEN_PATTERN])
        persons = [Person(ppnum, token) for ppnum, token in rows]
        await prepare_persons(self._conn, persons)
        return persons

    async def _find_events(self, on_progress: Callable[[int], None]) -> list[PersonFound]:
        """Find the ledger's events by their ids, and with one pass over the log the numbers that have others."""
        await self._conn.execute(_FIND[self._is_distributed])
        found = await count_events_of_persons(self._conn)
        self._mixed = set(await fetch_column(self._conn, _TWICE))
        self._context.progress.phase("reading the log", target=self._head)
        for after in range(0, self._head if found else 0, RANGE):
            up_to = min(after + RANGE, self._head)
            self._mixed |= await self._find_others(after, up_to)
            on_progress(up_to)
        return found

    async def _find_others(self, after: int, up_to: int) -> set[str]:
        return set(await fetch_column(self._conn, _OTHERS, {"after": after, "up_to": up_to}))

    async def _erase_batch(self, result: ErasedPersons, batch: Sequence[int], events: Sequence[NewPayload]) -> None:
        conn = self._conn
        counts = {person: Counter[str]() for person in batch}
        async with conn.transaction():
            await conn.execute(COMMIT_DURABLY)
            if self._is_distributed:
                await begin_distributed_change(conn)
            await conn.execute(WAIT_FOR_TRANSACTION_LOCK, [AS_OF_LOCK])
            versions = await lock_all_checkpoints(conn, is_distributed=self._is_distributed)
            head = await read_visible_head(conn, is_distributed=self._is_distributed)
            mixed = self._mixed | await self._find_others(self._head, head)
            marked = await self._move_rows(result, batch, events, mixed, counts, versions)
            await erase_events(conn, events)
            for one in events:
                counts[one.person][EVENTS_TABLE] += 1
            await renew_erasures(conn, [result.persons[person].token for person in batch])
        result.rows |= counts
        result.need_rebuild |= set(marked)

    async def _move_rows(
        self,
        result: ErasedPersons,
        batch: Sequence[int],
        events: Sequence[NewPayload],
        mixed: set[str],
        counts: dict[int, Counter[str]],
        versions: Mapping[str, int],
    ) -> list[str]:
        """Move the rows of persons without other events, and mark the projections of the rest; returns the marked."""
        alone = [person for person in batch if result.persons[person].ppnum not in mixed]
        of_alone = {one.event_type for one in events if one.person in alone}
        of_mixed = {one.event_type for one in events if one.person not in alone}
        undeclared = []
        for name, projection in self._projections.items():
            if not can_move(projection, None, versions):
                undeclared += [name] if projection.handles & (of_alone | of_mixed) else []
                continue
            moves = RowMoves(projection, self._distributed_by)
            for person, moved in (await moves.move(self._conn, alone)).items():
                counts[person] += moved
            undeclared += [name] if projection.handles & of_mixed else []
        first = min(one.position for one in events)
        return await state_changes.mark_redecoded(self._conn, undeclared, list(self._projections), first)


def _batches_of(events: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    while batch := list(islice(events, BATCH)):
        yield batch
