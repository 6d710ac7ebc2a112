"""Finds the events behind a row: those of the types that its projection handles, and of the row's partition.

Where they have a person or a request in common, an index finds them. Else the log is searched in windows from its end,
each a statement of its own, so that no snapshot lasts longer than one. The search ends when more than ``MOST_EVENTS``
are found, such as behind a row that counts all requests of an app.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from sqlalchemy import Column, Executable, Select, Subquery, Text, func, literal, select
from sqlalchemy.sql.visitors import replacement_traverse

from eventstore.archived_rows import read_archived_up_to
from eventstore.contracts.event_types import KNOWN_TYPES, EventType
from eventstore.distributed_log import reading_by_index
from eventstore.event_search import choose_indexed_value, events_with_value, read_indexed_columns
from eventstore.postgres.connection import connect
from eventstore.postgres.session_settings import SEARCHING
from eventstore.schema import events
from projections.errors import ProjectionsError
from projections.folding.run_statement import fetch_rows
from projections.projection import HI, LO, Projection
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.replay_progress import Progress
from projections.rebuilding.row_changes import Sample

SEARCH_WINDOW = 200_000
"""Positions that one statement searches."""
MOST_EVENTS = 100_000
"""Events behind a row that are found: folding them takes about ten seconds, and 50 MB."""
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


class TooManyEvents(ProjectionsError):
    """More than ``MOST_EVENTS`` are behind a row.

    Attributes:
        last: those that were found, the last ones by position; fewer than all.

    """

    def __init__(self, last: Sequence[RowEvent]) -> None:
        newest = max(last, key=lambda one: one.position, default=None)
        event = f"; the last one is event {newest.event_id} at position {newest.position:,}" if newest else ""
        super().__init__(
            f"more than {MOST_EVENTS:,} events are behind this row, which is more than explain folds{event};"
            " projections verify compares all rows with the log"
        )
        self.last = last


async def find_events(
    conn: AsyncConnection[Any], projection: Projection, key: Mapping[str, Any], up_to: int, progress: Progress
) -> list[RowEvent]:
    """Return the handled events, up to a position, that match a key in the columns that events have.

    Args:
        conn: a connection in autocommit, with the settings of ``SEARCHING``.
        projection: whose events.
        key: the columns of a row's key, or of its partition, and their values.
        up_to: the last position that counts.
        progress: receives how many positions were searched.

    Raises:
        TooManyEvents: see there.

    """
    texts = {name: value for name, value in key.items() if name in events.c and isinstance(events.c[name].type, Text)}
    same = [
        # Where an event has no value, a key has the empty text.
        (events.c[name] if name in projection.partition_by else func.coalesce(events.c[name], ""))
        == literal(value, Text)
        for name, value in texts.items()
    ]
    return await search(conn, of_types(projection.handles).where(*same), texts, up_to, progress)


async def search(
    conn: AsyncConnection[Any], statement: Select[Any], values: Mapping[str, Any], up_to: int, progress: Progress
) -> list[RowEvent]:
    """Return the events that a statement reads, by position; the arguments are those of :func:`read_events`.

    Raises:
        TooManyEvents: see there.

    """
    found: list[RowEvent] = []
    newest_first = statement.order_by(events.c.position.desc())
    async for rows in read_events(conn, newest_first, values, up_to, progress):
        found += [RowEvent(**row) for row in rows]
        if len(found) > MOST_EVENTS:
            raise TooManyEvents(found)
    return found[::-1]


def of_types(handles: Collection[int]) -> Select[Any]:
    """Return the statement that reads the events of some types."""
    numbers = sorted(map(int, handles))
    return select(*(events.c[name] for name in RowEvent._fields)).where(events.c.event_type.in_(numbers))


async def read_events(
    conn: AsyncConnection[Any], statement: Select[Any], values: Mapping[str, Any], up_to: int, progress: Progress
) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the rows of a statement that reads events, all at once if an index finds them, else those of each window.

    The windows begin with the last one. Of more than ``MOST_EVENTS`` rows, not all are read at once.

    Args:
        conn: a connection in autocommit, with the settings of ``SEARCHING``.
        statement: reads ``eventstore.events``, without a condition on positions.
        values: columns of events, and values of them, such that no event with another value satisfies the statement.
        up_to: the last position that counts.
        progress: receives how many positions were searched.

    """
    of_window = statement.where(events.c.position > LO, events.c.position <= HI).limit(MOST_EVENTS + 1)
    chosen = choose_indexed_value(values, await read_indexed_columns(conn))
    if chosen is not None:
        async with reading_by_index(conn):
            rows = await fetch_rows(conn, _reading_from(events_with_value(*chosen), of_window), lo=0, hi=up_to)
        yield rows
        progress.at(up_to)
        return
    for hi in range(up_to, 0, -SEARCH_WINDOW):
        lo = max(hi - SEARCH_WINDOW, 0)
        yield await fetch_rows(conn, of_window, lo=lo, hi=hi)
        progress.at(up_to - lo)


def _reading_from(source: Subquery, statement: Select[Any]) -> Executable:
    def replace(element: Any, **_: Any) -> Any:  # noqa: ANN401 - any part of an expression
        if element is events:
            return source
        return source.c[element.name] if isinstance(element, Column) and element.table is events else None

    replaced = replacement_traverse(statement, {}, replace)
    if not isinstance(replaced, Executable):
        raise TypeError("the traversal of a statement gave none")
    return replaced


class EventsBehind(NamedTuple):
    """The events behind a row: the last of them, and how many there are before these, or at least how many.

    Events up to ``archived_up_to`` are archived, and were not searched; 0 if none are.
    """

    last: tuple[RowEvent, ...]
    earlier: int
    is_complete: bool = True
    archived_up_to: int = 0

    @property
    def lines(self) -> list[str]:
        """A line for each event."""
        listed = [f"event {one.event_id} {one.type_name} at position {one.position:,}" for one in self.last]
        if self.earlier:
            listed.insert(0, f"… and {'' if self.is_complete else 'at least '}{self.earlier:,} earlier events")
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
            is_complete = True
            try:
                found = await find_events(conn, projection, sample.key, up_to, context.progress)
            except TooManyEvents as error:
                found, is_complete = [*error.last], False
            found.sort(key=lambda one: one.event_id)
            last = tuple(found[-LISTED_EVENTS:])
            events_behind.append(EventsBehind(last, len(found) - len(last), is_complete))
        archived = await read_archived_up_to(conn) if events_behind else 0
    return [one._replace(archived_up_to=archived) for one in events_behind]
