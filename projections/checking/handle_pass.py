"""Hands events of the log to a fold in Python, one by one, and reports the first that it can't take.

Nothing is written, and the order of events doesn't matter: what is found here is an error with any order.
"""

from __future__ import annotations

from collections.abc import Iterable

from eventstore.contracts import Event
from projections.errors import HandleFailed, InvalidProjection
from projections.folding.python_fold import PythonFold
from projections.folding.python_projection import PythonProjection


def find_refused_event(projection: PythonProjection, events: Iterable[Event]) -> str | None:
    """Return the first event for which ``handle`` raises an error or returns an invalid row, and why; None for none."""
    fold = PythonFold(projection)
    for event in events:
        try:
            fold.try_event(event)
        except (HandleFailed, InvalidProjection) as error:
            return f"handle fails at event {event.event_id} (type {event.event_type}): {error}"
    return None
