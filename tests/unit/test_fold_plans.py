"""Which parts of a plan count as reading a whole table; the plans are written out, as Postgres chooses among many."""

from __future__ import annotations

from typing import Any

import pytest

from projections.checking.fold_plans import ANY, ONE, WholeScan, _whole_scans
from projections.read_models.request_status import RequestStatus

EVENTS = {"Schema": "eventstore", "Relation Name": "events", "Alias": "e"}
RECIPIENTS = {"Schema": "public", "Relation Name": "request_recipients", "Alias": "r"}
POSITIONS = {"Node Type": "Bitmap Index Scan", "Index Cond": '((e."position" > $1) AND (e."position" <= $2))'}
WHOLE_INDEX = {"Node Type": "Bitmap Index Scan", "Index Name": "events_consent_history_idx"}
OF_APP = {"Node Type": "Index Scan", **RECIPIENTS, "Index Cond": "(r.app = e.app)"}


def heap(*parts: dict[str, Any], **more: str) -> dict[str, Any]:
    return {"Node Type": "Bitmap Heap Scan", **EVENTS, **more, "Plans": [{"Node Type": "BitmapAnd", "Plans": [*parts]}]}


def test_the_window_may_be_read_in_any_way() -> None:
    plans = {
        ONE: heap(POSITIONS, WHOLE_INDEX),
        ANY: heap(WHOLE_INDEX, Filter='((e."position" > $1) AND (e."position" <= $2))'),
    }
    assert list(_whole_scans(plans, RequestStatus())) == []


@pytest.mark.parametrize("node", [heap(WHOLE_INDEX), {"Node Type": "Seq Scan", **EVENTS, "Filter": "(e.app = 'a')"}])
def test_events_of_all_positions_are_no_window(node: dict[str, Any]) -> None:
    (found,) = _whole_scans({ANY: {"Node Type": "ModifyTable", "Plans": [node]}}, RequestStatus())
    assert found == WholeScan("eventstore.events", False, (ANY,), node.get("Filter"))


def test_all_rows_of_an_app_are_too_many_unless_an_index_has_more_of_what_is_looked_for() -> None:
    """A plan for few rows may leave out what the index has."""
    by_error = {"Node Type": "Nested Loop", "Join Filter": "(r.error_code = e.error_code)", "Plans": [OF_APP]}
    by_request = {
        "Node Type": "Nested Loop",
        "Join Filter": "(r.send_request_id = e.send_request_id)",
        "Plans": [OF_APP],
    }
    (found,) = _whole_scans({ONE: by_error, ANY: by_request}, RequestStatus())
    assert found == WholeScan("public.request_recipients", True, (ONE,), None)
