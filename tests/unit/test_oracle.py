"""The oracle is right: each rule is shown by a case computed by hand."""

from __future__ import annotations

import ast
import random
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.oracle import Record, Row, Summary, read_models

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ANN, BOB, CY = "12300000001", "12300000002", "12300000003"
UNKNOWN_TYPES = [0, 9, -1, 2**31 - 1]


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


def record(number: int, event_type: int, **more: Any) -> Record:  # noqa: ANN401 - a Record's fields
    """Return event ``number``: by default of app ``a`` and request ``r``, ``number`` minutes after noon."""
    defaults: dict[str, Any] = {"app": "a", "contract": "chat.external", "send_request_id": "r"}
    defaults["occurred_at"] = at(number)
    return Record(event_id=f"E{number}", event_type=event_type, **(defaults | more))


def vote(number: int, ppnum: str | None, *options: str, poll_id: str | None = "p", **more: Any) -> Record:  # noqa: ANN401
    return record(number, 7, ppnum=ppnum, poll_id=poll_id, poll_options=options, **more)


def rows(table: str, *events: Record) -> list[Row]:
    return read_models(events)[table]


def only_row(table: str, *events: Record) -> dict[str, object]:
    """Return the only row of a table, by column."""
    (row,) = rows(table, *events)
    return dict(zip(oracle.COLUMNS[table], row, strict=True))


def decision(*events: Record) -> tuple[object, ...]:
    """Return status, basis and event_id of the only person in consent_registry."""
    row = only_row("consent_registry", *events)
    return row["status"], row["basis"], row["event_id"]


# All tables


def test_without_events_there_is_no_row() -> None:
    assert read_models([]) == {table: [] for table in oracle.COLUMNS}


def test_the_oracle_imports_only_the_standard_library() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_every_key_is_among_the_columns_and_identifies_one_row() -> None:
    assert oracle.KEYS.keys() == oracle.COLUMNS.keys()
    for table, key in oracle.KEYS.items():
        assert set(key) <= set(oracle.COLUMNS[table])


def test_order_and_repetition_change_nothing() -> None:
    events = [
        record(1, 3, ppnum=ANN),
        record(2, 1, ppnum=ANN),
        vote(3, ANN, "x"),
        vote(4, ANN, "y"),
        record(5, 6, summary=Summary(3, 1, 1, 0, 0)),
        record(6, 8),
    ]
    expected = read_models(events)
    for seed in range(20):
        mixed = [*events, *events]
        random.Random(seed).shuffle(mixed)  # noqa: S311 - not for secrets
        assert read_models(mixed) == expected


def test_the_contract_changes_nothing() -> None:
    def under(contract: str) -> list[Record]:
        return [
            record(number, number, ppnum=ANN, contract=contract, poll_id="p", poll_options=("x",))
            for number in range(1, 9)
        ]

    assert read_models(under("pcs.external.v1")) == read_models(under("chat.external"))


def test_apps_are_separate() -> None:
    for table, found in read_models([record(1, 1, ppnum=ANN), record(2, 1, ppnum=ANN, app="b")]).items():
        expected = [] if table.startswith("poll") else ["a", "b"]
        assert [row[0] for row in found] == expected


@pytest.mark.parametrize("number", UNKNOWN_TYPES)
def test_unknown_types_fold_nowhere(number: int) -> None:
    event = record(1, number, ppnum=ANN, poll_id="p", poll_options=("x",), summary=Summary(3, 1, 1, 0, 0))
    assert read_models([event]) == read_models([])


def test_sorted_rows_have_the_oracles_form_and_keep_duplicates() -> None:
    events = [vote(1, BOB, "x", "y"), vote(2, ANN)]
    first: list[object] = ["a", "r", "p", BOB, ["x", "y"], "E1", at(1)]
    second: Row = ("a", "r", "p", ANN, [], "E2", at(2))
    assert oracle.sorted_rows("poll_responses", [first, second]) == rows("poll_responses", *events)
    assert len(oracle.sorted_rows("poll_responses", [first, first])) == 2


# request_recipients


@pytest.mark.parametrize(
    ("event_type", "status"), [(1, "delivered"), (2, "failed"), (3, "pending_consent")], ids=["1", "2", "3"]
)
def test_the_type_decides_the_status_of_a_recipient(event_type: int, status: str) -> None:
    event = record(1, event_type, ppnum=ANN, error_code="why", message_id="m")
    delivered_at = at(1) if event_type == 1 else None
    assert rows("request_recipients", event) == [
        ("a", "r", ANN, status, "why", "m", "E1", at(1), None, at(1), delivered_at)
    ]


def test_the_greatest_event_id_decides_a_recipient_with_all_its_columns() -> None:
    events = [
        record(1, 3, ppnum=ANN, occurred_at=at(9)),
        record(2, 2, ppnum=ANN, occurred_at=at(8), error_code="why", message_id="m"),
        record(3, 1, ppnum=ANN, occurred_at=at(7)),
    ]
    assert rows("request_recipients", *events) == [
        ("a", "r", ANN, "delivered", None, None, "E3", at(7), None, at(7), at(7))
    ]
    assert rows("request_recipients", *events[:2]) == [
        ("a", "r", ANN, "failed", "why", "m", "E2", at(8), None, at(8), None)
    ]


def test_a_recipients_earliest_times_count_whichever_event_decides() -> None:
    events = [
        record(1, 1, ppnum=ANN, occurred_at=at(7), recipient_created_at=at(3)),
        record(2, 1, ppnum=ANN, occurred_at=at(6)),
        record(3, 2, ppnum=ANN, occurred_at=at(8), recipient_created_at=at(2)),
        record(4, 3, ppnum=ANN, occurred_at=at(5), recipient_created_at=at(4)),
        record(5, 4, ppnum=ANN, occurred_at=at(1), recipient_created_at=at(1)),  # no status of the recipient
    ]
    row = only_row("request_recipients", *events)
    assert (row["created_at"], row["first_event_at"], row["delivered_at"]) == (at(2), at(5), at(6))
    assert (row["status"], row["last_event_at"]) == ("pending_consent", at(5))


def test_a_request_was_created_at_the_earliest_time_that_a_summary_or_recipient_states() -> None:
    def created_at(*events: Record) -> object:
        return only_row("request_status", *events)["created_at"]

    ended = record(1, 6, summary=Summary(3, 1, 1, 0, 0, created_at=at(5)))
    failed = record(2, 8, summary=Summary(3, 1, 1, 0, 0, created_at=at(4), completed_at=at(1)))
    told = record(3, 2, ppnum=ANN, recipient_created_at=at(3))
    assert created_at(record(9, 6), record(8, 1, ppnum=ANN)) is None
    assert created_at(ended) == at(5)
    assert created_at(ended, failed) == at(4)
    assert created_at(ended, failed, told) == at(3)
    no_recipient = record(4, 1, ppnum="", recipient_created_at=at(2))
    other_type = record(5, 5, ppnum=ANN, recipient_created_at=at(2), summary=Summary(3, 1, 1, 0, 0, created_at=at(1)))
    assert created_at(told, no_recipient, other_type) == at(3)


@pytest.mark.parametrize("event_type", [4, 5, 6, 7, 8])
def test_other_types_create_and_count_no_recipient(event_type: int) -> None:
    assert rows("request_recipients", record(1, event_type, ppnum=ANN)) == []
    assert only_row("request_status", record(1, event_type, ppnum=ANN))["recipients"] == 0
    counted = only_row("request_status", record(1, 1, ppnum=ANN), record(2, event_type, ppnum=ANN))
    assert (counted["recipients"], counted["delivered"]) == (1, 1)


@pytest.mark.parametrize("event_type", [4, 5, 6, 7, 8])
def test_other_types_do_not_change_a_recipient(event_type: int) -> None:
    before = rows("request_recipients", record(1, 1, ppnum=ANN))
    assert rows("request_recipients", record(1, 1, ppnum=ANN), record(2, event_type, ppnum=ANN)) == before


def test_recipients_are_identified_by_request_and_number() -> None:
    events = [record(1, 1, ppnum=ANN), record(2, 2, ppnum=BOB), record(3, 3, ppnum=ANN, send_request_id="s")]
    assert [row[:4] for row in rows("request_recipients", *events)] == [
        ("a", "r", ANN, "delivered"),
        ("a", "r", BOB, "failed"),
        ("a", "s", ANN, "pending_consent"),
    ]


@pytest.mark.parametrize("ppnum", [None, ""])
@pytest.mark.parametrize("event_type", range(1, 9))
def test_an_event_without_a_recipient_counts_only_for_its_request(event_type: int, ppnum: str | None) -> None:
    found = read_models(
        [record(1, event_type, ppnum=ppnum, error_code="consent_denied", poll_id="p", poll_options=("x",))]
    )
    row = found.pop("request_status")
    assert len(row) == 1
    assert not any(found.values())
    assert row[0][3:7] == (0, 0, 0, 0)
    assert row[0][11:13] == (at(1), at(1))
    assert row[0][14] == "E1"


@pytest.mark.parametrize("request_id", [None, ""])
def test_an_event_without_a_request_is_folded_only_for_the_person(request_id: str | None) -> None:
    events = [
        record(number, number, ppnum=ANN, send_request_id=request_id, poll_id="p", poll_options=("x",))
        for number in range(1, 9)
    ]
    found = read_models(events)
    assert found.pop("consent_registry") == [("a", ANN, "denied", "consent", at(5), "E5", "", at(3))]
    assert found.pop("consent_history") == [
        ("a", ANN, "granted", "delivery", at(1), "E1", ""),
        ("a", ANN, "pending", "consent", at(3), "E3", ""),
        ("a", ANN, "granted", "consent", at(4), "E4", ""),
        ("a", ANN, "denied", "consent", at(5), "E5", ""),
    ]
    consent: Row = ("denied", "E5")
    assert found.pop("people") == [("a", ANN, 0, 0, 0, 0, None, None, None, None, *consent)]
    assert not any(found.values())


# request_status


def test_a_request_in_progress_has_no_end_and_nothing_reported() -> None:
    events = [record(1, 3, ppnum=ANN), record(2, 1, ppnum=BOB), record(3, 2, ppnum=CY), record(4, 1, ppnum=ANN)]
    assert rows("request_status", *events) == [
        ("a", "r", "in_progress", 3, 2, 1, 0, None, None, None, None, at(1), at(4), None, "E4", None, None)
    ]


def test_a_completed_request_reports_what_its_summary_says() -> None:
    events = [
        record(1, 3, ppnum=ANN, occurred_at=at(30)),
        record(2, 6, summary=Summary(3, 10, 7, 2, 1), occurred_at=at(20)),
        record(3, 1, ppnum=BOB, occurred_at=at(10)),
    ]
    assert rows("request_status", *events) == [
        ("a", "r", "completed", 2, 1, 0, 1, 10, 7, 2, 1, at(10), at(30), at(20), "E3", "E2", None)
    ]


@pytest.mark.parametrize(
    ("event_type", "summary_status", "state"),
    [
        (6, None, "completed"),
        (6, 0, "completed"),
        (6, 3, "completed"),
        (6, 4, "failed"),
        (6, 5, "completed"),
        (8, None, "failed"),
        (8, 3, "failed"),
        (8, 4, "failed"),
    ],
)
def test_type_and_summary_decide_how_a_request_ended(event_type: int, summary_status: int | None, state: str) -> None:
    summary = None if summary_status is None else Summary(summary_status, 1, 1, 0, 0)
    assert only_row("request_status", record(1, event_type, summary=summary))["state"] == state


def test_the_greater_event_id_of_types_6_and_8_decides_with_all_its_counts() -> None:
    six, eight = Summary(3, 4, 3, 2, 1), Summary(4, 8, 7, 6, 5)
    assert rows("request_status", record(1, 6, summary=six), record(2, 8, summary=eight)) == [
        ("a", "r", "failed", 0, 0, 0, 0, 8, 7, 6, 5, at(1), at(2), at(2), "E2", "E2", None)
    ]
    assert rows("request_status", record(1, 8, summary=eight), record(2, 6, summary=six)) == [
        ("a", "r", "completed", 0, 0, 0, 0, 4, 3, 2, 1, at(1), at(2), at(2), "E2", "E2", None)
    ]


def test_a_deciding_event_without_a_summary_clears_the_earlier_summary() -> None:
    assert rows("request_status", record(1, 6, summary=Summary(4, 4, 3, 2, 1)), record(2, 6)) == [
        ("a", "r", "completed", 0, 0, 0, 0, None, None, None, None, at(1), at(2), at(2), "E2", "E2", None)
    ]


def test_the_event_id_decides_and_not_the_time() -> None:
    row = only_row("request_status", record(1, 8, occurred_at=at(50)), record(2, 6, occurred_at=at(40)))
    assert (row["state"], row["completed_at"], row["decided_event_id"]) == ("completed", at(40), "E2")
    assert (row["first_event_at"], row["last_event_at"]) == (at(40), at(50))


@pytest.mark.parametrize("event_type", [1, 2, 3, 4, 5, 7])
def test_a_summary_on_another_type_reports_nothing(event_type: int) -> None:
    row = only_row("request_status", record(1, event_type, summary=Summary(4, 1, 1, 1, 1)))
    assert row["state"] == "in_progress"
    assert [row[name] for name in row if name.startswith("reported_")] == [None] * 4


def test_unknown_types_change_no_times_of_a_request() -> None:
    before = rows("request_status", record(3, 1, ppnum=ANN))
    assert rows("request_status", record(1, 0), record(3, 1, ppnum=ANN), record(9, 9)) == before


# consent_registry


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (record(1, 3, ppnum=ANN), "pending"),
        (record(1, 4, ppnum=ANN), "granted"),
        (record(1, 5, ppnum=ANN), "denied"),
        (record(1, 2, ppnum=ANN, error_code="consent_denied"), "denied"),
        (record(1, 2, ppnum=ANN, error_code="consent_expired"), "expired"),
    ],
)
def test_a_consent_fact_alone_decides(event: Record, status: str) -> None:
    first_asked_at = at(1) if event.event_type == 3 else None
    expected = ("a", ANN, status, "consent", at(1), "E1", "r", first_asked_at)
    assert rows("consent_registry", event) == [expected]
    assert rows("consent_history", event) == [("a", ANN, status, "consent", at(1), "E1", "r")]


@pytest.mark.parametrize("event_type", [2, 6, 7, 8])
@pytest.mark.parametrize("error_code", [None, "", "unreachable", "CONSENT_DENIED"])
def test_other_events_state_no_consent(event_type: int, error_code: str | None) -> None:
    event = record(1, event_type, ppnum=ANN, error_code=error_code)
    assert rows("consent_registry", event) == rows("consent_history", event) == []


@pytest.mark.parametrize("event_type", [6, 7, 8])
def test_the_error_code_counts_only_on_failed_recipients(event_type: int) -> None:
    assert rows("consent_registry", record(1, event_type, ppnum=ANN, error_code="consent_denied")) == []
    assert decision(record(1, 1, ppnum=ANN, error_code="consent_denied")) == ("granted", "delivery", "E1")
    assert decision(record(1, 4, ppnum=ANN, error_code="consent_denied")) == ("granted", "consent", "E1")


def test_a_delivery_alone_means_consent() -> None:
    event = record(1, 1, ppnum=ANN)
    assert rows("consent_registry", event) == [("a", ANN, "granted", "delivery", at(1), "E1", "r", None)]
    assert rows("consent_history", event) == [("a", ANN, "granted", "delivery", at(1), "E1", "r")]


@pytest.mark.parametrize(
    ("event_type", "error_code", "status"),
    [(3, None, "pending"), (5, None, "denied"), (2, "consent_denied", "denied"), (2, "consent_expired", "expired")],
)
def test_the_newer_of_a_delivery_and_a_fact_other_than_a_grant_decides(
    event_type: int, error_code: str | None, status: str
) -> None:
    def fact(number: int) -> Record:
        return record(number, event_type, ppnum=ANN, error_code=error_code)

    assert decision(fact(1), record(2, 1, ppnum=ANN)) == ("granted", "delivery", "E2")
    assert decision(record(1, 1, ppnum=ANN), fact(2)) == (status, "consent", "E2")
    assert decision(record(1, 1, ppnum=ANN), fact(2), record(3, 1, ppnum=ANN)) == ("granted", "delivery", "E3")


def test_a_grant_decides_even_when_a_delivery_is_newer() -> None:
    assert decision(record(1, 4, ppnum=ANN), record(2, 1, ppnum=ANN)) == ("granted", "consent", "E1")
    assert decision(record(1, 1, ppnum=ANN), record(2, 4, ppnum=ANN)) == ("granted", "consent", "E2")


def test_only_the_last_fact_and_the_last_delivery_count() -> None:
    assert decision(record(1, 4, ppnum=ANN), record(2, 5, ppnum=ANN)) == ("denied", "consent", "E2")
    assert decision(record(1, 5, ppnum=ANN), record(2, 1, ppnum=ANN), record(3, 4, ppnum=ANN)) == (
        "granted",
        "consent",
        "E3",
    )
    # A delivery that is older than the last fact doesn't decide, although it is newer than an earlier fact.
    assert decision(record(1, 3, ppnum=ANN), record(2, 1, ppnum=ANN), record(3, 5, ppnum=ANN)) == (
        "denied",
        "consent",
        "E3",
    )


def test_the_event_id_decides_on_consent_and_not_the_time() -> None:
    assert decision(record(1, 5, ppnum=ANN, occurred_at=at(9)), record(2, 1, ppnum=ANN, occurred_at=at(8))) == (
        "granted",
        "delivery",
        "E2",
    )


def test_first_asked_is_the_earliest_time_in_any_order_of_ids_and_survives_every_decision() -> None:
    events = [
        record(1, 3, ppnum=ANN, occurred_at=at(9)),
        record(2, 3, ppnum=ANN, occurred_at=at(5), send_request_id="s"),
        record(3, 4, ppnum=ANN, occurred_at=at(1)),
    ]
    assert rows("consent_registry", *events) == [("a", ANN, "granted", "consent", at(1), "E3", "r", at(5))]


def test_consent_belongs_to_the_person_and_not_to_the_request() -> None:
    events = [record(1, 3, ppnum=ANN), record(2, 5, ppnum=ANN, send_request_id="s"), record(3, 1, ppnum=BOB)]
    assert rows("consent_registry", *events) == [
        ("a", ANN, "denied", "consent", at(2), "E2", "s", at(1)),
        ("a", BOB, "granted", "delivery", at(3), "E3", "r", None),
    ]


def test_the_history_keeps_every_fact_and_delivery_in_order_of_the_ids() -> None:
    events = [
        record(4, 2, ppnum=ANN, error_code="consent_expired", send_request_id=None),
        record(3, 2, ppnum=ANN, error_code="unreachable"),
        record(2, 1, ppnum=ANN, occurred_at=at(90)),
        record(1, 3, ppnum=ANN, send_request_id=""),
        record(5, 6, ppnum=ANN),
    ]
    assert rows("consent_history", *events) == [
        ("a", ANN, "pending", "consent", at(1), "E1", ""),
        ("a", ANN, "granted", "delivery", at(90), "E2", "r"),
        ("a", ANN, "expired", "consent", at(4), "E4", ""),
    ]


# poll_responses, poll_tallies, poll_results


def test_an_answer_is_kept_unchanged_and_each_option_counts_once() -> None:
    events = [vote(1, ANN, "y", "x", "y")]
    assert rows("poll_responses", *events) == [("a", "r", "p", ANN, ("y", "x", "y"), "E1", at(1))]
    assert rows("poll_tallies", *events) == [("a", "r", "p", "x", 1, at(1)), ("a", "r", "p", "y", 1, at(1))]
    assert rows("poll_results", *events) == [("a", "r", "p", "x", 1, 1, 1.0), ("a", "r", "p", "y", 1, 1, 1.0)]


def test_a_changed_answer_moves_the_tally_and_leaves_no_empty_row() -> None:
    events = [vote(1, ANN, "x", "y"), vote(2, BOB, "y"), vote(3, ANN, "z")]
    assert rows("poll_responses", *events) == [
        ("a", "r", "p", ANN, ("z",), "E3", at(3)),
        ("a", "r", "p", BOB, ("y",), "E2", at(2)),
    ]
    assert rows("poll_tallies", *events) == [("a", "r", "p", "y", 1, at(2)), ("a", "r", "p", "z", 1, at(3))]
    assert rows("poll_results", *events) == [("a", "r", "p", "y", 1, 2, 0.5), ("a", "r", "p", "z", 1, 2, 0.5)]


def test_the_latest_answer_is_that_of_the_greatest_id_and_the_last_time_is_the_greatest() -> None:
    events = [
        vote(1, ANN, "x", occurred_at=at(90)),
        vote(2, ANN, "y", occurred_at=at(20)),
        vote(3, BOB, "y", occurred_at=at(10)),
    ]
    assert rows("poll_tallies", *events) == [("a", "r", "p", "y", 2, at(20))]


@pytest.mark.parametrize("options", [None, ()])
@pytest.mark.parametrize("poll_id", [None, ""])
def test_an_answer_without_options_counts_under_the_empty_option(
    poll_id: str | None, options: tuple[str, ...] | None
) -> None:
    event = record(1, 7, ppnum=ANN, poll_id=poll_id, poll_options=options)
    assert rows("poll_responses", event) == [("a", "r", "", ANN, (), "E1", at(1))]
    assert rows("poll_tallies", event) == [("a", "r", "", "", 1, at(1))]
    assert rows("poll_results", event) == [("a", "r", "", "", 1, 1, 1.0)]


def test_an_empty_option_and_no_option_are_one_tally() -> None:
    events = [vote(1, ANN, ""), vote(2, BOB), vote(3, CY, "", "x")]
    assert rows("poll_tallies", *events) == [("a", "r", "p", "", 3, at(3)), ("a", "r", "p", "x", 1, at(3))]


def test_answers_without_a_poll_id_replace_each_other_whether_it_is_missing_or_empty() -> None:
    events = [vote(1, ANN, "x", poll_id=None), vote(2, ANN, "y", poll_id="")]
    assert rows("poll_responses", *events) == [("a", "r", "", ANN, ("y",), "E2", at(2))]


def test_polls_are_identified_by_request_and_id() -> None:
    events = [vote(1, ANN, "x"), vote(2, ANN, "x", poll_id="q"), vote(3, ANN, "x", send_request_id="s")]
    assert [row[:5] for row in rows("poll_tallies", *events)] == [
        ("a", "r", "p", "x", 1),
        ("a", "r", "q", "x", 1),
        ("a", "s", "p", "x", 1),
    ]
    assert [row[5] for row in rows("poll_results", *events)] == [1, 1, 1]


def test_shares_are_of_respondents_and_may_sum_above_one() -> None:
    events = [vote(1, ANN, "x", "y"), vote(2, BOB, "x", "y"), vote(3, CY, "x")]
    assert rows("poll_results", *events) == [("a", "r", "p", "x", 3, 3, 1.0), ("a", "r", "p", "y", 2, 3, 2 / 3)]


@pytest.mark.parametrize("event_type", [1, 2, 3, 4, 5, 6, 8])
def test_an_answer_on_another_type_is_ignored(event_type: int) -> None:
    found = read_models([record(1, event_type, ppnum=ANN, poll_id="p", poll_options=("x",))])
    assert not any(found[table] for table in found if table.startswith("poll"))


# Keys of single events


def test_the_keys_identify_the_rows_of_an_event() -> None:
    asks: list[Callable[[Record], object]] = [oracle.recipient_key, oracle.decider_key, oracle.answer_key]
    named = {number: [ask(record(1, number, ppnum=ANN)) for ask in asks] for number in range(10)}
    recipient, decider, answer = ("a", "r", ANN), ("a", "r"), ("a", "r", "", ANN)
    assert [number for number, keys in named.items() if keys == [recipient, None, None]] == [1, 2, 3]
    assert [number for number, keys in named.items() if keys == [None, decider, None]] == [6, 8]
    assert [number for number, keys in named.items() if keys == [None, None, answer]] == [7]
    assert [number for number, keys in named.items() if keys == [None, None, None]] == [0, 4, 5, 9]
    for nothing in (None, ""):
        assert [ask(record(1, 1, ppnum=ANN, send_request_id=nothing)) for ask in asks] == [None, None, None]
        assert [ask(record(1, 6, ppnum=ANN, send_request_id=nothing)) for ask in asks] == [None, None, None]
        assert [ask(record(1, 7, ppnum=ANN, send_request_id=nothing)) for ask in asks] == [None, None, None]


# person_requests, people


def test_a_person_is_counted_by_the_last_outcome_of_each_request() -> None:
    events = [
        record(1, 3, ppnum=ANN),
        record(2, 1, ppnum=ANN),
        record(3, 2, ppnum=ANN, send_request_id="s", error_code="why", occurred_at=at(90)),
        record(4, 3, ppnum=ANN, send_request_id="t"),
        record(5, 1, ppnum=BOB),
    ]
    assert rows("person_requests", *events) == [
        ("a", ANN, "r", "delivered", None, "E2", at(2)),
        ("a", ANN, "s", "failed", "why", "E3", at(90)),
        ("a", ANN, "t", "pending_consent", None, "E4", at(4)),
        ("a", BOB, "r", "delivered", None, "E5", at(5)),
    ]
    assert rows("people", *events) == [
        ("a", ANN, 3, 1, 1, 1, "pending_consent", None, at(4), "E4", "pending", "E4"),
        ("a", BOB, 1, 1, 0, 0, "delivered", None, at(5), "E5", "granted", "E5"),
    ]
    assert only_row("people", *events[:3]) | {"last_error_code": "why", "last_outcome_at": at(90)} == only_row(
        "people", *events[:3]
    )


@pytest.mark.parametrize("tail", [(), (record(8, 2, ppnum=ANN),), (record(8, 5, ppnum=ANN, send_request_id=None),)])
def test_a_persons_consent_is_that_of_the_registry(tail: tuple[Record, ...]) -> None:
    facts = [
        record(1, 3, ppnum=ANN),
        record(2, 1, ppnum=ANN, send_request_id=None),
        record(3, 5, ppnum=ANN),
        record(4, 1, ppnum=ANN),
        record(5, 4, ppnum=ANN),
        record(6, 2, ppnum=ANN, error_code="consent_expired"),
        record(7, 1, ppnum=ANN),
    ]
    for length in range(1, len(facts) + 1):
        events = [*facts[:length], *tail]
        assert only_row("people", *events)["consent_status"] == only_row("consent_registry", *events)["status"]


def test_a_person_without_outcome_or_consent_has_no_row() -> None:
    assert rows("people", record(1, 7, ppnum=ANN), record(2, 2, ppnum=ANN, send_request_id=None)) == []
    row = only_row("people", record(1, 2, ppnum=ANN))
    assert (row["failed"], row["consent_status"], row["consent_event_id"]) == (1, None, None)
