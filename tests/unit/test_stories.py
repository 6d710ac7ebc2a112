"""The stories contain every situation that they must, deliveries are complete, and the wire bytes match the records."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from itertools import chain

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from eventstore.contracts import Contract, decode
from eventstore.ulid import is_ulid
from tests import oracle, wire
from tests.oracle import Record
from tests.stories import (
    CHAT,
    CONFLICTS,
    PCS,
    Delivery,
    Situation,
    Story,
    coverage,
    deliveries,
    event_lists,
    in_world,
    payload,
    possible,
    stories,
)

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)
EXAMPLES = 300
counting = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
checking = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def record(tail: int, event_type: int, *, millisecond: int = 0, ppnum: str | None = None) -> Record:
    event_id = wire.ulid_of(1_767_225_600_000 + millisecond, tail)
    return Record(event_id, "one", CHAT, event_type, MOMENT, "request", ppnum)


def count_situations(*batches: tuple[Record, ...]) -> Counter[Situation]:
    delivery: Delivery = batches
    return coverage({event.event_id: event for event in chain.from_iterable(delivery)}.values(), delivery)


@pytest.mark.parametrize("contracts", [(CHAT, PCS), (CHAT,), (PCS,)], ids=["both", "chat", "pcs"])
def test_every_possible_situation_occurs_more_than_once_and_conflicts_often(contracts: tuple[str, ...]) -> None:
    stories_with: Counter[Situation] = Counter()

    @counting
    @given(story=stories(contracts))
    def tell(story: Story) -> None:
        stories_with.update(set(coverage(story.events, story.delivery)))

    tell()
    assert set(stories_with) == possible(contracts)
    assert not {situation.value: count for situation, count in stories_with.items() if count < EXAMPLES // 100}
    assert all(stories_with[situation] >= EXAMPLES // 30 for situation in CONFLICTS & possible(contracts))


@checking
@given(story=stories())
def test_a_delivery_contains_every_event_and_no_other(story: Story) -> None:
    assert all(story.delivery)
    assert set(chain.from_iterable(story.delivery)) == set(story.events)
    assert len({event.event_id for event in story.events}) == len(story.events)


@checking
@given(story=stories())
def test_events_do_not_depend_on_their_delivery(story: Story) -> None:
    assert oracle.read_models(chain.from_iterable(story.delivery)) == oracle.read_models(story.events)


@checking
@given(story=stories())
def test_the_oracle_gives_each_key_one_row(story: Story) -> None:
    for table, rows in oracle.read_models(story.events).items():
        places = [oracle.COLUMNS[table].index(column) for column in oracle.KEYS[table]]
        assert all(len(row) == len(oracle.COLUMNS[table]) for row in rows)
        assert len({tuple(row[place] for place in places) for row in rows}) == len(rows)


@checking
@given(story=stories())
def test_the_oracle_gives_people_the_consent_of_the_registry(story: Story) -> None:
    found = oracle.read_models(story.events)
    place = {name: oracle.COLUMNS["people"].index(name) for name in ("requests", "consent_status")}
    registry = {row[:2]: row[2] for row in found["consent_registry"]}
    people = {row[:2]: row for row in found["people"]}
    assert {key: row[place["consent_status"]] for key, row in people.items()} == {
        key: registry.get(key) for key in people
    }
    assert registry.keys() <= people.keys()
    assert sum(int(str(row[place["requests"]])) for row in people.values()) == len(found["request_recipients"])


@checking
@given(events=event_lists())
def test_the_wire_bytes_match_the_record(events: tuple[Record, ...]) -> None:
    for event in events:
        read = decode(payload(event), event.app, Contract(event.contract))
        answered = event.poll_options is not None
        assert read.event_id == event.event_id
        assert read.event_type == event.event_type
        assert read.send_request_id == (event.send_request_id or None)
        assert (read.ppnum, read.error_code, read.message_id) == (event.ppnum, event.error_code, event.message_id)
        assert read.poll_id == ((event.poll_id or "") if answered else None)
        assert read.poll_options == (list(event.poll_options or ()) if answered else None)
        assert read.occurred_at == event.occurred_at
        counts = (read.summary_status, read.total_recipients, read.delivered, read.failed, read.pending_consent)
        given = event.summary
        expected = (given.status, given.total, given.delivered, given.failed, given.pending) if given else (None,) * 5
        assert counts == expected
        assert (read.recipient_created_at, read.summary_created_at, read.summary_completed_at) == (
            event.recipient_created_at,
            given.created_at if given else None,
            given.completed_at if given else None,
        )


@checking
@given(events=event_lists())
def test_an_app_has_one_contract_and_pcs_has_no_grants_and_polls(events: tuple[Record, ...]) -> None:
    assert len({event.app for event in events}) == len({(event.app, event.contract) for event in events})
    assert not [event for event in events if event.contract == PCS and event.event_type in {4, 5, 7}]


@checking
@given(story=stories())
def test_worlds_share_nothing_and_have_equal_events(story: Story) -> None:
    first, second = story.in_world(1), story.in_world(2**62)
    assert all(is_ulid(event.event_id) for event in (*first.events, *second.events))
    assert not {event.event_id for event in first.events} & {event.event_id for event in second.events}
    assert not {event.app for event in first.events} & {event.app for event in second.events}
    assert coverage(first.events, first.delivery) == coverage(story.events, story.delivery)
    moved = {in_world(event, 1).event_id: event.event_id for event in story.events}
    assert [moved[event_id] for event_id in sorted(moved)] == sorted(event.event_id for event in story.events)
    assert set(chain.from_iterable(first.delivery)) == set(first.events)


# What counts as which situation


def test_a_deciding_event_is_late_only_after_a_greater_one_in_an_earlier_batch() -> None:
    small, great = record(1, 6), record(2, 6)
    assert count_situations((great,), (small,))[Situation.LATE_DECIDERS] == 1
    assert count_situations((small,), (great,))[Situation.LATE_DECIDERS] == 0
    assert count_situations((great, small))[Situation.LATE_DECIDERS] == 0
    assert count_situations((small, great), (small,))[Situation.LATE_DECIDERS] == 0


def test_ties_have_the_same_millisecond_and_the_same_key() -> None:
    assert count_situations((record(1, 6), record(2, 8)))[Situation.TIES] == 1
    assert count_situations((record(1, 6), record(2, 8, millisecond=1)))[Situation.TIES] == 0
    assert count_situations((record(1, 6), record(2, 7, ppnum="12300000001")))[Situation.TIES] == 0


def test_of_a_completion_and_a_failure_one_decides() -> None:
    assert count_situations((record(1, 6), record(2, 6)))[Situation.SIX_AGAINST_EIGHT] == 0
    counted = count_situations((record(2, 6), record(1, 8)))
    assert (counted[Situation.SIX_AGAINST_EIGHT], counted[Situation.SIX_AFTER_EIGHT]) == (1, 1)
    counted = count_situations((record(1, 6), record(2, 8)))
    assert (counted[Situation.SIX_AGAINST_EIGHT], counted[Situation.EIGHT_AFTER_SIX]) == (1, 1)


def test_consent_is_against_delivery_unless_it_was_granted() -> None:
    pending, granted = record(1, 3, ppnum="12300000001"), record(2, 4, ppnum="12300000001")
    delivered, denied = record(3, 1, ppnum="12300000001"), record(4, 5, ppnum="12300000001")
    counted = count_situations((pending, delivered))
    assert (counted[Situation.CONSENT_AGAINST_DELIVERY], counted[Situation.DELIVERY_WINS]) == (1, 1)
    counted = count_situations((pending, granted, delivered))
    assert (counted[Situation.CONSENT_AGAINST_DELIVERY], counted[Situation.GRANTED_BEFORE_DELIVERY]) == (0, 1)
    counted = count_situations((pending, granted, delivered, denied))
    assert (counted[Situation.CONSENT_AGAINST_DELIVERY], counted[Situation.CONSENT_WINS]) == (1, 1)


def answer(tail: int, *options: str) -> Record:
    event = record(tail, 7, ppnum="12300000001")
    return Record(event.event_id, "one", CHAT, 7, MOMENT, "request", "12300000001", poll_id="p", poll_options=options)


def test_a_vote_changes_with_its_options_and_abandons_options_that_were_counted_before() -> None:
    assert count_situations((answer(1, "x", "y"), answer(2, "y", "x", "x")))[Situation.CHANGED_VOTES] == 0
    counted = count_situations((answer(1, "x"),), (answer(2, "y"),))
    assert (counted[Situation.CHANGED_VOTES], counted[Situation.DESERTED_OPTIONS]) == (1, 1)
    counted = count_situations((answer(2, "y"),), (answer(1, "x"),))
    assert (counted[Situation.CHANGED_VOTES], counted[Situation.DESERTED_OPTIONS]) == (1, 0)


def test_repetitions_are_counted_within_and_across_batches() -> None:
    event = record(1, 6)
    assert count_situations((event, event))[Situation.REPEATED_IN_BATCH] == 1
    assert count_situations((event,), (event,))[Situation.REPEATED_LATER] == 1


def test_no_events_arrive_as_no_batches() -> None:
    @checking
    @given(delivery=deliveries(()))
    def arrive(delivery: Delivery) -> None:
        assert delivery == ()

    arrive()
