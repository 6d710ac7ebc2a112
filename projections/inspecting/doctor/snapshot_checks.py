"""Checks of what keeps VACUUM from removing dead rows: old transactions, prepared ones, and replication slots."""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import sql

from eventstore.postgres.queries import fetch_all
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.doctor.session_text import SESSION, OtherSession, command_to_end_prepared
from projections.inspecting.finding import Finding
from projections.inspecting.health import format_utc

# The transaction's own id holds rows back as its snapshot does; an idle transaction may have only the former. Whoever
# waits for a lock isn't the cause.
_TRANSACTIONS = sql.SQL("""
SELECT {session} FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.wait_event_type IS DISTINCT FROM 'Lock'
AND a.xact_start < clock_timestamp() - make_interval(secs => %s) ORDER BY a.xact_start
""").format(session=SESSION.format(of=sql.Identifier("a")))
_PREPARED = """
SELECT gid, owner, prepared FROM pg_prepared_xacts
WHERE database = current_database() AND prepared < clock_timestamp() - make_interval(secs => %s) ORDER BY prepared
"""
_SLOTS = """
SELECT slot_name, active, xmin IS NOT NULL, coalesce(wal_status, '') = 'lost', coalesce(pg_wal_lsn_diff(
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint
FROM pg_replication_slots WHERE NOT temporary ORDER BY 1
"""
_DEAD_ROWS = """
SELECT schemaname || '.' || relname, n_dead_tup FROM pg_stat_all_tables
WHERE n_dead_tup > 0 AND (schemaname IN ('eventstore', 'projections')
      OR (schemaname = 'public' AND relname = ANY(%s))) ORDER BY n_dead_tup DESC, 1
"""


async def check_snapshots(exam: Examination) -> AsyncIterator[Finding]:
    """Find transactions that have been open for too long, and say what they bloat."""
    longest = exam.options.limits.snapshot
    old = [OtherSession(*row) for row in await fetch_all(exam.conn, _TRANSACTIONS, [longest])]
    prepared = await fetch_all(exam.conn, _PREPARED, [longest])
    if not old and not prepared:
        return
    bloated = await _describe_dead_rows(exam)
    for session in old:
        sentence = f"{session} keeps dead rows from being removed: {bloated}"
        yield Finding("old_snapshot", sentence, session.command_to_end, session.advice)
    for gid, owner, since in prepared:
        sentence = (
            f"transaction {gid!r} of role {owner} was prepared at {format_utc(since)} and not ended; it keeps its"
            f" locks, and dead rows from being removed: {bloated}"
        )
        yield Finding("prepared_transaction", sentence, *command_to_end_prepared(gid))


async def check_replication_slots(exam: Examination) -> AsyncIterator[Finding]:
    """Find replication slots that keep too much write-ahead log, or that keep dead rows and are used by nobody."""
    most = exam.options.limits.wal_kept
    for name, is_active, keeps_rows, is_lost, kept in await fetch_all(exam.conn, _SLOTS):
        reasons = []
        if is_lost:
            reasons.append("is lost: its consumer can't continue")
        if kept > most:
            reasons.append(f"keeps {kept / 2**20:,.0f} MiB of write-ahead log")
        if keeps_rows and not is_active:
            reasons.append("keeps dead rows from being removed")
        if not reasons:
            continue
        sentence = f"replication slot {name} {' and '.join(reasons)}" + ("" if is_active else ", and nobody uses it")
        drop = sql.SQL("SELECT pg_drop_replication_slot({});").format(sql.Literal(name)).as_string()
        yield Finding("replication_slot", sentence, drop, "start its consumer, or in psql")


async def _describe_dead_rows(exam: Examination) -> str:
    rows = await fetch_all(exam.conn, _DEAD_ROWS, [exam.read_model_tables])
    if not rows:
        return "none in our tables yet"
    (table, dead), *others = rows
    more = f" and in {len(others)} more of our tables" if others else ""
    return f"{dead:,} in {table}{more}"
