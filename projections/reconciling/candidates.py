"""Finds the requests to ask the upstream about: those that a recorded gap may have hit, and those that don't finish.

A gap has lost events of requests that began before its end and were not finished, or still had events, after its begin.
A request of which every event was lost can't be found: nothing here knows its id.

Of completed requests that a gap may have hit, those are left out that a kept run found equal after the gap was noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from eventstore import ulid
from eventstore.contracts import Contract
from eventstore.postgres.queries import fetch_all, fetch_value

_CURSORS = "SELECT app, contract, holes FROM eventstore.cursors ORDER BY app"
# request_status is read once for each gap, and otherwise through its index on the state; the log isn't read.
_CANDIDATES = """
WITH chosen AS (
    SELECT r.send_request_id, r.first_event_at, 'unfinished' AS why, NULL::timestamptz AS noticed_at
    FROM public.request_status AS r
    WHERE r.app = %(app)s AND r.state = 'in_progress' AND r.last_event_at < %(idle_since)s
      AND (%(since)s::timestamptz IS NULL OR r.first_event_at >= %(since)s)
    UNION ALL
    SELECT r.send_request_id, r.first_event_at, 'gap', g.noticed_at
    FROM unnest(%(lowers)s::timestamptz[], %(uppers)s::timestamptz[], %(upper_ids)s::text[],
                %(noticed)s::timestamptz[]) AS g (lower, upper, upper_id, noticed_at)
    JOIN public.request_status AS r ON r.app = %(app)s
     AND (r.first_event_at <= g.upper OR r.send_request_id COLLATE "C" <= g.upper_id)
     AND (r.state = 'in_progress' OR r.pending_consent > 0 OR r.last_event_at >= g.lower)),
requests AS (
    SELECT send_request_id, first_event_at, min(why) AS why, bool_or(why = 'unfinished') AS is_unfinished,
           max(noticed_at) AS noticed_at
    FROM chosen GROUP BY send_request_id, first_event_at)
SELECT q.send_request_id, q.why, count(*) OVER () AS candidates
FROM requests AS q CROSS JOIN LATERAL (
    SELECT max(a.asked_at) AS asked_at, max(a.asked_at) FILTER (WHERE a.verdict = 'equal') AS equal_at
    FROM projections.reconciliations AS a WHERE a.app = %(app)s AND a.send_request_id = q.send_request_id) AS last
WHERE q.is_unfinished OR last.equal_at IS NULL OR last.equal_at < q.noticed_at
ORDER BY last.asked_at NULLS FIRST, q.first_event_at, q.send_request_id LIMIT %(limit)s
"""
_EVENTS_BEHIND = "SELECT events_behind FROM public.read_model_freshness WHERE read_model = 'request_status'"

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, tzinfo=UTC)


class AppGaps(NamedTuple):
    """An app with a cursor: the contract of its stream (None if not known yet), and its recorded gaps."""

    contract: Contract | None
    gaps: list[dict[str, Any]]


class AskedRequest(NamedTuple):
    """A request to ask about, and why: ``gap`` or ``unfinished``."""

    send_request_id: str
    why: str


@dataclass(frozen=True, slots=True)
class CandidateChoice:
    """Which requests are chosen.

    Attributes:
        idle_since: unfinished requests without an event since then.
        limit: how many of each app, at the most; those that were asked about least recently come first.
        since: only requests that began, and gaps that were noticed, since then; None for all.

    """

    idle_since: datetime
    limit: int
    since: datetime | None = None


async def read_known_apps(conn: AsyncConnection[Any]) -> dict[str, AppGaps]:
    """Return the apps that have a cursor."""
    rows = await fetch_all(conn, _CURSORS)
    return {app: AppGaps(Contract(contract) if contract else None, list(gaps)) for app, contract, gaps in rows}


async def find_candidates(
    conn: AsyncConnection[Any], app: str, gaps: Sequence[dict[str, Any]], choice: CandidateChoice
) -> tuple[list[AskedRequest], int]:
    """Return the requests of an app to ask about, and how many more there are beyond the limit."""
    ranges = [_range(gap) for gap in gaps]
    ranges = [each for each in ranges if choice.since is None or each.noticed_at >= choice.since]
    values = {
        "app": app,
        "idle_since": choice.idle_since,
        "since": choice.since,
        "limit": choice.limit,
        "lowers": [each.lower for each in ranges],
        "uppers": [each.upper for each in ranges],
        "upper_ids": [each.upper_id for each in ranges],
        "noticed": [each.noticed_at for each in ranges],
    }
    rows = await fetch_all(conn, _CANDIDATES, values)
    requests = [AskedRequest(request, why) for request, why, _ in rows]
    return requests, (rows[0][2] if rows else 0) - len(requests)


async def count_events_behind(conn: AsyncConnection[Any]) -> int:
    """Return how many events request_status has not folded yet; what they say isn't in the comparison."""
    return int(await fetch_value(conn, _EVENTS_BEHIND) or 0)


class _Range(NamedTuple):
    """The times between which a gap has lost events, its upper event_id, and when it was noticed."""

    lower: datetime
    upper: datetime
    upper_id: str
    noticed_at: datetime


def _range(gap: dict[str, Any]) -> _Range:
    lower, upper = gap.get("lower"), str(gap["upper"])
    noticed = gap.get("noticed_at")
    return _Range(
        (ulid.time_of(lower) or _END) if lower else _BEGINNING,
        ulid.time_of(upper) or _END,
        upper,
        datetime.fromisoformat(noticed) if noticed else _BEGINNING,
    )
