"""Varied projections made of building blocks, each with a plain Python fold that computes the same rows.

The Python folds know neither SQL nor the blocks: they look at all events at once, in any order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Integer, Table, Text, func

from eventstore.contracts import Event
from projections.blocks import (
    BlockProjection,
    computed,
    count,
    day,
    each,
    event,
    ever,
    first,
    greatest,
    key,
    latest,
    least,
    month,
    prefix,
    rows,
    tally,
    total,
    week,
)

Rows = list[dict[str, Any]]
ZONE = "Europe/Zurich"
SAMOA = "Pacific/Apia"  # skipped 30 December 2011

# One row a person: the first and the last contact, and accumulators, all in one statement.

contacts = rows(
    "contacts",
    key("app"),
    key("ppnum"),
    latest("event_id"),
    latest("last_type", event.event_type),
    latest("last_error", event.error_code),
    first("first_id", event.event_id),
    first("first_request", event.send_request_id),
    least("from_at", event.occurred_at),
    greatest("failed_at", event.occurred_at, where=event.event_type == 2),
    ever("has_failed", event.event_type == 2),
    of=(1, 2, 3),
)


class Contacts(BlockProjection):
    name, version, blocks = "contacts", 1, (contacts,)


def fold_contacts(events: Sequence[Event]) -> dict[Table, Rows]:
    found: Rows = []
    for (app, ppnum), group in grouped(events, lambda e: (e.app, e.ppnum), types={1, 2, 3}):
        if ppnum:
            last, begin = group[-1], group[0]
            failed = [one.occurred_at for one in group if one.event_type == 2]
            found.append(
                {
                    "app": app,
                    "ppnum": ppnum,
                    "event_id": last.event_id,
                    "last_type": last.event_type,
                    "last_error": last.error_code,
                    "first_id": begin.event_id,
                    "first_request": begin.send_request_id,
                    "from_at": min(one.occurred_at for one in group),
                    "failed_at": max(failed, default=None),
                    "has_failed": bool(failed),
                }
            )
    return {contacts.table: found}


# Two facts in one row, each of its own events, an accumulator of all of them, and a computed column.

_asked = latest.of(3, 4, 5, where=event.error_code.is_(None))
_delivered = first.of(1)
asked = rows(
    "asked",
    key("app"),
    key("country", prefix(event.ppnum, 2)),
    key("day", day(event.occurred_at, SAMOA)),
    _asked("answer", event.event_type, default=0),
    _asked("answer_id", event.event_id),
    _asked.least("asked_at", event.occurred_at),
    _delivered("delivery_id", event.event_id),
    _delivered("request", func.coalesce(event.send_request_id, "none")),
    latest.of(5).least("denied_at", event.occurred_at),
    greatest("last_id", event.event_id),
    computed("summary", Text, "COALESCE(delivery_id, answer_id)"),
)


class Asked(BlockProjection):
    name, version, blocks = "asked", 1, (asked,)


def fold_asked(events: Sequence[Event]) -> dict[Table, Rows]:
    found: Rows = []
    groups = grouped(events, lambda e: (e.app, (e.ppnum or "")[:2], on(e.occurred_at, SAMOA)), types={1, 3, 4, 5})
    for (app, country, at), group in groups:
        answers = [one for one in group if one.event_type != 1 and one.error_code is None]
        deliveries = [one for one in group if one.event_type == 1]
        if country:
            answer, delivery = answers[-1] if answers else None, deliveries[0] if deliveries else None
            found.append(
                {
                    "app": app,
                    "country": country,
                    "day": at,
                    "answer": answer.event_type if answer else 0,
                    "answer_id": answer.event_id if answer else None,
                    "asked_at": min((one.occurred_at for one in answers), default=None),
                    "delivery_id": delivery.event_id if delivery else None,
                    "request": None if delivery is None else none_named(delivery.send_request_id),
                    "denied_at": min((one.occurred_at for one in group if one.event_type == 5), default=None),
                    "last_id": group[-1].event_id,
                    "summary": delivery.event_id if delivery else (answer.event_id if answer else None),
                }
            )
    return {asked.table: found}


# Rows that move from one day, month or error to another; two tallies of them, in one statement.

costs = rows(
    "changed",  # names that parts of the statements could have
    key("app"),
    key("send_request_id"),
    key("ppnum"),
    latest("event_id"),
    latest("day", day(event.occurred_at, ZONE)),
    latest("month", month(event.occurred_at, ZONE)),
    latest("error", event.error_code),
    latest("price", event.total_recipients),
    latest("at", event.occurred_at),
    of=(1, 2),
)
_cost = costs.c
daily = tally(
    "touched",
    costs,
    key("app"),
    key("day"),
    count("messages"),
    count("failed", _cost.error.is_not(None)),
    total("cost", _cost.price),
    total("cost_of_failed", _cost.price, where=_cost.error.is_not(None)),
    least("cheapest", _cost.price),
    greatest("last_at", _cost.at),
    ever("has_blocked", _cost.error == "blocked"),
    latest("last_error", _cost.error),
    first("first_person", _cost.ppnum),
)
by_error = tally(
    "by_error",
    costs,
    key("month"),
    key("app"),
    key("error"),
    key("country", prefix(_cost.ppnum, 2)),
    count("members"),
    where=_cost.price > 1,
)


class Costs(BlockProjection):
    name, version, blocks = "costs", 1, (costs, daily, by_error)


def fold_costs(events: Sequence[Event]) -> dict[Table, Rows]:
    of: Rows = []
    for (app, request, ppnum), group in grouped(events, lambda e: (e.app, e.send_request_id, e.ppnum), types={1, 2}):
        last = group[-1]
        if request and ppnum:
            at = on(last.occurred_at, ZONE)
            of.append(
                {
                    "app": app,
                    "send_request_id": request,
                    "ppnum": ppnum,
                    "event_id": last.event_id,
                    "day": at,
                    "month": at.replace(day=1),
                    "error": last.error_code,
                    "price": last.total_recipients,
                    "at": last.occurred_at,
                }
            )
    days: Rows = []
    for (app, at), members in grouped_rows(of, "app", "day"):
        failed = [one for one in members if one["error"] is not None]
        days.append(
            {
                "app": app,
                "day": at,
                "messages": len(members),
                "failed": len(failed),
                "cost": sum(one["price"] or 0 for one in members),
                "cost_of_failed": sum(one["price"] or 0 for one in failed),
                "cheapest": min((one["price"] for one in members if one["price"] is not None), default=None),
                "last_at": max(one["at"] for one in members),
                "has_blocked": any(one["error"] == "blocked" for one in members),
                "last_error": max(members, key=lambda one: one["event_id"])["error"],
                "first_person": min(members, key=lambda one: one["event_id"])["ppnum"],
            }
        )
    dear = [{**one, "country": one["ppnum"][:2]} for one in of if (one["price"] or 0) > 1 and one["error"] is not None]
    errors = [
        {"month": at, "app": app, "error": error, "country": country, "members": len(members)}
        for (at, app, error, country), members in grouped_rows(dear, "month", "app", "error", "country")
    ]
    return {costs.table: of, daily.table: days, by_error.table: errors}


# Elements of an array, within a request; a group of a person; counts beside facts of events.

answers = rows(
    "answers",
    key("app"),
    key("send_request_id"),
    key("ppnum"),
    latest("event_id"),
    latest("options", event.poll_options),
    latest("week", week(event.occurred_at, ZONE)),
    of=7,
)
_answer = answers.c
chosen = tally(
    "chosen",
    answers,
    key("app"),
    key("send_request_id"),
    key("option", each(_answer.options, empty="nothing")),
    count("people"),
    greatest("last_id", _answer.event_id),
)
weeks = tally(
    "weeks",
    answers,
    key("app"),
    key("week"),
    key("ppnum"),
    total("size", func.cardinality(_answer.options, type_=Integer)),
)
_result = latest.of(6, 8)
polls = rows(
    "polls",
    key("app"),
    key("send_request_id"),
    _result("result", event.event_type, default=0),
    _result("result_id", event.event_id),
    count("people"),
    count("without", func.coalesce(func.cardinality(_answer.options), 0) == 0),
    latest("last_answer", _answer.options),
    least("from_at", event.occurred_at),
    ever("has_failed", event.event_type == 8),
    of=(6, 7, 8),
    counting=answers,
)


class Polls(BlockProjection):
    name, version, blocks = "polls", 1, (answers, chosen, weeks, polls)


def fold_polls(events: Sequence[Event]) -> dict[Table, Rows]:
    of: Rows = []
    for (app, request, ppnum), group in grouped(events, lambda e: (e.app, e.send_request_id, e.ppnum), types={7}):
        last = group[-1]
        if request and ppnum:
            at = on(last.occurred_at, ZONE)
            of.append(
                {
                    "app": app,
                    "send_request_id": request,
                    "ppnum": ppnum,
                    "event_id": last.event_id,
                    "options": last.poll_options,
                    "week": at - timedelta(days=at.weekday()),
                }
            )
    named = [{**one, "option": option} for one in of for option in {*(one["options"] or ["nothing"])}]
    options = [
        {
            "app": app,
            "send_request_id": request,
            "option": option,
            "people": len(members),
            "last_id": max(one["event_id"] for one in members),
        }
        for (app, request, option), members in grouped_rows(named, "app", "send_request_id", "option")
    ]
    sizes = [
        {"app": app, "week": at, "ppnum": ppnum, "size": sum(len(one["options"] or ()) for one in members)}
        for (app, at, ppnum), members in grouped_rows(of, "app", "week", "ppnum")
    ]
    results: Rows = []
    for (app, request), group in grouped(events, lambda e: (e.app, e.send_request_id), types={6, 7, 8}):
        if request:
            ends = [one for one in group if one.event_type != 7]
            members = [one for one in of if (one["app"], one["send_request_id"]) == (app, request)]
            members.sort(key=lambda one: one["event_id"])
            results.append(
                {
                    "app": app,
                    "send_request_id": request,
                    "result": ends[-1].event_type if ends else 0,
                    "result_id": ends[-1].event_id if ends else None,
                    "people": len(members),
                    "without": sum(not one["options"] for one in members),
                    "last_answer": members[-1]["options"] if members else None,
                    "from_at": min(one.occurred_at for one in group),
                    "has_failed": any(one.event_type == 8 for one in group),
                }
            )
    return {answers.table: of, chosen.table: options, weeks.table: sizes, polls.table: results}


# Counts of rows beside the facts of a person, who may have no rows; a tally of them by a computed column.

parts = rows(
    "parts", key("app"), key("ppnum"), key("send_request_id"), latest("event_id"), latest("error_code"), of=(1, 2)
)
_granted = latest.of(4, 5)
persons = rows(
    "persons",
    key("app"),
    key("ppnum"),
    _granted("consent", event.event_type),
    _granted("consent_id", event.event_id),
    _granted("reason", event.error_code),
    count("parts"),
    count("failed", parts.c.error_code.is_not(None)),
    latest("last_error", parts.c.error_code),
    computed("state", Text, "CASE WHEN consent = 5 THEN 'denied' WHEN parts > failed THEN 'reached' END"),
    counting=parts,
)
states = tally("states", persons, key("app"), key("state"), count("persons"), total("parts", persons.c.parts))


class Persons(BlockProjection):
    name, version, blocks = "persons", 1, (parts, persons, states)


def fold_persons(events: Sequence[Event]) -> dict[Table, Rows]:
    of: Rows = []
    for (app, ppnum, request), group in grouped(events, lambda e: (e.app, e.ppnum, e.send_request_id), types={1, 2}):
        last = group[-1]
        if request and ppnum:
            key = {"app": app, "ppnum": ppnum, "send_request_id": request}
            of.append({**key, "event_id": last.event_id, "error_code": last.error_code})
    consents = {
        person: group[-1] for person, group in grouped(events, lambda e: (e.app, e.ppnum), types={4, 5}) if person[1]
    }
    people: Rows = []
    for app, ppnum in {*consents, *((one["app"], one["ppnum"]) for one in of)}:
        members = [one for one in of if (one["app"], one["ppnum"]) == (app, ppnum)]
        members.sort(key=lambda one: one["event_id"])
        failed = sum(one["error_code"] is not None for one in members)
        consent = consents.get((app, ppnum))
        is_denied, is_reached = consent is not None and consent.event_type == 5, len(members) > failed
        people.append(
            {
                "app": app,
                "ppnum": ppnum,
                "consent": consent and consent.event_type,
                "consent_id": consent and consent.event_id,
                "reason": consent and consent.error_code,
                "parts": len(members),
                "failed": failed,
                "last_error": members[-1]["error_code"] if members else None,
                "state": "denied" if is_denied else "reached" if is_reached else None,
            }
        )
    known = [one for one in people if one["state"] is not None]
    groups = [
        {"app": app, "state": state, "persons": len(members), "parts": sum(one["parts"] for one in members)}
        for (app, state), members in grouped_rows(known, "app", "state")
    ]
    return {parts.table: of, persons.table: people, states.table: groups}


class Example(NamedTuple):
    """A projection, and its fold in plain Python."""

    projection: type[BlockProjection]
    fold: Callable[[Sequence[Event]], Mapping[Table, Rows]]


EXAMPLES = (
    Example(Contacts, fold_contacts),
    Example(Asked, fold_asked),
    Example(Costs, fold_costs),
    Example(Polls, fold_polls),
    Example(Persons, fold_persons),
)


def grouped(
    events: Iterable[Event], key: Callable[[Event], tuple[Any, ...]], types: set[int]
) -> list[tuple[tuple[Any, ...], list[Event]]]:
    """Return the events of some types by a key, each group in order of event_id."""
    found: dict[tuple[Any, ...], list[Event]] = defaultdict(list)
    for one in sorted(events, key=lambda e: e.event_id):
        if one.event_type in types:
            found[key(one)].append(one)
    return list(found.items())


def grouped_rows(rows: Iterable[Mapping[str, Any]], *columns: str) -> list[tuple[tuple[Any, ...], Rows]]:
    """Return rows by some of their columns."""
    found: dict[tuple[Any, ...], Rows] = defaultdict(list)
    for one in rows:
        found[tuple(one[column] for column in columns)].append(dict(one))
    return list(found.items())


def on(time: datetime, zone: str) -> date:
    """Return the date of a time in a zone."""
    return time.astimezone(ZoneInfo(zone)).date()


def none_named(request: str | None) -> str:
    """Return a request, or that there is none."""
    return "none" if request is None else request
