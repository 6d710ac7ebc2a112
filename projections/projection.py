"""What a projection is: the tables it owns, the events it handles, and the statements that fold a window into them.

Invariants. ``window.events`` is a fold's only source of events. A fold upserts entity rows, the latest event_id
winning, then aggregates the touched groups anew from them; rows may also carry least and greatest accumulators, or
values guarded by their own event_id, but never a sum of deltas. So the rows don't hang on the order in which events
came, nor on where windows were cut, nor on events coming twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

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

READ_MODEL_SCHEMA = "public"
"""Where read models live; a shadow is the same tables under another schema."""

SHADOW_POSITIONS = "shadow_positions"
"""The table beside the shadows that says how far each is; no read model may have its name."""

LO = bindparam("lo", None, type_=BigInteger)
HI = bindparam("hi", None, type_=BigInteger)
SKIPPED = bindparam("skipped", None, type_=ARRAY(Text))
"""The parameters of every fold: positions lo < p <= hi, without the event_ids skipped."""


class Window:
    """A stretch of the log, as a fold sees it: the events of the projection's types in it, less the skipped ones.

    Args:
        handles: the wire's numbers of the types that the projection handles; None for all there are.

    """

    def __init__(self, handles: Collection[int] | None) -> None:
        self._handles = None if handles is None else frozenset(handles)

    @property
    def events(self) -> Subquery:
        """The events, with all columns of ``eventstore.events``."""
        return self._events(self._handles)

    def only(self, *types: int) -> Subquery:
        """Return the events of some of the types that the projection handles."""
        return self._events(frozenset(types) if self._handles is None else self._handles & set(types))

    def _events(self, types: frozenset[int] | None) -> Subquery:
        of_window = select(events).where(
            events.c.position > LO, events.c.position <= HI, events.c.event_id != func.all(SKIPPED)
        )
        if types is not None:
            numbers: list[ColumnElement[int]] = [literal_column(str(int(number))) for number in sorted(types)]
            of_window = of_window.where(events.c.event_type.in_(numbers))
        return of_window.subquery("events_of_window")

    def touched(self, table: Table, columns: Sequence[str]) -> ColumnElement[bool]:
        """Return the condition that the window may have touched a row's group.

        It probes the table's index by arrays of the window's values, which stays fast on tables without statistics,
        where the planner would otherwise hash whole tables. Groups whose values all occur in the window, though not
        in one event, pass too: to aggregate them anew changes nothing.
        """
        return and_(
            *(
                table.c[column]
                == any_(func.array(select(self.events.c[column]).distinct().scalar_subquery(), type_=ARRAY(Text)))
                for column in columns
            )
        )


class Projection(ABC):
    """A read model, and how it is folded from events.

    Attributes:
        name: what people call it; also its checkpoint's key.
        version: raise it when the rows would come out otherwise; the projection then waits for a rebuild.
        handles: the wire's numbers of the event types that it folds.
        tables: the tables it owns, in schema ``public``.
        partition_by: the columns of events that every table has in its primary key: rows of different partitions
            never hang on each other.
        decided_by: by a table's name, its column that names the event that decides a row; a table where no single event
            does, as one of counts, is left out.
        migrations: the Alembic folder that makes the tables; None lets ``projections migrate`` create those missing.
        absent_contracts: the contracts that have no event of the handled types; ``projections status`` names the apps
            that follow one of them, since their rows stay empty.
        status_query: a query whose one row has counts, by column name. ``projections status --json`` shows them under
            these names, and :meth:`describe_counts` puts them into a sentence. None for no counts.

    """

    name: ClassVar[str]
    version: ClassVar[int]
    handles: ClassVar[frozenset[int]]
    tables: ClassVar[tuple[Table, ...]]
    partition_by: ClassVar[tuple[str, ...]]
    decided_by: ClassVar[Mapping[str, str]] = MappingProxyType({})
    migrations: ClassVar[Path | None] = None
    absent_contracts: ClassVar[frozenset[str]] = frozenset()
    status_query: ClassVar[Executable | None] = None

    def describe_counts(self, counts: Mapping[str, int]) -> str | None:  # noqa: ARG002 - for those that have counts
        """Return the sentence that ``projections status`` prints about the counts; None, the default, for nothing."""
        return None

    @abstractmethod
    def fold(self, window: Window) -> Sequence[Executable]:
        """Return the statements that fold a window, in order; they run in one transaction with the checkpoint.

        They are built once and run for every window, live, in a rebuild and in a verification alike.
        """
