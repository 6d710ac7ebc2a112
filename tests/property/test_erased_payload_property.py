"""An erased event's payload decodes to the same columns, but for the person, whatever the event was."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, assume, given, settings

from eventstore.contracts import Contract, decode
from eventstore.erasure.erased_payload import erase_event
from eventstore.erasure.erasure_token import is_token, new_token_of_person
from eventstore.errors import Undecodable
from projections.sandbox.simulator.log_builder import build_log
from projections.sandbox.simulator.world_settings import World
from tests import stories, wire
from tests.oracle import Record
from tests.property.test_decode_property import (
    contracts,
    events_with,
    good_events_with,
    good_recipients,
    mutated,
    recipients,
)

TOKEN = "erased:01KE0000000000000000000000"
NUMBER = "41790000017"
HIDDEN = wire.bytes_field(9, NUMBER)
"""The number in a field that no contract has."""
EVENT_ID = "01KE0000000000000000000001"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def test_tokens_are_random_and_recognised() -> None:
    tokens = {new_token_of_person() for _ in range(100)}
    assert len(tokens) == 100
    assert all(map(is_token, [*tokens, TOKEN]))
    assert not any(map(is_token, [NUMBER, "", TOKEN[:-1], TOKEN.lower(), f"{TOKEN}0", f" {TOKEN}", f"{TOKEN}\n"]))


def assert_erased(payload: bytes, contract: Contract) -> None:
    before = decode(payload, "app", contract)
    after = erase_event(before, TOKEN)
    assert after == decode(after.payload, "app", contract)
    assert after == before._replace(ppnum=TOKEN, message_id=None, payload=after.payload)
    assert erase_event(before, TOKEN) == after
    # Erasing again changes nothing: nothing else was left to drop.
    assert erase_event(after, TOKEN).payload == after.payload


good_events = good_events_with(good_recipients)


# Most bytes can't be decoded; the good events make sure that enough of them can. An event without a recipient has no
# person, so none is drawn.
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(events_with(recipients) | good_events | mutated(good_events), contracts)
def test_an_erased_event_has_the_columns_of_the_event(payload: bytes, contract: Contract) -> None:
    try:
        before = decode(payload, "app", contract)
    except Undecodable:
        assume(False)
    assume(before.ppnum is not None)
    assert_erased(payload, contract)


@given(stories.event_lists())
def test_every_event_of_a_story_can_be_erased(records: tuple[Record, ...]) -> None:
    for record in records:
        if record.ppnum is not None:
            assert_erased(stories.payload(record), Contract(record.contract))


@pytest.mark.parametrize("contract", Contract)
def test_every_event_of_the_simulator_can_be_erased(contract: Contract) -> None:
    log = build_log(World(recipients=300).events(), ends=datetime(2026, 1, 1, tzinfo=UTC))
    payloads = [entry.payloads[contract] for entry in log if contract in entry.payloads]
    persons = [payload for payload in payloads if decode(payload, "app", contract).ppnum]
    assert len(persons) > 300
    for payload in persons:
        assert_erased(payload, contract)


HIDING_PLACES = {
    "unknown fields": wire.event(recipient=wire.recipient(NUMBER), more=HIDDEN + wire.number_field(10, int(NUMBER))),
    "a group": wire.event(recipient=wire.recipient(NUMBER), more=wire.group_field(11, HIDDEN)),
    "a known field of another wire type": wire.event(
        recipient=wire.recipient(NUMBER), more=wire.bytes_field(3, NUMBER)
    ),
    "the recipient": wire.event(recipient=wire.recipient(NUMBER, recipient_id=NUMBER, message_id=NUMBER) + HIDDEN),
    "two recipients": wire.event(
        recipient=wire.recipient(NUMBER), more=wire.bytes_field(4, wire.bytes_field(1, NUMBER))
    ),
    "the summary": wire.event(recipient=wire.recipient(NUMBER), summary=wire.summary(3) + HIDDEN),
    "the poll": wire.event(
        event_type=7, recipient=wire.recipient(NUMBER), poll_response=wire.poll("poll", "yes") + HIDDEN
    ),
    "an unreadable poll": wire.event(recipient=wire.recipient(NUMBER), poll_response=b"\0" + NUMBER.encode()),
    "occurred_at as a message": wire.event(
        recipient=wire.recipient(NUMBER), occurred_at=wire.timestamp(1_790_000_000, 5_000) + HIDDEN
    ),
    "occurred_at as text": wire.event(
        recipient=wire.recipient(NUMBER), occurred_at=f"2026-01-02T03:04:05.678901{NUMBER}+01:00"
    ),
    "occurred_at in 1970": wire.event(recipient=wire.recipient(NUMBER), occurred_at=b"\x08\0" + HIDDEN),
    "occurred_at of an unknown type": wire.event(
        event_type=99, recipient=wire.recipient(NUMBER), occurred_at=f"at {NUMBER}"
    ),
    "times that can't be read": wire.event(
        recipient=wire.recipient(NUMBER, created_at=NUMBER), summary=wire.summary(created_at=NUMBER)
    ),
}


@pytest.mark.parametrize("contract", Contract)
@pytest.mark.parametrize("place", HIDING_PLACES)
def test_the_number_is_gone_from_every_place(place: str, contract: Contract) -> None:
    payload = HIDING_PLACES[place]
    assert NUMBER.encode() in payload
    assert_erased(payload, contract)
    erased = erase_event(decode(payload, "app", contract), TOKEN).payload
    assert NUMBER.encode() not in erased
    assert wire.varint(int(NUMBER)) not in erased


def payload_with(ppnum: str) -> bytes:
    return wire.event(
        EVENT_ID,
        recipient=wire.recipient(ppnum, status=4, error_code="no_route", created_at=wire.rfc3339(MOMENT)),
        summary=wire.summary(5, 3, 1, 1, summary_id="request", created_at=wire.rfc3339(MOMENT)),
        poll_response=wire.poll("poll", "yes", "no"),
    )


def test_what_isnt_about_the_person_stays() -> None:
    payload = payload_with(NUMBER)
    erased = erase_event(decode(payload, "app", Contract.CHAT_EXTERNAL), TOKEN).payload
    assert erased == payload_with(TOKEN)
