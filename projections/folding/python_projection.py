"""The second base class: a projection that folds in Python, from decoded events to rows that carry their event_id.

Invariants. A row is written only if its event_id wins against the stored row's: the greater one, or the lesser one in a
table where the first wins. Then all of it is written. So rows don't depend on the order of events, on where windows
end, or on repetition. A delete is also a row, a tombstone: without it, an older event that arrives later would bring
the deleted row back. ``handle`` sees only the event, not its position or when it was received, because another log of
the same events has other values for both.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Executable, Table, select

from eventstore.contracts import Event
from eventstore.postgres.byte_pages import first_page
from projections.folding.decided_rows import EVENT_ID
from projections.folding.row_types import TypedRow
from projections.projection import Projection, Window


@dataclass(frozen=True, slots=True)
class Row:
    """What a row is from this event on.

    Attributes:
        table: one of the projection's tables.
        values: by column name: the key and any other columns. Columns that are left out get their server default, or
            NULL. ``event_id`` and ``deleted`` are set by the engine.

    """

    table: Table
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """From this event on the row is deleted: it keeps only its key, its event_id, and ``deleted``.

    Attributes:
        table: one of the projection's tables.
        key: the columns of the primary key, by name.

    """

    table: Table
    key: Mapping[str, Any]


class PythonProjection(Projection):
    """A read model that is folded in Python, event by event.

    Each of its tables has, besides the primary key and its own columns, ``event_id text COLLATE "C" NOT NULL``: the
    event that decides the row. That is the latest event, by event_id; or the first, if the table's ``info`` has
    ``{"wins": "first"}``. A table with ``deleted boolean NOT NULL`` takes tombstones too, and its readers add
    ``WHERE NOT deleted``. :func:`projections.table_from` makes such a table from a dataclass.
    """

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401 - Python's
        """Let ``explain`` know which event decides a row, unless the class says it itself."""
        super().__init_subclass__(**options)
        tables = cls.__dict__.get("tables")
        if isinstance(tables, tuple) and "decided_by" not in cls.__dict__:
            cls.decided_by = {one.name: EVENT_ID for one in tables if isinstance(one, Table)}

    @abstractmethod
    def handle(self, event: Event) -> Iterable[Row | Tombstone | TypedRow]:
        """Return the rows that an event of a handled type sets or deletes, any number of them.

        The result must depend only on the event: not on rows, the clock, or earlier events. In the key, the
        ``partition_by`` columns must have the event's own values; an event without one of them (None) has no row. If
        one event returns two rows for the same key, the later one counts; where the first wins, the earlier one.

        Raises:
            Exception: any error fails the window, and the projection stops at the event.

        """

    def fold(self, window: Window) -> Sequence[Executable]:
        """Return the statement that reads a page of the window's events, in order of position."""
        return (first_page(select(window.events), "position", ("position", *Event._fields)),)
