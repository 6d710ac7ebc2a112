"""The rows that the read models should have, computed from a list of events in the most obvious way.

It imports nothing of the project and uses no SQL. Events are sorted by event_id and processed one by one; rows are
plain tuples in the order of ``COLUMNS``. The order of the given events, and repetitions, change nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

DELIVERED, FAILED, PENDING_CONSENT, GRANTED, DENIED, COMPLETED, POLL_RESPONSE, REQUEST_FAILED = range(1, 9)
"""The numbers of the event types on the wire; any other number is an unknown type, which no read model folds."""

SUMMARY_FAILED = 4


@dataclass(frozen=True)
class Summary:
    """The summary of a request in an event; ``status`` is the number on the wire."""

    status: int
    total: int
    delivered: int
    failed: int
    pending: int
    created_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass(frozen=True)
class Record:
    """One event, with the fields that read models use.

    ``ppnum`` is None if there is no recipient and '' if the recipient has no number: neither counts as a recipient.
    ``poll_options`` is None if there is no readable answer.
    """

    event_id: str
    app: str
    contract: str
    event_type: int
    occurred_at: datetime
    send_request_id: str | None = None
    ppnum: str | None = None
    error_code: str | None = None
    message_id: str | None = None
    poll_id: str | None = None
    poll_options: tuple[str, ...] | None = None
    summary: Summary | None = None
    recipient_created_at: datetime | None = None


Row: TypeAlias = tuple[object, ...]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    name: tuple(columns.split())
    for name, columns in {
        "request_recipients": "app send_request_id ppnum status error_code message_id last_event_id last_event_at"
        " created_at first_event_at delivered_at",
        "request_status": "app send_request_id state recipients delivered failed pending_consent"
        " reported_total reported_delivered reported_failed reported_pending_consent"
        " first_event_at last_event_at completed_at last_event_id decided_event_id created_at",
        "consent_registry": "app ppnum status basis decided_at event_id send_request_id first_asked_at",
        "consent_history": "app ppnum status basis at event_id send_request_id",
        "poll_responses": "app send_request_id poll_id ppnum options event_id responded_at",
        "poll_tallies": "app send_request_id poll_id option responses last_response_at",
        "poll_results": "app send_request_id poll_id option responses total share",
        "person_requests": "app ppnum send_request_id status error_code last_event_id last_event_at",
        "people": "app ppnum requests delivered failed pending_consent"
        " last_outcome last_error_code last_outcome_at last_event_id consent_status consent_event_id",
    }.items()
}
"""The tables and views, and their documented columns."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "request_recipients": ("app", "send_request_id", "ppnum"),
    "request_status": ("app", "send_request_id"),
    "consent_registry": ("app", "ppnum"),
    "consent_history": ("app", "ppnum", "event_id"),
    "poll_responses": ("app", "send_request_id", "poll_id", "ppnum"),
    "poll_tallies": ("app", "send_request_id", "poll_id", "option"),
    "poll_results": ("app", "send_request_id", "poll_id", "option"),
    "person_requests": ("app", "ppnum", "send_request_id"),
    "people": ("app", "ppnum"),
}
"""The columns that identify a row."""


def read_models(events: Iterable[Record]) -> dict[str, list[Row]]:
    """Return all rows of all tables and views after these events, in the order of ``KEYS``."""
    log = _in_order(events)
    responses = _poll_responses(log)
    tallies = _poll_tallies(responses)
    rows = {
        "request_recipients": _request_recipients(log),
        "request_status": _request_status(log),
        "consent_registry": _consent_registry(log),
        "consent_history": _consent_history(log),
        "poll_responses": responses,
        "poll_tallies": tallies,
        "poll_results": _poll_results(responses, tallies),
        "person_requests": _person_requests(log),
        "people": _people(log),
    }
    return {name: sorted_rows(name, rows[name]) for name in COLUMNS}


def sorted_rows(name: str, rows: Iterable[Sequence[object]]) -> list[Row]:
    """Return a table's rows, from any source, in the form and order of ``read_models``.

    Each row must have the table's ``COLUMNS``. No row is dropped, not even a duplicate.
    """
    places = [COLUMNS[name].index(column) for column in KEYS[name]]
    plain = [tuple(tuple(value) if isinstance(value, list) else value for value in row) for row in rows]
    return sorted(plain, key=lambda row: [str(row[place]) for place in places])


def consent_fact(event: Record) -> str | None:
    """Return the consent status that an event states; None if it states none or has no recipient."""
    if not event.ppnum:
        return None
    if event.event_type == FAILED:
        return {"consent_denied": "denied", "consent_expired": "expired"}.get(event.error_code or "")
    return {PENDING_CONSENT: "pending", GRANTED: "granted", DENIED: "denied"}.get(event.event_type)


def is_delivery(event: Record) -> bool:
    """Return whether the event is a delivery to a recipient."""
    return event.event_type == DELIVERED and bool(event.ppnum)


def recipient_key(event: Record) -> tuple[str, str, str] | None:
    """Return the key of the request_recipients row that an event is about, if any."""
    if event.event_type in (DELIVERED, FAILED, PENDING_CONSENT) and event.send_request_id and event.ppnum:
        return event.app, event.send_request_id, event.ppnum
    return None


def decider_key(event: Record) -> tuple[str, str] | None:
    """Return the key of the request whose end an event states, if any."""
    if event.event_type in (COMPLETED, REQUEST_FAILED) and event.send_request_id:
        return event.app, event.send_request_id
    return None


def answer_key(event: Record) -> tuple[str, str, str, str] | None:
    """Return the key of the poll_responses row that an event is about, if any."""
    if event.event_type == POLL_RESPONSE and event.send_request_id and event.ppnum:
        return event.app, event.send_request_id, event.poll_id or "", event.ppnum
    return None


def _in_order(events: Iterable[Record]) -> list[Record]:
    by_id = {event.event_id: event for event in events}
    return [by_id[event_id] for event_id in sorted(by_id)]


def _request_recipients(log: list[Record]) -> list[Row]:
    status = {DELIVERED: "delivered", FAILED: "failed", PENDING_CONSENT: "pending_consent"}
    recipients: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for event in log:
        key = recipient_key(event)
        if key:
            recipients[key].append(event)
    rows: list[Row] = []
    for key, events in recipients.items():
        last = events[-1]
        created = [event.recipient_created_at for event in events if event.recipient_created_at]
        delivered = [event.occurred_at for event in events if event.event_type == DELIVERED]
        first = (min(created, default=None), min(event.occurred_at for event in events), min(delivered, default=None))
        outcome = (status[last.event_type], last.error_code, last.message_id)
        rows.append((*key, *outcome, last.event_id, last.occurred_at, *first))
    return rows


def _request_status(log: list[Record]) -> list[Row]:
    requests: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for event in log:
        if event.send_request_id and 1 <= event.event_type <= 8:
            requests[event.app, event.send_request_id].append(event)
    return [(*key, *_request(events)) for key, events in requests.items()]


def _request(events: list[Record]) -> Row:
    """Return all columns after the key, from one request's events in order."""
    latest: dict[str, int] = {}
    decider = None
    for event in events:
        if event.event_type in (DELIVERED, FAILED, PENDING_CONSENT) and event.ppnum:
            latest[event.ppnum] = event.event_type
        if event.event_type in (COMPLETED, REQUEST_FAILED):
            decider = event
    ends = list(latest.values())
    counts = (len(ends), ends.count(DELIVERED), ends.count(FAILED), ends.count(PENDING_CONSENT))
    times = [event.occurred_at for event in events]
    state, completed_at, decided_event_id = "in_progress", None, None
    reported: Row = (None, None, None, None)
    if decider:
        failed = decider.event_type == REQUEST_FAILED
        if decider.summary:
            summary = decider.summary
            reported = (summary.total, summary.delivered, summary.failed, summary.pending)
            failed = failed or summary.status == SUMMARY_FAILED
        state = "failed" if failed else "completed"
        completed_at, decided_event_id = decider.occurred_at, decider.event_id
    end = (min(times), max(times), completed_at, events[-1].event_id, decided_event_id, _created_at(events))
    return (state, *counts, *reported, *end)


def _created_at(events: list[Record]) -> datetime | None:
    """Return the earliest time that a summary or a recipient of the request states for its creation."""
    stated = []
    for event in events:
        if event.event_type in (COMPLETED, REQUEST_FAILED) and event.summary:
            stated.append(event.summary.created_at)
        if recipient_key(event):
            stated.append(event.recipient_created_at)
    return min((moment for moment in stated if moment), default=None)


def _consent_registry(log: list[Record]) -> list[Row]:
    people: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for event in log:
        if event.ppnum and (consent_fact(event) or is_delivery(event)):
            people[event.app, event.ppnum].append(event)
    return [(*key, *_person(events)) for key, events in people.items()]


def _person(events: list[Record]) -> Row:
    """Return all columns after the key, from one person's consent facts and deliveries in order."""
    fact = delivery = None
    asked_at = []
    for event in events:
        if is_delivery(event):
            delivery = event
        else:
            fact = event
        if event.event_type == PENDING_CONSENT:
            asked_at.append(event.occurred_at)
    decider, status, basis = fact, consent_fact(fact) if fact else None, "consent"
    if delivery and (fact is None or (status != "granted" and delivery.event_id > fact.event_id)):
        decider, status, basis = delivery, "granted", "delivery"
    assert decider is not None
    request = decider.send_request_id or ""
    return (status, basis, decider.occurred_at, decider.event_id, request, min(asked_at, default=None))


def _consent_history(log: list[Record]) -> list[Row]:
    rows: list[Row] = []
    for event in log:
        fact = consent_fact(event)
        end = (event.occurred_at, event.event_id, event.send_request_id or "")
        if fact:
            rows.append((event.app, event.ppnum, fact, "consent", *end))
        if is_delivery(event):
            rows.append((event.app, event.ppnum, "granted", "delivery", *end))
    return rows


def _poll_responses(log: list[Record]) -> list[Row]:
    rows: dict[Row, Row] = {}
    for event in log:
        key = answer_key(event)
        if key:
            rows[key] = (*key, event.poll_options or (), event.event_id, event.occurred_at)
    return list(rows.values())


def _poll_tallies(responses: list[Row]) -> list[Row]:
    chosen: dict[Row, list[datetime]] = defaultdict(list)
    for app, request, poll, _, options, _, responded_at in responses:
        assert isinstance(options, tuple)
        assert isinstance(responded_at, datetime)
        for option in set(options) or {""}:
            chosen[app, request, poll, option].append(responded_at)
    return [(*key, len(times), max(times)) for key, times in chosen.items()]


def _poll_results(responses: list[Row], tallies: list[Row]) -> list[Row]:
    totals = Counter(response[:3] for response in responses)
    rows: list[Row] = []
    for *poll, option, count, _ in tallies:
        assert isinstance(count, int)
        total = totals[tuple(poll)]
        rows.append((*poll, option, count, total, count / total))
    return rows


def _person_requests(log: list[Record]) -> list[Row]:
    status = {DELIVERED: "delivered", FAILED: "failed", PENDING_CONSENT: "pending_consent"}
    rows: dict[Row, Row] = {}
    for event in log:
        key = recipient_key(event)
        if key:
            app, request, ppnum = key
            outcome = (status[event.event_type], event.error_code, event.event_id, event.occurred_at)
            rows[key] = (app, ppnum, request, *outcome)
    return list(rows.values())


def _people(log: list[Record]) -> list[Row]:
    outcomes: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in _person_requests(log):
        outcomes[str(row[0]), str(row[1])].append(row)
    # Of the facts in the order of their ids, the last one holds: a delivery shows consent, whatever was before it.
    consent: dict[tuple[str, str], Row] = {}
    for event in log:
        status = "granted" if is_delivery(event) else consent_fact(event)
        if event.ppnum and status:
            consent[event.app, event.ppnum] = (status, event.event_id)
    rows: list[Row] = []
    for key in outcomes.keys() | consent.keys():
        found = sorted(outcomes[key], key=lambda row: str(row[5]))
        states = [row[3] for row in found]
        counts = (len(states), *(states.count(name) for name in ("delivered", "failed", "pending_consent")))
        last: Row = (None,) * 4
        if found:
            _, _, _, outcome, error_code, event_id, at = found[-1]
            last = (outcome, error_code, at, event_id)
        rows.append((*key, *counts, *last, *consent.get(key, (None, None))))
    return rows
