"""Which event_id a follower sends: an overlap back, nothing made up but at first contact, and always onwards."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from eventstore import ulid
from eventstore.contracts import Contract
from eventstore.ingest.cursor import (
    AGREEING,
    RECENT_EVENTS,
    REPLAY_WINDOW,
    Cursor,
    beginning_of,
    first_contact,
    is_clock_behind,
    resume_at,
)
from tests import wire

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
OVERLAP = timedelta(seconds=5)
FUTURE = wire.ulid_at(datetime(9000, 1, 1, tzinfo=UTC))
SINCE = wire.ulid_at(NOW - timedelta(days=3))
HOLE = {"lower": SINCE, "upper": wire.ulid_at(NOW - timedelta(minutes=1)), "position": 7}


def ago(seconds: float, tail: int = 1) -> str:
    return wire.ulid_at(NOW - timedelta(seconds=seconds), tail)


def resume(
    stored: list[str],
    received: str | None = None,
    *,
    since: str | None = SINCE,
    holes: tuple[dict[str, object], ...] = (),
    in_vain: int = 0,
    reached: str | None = None,
    contract: Contract = Contract.CHAT_EXTERNAL,
    now: datetime = NOW,
) -> str | None:
    """``stored`` in the order in which they were stored."""
    cursor = Cursor("app", 1, None, received or (stored[-1] if stored else None), list(holes))
    recent = stored[::-1]
    return resume_at(
        cursor,
        recent,
        contract=contract,
        beginning=beginning_of(cursor, since, anew=False),
        overlap=OVERLAP,
        in_vain=in_vain,
        reached=reached,
        now=now,
    )


def test_the_newest_event_that_lies_an_overlap_before_the_last_one_received() -> None:
    assert resume([ago(20), ago(10), ago(8), ago(5.001), ago(3)]) == ago(8)


@pytest.mark.parametrize(("before", "sent"), [(5.0, 15.0), (4.999, 30.0)])
def test_the_overlap_to_the_millisecond(before: float, sent: float) -> None:
    assert resume([ago(30), ago(10 + before), ago(10)]) == ago(sent)


def test_the_overlap_is_reckoned_from_the_last_received_not_from_the_greatest() -> None:
    stored = [ago(100), ago(60), ago(30), ago(2)]
    assert resume(stored, received=ago(50)) == ago(60)
    assert resume(stored, received=ago(2)) == ago(30)


def test_a_received_id_counts_even_when_it_was_not_stored_but_is_not_sent() -> None:
    assert resume([ago(100), ago(60)], received=ago(10)) == ago(60)


def test_a_burst_within_the_overlap_is_taken_up_at_its_oldest() -> None:
    assert resume([ago(3), ago(2), ago(1)]) == ago(3)


def test_the_oldest_is_the_least_ulid_not_the_first_stored() -> None:
    assert resume([ago(3), ago(4), ago(1)]) == ago(4)


def test_only_stored_ids_are_sent_once_something_is_stored() -> None:
    assert resume([ago(1)]) == ago(1)


def test_a_thousand_events_are_looked_at() -> None:
    assert RECENT_EVENTS == 1_000


def test_a_bogus_future_id_is_never_sent_and_nothing_is_reckoned_from_it() -> None:
    stored = [ago(20), ago(10), ago(1)]
    for bogus in (FUTURE, wire.ulid_at(NOW + timedelta(minutes=5, seconds=1))):
        assert resume([*stored, bogus]) == ago(10)
        assert resume(stored, received=bogus) == ago(10), "received, and in quarantine"
        assert resume([bogus, *stored]) == ago(10)
        for in_vain in range(3):
            assert resume([*stored, bogus], in_vain=in_vain) in stored


def test_where_only_bogus_ids_are_stored_it_is_the_first_contact_still() -> None:
    for in_vain in range(3):
        assert resume([FUTURE, FUTURE[:-1] + "1"], in_vain=in_vain) == SINCE
        assert resume([FUTURE], since=None, in_vain=in_vain) is None
        assert resume([FUTURE], holes=(HOLE,), in_vain=in_vain) == HOLE["upper"]


def test_an_id_within_the_skew_of_clocks_is_as_good_as_any() -> None:
    ahead = wire.ulid_at(NOW + timedelta(minutes=4))
    assert resume([ago(20), ago(1), ahead]) == ago(1)
    assert resume([ago(20), ago(1), ahead], in_vain=1) == ahead


def test_in_vain_goes_on_right_behind_what_came_last_stored_or_not() -> None:
    stored = [ago(9), ago(2), ago(1), ago(3)]
    assert [resume(stored, in_vain=in_vain) for in_vain in range(4)] == [ago(9), ago(3), ago(3), ago(3)]
    assert resume(stored, received=ago(2.5), in_vain=1) == ago(2.5)


def test_in_vain_goes_on_where_it_was_before_the_overlap_then_right_behind_what_came_last() -> None:
    stored = [ago(9), ago(2), ago(1), ago(3)]
    sent = [resume(stored, received=ago(2), reached=ago(1), in_vain=in_vain) for in_vain in range(4)]
    assert sent == [ago(9), ago(1), ago(2), ago(2)]
    assert resume(stored, received=ago(2), reached=FUTURE, in_vain=1) == ago(1), "the greatest"


def test_in_vain_behind_a_bogus_id_goes_behind_the_greatest_then_behind_the_last_stored_then_back() -> None:
    stored = [ago(9), ago(2), ago(1), ago(3)]
    assert [resume(stored, received=FUTURE, in_vain=in_vain) for in_vain in range(7)] == [
        *(ago(9), ago(1), ago(3)),
        *(ago(9), ago(1), ago(3)),
        ago(9),
    ]


HOURS_BEHIND = [
    timedelta(minutes=6),
    timedelta(hours=2),
    timedelta(hours=23),
]


@pytest.mark.parametrize("behind", HOURS_BEHIND, ids=str)
def test_a_clock_that_is_behind_costs_no_cursor(behind: timedelta) -> None:
    stored = [ago(20), ago(10), ago(8), ago(1)]
    assert resume(stored, now=NOW - behind) == ago(8)
    assert is_clock_behind(stored, NOW - behind)
    assert not is_clock_behind(stored, NOW)
    assert not is_clock_behind([], NOW)


def test_many_that_agree_are_believed_whatever_the_clock_says() -> None:
    stored = [ago(2 * second) for second in range(AGREEING, 0, -1)]
    years_ago = NOW - timedelta(days=4000)
    sent = resume(stored, now=years_ago)
    assert sent in stored
    assert is_clock_behind(stored, years_ago)
    assert resume([*stored, FUTURE], now=years_ago) in stored
    assert resume(stored[1:], now=years_ago) == SINCE, "too few to tell them from bogus ones"


def test_where_all_that_came_for_long_is_in_quarantine_the_cursor_is_sent_before_it_becomes_a_hole() -> None:
    days = 24 * 3600.0
    pcs = Contract.PCS_EXTERNAL_V1
    assert resume([ago(8 * days)], received=ago(60), contract=pcs) == ago(60)
    assert resume([ago(8 * days)], received=ago(60)) == ago(8 * days), "the other contract knows no window"
    assert resume([ago(6 * days)], received=ago(60), contract=pcs) == ago(6 * days)
    assert resume([ago(9 * days)], received=ago(8 * days), contract=pcs) == ago(9 * days), "a hole either way"
    assert resume([ago(8 * days)], received=FUTURE, contract=pcs) == ago(8 * days)


def test_a_hole_s_upper_end_is_sent_until_something_is_stored_behind_it() -> None:
    assert resume([], received=ago(1), holes=(HOLE,)) == HOLE["upper"]
    assert resume([], holes=({**HOLE, "upper": SINCE}, HOLE)) == HOLE["upper"], "the last hole's"
    assert resume([ago(1)], holes=(HOLE,)) == ago(1)


def test_first_contact_as_wished() -> None:
    for contract in Contract:
        assert first_contact(contract, SINCE, NOW) == SINCE


@pytest.mark.parametrize("days", [6.99, 7, 8, 400, 30_000])
def test_first_contact_is_moved_inside_the_replay_window_where_there_is_one(days: float) -> None:
    wished = ulid.first_at(NOW - timedelta(days=days))
    assert first_contact(Contract.CHAT_EXTERNAL, wished, NOW) == wished, "no window is known"
    assert first_contact(Contract.PCS_EXTERNAL_V1, wished, NOW) == ulid.first_at(NOW - REPLAY_WINDOW)


def test_before_anything_is_stored_a_hole_does_not_keep_first_contact_from_being_made_anew() -> None:
    cursor = Cursor("app", 1, None, None, [HOLE])
    assert beginning_of(cursor, SINCE, anew=True) == SINCE
    assert beginning_of(cursor, None, anew=True) is None
    assert beginning_of(cursor, SINCE, anew=False) == HOLE["upper"]


def test_first_contact_without_a_wish() -> None:
    assert first_contact(Contract.CHAT_EXTERNAL, None, NOW) is None
    assert first_contact(Contract.PCS_EXTERNAL_V1, None, NOW) == ulid.first_at(NOW - timedelta(days=7, hours=-1))
    assert timedelta(days=7) - REPLAY_WINDOW == timedelta(hours=1)


def test_before_anything_is_stored_the_first_contact_s_is_sent() -> None:
    assert resume([]) == SINCE
    assert resume([], since=None) is None
    assert resume([], received=ago(1)) == SINCE, "what was received is in quarantine, all of it"


Order = Literal["by arrival", "by ULID"]


def next_of(log: list[str], after: str | None, order: Order, count: int) -> list[str]:
    """What an upstream sends that ends every stream after so many events."""
    if after is None:
        rest = log if order == "by arrival" else sorted(log)
    elif order == "by arrival":
        rest = log[log.index(after) + 1 :]
    else:
        rest = sorted(event_id for event_id in log if event_id > after)
    return rest[:count]


@pytest.mark.parametrize("order", ["by arrival", "by ULID"])
@pytest.mark.parametrize("per_dial", [1, 2, 7])
@pytest.mark.parametrize("disorder", [0, 2, 20])
@pytest.mark.parametrize("spacing", [1, 100])
@pytest.mark.parametrize("refused", [0.0, 0.3, 0.8])
def test_a_stream_that_is_cut_again_and_again_gets_to_its_end(
    order: Order, per_dial: int, disorder: int, spacing: int, refused: float
) -> None:
    """Also when much of it is quarantined, so that its ids are never among the stored ones."""
    chance = random.Random(disorder * per_dial)  # noqa: S311 - wants to be repeatable, not secret
    ids = [ago(3600 - at * spacing / 1000, at) for at in range(60)]
    log = [event_id for _, event_id in sorted((at + chance.uniform(0, disorder), i) for at, i in enumerate(ids))]
    quarantined = {event_id for event_id in log if chance.random() < refused}
    stored: list[str] = []
    received = reached = None
    in_vain = 0
    seen: set[str] = set()
    for _ in range(4 * len(log)):
        after = resume(stored, received, since=None, in_vain=in_vain, reached=reached)
        reached = reached if in_vain else received
        assert after is None or after in seen
        brought = next_of(log, after, order, per_dial)
        new = [event_id for event_id in brought if event_id not in stored and event_id not in quarantined]
        stored += new
        seen.update(brought)
        received = brought[-1] if brought else received
        if new or not brought:
            in_vain = 0
        else:
            in_vain += 1
    assert seen == set(log)
    assert sorted(stored) == sorted(set(log) - quarantined)
