"""The questions on docs/bi.md get the answers that plain Python computes, from a role that may read only ``public``."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from tests import folding, oracle, stories, wire
from tests.databases import Server
from tests.oracle import Record, Summary
from tests.store import connection
from tools import data_dictionary

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bi.md"
ZURICH = timezone(timedelta(hours=1))
"""The page's time zone, in January."""
FIRST, LAST = datetime(2026, 1, 5, tzinfo=ZURICH), datetime(2026, 1, 12, tzinfo=ZURICH)
POLLED = "01KE5C9N000000000000000000"
ABOUT_CONSENT = ("consent_denied", "consent_expired")
Answer = list[tuple[Any, ...]]
OracleRows = list[dict[str, Any]]


def questions() -> dict[str, str]:
    """Return the statements of the page by their titles."""
    found = re.findall(
        r"^### ([^\n]+)\n\n(?:(?!^#).)*?```sql\n(.*?);\n```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return dict(found)


# The log


class _Log:
    """A platform's made-up events of two weeks: everything that the questions ask about, and what they leave out."""

    def __init__(self, seed: int) -> None:
        self.records: list[Record] = []
        self._random = Random(seed)  # noqa: S311 - not for secrets
        self._tails = count(1)

    def fill(self) -> list[Record]:
        for app in ("shop", "clinic", "other"):
            for number in range(50):
                minutes = self._random.choice((self._random.randrange(14 * 24 * 60), 24 * 60 * (number % 14) - 30))
                start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(
                    minutes=minutes, seconds=self._random.randrange(60)
                )
                self._request(app, f"request {number}", start)
            self._request(app, POLLED, FIRST + timedelta(hours=3))
            self._poll(app)
            # Nothing is stuck that happened just now.
            self._add(oracle.DELIVERED, "just now", datetime.now(UTC), app=app, ppnum="41790000001")
            self._special_people(app)
        return self.records

    def _special_people(self, app: str) -> None:
        """Add people about whom a statement is easily wrong, each with a number of events of their own."""
        now = datetime.now(UTC)
        people: dict[str, tuple[tuple[int, str | None, str | None, datetime | None], ...]] = {
            "denied, then no route": ((oracle.DENIED, "1", None, None), (oracle.FAILED, "2", "no_route", None)),
            "expired, then no route": (
                (oracle.FAILED, "1", "consent_expired", None),
                (oracle.FAILED, "2", "no_route", None),
            ),
            "delivered, then failed": ((oracle.DELIVERED, "1", None, None), (oracle.FAILED, "1", "no_route", None)),
            "delivered without a request": (
                (oracle.DELIVERED, None, None, None),
                (oracle.FAILED, "1", "no_route", None),
            ),
            "denied, then granted": (
                (oracle.DENIED, "1", None, None),
                (oracle.GRANTED, "1", None, None),
                (oracle.FAILED, "1", "no_route", None),
            ),
            "never reached": ((oracle.FAILED, "1", "no_route", None), (oracle.FAILED, "2", None, None)),
            "asked again just now": (
                (oracle.PENDING_CONSENT, "1", None, None),
                (oracle.PENDING_CONSENT, "2", None, now),
            ),
            "answered the question before": (
                (oracle.PENDING_CONSENT, "1", None, None),
                (oracle.GRANTED, "1", None, None),
                (oracle.PENDING_CONSENT, "2", None, None),
            ),
            "failed at first": ((oracle.FAILED, "1", "gone", None), (oracle.DELIVERED, "1", None, None)),
        }
        for place, (person, story) in enumerate(people.items()):
            for step, (event_type, request, error_code, happened_at) in enumerate(story):
                self._add(
                    event_type,
                    request and f"{request} of {person}",
                    happened_at or FIRST + timedelta(hours=5 + place, minutes=step),
                    app=app,
                    ppnum=f"4179001{place:04}",
                    error_code=error_code,
                    created_at=FIRST + timedelta(hours=place),
                )

    def _request(self, app: str, request: str, start: datetime) -> None:
        draw = self._random
        created_at = draw.choice((start - timedelta(seconds=2), start - timedelta(seconds=2), None))
        people = draw.sample([f"4179000{number:04}" for number in range(120)], draw.randrange(1, 9))
        for ppnum in people:
            self._recipient(app, request, ppnum, start, created_at)
        if draw.random() < 0.8:
            total = len(people)
            summary = Summary(draw.choice((3, 3, 4)), total, total, 0, draw.choice((0, 1)), created_at, None)
            at = start + timedelta(seconds=draw.randrange(3000))
            end = draw.choice((oracle.COMPLETED, oracle.COMPLETED, oracle.REQUEST_FAILED))
            self._add(end, request, at, app=app, summary=draw.choice((summary, summary, summary, None)))

    def _recipient(self, app: str, request: str, ppnum: str, start: datetime, created_at: datetime | None) -> None:
        """Add a recipient's events, sometimes with a repetition that has another time or another outcome."""
        draw = self._random
        outcomes = draw.choice(
            (
                *((oracle.DELIVERED,),) * 4,
                *((oracle.FAILED,),) * 3,
                (oracle.DELIVERED, oracle.DELIVERED),
                (oracle.FAILED, oracle.DELIVERED),
                (oracle.PENDING_CONSENT,),
                (oracle.PENDING_CONSENT, oracle.GRANTED, oracle.DELIVERED),
                (oracle.PENDING_CONSENT, oracle.DENIED, oracle.FAILED),
                (oracle.PENDING_CONSENT, oracle.FAILED),
            )
        )
        at = start
        for place, event_type in enumerate(outcomes):
            at += timedelta(seconds=draw.randrange(1, 4000 if place else 30), milliseconds=draw.randrange(1000))
            error_code = None
            if event_type == oracle.FAILED:
                waited = outcomes[0] == oracle.PENDING_CONSENT
                error_code = draw.choice(ABOUT_CONSENT if waited else ("blocked", "no_route", "no_route", "gone", None))
            self._add(event_type, request, at, app=app, ppnum=ppnum, error_code=error_code, created_at=created_at)

    def _poll(self, app: str) -> None:
        for number in range(12):
            options = self._random.choice((("yes",), ("no",), ("yes", "maybe"), ()))
            at = FIRST + timedelta(hours=4, minutes=number)
            self._add(oracle.POLL_RESPONSE, POLLED, at, app=app, ppnum=f"4179000{number % 9:04}", options=options)

    def _add(
        self,
        event_type: int,
        request: str | None,
        at: datetime,
        *,
        app: str,
        ppnum: str | None = None,
        error_code: str | None = None,
        created_at: datetime | None = None,
        options: tuple[str, ...] | None = None,
        summary: Summary | None = None,
    ) -> None:
        record = Record(
            event_id=wire.ulid_at(at.astimezone(UTC), next(self._tails)),
            app=app,
            contract=stories.CHAT,
            event_type=event_type,
            occurred_at=at.astimezone(UTC),
            send_request_id=request,
            ppnum=ppnum,
            error_code=error_code,
            poll_id=None if options is None else "poll",
            poll_options=options,
            summary=summary,
        )
        self.records.append(replace(record, recipient_created_at=created_at) if ppnum else record)


# The answers


def in_period(moment: datetime | None) -> bool:
    return moment is not None and FIRST <= moment < LAST


def day_of(moment: datetime) -> date:
    return moment.astimezone(ZURICH).date()


def rounded(value: Decimal | float) -> Decimal:
    return Decimal(str(value)).quantize(Decimal("0.1"), ROUND_HALF_UP)


class _Truth:
    """The rows of one app by the oracle, as dictionaries, and the app's events in order."""

    def __init__(self, records: Sequence[Record], app: str = "shop") -> None:
        self.events = sorted((record for record in records if record.app == app), key=lambda one: one.event_id)
        found = oracle.read_models(self.events)
        self.rows: dict[str, OracleRows] = {
            table: [dict(zip(oracle.COLUMNS[table], row, strict=True)) for row in found[table]] for table in found
        }

    def requests(self) -> OracleRows:
        """The requests that began in the period."""
        return [row for row in self.rows["request_status"] if in_period(row["first_event_at"])]

    def recipients(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """These requests, each with each of its recipients."""
        by_id = {row["send_request_id"]: row for row in self.requests()}
        recipients = self.rows["request_recipients"]
        return [(by_id[row["send_request_id"]], row) for row in recipients if row["send_request_id"] in by_id]


def delivery_rate(records: Sequence[Record]) -> Answer:
    answer: Answer = []
    for app in ("clinic", "shop"):
        days: dict[date, list[int]] = defaultdict(lambda: [0, 0])
        for row in _Truth(records, app).requests():
            days[day_of(row["first_event_at"])][0] += row["recipients"]
            days[day_of(row["first_event_at"])][1] += row["delivered"]
        answer += [
            (app, day, total, delivered, rounded(Decimal(100 * delivered) / total) if total else None)
            for day, (total, delivered) in sorted(days.items())
        ]
    return answer


def consent_funnel(records: Sequence[Record]) -> Answer:
    asked = [row for row in _Truth(records).rows["consent_registry"] if in_period(row["first_asked_at"])]
    states = Counter(row["status"] for row in asked)
    last_delivery = {event.ppnum: event.occurred_at for event in _Truth(records).events if oracle.is_delivery(event)}
    reached = sum(
        row["ppnum"] in last_delivery and last_delivery[row["ppnum"]] >= row["first_asked_at"] for row in asked
    )
    counts = (states[name] for name in ("granted", "denied", "expired", "pending"))
    return [(len(asked), *counts, reached)]


def unreachable_people(records: Sequence[Record]) -> Answer:
    """Return whom nothing was delivered to and whose last message failed, where consent explains neither."""
    truth = _Truth(records)
    reached = {event.ppnum for event in truth.events if oracle.is_delivery(event)}
    unwilling = {row["ppnum"] for row in truth.rows["consent_registry"] if row["status"] in ("denied", "expired")}
    outcomes: dict[str, dict[str, Record]] = defaultdict(dict)
    for event in truth.events:
        if oracle.recipient_key(event):
            outcomes[str(event.ppnum)][str(event.send_request_id)] = event
    answer: Answer = []
    for ppnum in outcomes.keys() - reached - unwilling:
        last = max(outcomes[ppnum].values(), key=lambda event: event.event_id)
        if last.event_type == oracle.FAILED and last.error_code not in ABOUT_CONSENT:
            failed = sum(event.event_type == oracle.FAILED for event in outcomes[ppnum].values())
            answer.append((ppnum, failed, last.error_code, last.occurred_at))
    return sorted(answer, key=lambda row: (-row[1], row[0]))


def poll_results(records: Sequence[Record]) -> Answer:
    latest = {event.ppnum: event for event in _Truth(records).events if event.event_type == oracle.POLL_RESPONSE}
    chosen = Counter(option for event in latest.values() for option in (event.poll_options or ("",)))
    total = len(latest)
    return [
        ("poll", option, votes, total, rounded(Decimal(100 * votes) / total))
        for option, votes in sorted(chosen.items(), key=lambda one: (-one[1], one[0]))
    ]


def time_to_deliver(records: Sequence[Record]) -> Answer:
    truth = _Truth(records)
    reports: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for event in truth.events:
        if oracle.recipient_key(event):
            reports[str(event.send_request_id), str(event.ppnum)].append(event)
    days: dict[date, list[tuple[float, bool]]] = defaultdict(list)
    for request, recipient in truth.recipients():
        about = reports[recipient["send_request_id"], recipient["ppnum"]]
        delivered = [event.occurred_at for event in about if event.event_type == oracle.DELIVERED]
        if delivered and request["created_at"]:
            seconds = (min(delivered) - request["created_at"]).total_seconds()
            not_first = min(event.occurred_at for event in about) < min(delivered)
            days[day_of(request["first_event_at"])].append((seconds, not_first))

    def percentile(values: Sequence[float], share: float) -> Decimal:
        place = share * (len(values) - 1)
        low = int(place)
        high = min(low + 1, len(values) - 1)
        return rounded(values[low] + (values[high] - values[low]) * (place - low))

    answer: Answer = []
    for day, found in sorted(days.items()):
        seconds = sorted(one for one, _ in found)
        preceded = sum(one for _, one in found)
        answer.append((day, len(found), preceded, percentile(seconds, 0.5), percentile(seconds, 0.95)))
    return answer


def stuck_requests(records: Sequence[Record]) -> Answer:
    names = (
        "send_request_id",
        "first_event_at",
        "last_event_at",
        "recipients",
        "delivered",
        "failed",
        "pending_consent",
    )
    limit = datetime.now(UTC) - timedelta(hours=1)
    rows = [
        row
        for row in _Truth(records).rows["request_status"]
        if row["state"] == "in_progress" and row["last_event_at"] < limit
    ]
    rows.sort(key=lambda row: (row["last_event_at"], row["send_request_id"]))
    return [tuple(row[name] for name in names) for row in rows]


def reported_against_counted(records: Sequence[Record]) -> Answer:
    pairs = (
        ("recipients", "reported_total"),
        ("delivered", "reported_delivered"),
        ("failed", "reported_failed"),
        ("pending_consent", "reported_pending_consent"),
    )
    rows = [
        row
        for row in _Truth(records).requests()
        if row["reported_total"] is not None and any(row[counted] != row[reported] for counted, reported in pairs)
    ]
    rows.sort(key=lambda row: (row["completed_at"], row["send_request_id"]))
    return [
        (row["send_request_id"], row["completed_at"], *(row[name] for pair in pairs for name in pair)) for row in rows
    ]


def recipients_to_retry(records: Sequence[Record]) -> Answer:
    truth = _Truth(records)
    last = {event.ppnum: event.event_id for event in truth.events if oracle.recipient_key(event)}
    consent = {row["ppnum"]: row["status"] for row in truth.rows["consent_registry"]}
    rows = [
        (row["send_request_id"], row["ppnum"], row["error_code"], row["last_event_at"])
        for _, row in truth.recipients()
        if row["status"] == "failed"
        and row["error_code"] not in ABOUT_CONSENT
        and last[row["ppnum"]] == row["last_event_id"]
        and consent.get(row["ppnum"], "granted") == "granted"
    ]
    return sorted(rows, key=lambda row: (row[3], row[1]))


def growth_of_the_consent_list(records: Sequence[Record]) -> Answer:
    """Keep the list itself, event by event."""
    listed: set[str] = set()
    joined, gone = Counter[date](), Counter[date]()
    for event in _Truth(records).events:
        fact = "granted" if oracle.is_delivery(event) else oracle.consent_fact(event)
        if fact is None:
            continue
        ppnum, day = str(event.ppnum), day_of(event.occurred_at)
        if fact == "granted" and ppnum not in listed:
            listed.add(ppnum)
            joined[day] += 1
        elif fact != "granted" and ppnum in listed:
            listed.remove(ppnum)
            gone[day] += 1
    answer: Answer = []
    people = 0
    for day in sorted(joined.keys() | gone.keys()):
        people += joined[day] - gone[day]
        answer.append((day, joined[day], gone[day], people))
    assert people == len(listed)
    return answer


def top_error_codes(records: Sequence[Record]) -> Answer:
    days: dict[date, Counter[str]] = defaultdict(Counter)
    for request, recipient in _Truth(records).recipients():
        if recipient["status"] == "failed":
            days[day_of(request["first_event_at"])][recipient["error_code"] or ""] += 1
    return [
        (day, code, recipients)
        for day, codes in sorted(days.items())
        for code, recipients in sorted(codes.items(), key=lambda one: (-one[1], one[0]))[:3]
    ]


def people_never_answering(records: Sequence[Record]) -> Answer:
    truth = _Truth(records)
    delivered = {event.ppnum for event in truth.events if oracle.is_delivery(event)}
    asked: dict[str | None, datetime] = {}
    told: dict[str | None, tuple[str, datetime]] = {}
    for event in truth.events:
        fact = oracle.consent_fact(event)
        if fact:
            told[event.ppnum] = (fact, event.occurred_at)
        if fact == "pending":
            asked.setdefault(event.ppnum, event.occurred_at)
    limit = datetime.now(UTC) - timedelta(days=7)
    rows = [
        (ppnum, fact, asked.get(ppnum), at)
        for ppnum, (fact, at) in told.items()
        if ppnum not in delivered and (fact == "expired" or (fact == "pending" and at < limit))
    ]
    return sorted(rows, key=lambda row: (row[3], row[0]))


def busiest_hours(records: Sequence[Record]) -> Answer:
    hours: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for row in _Truth(records).requests():
        hour = row["first_event_at"].astimezone(ZURICH).hour
        hours[hour][0] += 1
        hours[hour][1] += row["recipients"]
    rows = [(hour, requests, recipients) for hour, (requests, recipients) in hours.items()]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


EXPECTED: dict[str, Callable[[Sequence[Record]], Answer]] = {
    "Delivery rate by day and app": delivery_rate,
    "Consent funnel": consent_funnel,
    "Unreachable people": unreachable_people,
    "Poll results": poll_results,
    "Time to deliver": time_to_deliver,
    "Stuck requests": stuck_requests,
    "Reported against counted": reported_against_counted,
    "Recipients to retry": recipients_to_retry,
    "Growth of the consent list": growth_of_the_consent_list,
    "Top error codes by day": top_error_codes,
    "People asked and never answering": people_never_answering,
    "Busiest hours": busiest_hours,
}


# Tests


@contextmanager
def a_reader(server: Server, url: str) -> Iterator[str]:
    """Yield the URL of a role that may only select from ``public``."""
    role = sql.Identifier(f"{server.owner}_reads")
    server.execute("CREATE ROLE {} LOGIN PASSWORD 'word'", role)
    try:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        yield parts._replace(netloc=f"{server.owner}_reads:word@{place}").geturl()
    finally:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(sql.SQL("REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM {}").format(role))
        server.execute("DROP ROLE {}", role)


async def test_a_reader_gets_the_answers_that_python_computes(
    postgres: Server, database_url: str, subtests: pytest.Subtests
) -> None:
    records = _Log(seed=12).fill()
    async with connection(database_url) as conn:
        shuffled = Random(1).sample(records, len(records))  # noqa: S311 - not for secrets
        for start in range(0, len(shuffled), 500):
            await folding.append(conn, *shuffled[start : start + 500])
    await folding.fold_all(database_url, batch_size=300)
    asked = questions()
    assert list(asked) == list(EXPECTED)
    with a_reader(postgres, database_url) as url, psycopg.connect(url, autocommit=True) as reader:
        for title, query in asked.items():
            with subtests.test(title):
                assert "Europe/Zurich" in query or not re.search(r"::date|hour FROM", query)
                assert " app = 'shop'" in query or " app IN ('shop', 'clinic')" in query
                expected = EXPECTED[title](records)
                assert len(expected) >= (1 if title == "Consent funnel" else 3), "too little to compare"
                assert reader.execute(query.encode()).fetchall() == expected
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("SELECT FROM eventstore.events")


def test_the_data_dictionary_is_that_of_the_database(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        columns = data_dictionary.read_columns(conn)
    assert [f"{one.table}.{one.name}" for one in columns if not (one.comment and one.table_comment)] == []
    assert {one.type for one in columns} <= {
        *("text", "text[]", "integer", "bigint", "double precision", "timestamp with time zone"),
    }
    page = PAGE.read_text()
    assert data_dictionary.dictionary_of(page) == data_dictionary.render(columns), "run make docs"
    assert data_dictionary.with_dictionary(page, "other\n") != page
