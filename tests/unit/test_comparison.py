"""The verdict on a request: equal, behind or differs, by its state, its recipients, or its counts."""

from __future__ import annotations

import pytest

from eventstore.contracts.status_answer import UpstreamRequest, read_status_answer
from projections.reconciling.comparison import OurRequest, RecipientDifference, ReconcileVerdict, compare_request
from tests import wire

TOKEN, OTHER_TOKEN = "erased:01KE0000000000000000000000", "erased:01KE0000000000000000000001"
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


@pytest.mark.parametrize(
    ("upstream", "statuses", "verdict", "differing"),
    [
        ({"a": "delivered", "b": "failed"}, {TOKEN: "delivered", "b": "failed"}, EQUAL, ()),
        ({"a": "failed", "b": "delivered"}, {TOKEN: "delivered", OTHER_TOKEN: "failed"}, EQUAL, ()),
        ({"a": "pending", "b": "delivered"}, {TOKEN: "delivered"}, EQUAL, ()),
        ({"a": "failed"}, {TOKEN: "pending_consent"}, BEHIND, ((TOKEN, "failed", "pending_consent"),)),
        ({"a": "failed", "b": "failed"}, {TOKEN: "failed"}, BEHIND, ((None, "failed", None),)),
        ({}, {TOKEN: "failed", "b": "failed"}, EQUAL, ()),
        ({"b": "failed"}, {TOKEN: "failed", "b": "failed"}, DIFFERS, ((TOKEN, None, "failed"),)),
    ],
)
def test_erased_recipients_are_paired_with_those_that_have_no_row_and_no_number_is_kept(
    upstream: dict[str, str],
    statuses: dict[str, str],
    verdict: ReconcileVerdict,
    differing: tuple[tuple[str | None, str | None, str | None], ...],
) -> None:
    here = OurRequest("in_progress", len(statuses), 0, 0, 0, statuses)
    counts = UpstreamRequest("processing", len(upstream), 0, 0, 0, upstream)
    found = compare_request(counts, here)
    assert (found.verdict, found.recipients) == (verdict, differing)


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
