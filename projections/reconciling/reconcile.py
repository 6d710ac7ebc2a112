"""Asks each app's upstream about its candidates, one after another, and saves what was found out.

Invariants. No event is invented and no read model is changed: the answers are compared and written down. Each row is
saved as soon as it is known, so a run that is killed leaves what it has found. An app whose upstream refuses, or does
not answer again and again, is asked no further in this run; its other candidates are saved as not asked.

Our side is read before the upstream is asked, and once more if something differs: events that arrived meanwhile must
not look like a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from eventstore.errors import (
    CredentialsError,
    CredentialsRefused,
    NoSuchService,
    TokenRefused,
    UpstreamError,
    UpstreamRefused,
    describe,
)
from eventstore.ingest.status_client import StatusClient
from eventstore.ingest.upstream import Upstream
from eventstore.waits import Waits
from projections.reconciling.candidates import (
    AppGaps,
    AskedRequest,
    CandidateChoice,
    count_events_behind,
    find_candidates,
    read_known_apps,
)
from projections.reconciling.comparison import Comparison, ReconcileVerdict, compare_request, read_our_request
from projections.reconciling.reconciliation_rows import (
    ReconciledRequest,
    ReconcileRun,
    delete_old_runs,
    save_row,
    start_run,
)

UNANSWERED = 3
"""After so many requests in a row without an answer, an app's upstream is asked no further."""
_INVALID = "INVALID_ARGUMENT"


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What a run found.

    Attributes:
        run: its number and its start.
        requests: one for each request.
        left_out: how many candidates of each app were left out because of the limit; only apps with some.
        events_behind: how many events request_status had not folded when the run started.

    """

    run: ReconcileRun
    requests: list[ReconciledRequest] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    events_behind: int = 0


class ReconcileReports(NamedTuple):
    """What is called while a run works.

    Attributes:
        progress: with the number of requests done and of all, for one app.
        wait: before a long wait, with the app, why, and the seconds.

    """

    progress: Callable[[int, int], None]
    wait: Callable[[str, str, float], None]


async def reconcile_apps(
    conn: AsyncConnection[Any],
    upstreams: Mapping[str, Upstream | str],
    choice: CandidateChoice,
    waits: Waits,
    *,
    rate: float,
    reports: ReconcileReports,
) -> Reconciliation:
    """Ask about the candidates of apps, and save the answers.

    Args:
        conn: an autocommit connection.
        upstreams: whom to ask about each app, or why nobody can be asked.
        choice: which requests.
        waits: the deadline of a call and the back-off.
        rate: calls per second to one upstream, at the most.
        reports: what is called meanwhile.

    Raises:
        psycopg.Error: the database failed, or the connection; the rows saved before stay.

    """
    found = Reconciliation(await start_run(conn), events_behind=await count_events_behind(conn))
    known = await read_known_apps(conn)
    for app, upstream in upstreams.items():
        one = known.get(app, AppGaps(None, []))
        candidates, left_out = await find_candidates(conn, app, one.gaps, choice)
        if left_out:
            found.left_out[app] = left_out
        if not candidates:
            continue
        if isinstance(upstream, str):
            for request in candidates:
                await _save(conn, found, _not_asked(app, request, upstream))
            continue

        def report_wait(why: str, seconds: float, app: str = app) -> None:
            reports.wait(app, why, seconds)

        async with StatusClient(upstream, one.contract, waits, rate=rate, on_wait=report_wait) as client:
            await _ask_all(conn, found, app, candidates, client, reports.progress)
    await delete_old_runs(conn)
    return found


async def _ask_all(
    conn: AsyncConnection[Any],
    found: Reconciliation,
    app: str,
    candidates: list[AskedRequest],
    client: StatusClient,
    progress: Callable[[int, int], None],
) -> None:
    refusal: str | None = None
    unanswered = 0
    for number, request in enumerate(candidates, start=1):
        if refusal is not None:
            await _save(conn, found, _not_asked(app, request, refusal))
            continue
        try:
            row = await _ask(conn, app, request, client)
            unanswered = 0
        except (UpstreamError, CredentialsError) as error:
            sentence = describe(error)
            row = _not_asked(app, request, sentence)
            unanswered = 0 if _concerns_one_request(error) else unanswered + 1
            if _is_final(error) or unanswered == UNANSWERED:
                refusal = f"asked no further after: {sentence}"
        await _save(conn, found, row)
        progress(number, len(candidates))


async def _ask(conn: AsyncConnection[Any], app: str, request: AskedRequest, client: StatusClient) -> ReconciledRequest:
    before = await read_our_request(conn, app, request.send_request_id)
    upstream = await client.ask(request.send_request_id)
    asked_at = datetime.now(UTC)
    if upstream is None:
        return ReconciledRequest(app, request, asked_at, Comparison(ReconcileVerdict.UNKNOWN_UPSTREAM), ours=before)
    comparison = compare_request(upstream, before) if before is not None else None
    ours = before
    if comparison is None or comparison.verdict is not ReconcileVerdict.EQUAL:
        ours = await read_our_request(conn, app, request.send_request_id)
        comparison = compare_request(upstream, ours) if ours is not None else Comparison(ReconcileVerdict.BEHIND)
    return ReconciledRequest(app, request, asked_at, comparison, upstream=upstream, ours=ours)


async def _save(conn: AsyncConnection[Any], found: Reconciliation, row: ReconciledRequest) -> None:
    await save_row(conn, found.run, row)
    found.requests.append(row)


def _not_asked(app: str, request: AskedRequest, reason: str) -> ReconciledRequest:
    return ReconciledRequest(app, request, datetime.now(UTC), Comparison(ReconcileVerdict.NOT_ASKED), reason=reason)


def _concerns_one_request(error: Exception) -> bool:
    return isinstance(error, UpstreamRefused) and error.status == _INVALID


def _is_final(error: Exception) -> bool:
    """Return whether the upstream would answer the next request in the same way."""
    if isinstance(error, UpstreamRefused):
        return not _concerns_one_request(error)
    return isinstance(error, TokenRefused | NoSuchService | CredentialsRefused)
