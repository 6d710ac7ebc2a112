"""What a projection is: the tables it owns, the events it handles, and the statements that fold a window into them.

Invariants. ``window.events`` is a fold's only source of events. A fold upserts entity rows (the greatest event_id
wins), then aggregates the touched groups again from these rows. Rows may also hold least and greatest accumulators, or
values guarded by their own event_id, but never a sum of deltas. So the rows don't depend on the order of events, on
where windows end, or on repetition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    Subquery,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from eventstore.schema import events
from projections.views import View

READ_MODEL_SCHEMA = "public"
"""The schema of read models; a shadow is the same tables in another schema."""

SHADOW_POSITIONS = "shadow_positions"
"""The table that holds the position of each shadow, beside the shadows; no read model may have its name."""

OF_THIS_LOG_ONLY: Final = ("position", "received_at")
"""The columns of events of which another log of the same events has other values: no row may depend on them."""

LO = bindparam("lo", None, type_=BigInteger)
HI = bindparam("hi", None, type_=BigInteger)
SKIPPED = bindparam("skipped", None, type_=ARRAY(Text))
"""The parameters of every fold: positions lo < p <= hi, without the skipped event_ids."""


class Window:
    """A range of the log as a fold sees it: the events of the handled types, without the skipped ones.

    Args:
        handles: the event types, by their numbers on the wire; None for all types.

    """

    def __init__(self, handles: Collection[int] | None) -> None:
        self._handles = None if handles is None else frozenset(handles)

    @property
    def events(self) -> Subquery:
        """The events, with all columns of ``eventstore.events``."""
        return self._events(self._handles)

    def of_types(self, handles: Collection[int] | None) -> Window:
        """Return the same range with only the events of these types; None for all types."""
        return Window(handles)

    def only(self, *types: int) -> Subquery:
        """Return only the events of these types, as far as the projection handles them."""
        return self._events(frozenset(types) if self._handles is None else self._handles & set(types))

    def _events(self, types: frozenset[int] | None) -> Subquery:
        of_window = select(events).where(
            events.c.position > LO, events.c.position <= HI, events.c.event_id != func.all(SKIPPED)
        )
        if types is not None:
            of_window = of_window.where(has_type(events.c.event_type, types))
        return of_window.subquery("events_of_window")

    def touched(self, table: Table, columns: Sequence[str]) -> ColumnElement[bool]:
        """Return the condition that an event of the window may have touched a row's group.

        It looks up the table's index by arrays of the window's values. This stays fast on tables without statistics,
        where the planner would hash whole tables for a join. The condition also holds for groups whose values all
        occur in the window, but in different events: aggregating them again changes nothing.
        """
        return and_(
            *(
                table.c[column]
                == any_(func.array(select(self.events.c[column]).distinct().scalar_subquery(), type_=ARRAY(Text)))
                for column in columns
            )
        )


def number_keys(table: Table, copies: Mapping[str, str]) -> list[str]:
    """Return which of a table's personal columns are copies of the number in its primary key."""
    return [name for name, copied in copies.items() if copied == "ppnum" and name in table.primary_key.columns]


def has_type(event_type: ColumnElement[int], types: Collection[int]) -> ColumnElement[bool]:
    """Return the condition that an event has one of these types."""
    numbers: list[ColumnElement[int]] = [literal_column(str(int(number))) for number in sorted(types)]
    return event_type.in_(numbers)


class Projection(ABC):
    """A read model, and how it is folded from events.

    Attributes:
        name: its name for people, and the key of its checkpoint.
        version: raise it when the same events would give other rows; the projection then waits for a rebuild.
        handles: the event types that it folds, by their numbers on the wire.
        tables: the tables that it owns, in schema ``public``.
        partition_by: columns of events that every table has in its primary key; rows of different partitions never
            depend on each other.
        decided_by: for each table, by name, the column that holds the event_id of the event that decides a row; tables
            without such an event (counts, for example) are left out.
        views: its views, in schema ``public``; ``projections migrate`` creates and replaces them.
        personal_columns: for each table that has them, by name, the columns that are plain copies of an event's
            ``ppnum`` or ``message_id``: ``{"my_table": {"ppnum": "ppnum"}}``. Declaring them says that nothing else in
            the rows depends on these two, so that erasing a person only puts a token into these columns. A table with
            a copy of ``message_id`` needs one copy of ``ppnum`` in its key: whose message it is. None: it isn't
            declared, and the projection needs a rebuild after a person was erased.
        migrations: the Alembic folder that creates the tables; None lets ``projections migrate`` create missing ones.
        absent_contracts: the contracts that have no event of the handled types; ``projections status`` names the apps
            that follow one of them, since their rows stay empty.
        status_query: a query whose one row has counts, by column name. ``projections status --json`` shows them under
            these names (null if the query fails), and :meth:`describe_counts` puts them into a sentence. Choose names
            that neither status nor another projection has; such a count is left out. None for no counts.

    """

    name: ClassVar[str]
    version: ClassVar[int]
    handles: ClassVar[frozenset[int]]
    tables: ClassVar[tuple[Table, ...]]
    partition_by: ClassVar[tuple[str, ...]]
    decided_by: ClassVar[Mapping[str, str]] = MappingProxyType({})
    views: ClassVar[tuple[View, ...]] = ()
    personal_columns: ClassVar[Mapping[str, Mapping[str, str]] | None] = None
    migrations: ClassVar[Path | None] = None
    absent_contracts: ClassVar[frozenset[str]] = frozenset()
    status_query: ClassVar[Executable | None] = None

    def describe_counts(self, counts: Mapping[str, int]) -> str | None:  # noqa: ARG002 - for those that have counts
        """Return the sentence that ``projections status`` prints about the counts; None, the default, for nothing."""
        return None

    def partition_of(self, table: Table) -> Sequence[str]:  # noqa: ARG002 - for those whose tables differ
        """Return columns of events in a table's key, such that an event changes only rows that have its own values.

        That is ``partition_by``, or more columns of the table's key. By them a rebuild finds the rows that may have
        changed meanwhile, so an index must begin with them.
        """
        return self.partition_by

    @abstractmethod
    def fold(self, window: Window) -> Sequence[Executable]:
        """Return the statements that fold a window, in order; they run in one transaction with the checkpoint.

        They are built once, and run for every window, live, in rebuilds and in verifications.
        """
