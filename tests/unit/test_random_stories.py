"""Random stories: short, repeatable, of the handled types, and with events that collide."""

from __future__ import annotations

import pytest

from projections.testing.random_stories import MAX_EVENTS, random_story


@pytest.mark.parametrize("handles", [{1}, {8}, {7}, {1, 2, 3}, {99}], ids=str)
def test_a_story_has_different_events_mostly_of_the_handled_types(handles: set[int]) -> None:
    stories = [random_story(seed, handles) for seed in range(40)]
    for events in stories:
        ids = [one.event_id for one in events]
        assert ids == sorted(set(ids))
        assert 1 <= len(events) <= MAX_EVENTS
        assert any(one.event_type in handles for one in events)
    together = [one for events in stories for one in events]
    assert sum(one.event_type in handles for one in together) > len(together) / 2
    assert stories[7] == random_story(7, handles)
    assert stories[7] != stories[8]


def test_stories_have_what_breaks_wrong_folds() -> None:
    stories = [random_story(seed, {1}) for seed in range(100)]
    moved = late = without = 0
    for events in stories:
        days: dict[object, set[object]] = {}
        for one in events:
            days.setdefault((one.app, one.send_request_id, one.ppnum), set()).add(one.occurred_at.date())
        moved += any(len(each) > 1 for each in days.values())
        late += [one.occurred_at for one in events] != sorted(one.occurred_at for one in events)
        without += any(not one.ppnum or not one.send_request_id for one in events if one.event_type == 1)
    assert min(moved, late, without) >= 5
