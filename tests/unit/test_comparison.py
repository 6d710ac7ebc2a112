"""The verdict on a request: equal, behind or differs, by its state, its recipients, or its counts."""

from __future__ import annotations

import pytest

from eventstore.contracts.status_answer import UpstreamRequest, read_status_answer
from projections.reconciling.comparison import OurRequest, RecipientDifference, ReconcileVerdict, compare_request
from tests import wire

EQUAL, BEHIND, DIFFERS = ReconcileVerdict.EQUAL, ReconcileVerdict.BEHIND, ReconcileVerdict.DIFFERS


def theirs(state: str = "processing", **recipients: str) -> UpstreamRequest:
    return UpstreamRequest(state, len(recipients), 0, 0, 0, recipients)


def ours(state: str = "in_progress", **statuses: str) -> OurRequest:
    return OurRequest(state, len(statuses), 0, 0, 0, statuses)


@pytest.mark.parametrize(
    ("upstream", "here", "verdict"),
    [
        (theirs(a="delivered"), ours(a="delivered"), EQUAL),
        (theirs("queued", a="pending"), ours(), EQUAL),
        (theirs("unknown", a="failed"), ours(a="failed"), EQUAL),
        (theirs("completed", a="delivered"), ours(a="delivered"), BEHIND),
        (theirs("failed"), ours(), BEHIND),
        (theirs(a="delivered"), ours(), BEHIND),
        (theirs(a="pending_consent"), ours(), BEHIND),
        (theirs(a="failed"), ours(a="pending_consent"), BEHIND),
        (theirs(a="failed"), ours(a="delivered"), DIFFERS),
        (theirs(a="pending"), ours(a="delivered"), DIFFERS),
        (theirs(a="unknown"), ours(), DIFFERS),
        (theirs(a="delivered"), ours(a="delivered", b="failed"), DIFFERS),
        (theirs("processing"), ours("completed"), DIFFERS),
        (theirs("failed"), ours("completed"), DIFFERS),
        (theirs("completed", a="delivered"), ours(a="failed"), DIFFERS),  # a contradiction is worse than being behind
        (UpstreamRequest("processing", 9, 5, 1, 0), OurRequest("in_progress", 6, 5, 1, 0), EQUAL),
        (UpstreamRequest("processing", 9, 6, 1, 0), OurRequest("in_progress", 7, 5, 1, 1), BEHIND),
        (UpstreamRequest("processing", 9, 4, 1, 0), OurRequest("in_progress", 6, 5, 1, 0), DIFFERS),
    ],
)
def test_verdicts(upstream: UpstreamRequest, here: OurRequest, verdict: ReconcileVerdict) -> None:
    assert compare_request(upstream, here).verdict is verdict


def test_recipients_that_differ_are_named() -> None:
    found = compare_request(theirs(a="delivered", b="failed"), ours(b="failed", c="delivered"))
    assert found.recipients == (
        RecipientDifference("a", "delivered", None),
        RecipientDifference("c", None, "delivered"),
    )


def test_an_answer_is_read_tolerantly() -> None:
    recipients = (
        wire.recipient("12300000001", status=2),
        wire.recipient(b"\xff", status=9, created_at="a time as text"),
        wire.recipient("", status=4),
    )
    answer = wire.bytes_field(1, wire.summary(2**40, 1, status=3)) + b"".join(
        wire.bytes_field(2, each) for each in recipients
    )
    found = read_status_answer(answer)
    assert found == UpstreamRequest("completed", 2**40, 1, 0, 0, {"12300000001": "delivered", "\ufffd": "unknown"})
    assert read_status_answer(b"\xff") is None
    assert read_status_answer(b"") is None
