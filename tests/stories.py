"""Generates random events of a platform and deliveries of them, with few people and requests, so that many collide.

A story is a list of different events and one delivery of them: in some order, some more than once, cut into batches.
``coverage`` counts the situations in a story, so that a test fails if a situation never occurs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum, auto
from itertools import chain, pairwise
from random import Random
from typing import TypeAlias, TypeVar

from hypothesis import strategies as st

from tests import oracle, wire
from tests.oracle import Record, Summary

CHAT, PCS = "chat.external", "pcs.external.v1"
Delivery: TypeAlias = tuple[tuple[Record, ...], ...]
"""Batches, none of them empty, in the order in which they arrive."""

APPS = ("one", "two")
REQUESTS = ("request 1", "request 2", "request 3")
PEOPLE = ("12300000001", "12300000002", "12300000003", "12300000004")
POLLS = ("poll 1", "poll 2")
OPTIONS = ("yes", "no", "Yes", "", 'NULL, "{é}\\')

_UNKNOWN = (0, 9, -1, 2**31 - 1)
_FOCUS = (
    (oracle.COMPLETED, oracle.COMPLETED, oracle.REQUEST_FAILED, oracle.REQUEST_FAILED, oracle.DELIVERED),
    (*(oracle.DELIVERED, oracle.GRANTED) * 3, oracle.FAILED, oracle.PENDING_CONSENT, oracle.DENIED),
    (*(oracle.POLL_RESPONSE,) * 9, oracle.DELIVERED, oracle.FAILED, oracle.PENDING_CONSENT),
    (*(oracle.POLL_RESPONSE,) * 9, oracle.DELIVERED, oracle.FAILED, oracle.PENDING_CONSENT),
    (*range(1, 9), *_UNKNOWN, *_UNKNOWN),
)
"""The event types that a story may mostly consist of."""
_TYPES_NOT_IN = {CHAT: frozenset[int](), PCS: frozenset({oracle.GRANTED, oracle.DENIED, oracle.POLL_RESPONSE})}
_MILLISECONDS = (1_767_225_600_000, 1_767_225_600_001, 1_767_312_000_000)
_IDS = [wire.ulid_of(milliseconds, digit << 75) for milliseconds in _MILLISECONDS for digit in range(32)]
_ID_DIGITS = 11
"""The leading digits of an event_id: the time and one more. The remaining digits differ between worlds in one table."""
_TIMES = (
    datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC),
    datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    datetime(2026, 1, 2, 3, 4, 5, 679000, tzinfo=UTC),
    datetime(2026, 1, 3, tzinfo=UTC),
    datetime(2025, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 29, 23, 59, 59, 999999, tzinfo=UTC),
)

_MESSAGE_IDS = (None, None, "message 1", "message 2", "")
_FAILURES = ("consent_denied", "consent_expired", "unreachable", "", None)
_STRAY_FAILURES = (*(None,) * 8, "consent_denied", "consent_expired")
_STATUSES = (3, 3, 4, 4, 0, 1, 5)
_COUNTS = (0, 1, 2, 3, 2**31 - 1)
T = TypeVar("T")


@dataclass(frozen=True)
class Story:
    """Different events, and one delivery of them: every event at least once, some repeatedly."""

    events: tuple[Record, ...]
    delivery: Delivery

    def in_world(self, number: int) -> Story:
        """Return the same story with other apps and event_ids, in the same order, for a table with many worlds.

        ``number`` is at least 1; two worlds share no app and no event_id.
        """
        moved = {event.event_id: in_world(event, number) for event in self.events}
        batches = tuple(tuple(moved[event.event_id] for event in batch) for batch in self.delivery)
        return Story(tuple(moved.values()), batches)


def in_world(event: Record, number: int) -> Record:
    """Return an event with the app and event_id that it has in a world; see :meth:`Story.in_world`."""
    event_id = event.event_id[:_ID_DIGITS] + wire.ulid_of(0, number)[_ID_DIGITS:]
    return replace(event, event_id=event_id, app=f"{event.app} {number}")


def payload(event: Record) -> bytes:
    """Return the event's bytes under its contract, without the frame of ``pcs.external.v1``.

    The status inside the recipient is arbitrary, because nothing may read it.
    """
    recipient = summary = poll = None
    if event.ppnum is None:
        inside = (event.error_code, event.message_id, event.recipient_created_at)
        assert inside == (None, None, None), "only a recipient has an error_code, a message_id and a created_at"
    else:
        recipient = wire.recipient(
            event.ppnum,
            status=ord(event.event_id[_ID_DIGITS - 1]) % 5,
            error_code=event.error_code,
            message_id=event.message_id,
            created_at=_time(event.recipient_created_at, event.contract),
        )
    if event.summary is not None:
        given = event.summary
        summary = wire.summary(
            *(given.total, given.delivered, given.pending, given.failed),
            status=given.status,
            created_at=_time(given.created_at, event.contract),
            completed_at=_time(given.completed_at, event.contract),
        )
    if event.poll_id is not None or event.poll_options is not None:
        poll = wire.poll(event.poll_id, *(event.poll_options or ()))
    return wire.event(
        event.event_id,
        event.event_type,
        send_request_id=event.send_request_id,
        recipient=recipient,
        summary=summary,
        occurred_at=_time(event.occurred_at, event.contract),
        poll_response=poll,
    )


def _time(moment: datetime | None, contract: str) -> wire.Text | None:
    """Return a time in the form of the contract."""
    if moment is None:
        return None
    return wire.rfc3339(moment) if contract == CHAT else wire.timestamp_of(moment)


# Strategies. All events of a story are one draw, and a delivery is another. One draw for each choice would be much
# slower, and Hypothesis often repeats a draw in place of another: then a story would consist of one repeated event.


class _Choices:
    """Reads each byte as a choice. Hypothesis shrinks to zeroes, which choose the first item."""

    def __init__(self, raw: bytes) -> None:
        self._left = iter(raw)

    def of(self, pool: Sequence[T]) -> T:
        return pool[next(self._left) % len(pool)]

    def now_and_then(self) -> bool:
        return self.of((False,) * 9 + (True,))

    def mostly(self, pool: tuple[str, ...]) -> str | None:
        return self.of((*pool * (12 // len(pool)), None, ""))


_BLOCK = 28
"""Enough bytes for the choices of one event, or of a story's setting."""


class _Setting:
    """The apps, requests, people and polls of a story; the fewer there are, the more their events collide."""

    def __init__(self, choices: _Choices, contracts: Sequence[str]) -> None:
        self.apps = choices.of((APPS[:1], APPS))
        self.contracts = {app: choices.of(contracts) for app in APPS}
        self.requests = choices.of((REQUESTS[:1], REQUESTS))
        self.people = choices.of((PEOPLE[:1], PEOPLE[:2], PEOPLE))
        self.polls = choices.of((POLLS[:1], POLLS))
        self.types = choices.of(_FOCUS)
        self.skipped_blocks = choices.of((1, 2, 5))

    def event(self, choices: _Choices, taken: Collection[str]) -> Record:
        """Return an event of this story whose event_id isn't taken."""
        event_id = choices.of(_IDS)
        while event_id in taken:
            event_id = _IDS[(_IDS.index(event_id) + 1) % len(_IDS)]
        app = choices.of(self.apps)
        contract = self.contracts[app]
        number = choices.of([number for number in self.types if number not in _TYPES_NOT_IN[contract]])
        ends = number in {oracle.COMPLETED, oracle.REQUEST_FAILED}
        ppnum = choices.mostly(self.people)
        if ends and not choices.now_and_then():
            ppnum = None
        # Sometimes an event has fields that belong to another type, which must not count.
        stray = choices.now_and_then()
        has_summary = choices.of((True, True, False)) if ends else stray
        has_answer = not choices.now_and_then() if number == oracle.POLL_RESPONSE else stray
        error_code = choices.of(_FAILURES if number == oracle.FAILED else _STRAY_FAILURES)
        message_id = choices.of(_MESSAGE_IDS)
        created_at, *times = (choices.of((*_TIMES, None, None)) for _ in range(3))
        status, (total, delivered, failed, pending) = choices.of(_STATUSES), (choices.of(_COUNTS) for _ in range(4))
        summary = Summary(status, total, delivered, failed, pending, *times)
        return Record(
            event_id=event_id,
            app=app,
            contract=contract,
            event_type=number,
            occurred_at=choices.of(_TIMES),
            send_request_id=choices.mostly(self.requests),
            ppnum=ppnum,
            error_code=None if ppnum is None else error_code,
            message_id=None if ppnum is None else message_id,
            poll_id=choices.mostly(self.polls) if has_answer else None,
            poll_options=tuple(choices.of(OPTIONS) for _ in range(choices.of((1, 1, 2, 3, 0)))) if has_answer else None,
            summary=summary if has_summary else None,
            recipient_created_at=None if ppnum is None else created_at,
        )


def event_lists(contracts: Sequence[str] = (CHAT, PCS), *, max_size: int = 30) -> st.SearchStrategy[tuple[Record, ...]]:
    """Return a strategy for one or more different events of up to two apps, each with one contract; in no order."""
    size = _BLOCK * (1 + max_size)
    return st.binary(min_size=size, max_size=size).map(lambda raw: _read_events(raw, contracts))


def _read_events(raw: bytes, contracts: Sequence[str]) -> tuple[Record, ...]:
    head, *blocks = (raw[start : start + _BLOCK] for start in range(0, len(raw), _BLOCK))
    setting = _Setting(_Choices(head), contracts)
    events: dict[str, Record] = {}
    # Some blocks make no event, among them blocks of zeroes, so a story gets shorter as Hypothesis shrinks it.
    for block in [block for block in blocks if block[0] % 8 >= setting.skipped_blocks] or blocks[:1]:
        event = setting.event(_Choices(block[1:]), events)
        events[event.event_id] = event
    return tuple(events.values())


def deliveries(events: Sequence[Record]) -> st.SearchStrategy[Delivery]:
    """Return a strategy for deliveries of these events: in any order, some repeatedly, in batches of any size.

    The simplest deliveries are one by one, in the order of the ids or in the reverse order.
    """
    return st.integers(0, 2**16 - 1).map(lambda number: _deliver(events, number))


def _deliver(events: Sequence[Record], number: int) -> Delivery:
    arriving = sorted(events, key=lambda event: event.event_id)
    if number < 2 or not events:
        return tuple((event,) for event in arriving[:: -1 if number == 1 else 1])
    random = Random(number)  # noqa: S311 - not for secrets
    if random.random() < 0.3:
        late = random.sample(arriving, min(len(arriving), 3))
        arriving.sort(key=lambda event: event in late)
    else:
        random.shuffle(arriving)
    for again in random.choices(arriving, k=random.choice((0, 1, 2, 5))):
        arriving.insert(random.randrange(len(arriving) + 1), again)
    sizes = random.choice(((1,), range(1, 4), range(1, 12), (len(arriving),)))
    batches = []
    while arriving:
        size = random.choice(sizes)
        batches.append(tuple(arriving[:size]))
        arriving = arriving[size:]
    return tuple(batches)


@st.composite
def stories(draw: st.DrawFn, contracts: Sequence[str] = (CHAT, PCS), *, max_size: int = 30) -> Story:
    """Draw events and a delivery of them."""
    events = draw(event_lists(contracts, max_size=max_size))
    return Story(events, draw(deliveries(events)))


# Coverage


class Situation(StrEnum):
    """What must occur in a run of stories for the run to test anything."""

    LATE_DECIDERS = auto()
    """A deciding event of a request is received in a later batch than one with a greater id."""
    LATE_RECIPIENTS = auto()
    """The same for the events of one recipient of a request."""
    LATE_ANSWERS = auto()
    """The same for the answers of one respondent."""
    LATE_CONSENTS = auto()
    """The same for the consent facts of one person."""
    TIES = auto()
    """Two events of one millisecond: the rest of their ids decides."""
    CHANGED_VOTES = auto()
    """An answer with other options than the respondent's previous answer."""
    DESERTED_OPTIONS = auto()
    """An option that had a row in the tallies after some batch, but that nobody chooses in the end."""
    SIX_AGAINST_EIGHT = auto()
    """A request has both completed and failed."""
    SIX_AFTER_EIGHT = auto()
    """Of these, the completion has the greater id."""
    EIGHT_AFTER_SIX = auto()
    """Of these, the failure has the greater id."""
    FAILED_BY_SUMMARY = auto()
    """The deciding event is a completion whose summary has the status failed."""
    CONSENT_AGAINST_DELIVERY = auto()
    """A person with a delivery whose last consent fact isn't ``granted``."""
    CONSENT_WINS = auto()
    """Of these, the consent fact is newer."""
    DELIVERY_WINS = auto()
    """Of these, the delivery is newer."""
    GRANTED_BEFORE_DELIVERY = auto()
    """A person whose last consent fact is ``granted`` and older than a delivery: it still decides."""
    ASKED_EARLIER_BY_LATER_ID = auto()
    """The event with the earliest time that asked the person isn't the one with the lowest id."""
    TIMES_AGAINST_IDS = auto()
    """The event of a request with the greatest id doesn't have the latest time."""
    NO_REQUEST = auto()
    NO_RECIPIENT = auto()
    EMPTY_RECIPIENT = auto()
    NO_OPTIONS = auto()
    NO_ANSWER = auto()
    REPEATED_OPTIONS = auto()
    NO_SUMMARY = auto()
    UNKNOWN_TYPES = auto()
    ONLY_UNKNOWN_TYPES = auto()
    """A request that has only events of unknown types, so it has no row."""
    REPEATED_IN_BATCH = auto()
    REPEATED_LATER = auto()
    SINGLE_BATCHES = auto()
    """A batch of one event, in a delivery of several batches."""


CONFLICTS = frozenset(
    {
        Situation.LATE_DECIDERS,
        Situation.TIES,
        Situation.CHANGED_VOTES,
        Situation.SIX_AGAINST_EIGHT,
        Situation.CONSENT_AGAINST_DELIVERY,
    }
)
"""Situations that must occur in every run; each is in at least one of twenty stories."""

_ONLY_WITH_POLLS = {
    Situation.LATE_ANSWERS,
    Situation.CHANGED_VOTES,
    Situation.DESERTED_OPTIONS,
    Situation.NO_OPTIONS,
    Situation.NO_ANSWER,
    Situation.REPEATED_OPTIONS,
}


def possible(contracts: Collection[str] = (CHAT, PCS)) -> frozenset[Situation]:
    """Return the situations that can occur under these contracts: ``pcs.external.v1`` has no polls and no grants."""
    if CHAT in contracts:
        return frozenset(Situation)
    return frozenset(Situation) - _ONLY_WITH_POLLS - {Situation.GRANTED_BEFORE_DELIVERY}


def coverage(events: Iterable[Record], delivery: Delivery) -> Counter[Situation]:
    """Count the situations in one story; those that don't occur have no key."""
    log = sorted(events, key=lambda event: event.event_id)
    counted: Counter[Situation] = Counter()
    for part in (_of_arrival(delivery), _of_requests(log), _of_people(log), _of_polls(log), _of_events(log)):
        counted.update(part)
    return +counted


def _grouped(log: Iterable[Record], key: Callable[[Record], Hashable]) -> list[list[Record]]:
    """Return the events grouped by key, without those that have none; each group is in order."""
    groups: dict[Hashable, list[Record]] = defaultdict(list)
    for event in log:
        if (group := key(event)) is not None:
            groups[group].append(event)
    return list(groups.values())


def _fact_key(event: Record) -> Hashable:
    return (event.app, event.ppnum) if oracle.consent_fact(event) else None


def _delivery_key(event: Record) -> Hashable:
    return (event.app, event.ppnum) if oracle.is_delivery(event) else None


def _person_key(event: Record) -> Hashable:
    return _fact_key(event) or _delivery_key(event)


def _request_key(event: Record) -> Hashable:
    return (event.app, event.send_request_id) if event.send_request_id else None


def _of_arrival(delivery: Delivery) -> Counter[Situation]:
    counted: Counter[Situation] = Counter()
    first: dict[str, int] = {}
    for number, batch in enumerate(delivery):
        counted[Situation.SINGLE_BATCHES] += len(batch) == 1 < len(delivery)
        for event in batch:
            first_batch = first.setdefault(event.event_id, number)
            counted[Situation.REPEATED_LATER] += first_batch < number
        counted[Situation.REPEATED_IN_BATCH] += len(batch) - len({event.event_id for event in batch})
    log = sorted(set(chain.from_iterable(delivery)), key=lambda event: event.event_id)
    for situation, key in (
        (Situation.LATE_DECIDERS, oracle.decider_key),
        (Situation.LATE_RECIPIENTS, oracle.recipient_key),
        (Situation.LATE_ANSWERS, oracle.answer_key),
        (Situation.LATE_CONSENTS, _fact_key),
    ):
        for group in _grouped(log, key):
            for place, event in enumerate(group):
                counted[situation] += any(
                    first[greater.event_id] < first[event.event_id] for greater in group[place + 1 :]
                )
    counted[Situation.DESERTED_OPTIONS] = _deserted_options(log, first)
    return counted


def _deserted_options(log: list[Record], first: dict[str, int]) -> int:
    shown: dict[Hashable, set[str]] = defaultdict(set)
    chosen_now: dict[Hashable, set[str]] = defaultdict(set)
    for answers in _grouped(log, oracle.answer_key):
        poll = (answers[0].app, answers[0].send_request_id, answers[0].poll_id or "")
        for place, event in enumerate(answers):
            if all(first[greater.event_id] > first[event.event_id] for greater in answers[place + 1 :]):
                shown[poll] |= _choice(event)
        chosen_now[poll] |= _choice(answers[-1])
    return sum(len(shown[poll] - chosen_now[poll]) for poll in shown)


def _choice(event: Record) -> set[str]:
    return set(event.poll_options or ("",))


def _of_requests(log: list[Record]) -> Counter[Situation]:
    counted: Counter[Situation] = Counter()
    for deciders in _grouped(log, oracle.decider_key):
        both = len({event.event_type for event in deciders}) == 2
        last = deciders[-1]
        counted[Situation.SIX_AGAINST_EIGHT] += both
        counted[Situation.SIX_AFTER_EIGHT] += both and last.event_type == oracle.COMPLETED
        counted[Situation.EIGHT_AFTER_SIX] += both and last.event_type == oracle.REQUEST_FAILED
        counted[Situation.NO_SUMMARY] += last.summary is None
        counted[Situation.FAILED_BY_SUMMARY] += (
            last.event_type == oracle.COMPLETED
            and last.summary is not None
            and last.summary.status == oracle.SUMMARY_FAILED
        )
    for events in _grouped(log, _request_key):
        known = [event for event in events if 1 <= event.event_type <= 8]
        counted[Situation.ONLY_UNKNOWN_TYPES] += not known
        counted[Situation.TIMES_AGAINST_IDS] += bool(known) and known[-1].occurred_at < max(
            event.occurred_at for event in known
        )
    for key in (oracle.decider_key, oracle.recipient_key, oracle.answer_key, _person_key):
        for events in _grouped(log, key):
            counted[Situation.TIES] += sum(one.event_id[:10] == other.event_id[:10] for one, other in pairwise(events))
    return counted


def _of_people(log: list[Record]) -> Counter[Situation]:
    counted: Counter[Situation] = Counter()
    for events in _grouped(log, _person_key):
        facts = [event for event in events if oracle.consent_fact(event)]
        delivered = [event for event in events if oracle.is_delivery(event)]
        asked = [event.occurred_at for event in events if event.event_type == oracle.PENDING_CONSENT]
        counted[Situation.ASKED_EARLIER_BY_LATER_ID] += bool(asked) and min(asked) < asked[0]
        if not (facts and delivered):
            continue
        newer = delivered[-1].event_id > facts[-1].event_id
        if oracle.consent_fact(facts[-1]) == "granted":
            counted[Situation.GRANTED_BEFORE_DELIVERY] += newer
        else:
            counted[Situation.CONSENT_AGAINST_DELIVERY] += 1
            counted[Situation.DELIVERY_WINS if newer else Situation.CONSENT_WINS] += 1
    return counted


def _of_polls(log: list[Record]) -> Counter[Situation]:
    counted: Counter[Situation] = Counter()
    for answers in _grouped(log, oracle.answer_key):
        choices = [_choice(event) for event in answers]
        counted[Situation.CHANGED_VOTES] += sum(one != other for one, other in pairwise(choices))
        for event in answers:
            options = event.poll_options
            counted[Situation.NO_ANSWER] += options is None
            counted[Situation.NO_OPTIONS] += options == ()
            counted[Situation.REPEATED_OPTIONS] += options is not None and len(set(options)) < len(options)
    return counted


def _of_events(log: list[Record]) -> Counter[Situation]:
    counted: Counter[Situation] = Counter()
    for event in log:
        counted[Situation.NO_REQUEST] += not event.send_request_id
        counted[Situation.UNKNOWN_TYPES] += not 1 <= event.event_type <= 8
        if 1 <= event.event_type <= 8 and event.event_type not in {oracle.COMPLETED, oracle.REQUEST_FAILED}:
            counted[Situation.NO_RECIPIENT] += event.ppnum is None
            counted[Situation.EMPTY_RECIPIENT] += event.ppnum == ""
    return counted
