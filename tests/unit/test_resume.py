"""Which event_id a follower sends: an overlap before the last one, made up only at first contact; never stuck."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from eventstore import ulid
from eventstore.contracts import Contract
from eventstore.ingest.cursor_row import Cursor
from eventstore.ingest.first_contact import REPLAY_WINDOW, first_contact
from eventstore.ingest.recent_events import AGREEING_EVENTS, RECENT_EVENTS, is_clock_behind
from eventstore.ingest.resume import (
    ATTEMPTS,
    ResumePoint,
    ResumeSettings,
    Saved,
    Situation,
    StreamHistory,
    choose_resume_point,
)
from tests import wire

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
OVERLAP = timedelta(seconds=5)
FUTURE = wire.ulid_at(datetime(9000, 1, 1, tzinfo=UTC))
SINCE = wire.ulid_at(NOW - timedelta(days=3))
GAP = {"lower": SINCE, "upper": wire.ulid_at(NOW - timedelta(minutes=1)), "position": 7}


def ago(seconds: float, tail: int = 1) -> str:
    return wire.ulid_at(NOW - timedelta(seconds=seconds), tail)


def resume_point(
    stored: list[str],
    received: str | None = None,
    *,
    since: str | None = SINCE,
    gaps: tuple[dict[str, object], ...] = (),
    without_new: int = 0,
    before_overlap: str | None = None,
    contract: Contract = Contract.CHAT_EXTERNAL,
    now: datetime = NOW,
    is_log_empty: bool = False,
) -> ResumePoint:
    """Return the resume point; ``stored`` is in the order in which events were stored."""
    cursor = Cursor("app", 1, None, received or (stored[-1] if stored else None), list(gaps))
    saved = Saved(cursor, stored[::-1], is_log_empty=is_log_empty)
    return choose_resume_point(
        saved, ResumeSettings(contract, since, OVERLAP), StreamHistory(without_new, before_overlap), now
    )


def resume(stored: list[str], received: str | None = None, **changes: Any) -> str | None:  # noqa: ANN401 - parameters of resume_point
    return resume_point(stored, received, **changes).event_id


def test_each_situation_has_an_attempt_for_none_one_and_more_streams_without_a_new_event() -> None:
    assert ATTEMPTS.keys() == set(Situation)
    assert {len(attempts) for attempts in ATTEMPTS.values()} == {3}


def test_the_newest_event_that_is_an_overlap_before_the_last_one_received() -> None:
    assert resume([ago(20), ago(10), ago(8), ago(5.001), ago(3)]) == ago(8)


@pytest.mark.parametrize(("before", "sent"), [(5.0, 15.0), (4.999, 30.0)])
def test_the_overlap_to_the_millisecond(before: float, sent: float) -> None:
    assert resume([ago(30), ago(10 + before), ago(10)]) == ago(sent)


def test_the_overlap_starts_at_the_last_received_id_not_at_the_greatest() -> None:
    stored = [ago(100), ago(60), ago(30), ago(2)]
    assert resume(stored, received=ago(50)) == ago(60)
    assert resume(stored, received=ago(2)) == ago(30)


def test_a_received_id_that_was_not_stored_counts_for_the_overlap_but_is_not_sent() -> None:
    assert resume([ago(100), ago(60)], received=ago(10)) == ago(60)


def test_a_burst_within_the_overlap_is_resumed_at_its_oldest_event() -> None:
    assert resume([ago(3), ago(2), ago(1)]) == ago(3)


def test_the_oldest_is_the_least_ulid_not_the_first_stored() -> None:
    assert resume([ago(3), ago(4), ago(1)]) == ago(4)


def test_only_stored_ids_are_sent_once_something_is_stored() -> None:
    assert resume([ago(1)]) == ago(1)


def test_a_thousand_stored_events_are_read() -> None:
    assert RECENT_EVENTS == 1_000


def test_a_bogus_future_id_is_never_sent_and_never_used_for_the_overlap() -> None:
    stored = [ago(20), ago(10), ago(1)]
    for bogus in (FUTURE, wire.ulid_at(NOW + timedelta(minutes=5, seconds=1))):
        assert resume([*stored, bogus]) == ago(10)
        assert resume(stored, received=bogus) == ago(10), "it was received and quarantined"
        assert resume([bogus, *stored]) == ago(10)
        for without_new in range(3):
            assert resume([*stored, bogus], without_new=without_new) in stored


def test_while_only_bogus_ids_are_stored_first_contact_is_repeated() -> None:
    for without_new in range(3):
        assert resume([FUTURE, FUTURE[:-1] + "1"], without_new=without_new) == SINCE
        assert resume([FUTURE], since=None, without_new=without_new) is None
        assert resume([FUTURE], gaps=(GAP,), without_new=without_new) == GAP["upper"]


def test_an_id_within_the_clock_skew_is_believed() -> None:
    ahead = wire.ulid_at(NOW + timedelta(minutes=4))
    assert resume([ago(20), ago(1), ahead]) == ago(1)
    assert resume([ago(20), ago(1), ahead], without_new=1) == ahead


def test_after_a_stream_without_new_events_the_last_received_id_is_sent_stored_or_not() -> None:
    stored = [ago(9), ago(2), ago(1), ago(3)]
    assert [resume(stored, without_new=without_new) for without_new in range(4)] == [ago(9), ago(3), ago(3), ago(3)]
    assert resume(stored, received=ago(2.5), without_new=1) == ago(2.5)


def test_the_second_attempt_is_before_the_overlap_and_the_third_after_the_last_received_id() -> None:
    stored = [ago(9), ago(2), ago(1), ago(3)]
    sent = [resume(stored, received=ago(2), before_overlap=ago(1), without_new=without_new) for without_new in range(4)]
    assert sent == [ago(9), ago(1), ago(2), ago(2)]
    assert resume(stored, received=ago(2), before_overlap=FUTURE, without_new=1) == ago(1), "the greatest stored one"


def test_after_a_bogus_id_the_attempts_are_greatest_stored_then_last_stored_then_overlap_again() -> None:
    stored = [ago(9), ago(2), ago(1), ago(3)]
    assert [resume(stored, received=FUTURE, without_new=without_new) for without_new in range(7)] == [
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
def test_a_clock_that_is_behind_does_not_lose_the_cursor(behind: timedelta) -> None:
    stored = [ago(20), ago(10), ago(8), ago(1)]
    assert resume(stored, now=NOW - behind) == ago(8)
    assert is_clock_behind(stored, NOW - behind)
    assert not is_clock_behind(stored, NOW)
    assert not is_clock_behind([], NOW)


def test_many_ids_that_agree_are_believed_whatever_the_clock_says() -> None:
    stored = [ago(2 * second) for second in range(AGREEING_EVENTS, 0, -1)]
    years_ago = NOW - timedelta(days=4000)
    sent = resume(stored, now=years_ago)
    assert sent in stored
    assert is_clock_behind(stored, years_ago)
    assert resume([*stored, FUTURE], now=years_ago) in stored
    assert resume(stored[1:], now=years_ago) == SINCE, "too few to distinguish them from bogus ones"


def test_if_everything_was_quarantined_for_days_the_last_received_id_is_sent_and_no_older_stored_one() -> None:
    days = 24 * 3600.0
    pcs = Contract.PCS_EXTERNAL_V1
    assert resume([ago(8 * days)], received=ago(60), contract=pcs) == ago(60)
    assert resume([ago(8 * days)], received=ago(60)) == ago(8 * days), "the other contract has no replay window"
    assert resume([ago(6 * days)], received=ago(60), contract=pcs) == ago(6 * days)
    assert resume([ago(9 * days)], received=ago(8 * days), contract=pcs) == ago(9 * days), "with or without a gap"
    assert resume([ago(8 * days)], received=FUTURE, contract=pcs) == ago(8 * days)


def test_the_end_of_a_gap_is_sent_until_an_event_after_it_is_stored() -> None:
    assert resume([], received=ago(1), gaps=(GAP,)) == GAP["upper"]
    assert resume([], gaps=({**GAP, "upper": SINCE}, GAP)) == GAP["upper"], "the end of the last gap"
    assert resume([ago(1)], gaps=(GAP,)) == ago(1)


def test_first_contact_is_at_since() -> None:
    for contract in Contract:
        assert first_contact(contract, SINCE, NOW) == SINCE


@pytest.mark.parametrize("days", [6.99, 7, 8, 400, 30_000])
def test_first_contact_is_moved_into_the_replay_window_if_there_is_one(days: float) -> None:
    wished = ulid.first_ulid_at(NOW - timedelta(days=days))
    assert first_contact(Contract.CHAT_EXTERNAL, wished, NOW) == wished, "the window isn't known"
    assert first_contact(Contract.PCS_EXTERNAL_V1, wished, NOW) == ulid.first_ulid_at(NOW - REPLAY_WINDOW)


def test_while_nothing_at_all_is_stored_first_contact_is_repeated_in_spite_of_a_gap() -> None:
    sent = resume_point([], gaps=(GAP,), is_log_empty=True)
    assert (sent.event_id, sent.is_first_contact, sent.replays_gap) == (SINCE, True, True)
    assert resume([], since=None, gaps=(GAP,), is_log_empty=True) is None
    sent = resume_point([], gaps=(GAP,), is_log_empty=False)
    assert (sent.event_id, sent.is_first_contact, sent.replays_gap) == (GAP["upper"], False, False)


def test_first_contact_that_was_refused_is_not_repeated_in_the_same_session() -> None:
    cursor = Cursor("app", 1, None, None, [GAP])
    history = StreamHistory(first_contact_refused=True)
    settings = ResumeSettings(Contract.PCS_EXTERNAL_V1, SINCE, OVERLAP)
    assert choose_resume_point(Saved(cursor, [], is_log_empty=True), settings, history, NOW).event_id == GAP["upper"]


def test_first_contact_without_since() -> None:
    assert first_contact(Contract.CHAT_EXTERNAL, None, NOW) is None
    assert first_contact(Contract.PCS_EXTERNAL_V1, None, NOW) == ulid.first_ulid_at(NOW - timedelta(days=7, hours=-1))
    assert timedelta(days=7) - REPLAY_WINDOW == timedelta(hours=1)


def test_before_anything_is_stored_first_contact_is_repeated() -> None:
    assert resume([]) == SINCE
    assert resume([], since=None) is None
    assert resume([], received=ago(1)) == SINCE, "everything that was received is quarantined"


Order = Literal["by arrival", "by ULID"]


def next_of(log: list[str], after: str | None, order: Order, count: int) -> list[str]:
    """Return what an upstream sends that ends every stream after this many events."""
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
    """Also if many events are quarantined, so that their ids are never among the stored ones."""
    chance = random.Random(disorder * per_dial)  # noqa: S311 - repeatable, not secret
    ids = [ago(3600 - at * spacing / 1000, at) for at in range(60)]
    log = [event_id for _, event_id in sorted((at + chance.uniform(0, disorder), i) for at, i in enumerate(ids))]
    quarantined = {event_id for event_id in log if chance.random() < refused}
    stored: list[str] = []
    received = None
    history = StreamHistory()
    settings = ResumeSettings(Contract.CHAT_EXTERNAL, None, OVERLAP)
    seen: set[str] = set()
    for _ in range(4 * len(log)):
        cursor = Cursor("app", 1, None, received, [])
        after = choose_resume_point(Saved(cursor, stored[::-1]), settings, history, NOW).event_id
        history.stream_starts(cursor)
        assert after is None or after in seen
        brought = next_of(log, after, order, per_dial)
        new = [event_id for event_id in brought if event_id not in stored and event_id not in quarantined]
        stored += new
        seen.update(brought)
        received = brought[-1] if brought else received
        history.stream_ended(received=bool(brought), stored_new=bool(new), failed=False)
    assert seen == set(log)
    assert sorted(stored) == sorted(set(log) - quarantined)
