"""A batch: the events that a consumer is handed at once, and the position to which its checkpoint then moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from eventstore.errors import UsageError
from eventstore.event_reader import StoredEvent

Acknowledge = Callable[["Batch", int], Awaitable[None]]
"""Moves the checkpoint to a position of a batch."""


class Batch:
    """Stored events in commit order, at least one; a batch can be iterated, and has a length.

    Asking for the next batch acknowledges this one. Leaving the loop in any other way doesn't: not ``break``, not an
    error, not a kill. What isn't acknowledged is handed out again.

    Attributes:
        events: the events.
        position: the position to which the checkpoint moves once the batch is acknowledged; after the last event, if
            the consumer has filters.
        attempt: how often the events after the checkpoint were handed out, this time included; more than 1 if a process
            left them unfinished. A repeated batch may end elsewhere.

    """

    def __init__(
        self, events: tuple[StoredEvent, ...], position: int, event_id: str, attempt: int, acknowledge: Acknowledge
    ) -> None:
        self.events = events
        self.position = position
        self.attempt = attempt
        self._event_id = event_id
        self._acknowledge = acknowledge

    def __iter__(self) -> Iterator[StoredEvent]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __repr__(self) -> str:
        first, last = self.events[0].position, self.events[-1].position
        return f"<Batch of {len(self)} events, positions {first} to {last}, attempt {self.attempt}>"

    async def acknowledge(self, up_to: StoredEvent | None = None) -> None:
        """Move the checkpoint now, before the next batch is asked for.

        Args:
            up_to: an event of this batch, the last one that is done; None for the whole batch.

        Raises:
            UsageError: the event is not in this batch, or another batch was handed out since.
            NotAcknowledged: another process has the consumer now, or the database lost events; these events are handed
                out again.
            psycopg.Error: the database refused it.

        """
        if up_to is None:
            await self._acknowledge(self, self.position)
            return
        if up_to not in self.events:
            raise UsageError(f"the event at position {up_to.position} is not in this batch")
        await self._acknowledge(self, self.position if up_to is self.events[-1] else up_to.position)

    def event_id_at(self, position: int) -> str:
        """Return the event_id at a position to which the checkpoint may move."""
        if position == self.position:
            return self._event_id
        return next(stored.event.event_id for stored in self.events if stored.position == position)

    def count_to(self, position: int) -> int:
        """Return how many of its events are not after a position."""
        return sum(stored.position <= position for stored in self.events)
