"""Finds the events behind a row: those of the types that its projection handles, and of the row's partition.

The log is searched in windows, each a statement of its own, so that no snapshot lasts longer than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from sqlalchemy import Text, func, literal, select

from eventstore.contracts.event_types import KNOWN_TYPES, EventType
from eventstore.postgres.connection import connect
from eventstore.postgres.session_settings import SEARCHING
from eventstore.schema import events
from projections.folding.run_statement import fetch_rows
from projections.projection import Projection, Window
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.replay_progress import Progress
from projections.rebuilding.row_changes import Sample

SEARCH_WINDOW = 200_000
"""Positions that one statement searches."""
LISTED_EVENTS = 5
"""The last events behind a row that differs which are listed."""


class RowEvent(NamedTuple):
    """An event behind a row, as far as it is shown."""

    position: int
    event_id: str
    event_type: int
    occurred_at: datetime
    received_at: datetime

    @property
    def type_name(self) -> str:
        """The type's name; UNKNOWN_n for a number that this code doesn't know."""
        return EventType(self.event_type).name if self.event_type in KNOWN_TYPES else f"UNKNOWN_{self.event_type}"


async def find_events(
    conn: AsyncConnection[Any], projection: Projection, key: Mapping[str, Any], up_to: int, progress: Progress
) -> list[RowEvent]:
    """Return the handled events, up to a position, that match a key in the columns that events have."""
    e = Window(projection.handles).events
    same = [
        # Where an event has no value, a key has the empty text.
        (e.c[name] if name in projection.partition_by else func.coalesce(e.c[name], "")) == literal(value, Text)
        for name, value in key.items()
        if name in events.c and isinstance(events.c[name].type, Text)
    ]
    statement = select(*(e.c[name] for name in RowEvent._fields)).where(*same).order_by(e.c.position)
    found: list[RowEvent] = []
    for lo in range(0, up_to, SEARCH_WINDOW):
        hi = min(lo + SEARCH_WINDOW, up_to)
        found += [RowEvent(**row) for row in await fetch_rows(conn, statement, lo=lo, hi=hi, skipped=[])]
        progress.at(hi)
    return found


class EventsBehind(NamedTuple):
    """The events behind a row: the last of them, and how many there are before these."""

    last: tuple[RowEvent, ...]
    earlier: int

    @property
    def lines(self) -> list[str]:
        """A line for each event."""
        listed = [f"event {one.event_id} {one.type_name} at position {one.position:,}" for one in self.last]
        if self.earlier:
            listed.insert(0, f"… and {self.earlier:,} earlier events")
        return listed or ["no event is behind this row"]


async def list_events_behind(
    context: ReplayContext, projection: Projection, samples: Sequence[Sample], up_to: int
) -> list[EventsBehind]:
    """Return, for each row of a comparison, the last events behind it.

    These are the events of the row's partition that also match the rest of its key, where events have such columns.
    """
    events_behind: list[EventsBehind] = []
    async with await connect(context.url, name="projections verify", waits=context.waits, settings=SEARCHING) as conn:
        for number, sample in enumerate(samples, 1):
            phase = f"searching the events behind row {number} of {len(samples)} in"
            context.progress.phase(phase, target=up_to)
            found = await find_events(conn, projection, sample.key, up_to, context.progress)
            found.sort(key=lambda one: one.event_id)
            last = tuple(found[-LISTED_EVENTS:])
            events_behind.append(EventsBehind(last, len(found) - len(last)))
    return events_behind
