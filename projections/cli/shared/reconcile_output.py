"""What ``projections reconcile`` prints; never a phone number: those are in the table only."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from eventstore.contracts.status_answer import UpstreamRequest
from projections.cli.shared.output import counted
from projections.reconciling.comparison import OurRequest, ReconcileVerdict
from projections.reconciling.reconcile import Reconciliation
from projections.terminal_text import visible

_ADVICE = {
    ReconcileVerdict.BEHIND: (
        "behind: the upstream knows more than the log. Events may still come: check that the app is followed"
        " (projections status) and run this again. Events that the upstream no longer replays can't be recovered from"
        " its stream: ask the platform for them; nothing is invented here."
    ),
    ReconcileVerdict.DIFFERS: (
        "differs: the log and the upstream contradict each other. projections verify says whether the read model"
        " matches the log; if it does, ask the platform which side is right."
    ),
    ReconcileVerdict.UNKNOWN_UPSTREAM: (
        "unknown_upstream: the upstream has no such request (any more): ask the platform how long it keeps requests,"
        " and check that the app's credentials belong to the app that sent them."
    ),
    ReconcileVerdict.NOT_ASKED: ("not_asked: the reasons are in the table; run this again when they are mended."),
}


def reconciliation_table(found: Reconciliation) -> Table:
    """Return one row for each request that isn't equal."""
    table = Table(title=f"run {found.run.number}: requests that are not equal", title_justify="left")
    for heading in ("app", "send_request_id"):
        table.add_column(heading, overflow="fold")
    for heading in ("why", "verdict"):
        table.add_column(heading, no_wrap=True)
    for heading in ("upstream", "here"):
        table.add_column(heading, overflow="fold")
    table.add_column("recipients that differ", justify="right")
    for each in found.requests:
        if each.comparison.verdict is ReconcileVerdict.EQUAL:
            continue
        table.add_row(
            visible(each.app),
            visible(each.request.send_request_id),
            each.request.why,
            each.comparison.verdict.value,
            visible(each.reason) if each.reason else _side(each.upstream),
            _side(each.ours),
            str(len(each.comparison.recipients)),
        )
    return table


def reconciliation_lines(found: Reconciliation) -> list[str]:
    """Return the summary, and what to do for each verdict that was found."""
    counts = Counter(each.comparison.verdict for each in found.requests)
    numbers = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in ReconcileVerdict if counts[verdict])
    lines = [f"{counted(len(found.requests), 'request')}: {numbers}"]
    lines += [advice for verdict, advice in _ADVICE.items() if counts[verdict]]
    return lines


def _side(side: UpstreamRequest | OurRequest | None) -> str:
    if side is None:
        return "nothing"
    total = side.total if isinstance(side, UpstreamRequest) else side.recipients
    return (
        f"{side.state}: {side.delivered:,} delivered, {side.failed:,} failed, {side.pending_consent:,} pending consent"
        f" of {total:,}"
    )
