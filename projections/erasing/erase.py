"""Erases persons, or shows what that would change: the steps of ``projections erase``, in their order.

1. Under :data:`eventstore.locks.ERASE_LOCK`: check the files of archived events, put the persons into a temporary
   table, and refuse as-of schemas.
2. Find all their events with one pass over the files and the log, in short statements and without locks.
3. Erase quarantined messages and saved answers, which name the persons too.
4. Erase the persons in batches, each in one transaction (:mod:`~projections.erasing.erase_batch`); then those that got
   new events meanwhile, until nobody did.
5. Drop all shadows, repeat step 3 for what was written meanwhile, and write the files anew that have events of theirs.

Invariants. Steps 1 to 3 and 5 can be repeated, and step 4 leaves each person erased or untouched. So a process that was
killed is run again with the same persons. Persons are numbers only in this process and in its temporary tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from eventstore.appending.quarantine_limits import QuarantineLimits
from eventstore.distributed_log import changing_events
from eventstore.erasure.erasure_token import TOKEN_PATTERN, new_token_of_person
from eventstore.erasure.person_events import (
    CannotErase,
    Person,
    PersonFound,
    count_events_of_persons,
    find_events_of_persons,
    find_more_events,
    find_persons_with_more_events,
    forget_persons,
    prepare_persons,
    renumber_persons,
)
from eventstore.event_reader import read_head
from eventstore.postgres.queries import fetch_all, fetch_column, fetch_value
from projections.erasing.archived_persons import FILES_TABLE, ArchiveFiles, open_archive_files
from projections.erasing.erase_batch import ErasePlan, erase_batch, read_done_as_ofs
from projections.erasing.erase_request import ErasedPersons, EraseRequest
from projections.erasing.erase_session import run_erasing
from projections.erasing.other_places import (
    EVENTS_TABLE,
    drop_all_shadows,
    erase_elsewhere,
    find_as_of_schemas,
    make_way,
    read_erased_by,
)
from projections.erasing.person_batches import batches_of_persons, equal_batches
from projections.erasing.row_moves import RowMoves, can_move
from projections.erasing.visible_head import read_visible_head
from projections.projection import Projection
from projections.rebuilding.distributed_tables import read_distribution
from projections.rebuilding.replay_context import ReplayContext

MAX_ROUNDS = 10
"""How often persons who get new events all the time are erased again; the search at the end finds the rest."""

_IDLE_PERSONS = """
SELECT ppnum FROM (
    SELECT ppnum, occurred_at FROM eventstore.events
    WHERE position <= %(up_to)s AND ppnum <> '' AND ppnum !~ %(token)s AND (%(app)s::text IS NULL OR app = %(app)s)
    UNION ALL SELECT ppnum, occurred_at FROM pg_temp.erasing_times
) AS found GROUP BY ppnum HAVING max(occurred_at) < %(before)s
"""
_BEFORE = "SELECT clock_timestamp() - %s::interval"


async def erase_persons(
    context: ReplayContext,
    projections: Mapping[str, Projection],
    request: EraseRequest,
    limits: QuarantineLimits,
    *,
    dry_run: bool = False,
) -> ErasedPersons:
    """Erase persons, or count what that would change.

    Args:
        context: the database, settings, and who receives the progress.
        projections: all that are installed.
        request: who, and how.
        limits: how much the quarantine keeps.
        dry_run: change nothing.

    Raises:
        LockHeld: another erase, a redecode, an archive or an import runs; nothing was done.
        EventsArchived: archived events can't be read; the message says which, and nothing was done.
        ArchiveError: a file of archived events can't be read or written; the message says which.
        AsOfInTheWay: see there.
        psycopg.Error: the database failed, or the connection, or the role may not erase; run it again.

    """

    async def work(conn: AsyncConnection[Any], known: Mapping[str, Projection]) -> ErasedPersons:
        run = _EraseRun(conn, context, known, request, limits)
        return await run.count() if dry_run else await run.erase()

    return await run_erasing(context, projections, work)


class _EraseRun:
    """One run."""

    def __init__(
        self,
        conn: AsyncConnection[Any],
        context: ReplayContext,
        projections: Mapping[str, Projection],
        request: EraseRequest,
        limits: QuarantineLimits,
    ) -> None:
        self._conn = conn
        self._context = context
        self._projections = projections
        self._request = request
        self._limits = limits
        self._head = 0
        self._archive: ArchiveFiles
        self._archived: dict[int, int] = {}
        self._quiet_since: datetime | None = None
        self._distributed_by: dict[str, str] | None = None

    async def count(self) -> ErasedPersons:
        """Count the rows of every person; change nothing."""
        self._distributed_by = await read_distribution(self._conn)
        result, found = await self._find()
        result.rows = {one.person: Counter({EVENTS_TABLE: one.events}) for one in found}
        for person, events in self._archived.items():
            result.rows.setdefault(person, Counter())[FILES_TABLE] = events
        versions = dict(await fetch_all(self._conn, "SELECT name, version FROM projections.checkpoints"))
        for name, projection in self._projections.items():
            if not can_move(projection, self._request.app, versions):
                result.need_rebuild.add(name)
                continue
            moves = RowMoves(projection, self._distributed_by)
            for person, rows in (await moves.count(self._conn)).items():
                result.rows[person] += rows
        result.dropped_as_of = await find_as_of_schemas(self._conn)
        await erase_elsewhere(self._conn, result, self._request.app, self._limits, dry_run=True)
        await forget_persons(self._conn)
        return result

    async def erase(self) -> ErasedPersons:
        """Erase every person."""
        async with changing_events(self._conn):
            self._distributed_by = await read_distribution(self._conn)
            return await self._erase()

    @property
    def _is_distributed(self) -> bool:
        return self._distributed_by is not None

    async def _erase(self) -> ErasedPersons:
        result, found = await self._find()
        done_as_ofs = await read_done_as_ofs(self._conn)
        await make_way(self._conn, result, drop_as_of=self._request.drop_as_of)
        await erase_elsewhere(self._conn, result, self._request.app, self._limits, self._request.key, dry_run=False)
        key = self._request.key
        plan = ErasePlan(
            persons=result.persons,
            projections=self._projections,
            app=self._request.app,
            why=self._request.why,
            erased_by=result.erased_by,
            key_check=None if key is None else key.check,
            scanned_to=self._head,
            done_as_ofs=done_as_ofs,
            quiet_since=self._quiet_since,
            distributed_by=self._distributed_by,
        )
        self._context.progress.phase("erasing")
        others = set(range(len(result.persons))) - {one.person for one in found} - self._archived.keys()
        await self._erase_batches(plan, batches_of_persons(found), result)
        in_files_only = sorted(self._archived.keys() - {one.person for one in found})
        await self._erase_batches(plan, equal_batches(in_files_only), result)
        if self._quiet_since is None:
            plan = await self._erase_new_events(plan, others, result)
        if key is not None:
            # The digest of a number that has no event yet keeps its late events erased.
            await self._erase_batches(plan, equal_batches(sorted(others)), result)
        await drop_all_shadows(self._conn)
        await erase_elsewhere(self._conn, result, self._request.app, self._limits, self._request.key, dry_run=False)
        await forget_persons(self._conn)
        result.archives = await self._archive.rewrite(self._note_file)
        result.position = await read_head(self._conn)
        return result

    def _note_file(self, name: str) -> None:
        self._context.progress.phase(f"writing {name} anew")

    async def _erase_batches(self, plan: ErasePlan, batches: Iterable[Sequence[int]], result: ErasedPersons) -> None:
        for batch in batches:
            try:
                done = await erase_batch(self._conn, plan, batch, self._context.waits)
            except CannotErase as error:
                if len(batch) > 1:  # the others don't wait for the one that can't be erased
                    await self._erase_batches(plan, [[person] for person in batch], result)
                else:
                    result.not_erased[batch[0]] = str(error)
                continue
            result.rows |= {person: rows for person, rows in done.erased.items() if rows}
            result.active |= set(done.active)
            result.need_rebuild |= set(done.need_rebuild)

    async def _erase_new_events(self, plan: ErasePlan, others: set[int], result: ErasedPersons) -> ErasePlan:
        """Erase the persons who got new events, until nobody has; those without events until now leave ``others``.

        Who was erased in a batch gets another token: the rows of the first one can't be merged with new rows.
        """
        conn, app = self._conn, self._request.app
        for _ in range(MAX_ROUNDS):
            head = await read_visible_head(self._conn, is_distributed=self._is_distributed)
            again = await find_persons_with_more_events(conn, app=app, after=plan.scanned_to, up_to=head)
            if not again:
                break
            renumbered = {}
            for one in again:
                person = result.persons[one]
                if one not in others:
                    person = replace(person, token=new_token_of_person())
                    result.persons.append(person)
                    renumbered[one] = (len(result.persons) - 1, person.token)
            others -= set(again)
            await renumber_persons(conn, renumbered)
            await find_more_events(conn, app=app, after=plan.scanned_to, up_to=head)
            plan = replace(plan, scanned_to=head)
            await self._erase_batches(plan, batches_of_persons(await count_events_of_persons(conn)), result)
        return plan

    async def _find(self) -> tuple[ErasedPersons, list[PersonFound]]:
        """Prepare the persons, and find their events."""
        request, progress = self._request, self._context.progress
        self._archive = archive = await open_archive_files(self._conn)
        self._head = await read_visible_head(self._conn, is_distributed=self._is_distributed)
        numbers = request.numbers
        if numbers is None:
            self._quiet_since = await fetch_value(self._conn, _BEFORE, [request.older_than])
            progress.phase("choosing persons")
            await archive.read_last_times(request.app, progress.at)
            numbers = await fetch_column(
                self._conn,
                _IDLE_PERSONS,
                {"up_to": self._head, "token": TOKEN_PATTERN, "app": request.app, "before": self._quiet_since},
            )
        mac = request.key.mac if request.key is not None else lambda _: None
        persons = [Person(number, new_token_of_person(), mac(number)) for number in numbers]
        await prepare_persons(self._conn, persons)
        if archive.up_to:
            progress.phase("reading the archived events", target=archive.up_to)
            self._archived = await archive.find(persons, request.app, progress.at)
        progress.phase("reading the log", target=self._head)
        found = await find_events_of_persons(
            self._conn,
            app=request.app,
            up_to=self._head,
            on_progress=lambda position, _: progress.at(position),
            is_distributed=self._is_distributed,
        )
        erased_by = await read_erased_by(self._conn, request.system_user)
        result = ErasedPersons(persons, erased_by, position=self._head, is_distributed=self._is_distributed)
        return result, found
