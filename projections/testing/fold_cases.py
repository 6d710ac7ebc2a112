"""The cases of a test: in which order events arrive, where the log is cut, and whether all is folded again.

Invariants. Every case of a test has the same events, so a fold that keeps the rules gives the same rows in each. Up to
``EVERY_ORDER`` events, every order is combined with every cut. Of more events there is a sample: every case that is
known to break wrong folds, and shuffles, as many as ``MAX_FOLDED_EVENTS`` allows. The same seed gives the same sample.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from eventstore.contracts import Event

EVERY_ORDER = 4
"""Events up to which every order is folded with every cut: 24 orders and 8 cuts of four events."""
SHUFFLES = 60
"""Random orders with random cuts, of more events than that."""
MAX_CASES = 600
MAX_FOLDED_EVENTS = 100_000
"""At most so many events are folded in all cases of a sample together."""
MIN_CASES = 30
MAX_WINDOWS = 200
"""Windows into which the log of a case is cut; of more events the windows are longer."""


@dataclass(frozen=True, slots=True)
class FoldCase:
    """How events arrive.

    Attributes:
        windows: the events of each window, in the order in which they arrive; no window is empty.
        twice: whether each window is folded twice, and in the end all events once more.

    """

    windows: tuple[tuple[Event, ...], ...]
    twice: bool = False

    @property
    def events(self) -> list[Event]:
        """The events in the order in which they arrive."""
        return [event for window in self.windows for event in window]

    @property
    def sizes(self) -> list[int]:
        """How many events each window has."""
        return [len(window) for window in self.windows]

    def positions(self) -> Iterator[tuple[int, int]]:
        """Yield the positions lo < p <= hi of each window to fold."""
        ends = [0, *itertools.accumulate(self.sizes)]
        for lo, hi in itertools.pairwise(ends):
            yield from [(lo, hi)] * (2 if self.twice else 1)
        if self.twice and ends[-1]:
            yield 0, ends[-1]


class Arrival(NamedTuple):
    """A case by the numbers of the events: their order, the sizes of the windows, and whether all is folded again."""

    order: tuple[int, ...]
    sizes: tuple[int, ...]
    twice: bool = False

    def case_of(self, events: Sequence[Event]) -> FoldCase:
        """Return the case of these events."""
        return arrange([events[number] for number in self.order], self.sizes, twice=self.twice)


def arrange(arrived: Sequence[Event], sizes: Iterable[int], *, twice: bool = False) -> FoldCase:
    """Return the case in which events arrive in this order, in windows of these sizes; the last one takes the rest."""
    windows, left = [], list(arrived)
    for size in sizes:
        windows.append(tuple(left[:size]))
        left = left[size:]
    return FoldCase(tuple(window for window in [*windows, tuple(left)] if window), twice)


def one_window(events: Sequence[Event]) -> FoldCase:
    """Return the case to compare with: the events by event_id, in one window, folded once."""
    return arrange(sorted(events, key=lambda event: event.event_id), [len(events)])


def cases_of(
    events: Sequence[Event], partition_by: Sequence[str], seed: int, most: int = MAX_CASES
) -> Iterator[FoldCase]:
    """Yield the cases of different events.

    Args:
        events: the events, in the given order.
        partition_by: the columns whose values tell partitions apart; neighbours of one partition are swapped too.
        seed: of the sample.
        most: at most so many cases, also of few events.

    """
    count, numbers = len(events), random.Random(seed)  # noqa: S311 - a sample for a test, not a secret
    if count <= EVERY_ORDER:
        every = list(_every_arrival(count))
        arrivals = every if len(every) <= most else numbers.sample(every, most)
    else:
        by_id = sorted(range(count), key=lambda number: events[number].event_id)
        partitions = [tuple(getattr(event, name) for name in partition_by) for event in events]
        arrivals = list(_sample(by_id, partitions, numbers, most))
    for arrival in dict.fromkeys(arrivals):
        yield arrival.case_of(events)


def random_arrival(count: int, numbers: random.Random) -> Arrival:
    """Return a random order with random cuts; one of five is folded twice."""
    order = numbers.sample(range(count), count)
    sizes = list(_random_sizes(count, numbers))
    return Arrival(tuple(order), tuple(sizes), numbers.random() < 0.2)


def _every_arrival(count: int) -> Iterator[Arrival]:
    cuts = list(_every_cut(count))
    for order in itertools.permutations(range(count)):
        for sizes in cuts:
            yield Arrival(order, sizes)
    for order in itertools.permutations(range(count)):
        for sizes in {(count,), (1,) * count}:
            yield Arrival(order, sizes, twice=True)


def _every_cut(count: int) -> Iterator[tuple[int, ...]]:
    for cuts in itertools.product((False, True), repeat=max(count - 1, 0)):
        ends = [0, *(place for place, cut in enumerate(cuts, 1) if cut), count]
        yield tuple(hi - lo for lo, hi in itertools.pairwise(ends))


def _sample(
    by_id: Sequence[int], partitions: Sequence[Hashable], numbers: random.Random, most: int
) -> Iterator[Arrival]:
    """Yield the plain orders with even windows, and then a sample of all the others, in random order."""
    count = len(by_id)
    orders = list(dict.fromkeys((tuple(range(count)), tuple(by_id), tuple(reversed(by_id)))))
    smallest = -(-count // MAX_WINDOWS)
    sizes = sorted({smallest, 2 * smallest, (count + 1) // 2, count})
    plain = [Arrival(order, _even_sizes(count, size)) for order in orders for size in sizes]
    plain += [Arrival(orders[0], _even_sizes(count, size), twice=True) for size in (smallest, count)]
    others: list[Callable[[], Arrival]] = [partial(_cut, order, at) for order in orders for at in range(1, count)]
    others += [partial(_swapped, count, *pair) for pair in _neighbours(partitions)]
    others += [partial(make, count, number) for number in range(count) for make in (_first, _last)]
    others += [partial(random_arrival, count, numbers) for _ in range(SHUFFLES)]
    room = max(min(most, MAX_FOLDED_EVENTS // count), MIN_CASES)
    yield from plain
    for make_arrival in numbers.sample(others, min(len(others), max(room - len(plain), 0))):
        yield make_arrival()


def _even_sizes(count: int, size: int) -> tuple[int, ...]:
    return (size,) * (count // size) + ((count % size,) if count % size else ())


def _cut(order: tuple[int, ...], place: int) -> Arrival:
    return Arrival(order, (place, len(order) - place))


def _swapped(count: int, earlier: int, later: int) -> Arrival:
    """Return the given order with two events swapped, each alone in its window."""
    order = list(range(count))
    order[earlier], order[later] = later, earlier
    sizes = (earlier, 1, later - earlier - 1, 1, count - later - 1)
    return Arrival(tuple(order), tuple(size for size in sizes if size))


def _neighbours(partitions: Sequence[Hashable]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of neighbours, and those of neighbours among the events of one partition."""
    last: dict[Hashable, int] = {}
    for later, partition in enumerate(partitions):
        for earlier in dict.fromkeys((later - 1, last.get(partition, later - 1))):
            if earlier >= 0:
                yield earlier, later
        last[partition] = later


def _first(count: int, number: int) -> Arrival:
    return Arrival((number, *_others(count, number)), (1, count - 1))


def _last(count: int, number: int) -> Arrival:
    return Arrival((*_others(count, number), number), (count - 1, 1))


def _others(count: int, number: int) -> tuple[int, ...]:
    return tuple(other for other in range(count) if other != number)


def _random_sizes(count: int, numbers: random.Random) -> Iterator[int]:
    smallest = -(-count // MAX_WINDOWS)
    longest = numbers.choice((smallest, 2 * smallest, 4 * smallest, count))
    while count > 0:
        size = min(numbers.randint(smallest, longest), count)
        yield size
        count -= size
