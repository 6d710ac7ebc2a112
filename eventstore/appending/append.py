"""Appends events to the event table: unchanged, exactly once, in commit order.

Invariants. Positions are assigned under the append lock, from the head that is read after the lock is acquired, and
become visible with the commit that releases the lock. So they are gapless, and whoever saw position p never later finds
a new event at or below p. The cursor, the quarantine and the events of a batch are written in one transaction: a crash
at any point leaves the whole batch or nothing of it.

Duplicates change nothing: the first event under an id stays, and different bytes under the same id are quarantined.
Events of erased persons are stored with their tokens, and never quarantined with their numbers.

The lock order is the app's cursor row, then the append lock, then the app's row of ``quarantine_usage``. That row comes
last because what must be quarantined is known only under the append lock. So an append may wait under the append lock
for an append of rejected messages, or for ``quarantine drop``. These wait for nothing else while they have the row; if
one of them freezes, the waiting append is rolled back after ``lock`` seconds, or earlier by an append that waits for
it (``append_lock``), and tried again. Besides the quarantine, only rows are written under the append lock that nobody
but the holder of the cursor row may write.

An append takes these steps in one transaction: move the cursor, acquire the append lock, read the head (one round
trip); when duplicates are expected, find the ids that are stored; COPY the new events; quarantine what can't be an
event; NOTIFY; commit. In a partitioned log, the next partition is then made if the head has entered the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg import AsyncConnection, DataError, IntegrityError

from eventstore.appending.append_lock import Head, acquire_append_lock, retry_while_append_lock_is_busy
from eventstore.appending.copying import copy_events, copy_new_events
from eventstore.appending.cursor_move import CursorMove, move_cursor
from eventstore.appending.duplicates import compare_repeats, find_stored_ids, split_repeats
from eventstore.appending.late_messages import erase_late_messages
from eventstore.appending.notify_channel import NOTIFY
from eventstore.appending.partition_room import LastPartition, PartitionsAhead, is_about_partitions, make_room
from eventstore.appending.quarantine import Rejected, quarantine
from eventstore.appending.quarantine_limits import DEFAULT_LIMITS, QuarantineLimits
from eventstore.contracts import Event
from eventstore.erasure.erasure_key import ErasureKey
from eventstore.erasure.erasure_rows import read_last_erasure
from eventstore.erasure.late_events import LateEvents
from eventstore.event_reader import read_head
from eventstore.waits import Waits


class Appended(NamedTuple):
    """What became of a batch: numbers of events, and the head after it (0 for an empty table).

    ``not_kept`` counts the quarantined messages whose bytes were not kept, because the app's quarantine is full.
    """

    stored: int
    duplicates: int
    quarantined: int
    head: int
    not_kept: int = 0


class Appender:
    """Appends batches on one connection, and remembers whether duplicates are to be expected.

    After a (re)connect they are, so stored ids are looked up before a batch is copied. After a batch without any
    duplicate, batches are copied without looking; a COPY that meets a duplicate fails, and the batch is looked up.

    Args:
        conn: an autocommit connection, used by nobody else meanwhile.
        waits: how long to wait for the append lock.
        limits: how much of what can't be an event is kept.
        key: the erasure key; None without one.

    Attributes:
        probing: whether stored ids are looked up before the next batch is copied.
        attempted: the result of the last batch whose COMMIT was sent; valid even when its answer was lost.

    """

    def __init__(
        self,
        conn: AsyncConnection,
        waits: Waits,
        limits: QuarantineLimits = DEFAULT_LIMITS,
        key: ErasureKey | None = None,
    ) -> None:
        self._conn = conn
        self._late = LateEvents(key)
        self._limits = limits
        self._waits = waits
        self._ahead = PartitionsAhead()
        self._last_partition: LastPartition | None = None
        self.probing = True
        self.attempted: Appended | None = None

    async def append(
        self, events: Sequence[Event], *, rejected: Sequence[Rejected] = (), cursor: CursorMove | None = None
    ) -> Appended:
        """Append a batch of at least one event or rejected message, in one transaction.

        Raises:
            ForeignEventId: an event_id is stored under another app.
            LeadershipLost: the cursor's epoch is no longer this follower's.
            CommitsLost: the database lost what this follower committed before; nothing was written.
            AlreadyAppended: an earlier attempt at this batch, whose answer was lost, was committed.
            psycopg.Error: the database failed, or the connection; nothing was written, or all of it: append the same
                batch again on a new connection to find out.

        """
        self.attempted = None
        if not events:
            return await self._append_rejected(rejected, cursor)
        appended = await retry_while_append_lock_is_busy(
            self._conn, self._waits, lambda: self._append_events(events, rejected, cursor)
        )
        await self._ahead.make(self._conn, self._last_partition, appended.head)
        return appended

    async def _append_events(
        self, events: Sequence[Event], rejected: Sequence[Rejected], cursor: CursorMove | None
    ) -> Appended:
        if not self.probing:
            try:
                return await self._append_without_probe(events, rejected, cursor)
            except (IntegrityError, DataError) as error:
                if is_about_partitions(error):
                    raise
                self.probing = True
        return await self._append_with_probe(events, rejected, cursor)

    async def _append_rejected(self, rejected: Sequence[Rejected], cursor: CursorMove | None) -> Appended:
        """Append messages that can't be events; no position is assigned, so the append lock isn't needed."""
        async with self._conn.transaction():
            if cursor:
                await move_cursor(self._conn, cursor)
            erasure = await read_last_erasure(self._conn) or None
            quarantined = await erase_late_messages(self._conn, self._late, rejected, erasure)
            not_kept = await quarantine(self._conn, quarantined, self._limits)
            result = Appended(0, 0, len(rejected), await read_head(self._conn), not_kept)
            self.attempted = result
        return result

    async def _append_without_probe(
        self, events: Sequence[Event], rejected: Sequence[Rejected], cursor: CursorMove | None
    ) -> Appended:
        new, repeated = split_repeats(events)
        duplicates, conflicting = compare_repeats(new, repeated)
        async with self._conn.transaction():
            head = await acquire_append_lock(self._conn, self._waits, cursor)
            if head.is_distributed:  # since the last batch
                result = await self._store_with_probe(head, events, rejected)
                self.attempted = result
                return result
            erased = await self._late.erase(self._conn, events, head.erasure)
            if erased is not events:
                new, repeated = split_repeats(erased)
                duplicates, conflicting = compare_repeats(new, repeated)
            await self._make_room(head, len(new))
            await copy_events(self._conn, new, head)
            await self._late.record(self._conn, new, is_distributed=head.is_distributed)
            quarantined = await erase_late_messages(self._conn, self._late, [*rejected, *conflicting], head.erasure)
            not_kept = await quarantine(self._conn, quarantined, self._limits)
            await self._conn.execute(NOTIFY)
            result = Appended(len(new), duplicates, len(quarantined), head.position + len(new), not_kept)
            self.attempted = result
        return result

    async def _make_room(self, head: Head, count: int) -> None:
        self._last_partition = head.partition
        await make_room(self._conn, head.partition, head.position + count)

    async def _append_with_probe(
        self, events: Sequence[Event], rejected: Sequence[Rejected], cursor: CursorMove | None
    ) -> Appended:
        async with self._conn.transaction():
            head = await acquire_append_lock(self._conn, self._waits, cursor)
            result = await self._store_with_probe(head, events, rejected)
            self.attempted = result
        return result

    async def _store_with_probe(self, head: Head, events: Sequence[Event], rejected: Sequence[Rejected]) -> Appended:
        """Append a batch inside the caller's transaction, which has the append lock.

        In a distributed log the key of events is wider than event_id, so stored ids are looked up for every batch.
        """
        events = await self._late.erase(self._conn, events, head.erasure)
        stored_ids, conflicting = await find_stored_ids(self._conn, events, is_distributed=head.is_distributed)
        new = [event for event in events if event.event_id not in stored_ids] if stored_ids else events
        await self._make_room(head, len(new))
        copied = await copy_new_events(self._conn, new, head)
        await self._late.record(self._conn, new, is_distributed=head.is_distributed)
        # All of them in one call: rows are locked in one order, so that no two appends block each other.
        refused = [*rejected, *conflicting, *copied.rejected]
        quarantined = await erase_late_messages(self._conn, self._late, refused, head.erasure)
        not_kept = await quarantine(self._conn, quarantined, self._limits)
        if copied.stored:
            await self._conn.execute(NOTIFY)
        duplicates = len(events) - len(new) - len(conflicting) + copied.repeats
        self.probing = bool(stored_ids) or head.is_distributed
        return Appended(copied.stored, duplicates, len(quarantined), head.position + copied.stored, not_kept)
