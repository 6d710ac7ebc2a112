"""What ``projections reconcile`` writes as JSON; never a phone number: those are in the table only."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TypedDict

from eventstore.contracts.status_answer import UpstreamRequest
from projections.reconciling.comparison import OurRequest, ReconcileVerdict
from projections.reconciling.reconcile import Reconciliation
from projections.reconciling.reconciliation_rows import ReconciledRequest


class RequestSide(TypedDict):
    """A request as one side has it.

    Attributes:
        state: its state.
        recipients: how many recipients it has; of these:
        delivered: delivered.
        failed: failed.
        pending_consent: waiting for consent.

    """

    state: str
    recipients: int
    delivered: int
    failed: int
    pending_consent: int


class ComparedRequest(TypedDict):
    """A request that the upstream was asked about.

    Attributes:
        app: the app whose request it is.
        send_request_id: the request.
        why: ``gap`` (a recorded gap may hide events of it) or ``unfinished``.
        asked_at: when the upstream answered, or could not be asked.
        verdict: what the comparison found.
        reason: why it could not be asked; null otherwise.
        upstream: what the upstream answered; null without an answer.
        ours: what the read models have; null if they have nothing.
        recipients_that_differ: how many recipients have another status upstream.

    """

    app: str
    send_request_id: str
    why: str
    asked_at: datetime
    verdict: ReconcileVerdict
    reason: str | None
    upstream: RequestSide | None
    ours: RequestSide | None
    recipients_that_differ: int


class ReconcileDocument(TypedDict):
    """A run.

    Attributes:
        run: its number in ``projections.reconciliations``.
        started_at: when it started.
        events_behind: how many events request_status had not folded then.
        left_out: how many more requests of an app there are beyond ``--limit``, by app.
        counts: how many requests got each verdict.
        requests: the requests.

    """

    run: int
    started_at: datetime
    events_behind: int
    left_out: dict[str, int]
    counts: dict[str, int]
    requests: list[ComparedRequest]


def describe_reconciliation(found: Reconciliation) -> ReconcileDocument:
    """Return what is written about a run."""
    counts = Counter(each.comparison.verdict for each in found.requests)
    return {
        "run": found.run.number,
        "started_at": found.run.started_at,
        "events_behind": found.events_behind,
        "left_out": found.left_out,
        "counts": {verdict.value: counts[verdict] for verdict in ReconcileVerdict},
        "requests": [_describe(each) for each in found.requests],
    }


def _describe(each: ReconciledRequest) -> ComparedRequest:
    upstream, ours = each.upstream, each.ours
    return {
        "app": each.app,
        "send_request_id": each.request.send_request_id,
        "why": each.request.why,
        "asked_at": each.asked_at,
        "verdict": each.comparison.verdict,
        "reason": each.reason,
        "upstream": _side(upstream, upstream.total) if upstream is not None else None,
        "ours": _side(ours, ours.recipients) if ours is not None else None,
        "recipients_that_differ": len(each.comparison.recipients),
    }


def _side(side: UpstreamRequest | OurRequest, recipients: int) -> RequestSide:
    return {
        "state": side.state,
        "recipients": recipients,
        "delivered": side.delivered,
        "failed": side.failed,
        "pending_consent": side.pending_consent,
    }
