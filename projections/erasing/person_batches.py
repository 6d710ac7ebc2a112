"""Divides persons into batches, of which each is erased in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eventstore.erasure.person_events import PersonFound

BATCH_EVENTS = 2_000
BATCH_BYTES = 32 * 2**20
BATCH_PERSONS = 250
"""How much a batch has at the most, unless a single person has more: folds wait for a batch."""


def batches_of_persons(found: Sequence[PersonFound]) -> Iterator[list[int]]:
    """Yield batches of persons that are erased in one transaction each."""
    batch: list[int] = []
    events = size = 0
    for one in found:
        is_full = len(batch) >= BATCH_PERSONS or events + one.events > BATCH_EVENTS or size + one.size > BATCH_BYTES
        if batch and is_full:
            yield batch
            batch, events, size = [], 0, 0
        batch.append(one.person)
        events += one.events
        size += one.size
    if batch:
        yield batch


def equal_batches(persons: Sequence[int]) -> Iterator[list[int]]:
    """Yield batches of persons that have no events."""
    for start in range(0, len(persons), BATCH_PERSONS):
        yield list(persons[start : start + BATCH_PERSONS])
