"""The simulated world: repeatable, and like the vendor's description of its sandbox."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from eventstore import ulid
from eventstore.contracts import Contract, Event, decode
from eventstore.errors import UsageError
from projections.sandbox.simulator import Fault, FaultKind, SimulatedEvent, World, build_log

ENDS = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHAT, PCS = Contract.CHAT_EXTERNAL, Contract.PCS_EXTERNAL_V1
WORLD = World(seed=7, recipients=3_000, recipients_per_request=40, polls=0.5)


def log_of(world: World, rate: float | None = None) -> list[SimulatedEvent]:
    return build_log(world.events(), ends=ENDS, rate=rate)


def events_of(log: list[SimulatedEvent], contract: Contract) -> list[Event]:
    return [decode(entry.payloads[contract], "app", contract) for entry in log if contract in entry.payloads]


@pytest.fixture(scope="module")
def log() -> list[SimulatedEvent]:
    return log_of(WORLD)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(log: list[SimulatedEvent]) -> None:
    assert log_of(World(seed=7, recipients=3_000, recipients_per_request=40, polls=0.5)) == log
    other = log_of(World(seed=8, recipients=3_000, recipients_per_request=40, polls=0.5))
    assert {entry.event_id for entry in other}.isdisjoint(entry.event_id for entry in log)


def test_a_contract_has_the_same_bytes_alone_and_with_the_other(log: list[SimulatedEvent]) -> None:
    for contract in Contract:
        alone = build_log(WORLD.events(), ends=ENDS, contracts=[contract])
        assert [entry.payloads[contract] for entry in alone] == [
            entry.payloads[contract] for entry in log if contract in entry.payloads
        ]


def test_ulids_are_unique_rise_and_are_those_of_the_payloads(log: list[SimulatedEvent]) -> None:
    ids = [entry.event_id for entry in log]
    assert ids == sorted(set(ids))
    assert all(map(ulid.is_ulid, ids))
    for contract in Contract:
        bearing = [entry for entry in log if contract in entry.payloads]
        events = events_of(log, contract)
        assert [event.event_id for event in events] == [entry.event_id for entry in bearing]
        assert [event.send_request_id for event in events] == [entry.send_request_id for entry in bearing]


def test_the_days_end_at_the_epoch_and_fit_into_the_replay_window(log: list[SimulatedEvent]) -> None:
    moments = [event.occurred_at for event in events_of(log, PCS)]
    assert moments == sorted(moments)
    assert ulid.time_of(log[-1].event_id) == ENDS
    assert (ENDS - moments[0]).days < 6


def test_at_a_rate_events_are_evenly_apart() -> None:
    log = log_of(World(recipients=200), rate=10)
    moments = [ulid.time_milliseconds(entry.event_id) for entry in log]
    first = moments[-1] - 100 * (len(moments) - 1)
    assert all(abs(moment - first - 100 * at) <= 200 for at, moment in enumerate(moments))
    assert ulid.time_of(log[-1].event_id) == ENDS


def test_requests_interleave(log: list[SimulatedEvent]) -> None:
    runs = 1 + sum(a.send_request_id != b.send_request_id for a, b in pairwise(log))
    assert runs > 5 * len({entry.send_request_id for entry in log})


SANDBOX_COURSES = [
    (CHAT, "12300000001", [1]),
    (CHAT, "12300000002", [3, 4, 1]),
    (CHAT, "12300000003", [3, 5]),
    (CHAT, "12300000004", [2]),
    (PCS, "12300000001", [1]),
    (PCS, "12300000002", [3, 1]),
    (PCS, "12300000003", [3, 2]),
    (PCS, "12300000004", [2]),
]


@pytest.mark.parametrize(("contract", "ppnum", "course"), SANDBOX_COURSES)
def test_sandbox_numbers_do_what_the_vendor_says(
    log: list[SimulatedEvent], contract: Contract, ppnum: str, course: list[int]
) -> None:
    courses = defaultdict(list)
    for event in events_of(log, contract):
        if event.ppnum == ppnum and event.event_type != 7:
            courses[event.send_request_id].append(event.event_type)
    assert len(courses) > 1
    stopped = {event.send_request_id for event in events_of(log, PCS) if event.event_type == 8}
    assert all(seen == course for request, seen in courses.items() if request not in stopped)


def test_phone_numbers_have_eleven_or_more_digits_and_no_request_has_one_twice(log: list[SimulatedEvent]) -> None:
    seen = set()
    for event in events_of(log, PCS):
        if event.ppnum is not None:
            assert event.ppnum.isdigit()
            assert len(event.ppnum) >= 11
            if event.event_type in {2, 3} and event.error_code not in {"consent_denied", "consent_expired"}:
                assert (event.send_request_id, event.ppnum) not in seen
                seen.add((event.send_request_id, event.ppnum))


def test_each_contract_has_only_its_own_types(log: list[SimulatedEvent]) -> None:
    assert {event.event_type for event in events_of(log, CHAT)} == {1, 2, 3, 4, 5, 6, 7}
    assert {event.event_type for event in events_of(log, PCS)} == {1, 2, 3, 6, 8}


@pytest.mark.parametrize("contract", Contract)
def test_summaries_match_the_events_of_the_recipients(log: list[SimulatedEvent], contract: Contract) -> None:
    latest: dict[str | None, dict[str | None, int]] = defaultdict(dict)
    summaries = 0
    for event in events_of(log, contract):
        if event.event_type in {1, 2, 3}:
            latest[event.send_request_id][event.ppnum] = event.event_type
        elif event.event_type in {6, 8}:
            summaries += 1
            types = list(latest[event.send_request_id].values())
            counts = (event.delivered, event.failed, event.pending_consent)
            assert counts == (types.count(1), types.count(2), types.count(3))
            assert event.total_recipients is not None
            if event.event_type == 6:
                assert (len(types), event.summary_status) == (event.total_recipients, 3)
            else:
                assert len(types) < event.total_recipients
                assert event.summary_status == 4
    assert summaries > 60


def test_under_pcs_every_recipient_that_waits_for_consent_gets_an_outcome(log: list[SimulatedEvent]) -> None:
    held, codes = set(), set()
    for event in events_of(log, PCS):
        recipient = (event.send_request_id, event.ppnum)
        if event.event_type == 3:
            held.add(recipient)
        elif recipient in held:
            held.discard(recipient)
            codes.add(event.error_code)
    assert not held
    assert codes == {None, "consent_denied", "consent_expired"}


def test_polls_have_answers_with_several_options_and_changed_answers(log: list[SimulatedEvent]) -> None:
    answers = defaultdict(list)
    for event in events_of(log, CHAT):
        if event.event_type == 7:
            assert event.poll_id is not None
            assert event.poll_options
            answers[event.poll_id, event.ppnum].append(event.poll_options)
    assert any(len(given) > 1 and given[0] != given[-1] for given in answers.values())
    assert any(len(options) > 1 for given in answers.values() for options in given)


def test_no_poll_without_polls() -> None:
    assert 7 not in {event.event_type for event in events_of(log_of(World(recipients=200, polls=0)), CHAT)}


def test_an_empty_world_has_an_empty_log() -> None:
    assert log_of(World(recipients=0)) == []


@pytest.mark.parametrize(
    "wrong",
    [{"recipients": -1}, {"recipients_per_request": 0}, {"recipients_per_request": 1_001}, {"polls": 1.1}],
)
def test_a_world_outside_its_limits_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        World(**wrong)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("end", Fault(FaultKind.END)),
        ("silence@12", Fault(FaultKind.SILENCE, after=12)),
        ("garbage@3x2", Fault(FaultKind.GARBAGE, after=3, times=2)),
        ("duplicates=9", Fault(FaultKind.DUPLICATES, count=9)),
        ("resource-exhausted=2s@1x3", Fault(FaultKind.RESOURCE_EXHAUSTED, after=1, times=3, retry_after=2)),
        ("resource-exhausted=250ms", Fault(FaultKind.RESOURCE_EXHAUSTED, retry_after_ms=250)),
    ],
)
def test_faults_are_parsed(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


@pytest.mark.parametrize("text", ["", "nonsense", "end@", "end=2s", "duplicates=2s", "resource-exhausted=2", "end x2"])
def test_an_invalid_fault_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Fault.parse(text)
