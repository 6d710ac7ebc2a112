"""Checks of locks: who has held a checkpoint for too long, and who waits for whom on our tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import NamedTuple

from psycopg import sql

from eventstore.locks import APPEND_LOCK, MIGRATE_LOCK, SHADOW_LOCK
from eventstore.postgres.queries import fetch_all
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.doctor.session_text import SESSION, OtherSession, command_to_end_prepared
from projections.inspecting.finding import Finding
from projections.inspecting.health import format_utc

_ADVISORY = {APPEND_LOCK: "the append lock", MIGRATE_LOCK: "the lock of migrations", SHADOW_LOCK: "the lock of shadows"}

_CHECKPOINT_HOLDERS = sql.SQL("""
SELECT c.name, p.gid, p.prepared, {session}
FROM projections.checkpoints AS c
JOIN pg_locks AS l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = c.xmax
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
LEFT JOIN pg_prepared_xacts AS p ON p.transaction = c.xmax
WHERE l.pid IS DISTINCT FROM pg_backend_pid() ORDER BY c.name
""").format(session=SESSION.format(of=sql.Identifier("a")))
# A session that waits for a row waits for the other's transaction; the table is that of the tuple lock, or else one of
# the tables of ours that it has locked.
_WAITERS = sql.SQL("""
WITH ours AS (
    SELECT c.oid, n.nspname || '.' || c.relname AS name
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'i', 'v') AND (n.nspname IN ('eventstore', 'projections', 'projections_shadow')
          OR (n.nspname = 'public' AND c.relname = ANY(%s)))
)
SELECT w.pid, w.waitstart, extract(epoch FROM clock_timestamp() - w.waitstart)::double precision,
       CASE WHEN w.locktype = 'advisory' AND w.objsubid = 1
            THEN ((w.classid::bigint << 32) | w.objid::bigint) END AS number,
       coalesce(
           (SELECT name FROM ours WHERE oid = w.relation),
           (SELECT name FROM ours JOIN pg_locks AS t ON t.relation = ours.oid
            WHERE t.pid = w.pid AND t.locktype = 'tuple' LIMIT 1),
           (SELECT name FROM ours JOIN pg_locks AS t ON t.relation = ours.oid
            WHERE w.locktype IN ('transactionid', 'tuple') AND t.pid = w.pid AND t.locktype = 'relation'
            AND t.mode IN ('RowShareLock', 'RowExclusiveLock') ORDER BY name LIMIT 1)) AS on_table,
       pg_blocking_pids(w.pid), {session}
FROM pg_locks AS w LEFT JOIN pg_stat_activity AS a ON a.pid = w.pid
WHERE NOT w.granted AND (w.database IS NULL
      OR w.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
ORDER BY w.waitstart NULLS LAST, w.pid
""").format(session=SESSION.format(of=sql.Identifier("a")))
_SESSIONS = sql.SQL("SELECT {session} FROM pg_stat_activity AS a WHERE a.pid = ANY(%s)").format(
    session=SESSION.format(of=sql.Identifier("a"))
)


class _Waiter(NamedTuple):
    """A session that waits for a lock: since when, for what, and by whom it is blocked (0: a prepared transaction)."""

    session: OtherSession
    since: datetime | None
    what: str
    blocked_by: list[int]


async def check_checkpoint_holders(exam: Examination) -> AsyncIterator[Finding]:
    """Find sessions that have locked a checkpoint for longer than a window may take."""
    waits, longest = exam.options.waits, exam.options.worker.fold_timeout
    for name, gid, prepared, *values in await fetch_all(exam.conn, _CHECKPOINT_HOLDERS):
        if gid is not None:
            sentence = f"prepared transaction {gid!r} has locked the checkpoint of {name} since {format_utc(prepared)}"
            yield Finding("checkpoint_held", sentence, *command_to_end_prepared(gid))
            continue
        holder = OtherSession(*values)
        limit = longest if holder.is_ours else waits.append_lock
        # Another role's session hides since when; a program that isn't ours has no reason to lock a checkpoint at all.
        if holder.seconds > limit if holder.seconds is not None else not holder.is_ours:
            sentence = f"{holder} has locked the checkpoint of {name}, so nobody else can fold it"
            yield Finding("checkpoint_held", sentence, holder.terminate)


async def check_lock_waits(exam: Examination) -> AsyncIterator[Finding]:
    """Find sessions that wait for a lock on our tables, and name the one that blocks them."""
    waiters = []
    for _, since, seconds, number, table, blocked_by, *values in await fetch_all(
        exam.conn, _WAITERS, [exam.read_model_tables]
    ):
        what = _ADVISORY.get(_signed(number)) if number is not None else table
        if what is not None and seconds is not None and seconds > exam.options.waits.append_lock:
            waiters.append(_Waiter(OtherSession(*values), since, what, blocked_by))
    blockers: dict[int, list[_Waiter]] = defaultdict(list)
    waiting = {waiter.session.pid for waiter in waiters}
    for waiter in waiters:
        # Whoever waits itself isn't the cause, unless everybody waits, as in a deadlock.
        for pid in [pid for pid in waiter.blocked_by if pid not in waiting] or waiter.blocked_by:
            if waiter not in blockers[pid]:
                blockers[pid].append(waiter)
    rows = await fetch_all(exam.conn, _SESSIONS, [list(blockers)]) if blockers else []
    sessions = {one.pid: one for one in (OtherSession(*row) for row in rows)}
    for pid, blocked in blockers.items():
        waiting_for = _describe(blocked)
        if pid == 0:
            advice = "end the prepared transaction that another line names"
            yield Finding("lock_wait", f"a prepared transaction blocks {waiting_for}", advice=advice)
        elif (holder := sessions.get(pid)) is not None:
            yield Finding("lock_wait", f"{holder} blocks {waiting_for}", holder.command_to_end, holder.advice)


def _describe(waiters: Iterable[_Waiter]) -> str:
    first, *others = waiters
    more = f" and {len(others)} more" if others else ""
    name = first.session.name or "no name"
    return f"backend {first.session.pid} ({name}), which waits since {format_utc(first.since)} for {first.what}{more}"


def _signed(number: int) -> int:
    """Return an advisory lock's number as we have it; a shift in Postgres may have made it negative already."""
    return number - 2**64 if number >= 2**63 else number
