"""Appends events to the event table: as they came, once, in commit order.

Invariants. Positions are given out under the append lock, from the head read in a statement of its own after the lock
is held, and become visible with the commit that ends the lock: they are gapless, and who saw position p never later
finds a new event at or below p. The cursor, the quarantine and the events of a batch are one transaction. What a
batch brings that is stored already decides nothing: the first stays, and only other bytes under a known id are kept,
in quarantine. A crash at any point leaves the whole batch or nothing of it.

A follower moves its cursor only from the state that it committed last itself: each move writes a random fencing token
and names the token of the move before. A database that lost committed transactions (a standby promoted before it had
received them, a restored backup) has another token, and the append is refused instead of skipping the lost events.

The lock order is the app's cursor row, then the append lock; under the lock only rows are written that the holder of
the cursor row alone may write.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import structlog
from psycopg import AsyncConnection, DataError, Error, IntegrityError, OperationalError, sql
from psycopg.errors import UniqueViolation

from eventstore.appending import server_clock
from eventstore.appending.append_lock import FrozenHolder, wait_for_append_lock
from eventstore.appending.duplicates import compare_within, known_among, missing_among, sort_out
from eventstore.appending.notify_channel import NOTIFY
from eventstore.appending.quarantine import Rejected, quarantine
from eventstore.appending.quarantine_limits import DEFAULT_LIMITS, QuarantineLimits
from eventstore.contracts import Event
from eventstore.errors import AlreadyAppended, AppendLockBusy, DatabaseError, LeadershipLost, LogWentBack, OtherLog
from eventstore.event_reader import LAST_EVENT, StoredEvent
from eventstore.locks import APPEND_LOCK, TRY_TRANSACTION_LOCK
from eventstore.postgres.lock_holder import terminate_holder
from eventstore.postgres.queries import fetch_row
from eventstore.waits import Waits

log = structlog.get_logger(__name__)
T = TypeVar("T")

_COLUMNS = (*Event._fields, "position", "received_at")
_TYPES = (
    *("text", "text", "text", "int4", "text", "text", "text", "text", "text", "text[]"),
    *("int4", "int4", "int4", "int4", "int4", "int4", "timestamptz", "bytea", "int8", "timestamptz"),
)
_COPY = sql.SQL("COPY eventstore.events ({}) FROM STDIN (FORMAT binary)").format(
    sql.SQL(", ").join(map(sql.Identifier, _COLUMNS))
)
_MOVE_CURSOR = (
    "UPDATE eventstore.cursors SET last_event_id = coalesce(%(event_id)s, last_event_id),"
    " last_received_at = clock_timestamp(), last_error = NULL, last_error_at = NULL, fence = %(token)s"
    " WHERE app = %(app)s AND epoch = %(epoch)s AND fence = coalesce(%(after)s, fence)"
)
_CURSOR_STATE = "SELECT epoch, fence FROM eventstore.cursors WHERE app = %s"


class CursorMove(NamedTuple):
    """Where an app's cursor goes with a batch.

    Attributes:
        app: whose cursor.
        epoch: the epoch that this follower got when it took the app over.
        event_id: the last ULID received; None when the batch had none.
        token: the fencing token that this move writes; a random number, the same when the batch is tried again.
        after: the token of this follower's last committed move; None moves the cursor from any state of the epoch.
        head: the last position that this follower knows to be committed.

    """

    app: str
    epoch: int
    event_id: str | None
    token: int = 0
    after: int | None = None
    head: int = 0


def new_token() -> int:
    """Return a fencing token: a random number that no other move of a cursor has."""
    return secrets.randbits(62) + 1


class Appended(NamedTuple):
    """What became of a batch: numbers of events, and the head's position after it (0 for an empty table).

    ``not_kept`` are those of the quarantined that were counted only, because the app's quarantine is full.
    """

    stored: int
    duplicates: int
    quarantined: int
    head: int
    not_kept: int = 0


class Appender:
    """Appends batches on one connection, and remembers whether duplicates are to be expected.

    After a (re)connect they are, so a batch is probed before it is copied; after a batch without any it is copied
    straight away, and only a COPY that hits a duplicate goes back to the probe.

    Args:
        conn: an autocommit connection, used by nobody else meanwhile.
        waits: how long to wait for the append lock.
        limits: how much of what can't be an event is kept.

    Attributes:
        probing: whether the next batch is probed for duplicates before it is copied.
        attempted: the result of the last batch whose COMMIT was sent; valid even when its answer was lost.

    """

    def __init__(self, conn: AsyncConnection, waits: Waits, limits: QuarantineLimits = DEFAULT_LIMITS) -> None:
        self._conn = conn
        self._limits = limits
        self._wait = waits.as_timedelta(waits.append_lock)
        self.probing = True
        self.attempted: Appended | None = None

    async def append(
        self, events: Sequence[Event], *, rejected: Sequence[Rejected] = (), cursor: CursorMove | None = None
    ) -> Appended:
        """Append a batch of at least one event or rejected message, in one transaction.

        Raises:
            ForeignEventId: an event_id is stored under another app.
            LeadershipLost: the cursor's epoch is not this follower's any more.
            LogWentBack: the database lost what this follower committed before; nothing was written.
            AlreadyAppended: an earlier attempt at this batch, whose answer was lost, was committed.
            psycopg.Error: the database failed, or the connection; nothing was written, or all of it: append the same
                batch again on a new connection to find out.

        """
        self.attempted = None
        while True:
            try:
                return await self._in_turn(lambda: self._append(events, rejected, cursor))
            except (IntegrityError, DataError):
                if self.probing:
                    raise
                self.probing = True

    async def restore(self, stored: Sequence[StoredEvent]) -> int:
        """Put events of this very log where they belong: at their positions, with the times they had.

        Args:
            stored: at least one, in order of position. Those that are here already are left out; the first of those
                behind the head must lie right behind it.

        Returns:
            How many were missing here.

        Raises:
            OtherLog: a position or an event_id is taken by another event, or positions before them are missing.
            psycopg.Error: the database failed, or the connection.

        """
        return await self._in_turn(lambda: self._restore(stored))

    async def _in_turn(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until the append lock is had; who holds it frozen is ended."""
        while True:
            try:
                return await attempt()
            except FrozenHolder as frozen:
                if not await terminate_holder(self._conn, frozen.holder, self._wait):
                    log.warning("the append lock is held, and its holder can't be ended", backend=frozen.holder.pid)
            except AppendLockBusy:
                continue

    async def _append(
        self, events: Sequence[Event], rejected: Sequence[Rejected], cursor: CursorMove | None
    ) -> Appended:
        if not events:
            return await self._keep_rejected(rejected, cursor)
        if self.probing:
            return await self._append_carefully(events, rejected, cursor)
        return await self._append_fast(events, rejected, cursor)

    async def _restore(self, stored: Sequence[StoredEvent]) -> int:
        async with self._conn.transaction():
            head, _ = await self._begin(None)
            missing = await missing_among(self._conn, stored)
            behind = (one.position for one in missing if one.position > head)
            for wanted, position in enumerate(behind, head + 1):
                if position != wanted:
                    raise OtherLog(f"positions {wanted}..{position - 1} are neither here nor in the file")
            if missing:
                try:
                    await self._copy_rows([(*one.event, one.position, one.received_at) for one in missing])
                except UniqueViolation as error:
                    raise OtherLog("an event of the file is stored here at another position: another log") from error
                await self._conn.execute(NOTIFY)
        return len(missing)

    async def _keep_rejected(self, rejected: Sequence[Rejected], cursor: CursorMove | None) -> Appended:
        async with self._conn.transaction():
            if cursor:
                await self._move(cursor)
            not_kept = await quarantine(self._conn, rejected, self._limits)
            row = await fetch_row(self._conn, LAST_EVENT)
            return self._attempt(Appended(0, 0, len(rejected), row[1] or 0 if row else 0, not_kept))

    async def _move(self, cursor: CursorMove) -> None:
        moved = await self._conn.execute(_MOVE_CURSOR, cursor._asdict())
        if moved.rowcount != 1:
            raise await self._why_not_moved(cursor)

    async def _why_not_moved(self, cursor: CursorMove) -> DatabaseError:
        """Return the error that says why the cursor is not in the state that a move started from."""
        row = await fetch_row(self._conn, _CURSOR_STATE, [cursor.app])
        if row is None:
            return LeadershipLost(cursor.app, "its cursor is gone from the database")
        epoch, fence = row
        if epoch > cursor.epoch or (epoch == cursor.epoch and cursor.after is None):
            return LeadershipLost(cursor.app)
        if epoch == cursor.epoch and fence == cursor.token:
            return AlreadyAppended(cursor.app)
        return LogWentBack(cursor.app)

    def _attempt(self, result: Appended) -> Appended:
        """Remember a result right before its COMMIT is sent."""
        self.attempted = result
        return result

    async def _append_fast(
        self, events: Sequence[Event], rejected: Sequence[Rejected], cursor: CursorMove | None
    ) -> Appended:
        first, again = sort_out(events)
        repeated, conflicting = compare_within(first, again)
        async with self._conn.transaction():
            head, received_at = await self._begin(cursor)
            await self._copy(first, head, received_at)
            not_kept = await quarantine(self._conn, [*rejected, *conflicting], self._limits)
            await self._conn.execute(NOTIFY)
            quarantined = len(rejected) + len(conflicting)
            return self._attempt(Appended(len(first), repeated, quarantined, head + len(first), not_kept))

    async def _append_carefully(
        self, events: Sequence[Event], rejected: Sequence[Rejected], cursor: CursorMove | None
    ) -> Appended:
        async with self._conn.transaction():
            head, received_at = await self._begin(cursor)
            known, conflicting = await known_among(self._conn, events)
            new = [event for event in events if event.event_id not in known] if known else events
            stored, repeated, refused = await self._copy_new(new, head, received_at)
            # All of them at once: rows are locked in one order, so that no two appends lock each other out.
            quarantined = [*rejected, *conflicting, *refused]
            not_kept = await quarantine(self._conn, quarantined, self._limits)
            if stored:
                await self._conn.execute(NOTIFY)
            duplicates = len(events) - len(new) - len(conflicting) + repeated
            result = self._attempt(Appended(stored, duplicates, len(quarantined), head + stored, not_kept))
        self.probing = bool(known)
        return result

    async def _copy_new(
        self, events: Sequence[Event], head: int, received_at: datetime
    ) -> tuple[int, int, list[Rejected]]:
        """Copy events of which none is stored; returns how many were, how many only repeat them, and the refused."""
        stored = repeated = 0
        refused: list[Rejected] = []
        while events:
            first, again = sort_out(events)
            copied, culprits = await self._copy_or_halve(first, head + stored, received_at)
            # What comes again under the id of an event that was not stored stands for itself.
            missing = {culprit.event_id for culprit in culprits}
            same, conflicting = compare_within(first, [event for event in again if event.event_id not in missing])
            events = [event for event in again if event.event_id in missing]
            stored += copied
            repeated += same
            refused += [*culprits, *conflicting]
        return stored, repeated, refused

    async def _begin(self, cursor: CursorMove | None) -> tuple[int, datetime]:
        # One round trip: each statement of the pipeline has its own snapshot, so the head is read after the lock.
        async with self._conn.pipeline():
            moved = None
            if cursor:
                moved = await self._conn.execute(_MOVE_CURSOR, cursor._asdict())
            locked = await self._conn.execute(TRY_TRANSACTION_LOCK, [APPEND_LOCK])
            head = await self._conn.execute(LAST_EVENT)
            got = await locked.fetchone()
            row = await head.fetchone()
        if cursor and moved is not None and moved.rowcount != 1:
            raise await self._why_not_moved(cursor)
        if not (got and got[0]):
            await wait_for_append_lock(self._conn, self._wait)
            row = await fetch_row(self._conn, LAST_EVENT)
        if row is None:
            raise DatabaseError("the head of eventstore.events can't be read")
        now, position, previous = row
        if cursor and (position or 0) < cursor.head:
            raise LogWentBack(cursor.app)
        if previous is None or previous <= now:
            return position or 0, now
        server_clock.WATCH.check(now, previous)
        return position or 0, previous

    async def _copy(self, events: Sequence[Event], head: int, received_at: datetime) -> None:
        await self._copy_rows((*event, position, received_at) for position, event in enumerate(events, head + 1))

    async def _copy_rows(self, rows: Iterable[tuple[object, ...]]) -> None:
        try:
            async with self._conn.cursor() as cursor, cursor.copy(_COPY) as copy:
                copy.set_types(_TYPES)
                for row in rows:
                    await copy.write_row(row)
        except UnicodeEncodeError as error:
            if error.encoding != "utf-8":  # then it is the session that can't hold what UTF-8 can
                raise OperationalError(f"the session's encoding is {error.encoding}, not UTF-8") from error
            raise DataError("a text can't be written in UTF-8") from error
        except ValueError as error:
            # psycopg expects one result of a COPY; libpq gives two when the connection goes in the middle of it.
            if self._conn.broken:
                raise OperationalError("the connection was lost in the middle of a COPY") from error
            raise

    async def _copy_or_halve(
        self, events: Sequence[Event], head: int, received_at: datetime
    ) -> tuple[int, list[Rejected]]:
        """Copy what can be stored; what Postgres refuses for its values comes back, alone and with the reason."""
        if not events:
            return 0, []
        try:
            async with self._conn.transaction():
                await self._copy(events, head, received_at)
        except UniqueViolation:
            raise  # not the event's fault: somebody wrote without the append lock
        except (DataError, IntegrityError) as error:
            if len(events) == 1:
                event = events[0]
                reason = f"Postgres can't store it ({_what_failed(error)})"
                return 0, [Rejected(event.app, event.contract, event.payload, reason, event.event_id)]
            middle = len(events) // 2
            stored, refused = await self._copy_or_halve(events[:middle], head, received_at)
            more, others = await self._copy_or_halve(events[middle:], head + stored, received_at)
            return stored + more, [*refused, *others]
        return len(events), []


def _what_failed(error: Error) -> str:
    """Return what an error says without values: psycopg's own errors have no SQLSTATE, and quote none."""
    return f"SQLSTATE {error.sqlstate}" if error.sqlstate else str(error)
