"""Checks of a distributed log: whether its workers answer, and whether all of them have committed what they must.

Invariants. The coordinator asks all workers at once, which Citus lets every role do. A worker that doesn't answer
within a second counts as unavailable. Where the log is not distributed, nothing is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from psycopg import sql

from eventstore.distributed_log import count_unfinished_commits, is_distributed
from eventstore.locks import ERASE_LOCK, TRY_TRANSACTION_LOCK
from eventstore.postgres.lock_holder import find_holder
from eventstore.postgres.queries import fetch_all, fetch_value
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.doctor.session_text import AS_SUPERUSER, FINISH_COMMITS
from projections.inspecting.finding import Finding
from projections.inspecting.health import format_utc

_WAIT_BRIEFLY = "SELECT pg_catalog.set_config('citus.node_connection_timeout', '1000', true)"
_PREPARED = sql.SQL(
    "SELECT nodename || ':' || nodeport, success, result FROM pg_catalog.run_command_on_workers({}) ORDER BY 1"
).format(
    sql.Literal(
        "SELECT count(*) || ' ' || coalesce(min(extract(epoch FROM prepared)), 0) FROM pg_catalog.pg_prepared_xacts"
        " WHERE database = current_database() AND gid LIKE 'citus\\_%'"
    )
)
_NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision"
_EVENTS_CHANGED = "SELECT events_changed FROM eventstore.distributed_head"
# Nobody may begin to change events meanwhile.
_END_CHANGE = sql.SQL("UPDATE eventstore.distributed_head SET events_changed = false WHERE ({});").format(
    sql.SQL(TRY_TRANSACTION_LOCK.replace("%s", "{}")).format(sql.Literal(ERASE_LOCK))
)


async def check_workers(exam: Examination) -> AsyncIterator[Finding]:
    """Find workers that don't answer, and commits that they haven't finished."""
    conn = exam.conn
    if not await is_distributed(conn):
        return
    await conn.execute(_WAIT_BRIEFLY)
    longest, now = exam.options.limits.snapshot, float(await fetch_value(conn, _NOW))
    for worker, answered, result in await fetch_all(conn, _PREPARED):
        if not answered:
            why = " ".join((result or "no reason is known").split())
            sentence = f"worker {worker} doesn't answer the coordinator as role {conn.info.user}: {why}"
            advice = "start it, or mend the network between them, or let the role log in there"
            yield Finding("worker_unavailable", sentence, advice=advice)
            continue
        number, oldest = result.split()
        if int(number) and now - float(oldest) > longest:
            since = format_utc(datetime.fromtimestamp(float(oldest), UTC))
            sentence = (
                f"worker {worker} has not finished what Citus prepared there since {since} ({int(number):,} in all):"
                " it keeps its locks, and its rows are not visible"
            )
            yield Finding("commit_unfinished", sentence, FINISH_COMMITS, AS_SUPERUSER)


async def check_changed_events(exam: Examination) -> AsyncIterator[Finding]:
    """Find a change of stored events that ended before all workers had committed it, so that folds still wait."""
    conn = exam.conn
    for _ in range(2):  # whoever changed events may have ended between the two looks, and the next one have begun
        if not await fetch_value(conn, _EVENTS_CHANGED) or await find_holder(conn, ERASE_LOCK):
            return
    await conn.execute(_WAIT_BRIEFLY)
    sentence = "an erase or a redecode was interrupted, so every fold asks all workers whether they have committed"
    if any(await count_unfinished_commits(conn)):
        advice = "once all workers answer and have committed, run projections doctor again"
        yield Finding("events_changed", f"{sentence}, and one of them has not", advice=advice)
    else:
        yield Finding("events_changed", f"{sentence}; all of them have", _END_CHANGE.as_string())
