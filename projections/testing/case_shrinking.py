"""Shrinks a failing case to the smallest one that still fails: fewest events, fewest windows, plainest fields.

Invariants. Each result fails, as the given case did. Shrinking ends after ``MAX_TRIES`` folds, with the smallest case
found until then. The events keep their order by event_id; their event_ids become those of the ``event`` function.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from eventstore import ulid
from eventstore.contracts import Event
from projections.testing.events import event
from projections.testing.fold_cases import FoldCase, arrange

StillFails: TypeAlias = Callable[[FoldCase], Awaitable[bool]]
"""Folds a case, and returns whether it fails as the first one did."""

MAX_TRIES = 1_000
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_FIELDS = ("payload", *(name for name in Event._fields if name not in ("event_id", "event_type", "payload")))


async def shrink(case: FoldCase, still_fails: StillFails) -> FoldCase:
    """Return a smaller case that fails too.

    Args:
        case: a case that fails.
        still_fails: is awaited for each smaller case.

    """
    shrinker = _Shrinker(case, still_fails)
    smaller: FoldCase | None = None
    while smaller != shrinker.case and shrinker.tries < MAX_TRIES:
        smaller = shrinker.case
        await shrinker.leave_out_events()
        await shrinker.try_all(_plainer_arrivals)
    await shrinker.try_all(_plain_ids)
    await shrinker.set_defaults()
    await shrinker.cut_times()
    return shrinker.case


class _Shrinker:
    def __init__(self, case: FoldCase, still_fails: StillFails) -> None:
        self.case = case
        self.tries = 0
        self._still_fails = still_fails

    async def attempt(self, case: FoldCase) -> bool:
        """Take a case if it fails too."""
        if self.tries >= MAX_TRIES or case == self.case:
            return False
        self.tries += 1
        fails = await self._still_fails(case)
        if fails:
            self.case = case
        return fails

    async def leave_out_events(self) -> None:
        """Leave out as many events as possible: halves first, then ever smaller parts."""
        size = len(self.case.events)
        while size > 1:
            size = -(-size // 2)
            start = 0
            while start < len(self.case.events):
                left_out = {id(one) for one in self.case.events[start : start + size]}
                windows = [tuple(one for one in window if id(one) not in left_out) for window in self.case.windows]
                smaller = replace(self.case, windows=tuple(window for window in windows if window))
                if not smaller.windows or not await self.attempt(smaller):
                    start += size

    async def try_all(self, plainer: Callable[[FoldCase], Iterator[FoldCase]]) -> None:
        """Take the first plainer case that fails, and begin again, until none does."""
        found = True
        while found:
            found = False
            for case in plainer(self.case):
                if await self.attempt(case):
                    found = True
                    break

    async def set_defaults(self) -> None:
        """Set each field to its default, in all events at once or else in one after another."""
        for name in _FIELDS:
            plain = [one._replace(**{name: getattr(_default(one), name)}) for one in self.case.events]
            if await self.attempt(_with_events(self.case, plain)):
                continue
            for place, one in enumerate(plain):
                await self._replace_event(place, one)

    async def cut_times(self) -> None:
        """Cut the times that matter to days, or else to hours."""
        for place, one in enumerate(self.case.events):
            at = one.occurred_at
            if at == _default(one).occurred_at:
                continue
            hour = at.replace(minute=0, second=0, microsecond=0)
            for plainer in (hour.replace(hour=0), hour):
                if await self._replace_event(place, one._replace(occurred_at=plainer)):
                    break

    async def _replace_event(self, place: int, new: Event) -> bool:
        events = self.case.events
        return await self.attempt(_with_events(self.case, [*events[:place], new, *events[place + 1 :]]))


def _plainer_arrivals(case: FoldCase) -> Iterator[FoldCase]:
    """Yield the case folded once, with two windows joined, and with two events in the order of their event_ids."""
    if case.twice:
        yield replace(case, twice=False)
    windows = case.windows
    for place in range(len(windows) - 1):
        yield replace(case, windows=(*windows[:place], windows[place] + windows[place + 1], *windows[place + 2 :]))
    arrived = case.events
    for place in range(len(arrived) - 1):
        if arrived[place].event_id > arrived[place + 1].event_id:
            swapped = [*arrived[:place], arrived[place + 1], arrived[place], *arrived[place + 2 :]]
            yield arrange(swapped, case.sizes, twice=case.twice)


def _plain_ids(case: FoldCase) -> Iterator[FoldCase]:
    """Yield the case with event_ids a second apart, in the same order."""
    by_id = sorted(case.events, key=lambda one: one.event_id)
    if all(_is_plain(one.event_id) for one in by_id):
        return
    plain = {
        one.event_id: one._replace(event_id=ulid.first_ulid_at(_BEGIN + timedelta(seconds=number)))
        for number, one in enumerate(by_id)
    }
    yield _with_events(case, [plain[one.event_id] for one in case.events])


def has_plain_id(one: Event) -> bool:
    """Return whether shrinking made the event_id, so that only its order matters."""
    return _is_plain(one.event_id)


def _is_plain(event_id: str) -> bool:
    at = ulid.time_of(event_id)
    return at is not None and ulid.first_ulid_at(at) == event_id and _BEGIN <= at < _BEGIN + timedelta(days=30)


def _default(one: Event) -> Event:
    return event(one.event_type, event_id=one.event_id)


def _with_events(case: FoldCase, arrived: Sequence[Event]) -> FoldCase:
    """Return the case with other events in the same places; those that are equal stay the same objects."""
    same = [new if new != old else old for new, old in zip(arrived, case.events, strict=True)]
    return arrange(same, case.sizes, twice=case.twice)
