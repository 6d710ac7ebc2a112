"""The rows of ``projections.reconciliations``: one for each request that a run asked about; old runs are deleted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from eventstore.contracts.status_answer import UpstreamRequest
from eventstore.postgres.queries import fetch_row
from projections.reconciling.candidates import AskedRequest
from projections.reconciling.comparison import Comparison, OurRequest

KEPT_RUNS = 30
"""How many runs are kept, the newest ones."""
MAX_RECIPIENTS = 1_000
"""How many recipients that differ are kept of a request; the wire allows no more in one."""

_START = "SELECT nextval(pg_get_serial_sequence('projections.reconciliations', 'id')), clock_timestamp()::timestamptz"
_COLUMNS = (
    *("run", "started_at", "app", "send_request_id", "why", "asked_at", "verdict", "reason"),
    *("upstream_state", "upstream_total", "upstream_delivered", "upstream_failed", "upstream_pending_consent"),
    *("our_state", "our_recipients", "our_delivered", "our_failed", "our_pending_consent"),
    *("recipients_that_differ", "differing_recipients"),
)
_INSERT = sql.SQL("INSERT INTO projections.reconciliations ({}) VALUES ({})").format(
    sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)), sql.SQL(", ").join(sql.Placeholder() * len(_COLUMNS))
)
_DELETE_OLD_RUNS = """
DELETE FROM projections.reconciliations WHERE run < (
    SELECT min(run) FROM (SELECT DISTINCT run FROM projections.reconciliations ORDER BY run DESC LIMIT %s) AS kept)
"""


class ReconcileRun(NamedTuple):
    """A run: its number, and when it started, by the database's clock."""

    number: int
    started_at: datetime


@dataclass(frozen=True, slots=True)
class ReconciledRequest:
    """What was found out about one request; ``upstream`` or ``ours`` is None where that side has none."""

    app: str
    request: AskedRequest
    asked_at: datetime
    comparison: Comparison
    reason: str | None = None
    upstream: UpstreamRequest | None = None
    ours: OurRequest | None = None


async def start_run(conn: AsyncConnection[Any]) -> ReconcileRun:
    """Return a new run; it leaves no trace until a row is saved."""
    row = await fetch_row(conn, _START)
    if row is None:
        raise ValueError("the sequence of projections.reconciliations can't be read")
    return ReconcileRun(*row)


async def save_row(conn: AsyncConnection[Any], run: ReconcileRun, found: ReconciledRequest) -> None:
    """Save what was found out about a request."""
    upstream, ours = found.upstream, found.ours
    theirs: tuple[object, ...] = (None,) * 5
    if upstream is not None:
        theirs = (upstream.state, upstream.total, upstream.delivered, upstream.failed, upstream.pending_consent)
    our: tuple[object, ...] = (None,) * 5
    if ours is not None:
        our = (ours.state, ours.recipients, ours.delivered, ours.failed, ours.pending_consent)
    recipients = found.comparison.recipients
    differing = Jsonb([each._asdict() for each in recipients[:MAX_RECIPIENTS]])
    row = [*run, found.app, *found.request, found.asked_at, found.comparison.verdict.value, found.reason]
    await conn.execute(_INSERT, [*row, *theirs, *our, len(recipients), differing])


async def delete_old_runs(conn: AsyncConnection[Any]) -> None:
    """Delete the rows of all runs but the last ones."""
    await conn.execute(_DELETE_OLD_RUNS, [KEPT_RUNS])
