"""Erases a batch of persons in one transaction: their events, the rows of read models, and the record of it.

Invariants. The transaction acquires, in the engine's order of locks: ``AS_OF_LOCK``, all checkpoints by name, and last
the append lock. So until it commits no fold moves a checkpoint, no event is appended, no replay is applied and no as-of
gets its schema; and whoever reads the log or a checkpoint after it sees all of the change. Events that were appended
since the pass over the log are looked for twice: under the checkpoints, so that all events that any projection has
folded are known before rows are moved; and under the append lock, so that no event of the person is left.

If the log is distributed, it also waits under the append lock until all that was committed here is committed on every
server: it then sees all events. A commit that takes longer than a moment is waited for without locks, and the batch
starts again.

A kill leaves the whole batch or nothing of it. While locks are held nothing is read but a few events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from psycopg import AsyncConnection

from eventstore.appending.append_lock import acquire_append_lock, retry_while_append_lock_is_busy
from eventstore.distributed_log import (
    begin_distributed_change,
    retry_after_commits,
    wait_for_commits_under_append_lock,
)
from eventstore.erasure.erasure_rows import Erasure, insert_erasures
from eventstore.erasure.person_events import NewPayload, Person, encode_events, erase_events, find_more_events
from eventstore.locks import AS_OF_LOCK, WAIT_FOR_TRANSACTION_LOCK
from eventstore.postgres.lock_retry import retry_on_lock
from eventstore.postgres.queries import fetch_column
from eventstore.postgres.session_settings import COMMIT_DURABLY
from eventstore.waits import Waits
from projections.erasing.all_checkpoints import let_others_fold, lock_all_checkpoints
from projections.erasing.archived_persons import FILES_TABLE, ArchivedOfPerson, record_archived_of_batch
from projections.erasing.other_places import EVENTS_TABLE
from projections.erasing.row_moves import RowMoves, can_move
from projections.erasing.visible_head import read_visible_head
from projections.errors import ProjectionsError
from projections.projection import Projection
from projections.running import state_changes

_NEW_AS_OF = (
    "SELECT r.into_schema FROM projections.rebuilds AS r JOIN pg_catalog.pg_namespace AS n ON n.oid = r.into_schema_oid"
    " WHERE r.state = 'done' AND r.id <> ALL(%s) ORDER BY r.id LIMIT 1"
)
# By state, not by id: a run has its id from its start.
_DONE_AS_OFS = "SELECT id FROM projections.rebuilds WHERE into_schema_oid IS NOT NULL AND state = 'done'"


@dataclass(frozen=True, slots=True)
class ErasePlan:
    """What all batches of one command share.

    Attributes:
        persons: all of them; a batch names them by their indexes.
        projections: those that this installation has, and whose tables exist.
        app: the app in which they are erased; None for all.
        why: the reason.
        erased_by: who runs the command.
        key_check: of the key; None without one.
        scanned_to: the head when the pass over the log ended.
        done_as_ofs: the ids of the as-of runs that were done before their schemas were searched.
        quiet_since: persons with a newer event are not erased; None to erase them all.
        distributed_by: the columns by which tables are distributed; None unless the log is distributed.

    """

    persons: Sequence[Person]
    projections: Mapping[str, Projection]
    app: str | None
    why: str
    erased_by: str
    key_check: bytes | None
    scanned_to: int
    done_as_ofs: Sequence[int]
    quiet_since: datetime | None = None
    distributed_by: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch.

    Attributes:
        erased: how many rows were changed of each person, by index and table.
        active: the persons that were left alone, because they have a newer event than ``quiet_since``.
        need_rebuild: the projections that were marked, because they don't declare their personal columns.

    """

    erased: dict[int, Counter[str]]
    active: list[int]
    need_rebuild: list[str]


class _BecameActive(Exception):
    """Persons got new events since they were chosen."""

    def __init__(self, persons: Sequence[int]) -> None:
        super().__init__()
        self.persons = list(persons)


async def read_done_as_ofs(conn: AsyncConnection[Any]) -> list[int]:
    """Return the ids of all as-of runs that are done."""
    return await fetch_column(conn, _DONE_AS_OFS)


async def erase_batch(conn: AsyncConnection[Any], plan: ErasePlan, persons: Sequence[int], waits: Waits) -> BatchResult:
    """Erase some of the plan's persons.

    Args:
        conn: the session in which the persons were prepared and their events found.
        plan: what all batches share.
        persons: the indexes of the batch's persons.
        waits: ``append_lock`` counts.

    Raises:
        CannotErase: an event can't be encoded anew; nothing of the batch was erased.
        ProjectionsError: an as-of created a schema meanwhile; nothing of the batch was erased.
        psycopg.Error: the database failed, or the connection; all of the batch was erased or nothing.

    """
    chosen, active = list(persons), list[int]()
    while True:
        encoded = await encode_events(conn, chosen)
        batch = _Batch(conn, plan, chosen, encoded, waits)
        try:
            found = await retry_on_lock(batch.run, before_retry=let_others_fold)
        except _BecameActive as error:
            active += error.persons
            chosen = [person for person in chosen if person not in error.persons]
            continue
        return BatchResult(found, active, batch.need_rebuild)


class _Batch:
    """One batch; :meth:`run` may be called again after it failed."""

    def __init__(
        self,
        conn: AsyncConnection[Any],
        plan: ErasePlan,
        persons: Sequence[int],
        encoded: Sequence[NewPayload],
        waits: Waits,
    ) -> None:
        self.need_rebuild: list[str] = []
        self._conn = conn
        self._plan = plan
        self._is_distributed = plan.distributed_by is not None
        self._persons = persons
        self._encoded = encoded
        self._waits = waits

    async def run(self) -> dict[int, Counter[str]]:
        attempt = partial(retry_while_append_lock_is_busy, self._conn, self._waits, self._run)
        return await retry_after_commits(self._conn, attempt)

    async def _run(self) -> dict[int, Counter[str]]:
        conn, plan = self._conn, self._plan
        counts = {person: Counter[str]() for person in self._persons}
        async with conn.transaction():
            await conn.execute(COMMIT_DURABLY)
            if self._is_distributed:
                await begin_distributed_change(conn)
            await conn.execute(WAIT_FOR_TRANSACTION_LOCK, [AS_OF_LOCK])
            await self._refuse_new_as_of()
            versions = await lock_all_checkpoints(conn, is_distributed=self._is_distributed)
            events = [*self._encoded]
            known = await self._find_new(
                plan.scanned_to, await read_visible_head(conn, is_distributed=self._is_distributed), events
            )
            archived = await record_archived_of_batch(conn, self._persons)
            for one in archived:
                counts[one.person][FILES_TABLE] += one.events
            await self._move_rows(events, archived, counts, versions)
            await self._erase(events, counts)
            head = await acquire_append_lock(conn, self._waits)
            if self._is_distributed:
                await wait_for_commits_under_append_lock(conn)
            latest: list[NewPayload] = []
            await self._find_new(known, head.position, latest)
            await self._erase(latest, counts)
            await self._record(head.position, head.received_at, counts)
        return counts

    async def _refuse_new_as_of(self) -> None:
        schemas = await fetch_column(self._conn, _NEW_AS_OF, [list(self._plan.done_as_ofs)])
        if schemas:
            raise ProjectionsError(
                f"an as-of created schema {schemas[0]} meanwhile, which may have these persons; run the command again"
            )

    async def _find_new(self, after: int, head: int, events: list[NewPayload]) -> int:
        """Add the persons' events after a position to those that are known; returns the head."""
        plan = self._plan
        if head > after and await find_more_events(
            self._conn, app=plan.app, after=after, up_to=head, persons=self._persons
        ):
            found = await encode_events(self._conn, self._persons, after=after)
            if plan.quiet_since is not None:
                raise _BecameActive(sorted({one.person for one in found}))
            events += found
        return head

    async def _move_rows(
        self,
        events: Sequence[NewPayload],
        archived: Sequence[ArchivedOfPerson],
        counts: dict[int, Counter[str]],
        versions: Mapping[str, int],
    ) -> None:
        plan, types = self._plan, {one.event_type for one in events}.union(*(one.types for one in archived))
        if not events and not archived:
            return
        undeclared = []
        for name, projection in plan.projections.items():
            if can_move(projection, plan.app, versions):
                moves = RowMoves(projection, plan.distributed_by)
                for person, moved in (await moves.move(self._conn, self._persons)).items():
                    counts[person] += moved
            elif projection.handles & types:
                undeclared.append(name)
        first = min([*(one.position for one in events), *(one.first for one in archived)])
        self.need_rebuild = await state_changes.mark_redecoded(self._conn, undeclared, list(plan.projections), first)

    async def _erase(self, events: Sequence[NewPayload], counts: dict[int, Counter[str]]) -> None:
        erased = await erase_events(self._conn, events)
        if erased != len(events):
            raise ProjectionsError("an event was changed meanwhile by somebody else; run the command again")
        for one in events:
            counts[one.person][EVENTS_TABLE] += 1

    async def _record(self, head: int, now: datetime, counts: Mapping[int, Counter[str]]) -> None:
        plan = self._plan
        await insert_erasures(
            self._conn,
            [
                Erasure(
                    token=plan.persons[person].token,
                    app=plan.app,
                    erased_at=now,
                    why=plan.why,
                    erased_by=plan.erased_by,
                    position=head,
                    mac=plan.persons[person].mac,
                    key_check=None if plan.persons[person].mac is None else plan.key_check,
                    rows=dict(counts[person]),
                )
                for person in self._persons
            ],
        )
