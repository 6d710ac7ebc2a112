"""Random stories for tests: a few events of the simulator's worlds that collide as often as possible.

Invariants. The same seed and event types give the same story. A story has at most ``MAX_EVENTS`` events of one
contract, each with an event_id of its own, in the order of these. Some events happened again: under another event_id,
on another day. Now and then an event has no recipient or no request.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from ulid import ULID

from eventstore.contracts import Contract, Event, decode
from eventstore.contracts.event_types import EventType
from projections.sandbox.simulator import World, build_log

MAX_EVENTS = 10
_ENDS = datetime(2026, 1, 8, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNHANDLED = 2
_WORLDS = 8
"""Worlds that are tried until one has an event of a handled type; some types are rare."""
_SHIFTS = (timedelta(hours=-30), timedelta(minutes=-1), timedelta(minutes=1), timedelta(hours=30))


def random_story(seed: int, handles: Collection[int]) -> list[Event]:
    """Return the events of a story.

    Args:
        seed: any whole number.
        handles: the event types that most of the events have.

    """
    numbers = random.Random(seed)  # noqa: S311 - must be repeatable, not secret
    handled: list[Event] = []
    others: list[Event] = []
    for _ in range(_WORLDS):
        found = _world_events(numbers)
        handled = [one for one in found if one.event_type in handles]
        others = [one for one in found if one.event_type not in handles]
        if handled:
            break
    else:
        # No world has one: the platform sends it too rarely, or this version doesn't know it.
        handled = [one._replace(event_type=numbers.choice(sorted(handles))) for one in others[::2]]
        others = others[1::2]
    story = _some(numbers, handled, MAX_EVENTS - _UNHANDLED - 2) + _some(numbers, others, _UNHANDLED)
    story += [_again(numbers, one, handled) for one in _some(numbers, story, 2)]
    return sorted((_without_some(numbers, one) for one in story), key=lambda one: one.event_id)


def _world_events(numbers: random.Random) -> list[Event]:
    world = World(
        seed=numbers.randrange(2**32),
        recipients=numbers.randint(2, 8),
        recipients_per_request=numbers.randint(1, 4),
        polls=numbers.choice((0.0, 0.5, 1.0)),
    )
    contract = numbers.choice(tuple(Contract))
    apps = numbers.choice((("app",), ("app", "other app")))
    log = build_log(world.events(), ends=_ENDS, contracts=(contract,))
    events = (decode(entry.payloads[contract], "app", contract) for entry in log)
    of_request: dict[str | None, str] = {}
    return [one._replace(app=of_request.setdefault(one.send_request_id, numbers.choice(apps))) for one in events]


def _some(numbers: random.Random, events: Sequence[Event], most: int) -> list[Event]:
    return numbers.sample(events, min(numbers.randint(1, most), len(events)))


def _again(numbers: random.Random, one: Event, others: Sequence[Event]) -> Event:
    """Return what happens to the same person again, at another time and with the details of another event."""
    details = numbers.choice([other for other in others if other.event_type == one.event_type] or [one])
    at = one.occurred_at + numbers.choice(_SHIFTS)
    milliseconds = (at - _EPOCH) // timedelta(milliseconds=1)
    return details._replace(
        event_id=str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + numbers.randbytes(10))),
        app=one.app,
        send_request_id=one.send_request_id,
        ppnum=one.ppnum,
        poll_id=one.poll_id,
        occurred_at=one.occurred_at + numbers.choice(_SHIFTS),
    )


def _without_some(numbers: random.Random, one: Event) -> Event:
    if numbers.random() < 0.03 and one.event_type not in (EventType.REQUEST_COMPLETED, EventType.REQUEST_FAILED):
        return one._replace(ppnum=numbers.choice((None, "")))
    if numbers.random() < 0.03:
        return one._replace(send_request_id=None)
    return one
