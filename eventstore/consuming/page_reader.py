"""Reads the next page of the log for a consumer, with its filters, and checks that no position is missing in it.

Invariants. One statement examines at most ``WINDOW`` positions, so that no snapshot grows with the log, however rare
the events are that the filters let through. Positions have no gaps; a page ends before a missing position, and the next
one is refused: its event may be imported later, when a checkpoint would have passed it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql
from sqlalchemy import BigInteger, bindparam, select

from eventstore.archived_rows import event_id_at, find_archived_error
from eventstore.contracts import Event
from eventstore.distributed_log import IS_DISTRIBUTED, event_of_row, wait_for_window
from eventstore.errors import MissingPositions
from eventstore.event_reader import HEAD, StoredEvent
from eventstore.postgres.byte_pages import PAGE_BYTES, PAGE_ROWS, compile_page, first_page
from eventstore.postgres.queries import fetch_all, fetch_row
from eventstore.schema import events
from eventstore.whole_window import find_missing_positions

WINDOW = 50_000
"""Positions that one statement examines, at the most."""

_COLUMNS = ("position", "received_at", *Event._fields)
_HEAD = sql.SQL("SELECT {}, {}").format(HEAD, sql.SQL(IS_DISTRIBUTED)).as_bytes()
_COUNT = sql.SQL(
    "SELECT (SELECT count(*) FROM eventstore.events WHERE position > %(lo)s AND position <= %(hi)s),"
    " (SELECT event_id FROM eventstore.events WHERE position = %(hi)s), {}"
).format(event_id_at(sql.SQL("%(lo)s::bigint")))
_START_LATER = (
    "a consumer can't be handed them; decide where it goes on, and let its program read the files before that:"
    " projections consumers reset NAME --to POSITION"
)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a consumer is handed, and how many at once.

    Attributes:
        types: the event types, by their numbers on the wire; None for all.
        apps: the apps; None for all.
        page_events: events of a batch, at the most.
        page_bytes: bytes of payloads after which a batch ends.

    """

    types: frozenset[int] | None = None
    apps: frozenset[str] | None = None
    page_events: int = PAGE_ROWS
    page_bytes: int = PAGE_BYTES


class Page(NamedTuple):
    """What was read after a position.

    ``events`` are those that the filters let through; ``position`` is the last position that was examined, ``event_id``
    the event there, and ``head`` the head of the log. If nothing was examined, ``position`` is the one before.
    ``before`` is the event at the position before the page: if it isn't the one that was read there, the log lost it.
    """

    events: tuple[StoredEvent, ...]
    position: int
    event_id: str | None
    head: int
    before: str | None = None

    @property
    def is_last(self) -> bool:
        """Whether the log has nothing after it."""
        return self.position >= self.head


class PageReader:
    """Reads pages.

    Args:
        chosen: the filters and the size of a page.

    """

    def __init__(self, chosen: EventFilter) -> None:
        position = events.c.position
        rows = select(events).where(
            position > bindparam("lo", 0, type_=BigInteger), position <= bindparam("hi", 0, type_=BigInteger)
        )
        if chosen.types is not None:
            rows = rows.where(events.c.event_type.in_(sorted(chosen.types)))
        if chosen.apps is not None:
            rows = rows.where(events.c.app.in_(sorted(chosen.apps)))
        self._chosen = chosen
        self._text, defaults = compile_page(first_page(rows, "position", _COLUMNS))
        self._values = {**defaults, "page_rows": chosen.page_events, "page_bytes": chosen.page_bytes}

    async def read_page(self, conn: AsyncConnection[Any], lo: int) -> Page:
        """Read the page after a position, in statements that are transactions of their own.

        Raises:
            MissingPositions: the log has no event at a position of the page.
            EventsArchived: the events after that position are in files only.
            psycopg.Error: the database failed, or the connection.

        """
        head, is_distributed = await fetch_row(conn, _HEAD) or (0, False)
        if head <= lo:
            return Page((), lo, None, head)
        hi = min(lo + WINDOW, head)
        if is_distributed:
            await wait_for_window(conn, lo, hi)
        chosen = self._chosen
        rows = await fetch_all(conn, self._text, {**self._values, "lo": lo, "hi": hi}, binary=True)
        found = tuple(StoredEvent(row[0], row[1], event_of_row(row[2:])) for row in rows)
        if found and (len(found) >= chosen.page_events or _payload_bytes(found) >= chosen.page_bytes):
            hi = found[-1].position
        while True:
            counted, event_id, before = await fetch_row(conn, _COUNT, {"lo": lo, "hi": hi}) or (0, None, None)
            if counted == hi - lo:
                return Page(tuple(stored for stored in found if stored.position <= hi), hi, event_id, head, before)
            first, last = await find_missing_positions(conn, lo, hi) or (lo + 1, hi)
            if first == lo + 1:
                if (archived := await find_archived_error(conn, first, _START_LATER)) is not None:
                    raise archived
                raise MissingPositions(first, last)
            hi = first - 1  # what is before them is handed out


def _payload_bytes(found: Collection[StoredEvent]) -> int:
    return sum(len(stored.event.payload) for stored in found)
