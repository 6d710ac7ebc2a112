"""All events of some partitions as a fold sees them, when its tables have no rows of these partitions yet.

Invariants. The events were chosen when the slice was filled: they are of the handled types, without the skipped ones.
Every row of the tables belongs to a group that one of these events may have touched, because no others are there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Subquery, Table, select, true

from projections.projection import Window, has_type

NAME = "events_of_window"


class SliceWindow(Window):
    """A slice of the log: a table with all events of some partitions.

    Args:
        handles: the event types, by their numbers on the wire; None for all types.
        source: the table; it has the columns of events that the fold uses, and ``event_type``.

    """

    def __init__(self, handles: Collection[int] | None, source: Table) -> None:
        super().__init__(handles)
        self._source = source

    def of_types(self, handles: Collection[int] | None) -> Window:
        """Return the same slice with only the events of these types; None for all types."""
        return SliceWindow(handles, self._source)

    def touched(self, table: Table, columns: Sequence[str]) -> ColumnElement[bool]:  # noqa: ARG002 - as the base class
        """Return the condition that always holds."""
        return true()

    def _events(self, types: frozenset[int] | None) -> Subquery:
        of_slice = select(self._source)
        if types is not None:
            of_slice = of_slice.where(has_type(self._source.c.event_type, types))
        return of_slice.subquery(NAME)
