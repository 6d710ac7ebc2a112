"""Decodes the columns of stored events again from their payloads, after an update of the decoder.

Invariants. The payload is the truth. It never changes, and neither do identity, position and times of receipt. Triggers
refuse every change of an event. The database's function ``eventstore.redecode`` is the only exception: it writes a
permit for its transaction, which the triggers look up, and it can change nothing but decoded columns. Each page is one
transaction, so a run that was killed can be repeated.

The column by which a distributed log is distributed can't be updated. If an event of it now belongs to another request,
its page is not saved, and the redecoding ends; earlier pages stay.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from eventstore.archived_rows import read_archived_up_to
from eventstore.contracts import Contract, Event, decode
from eventstore.errors import DatabaseError, Undecodable
from eventstore.event_reader import read, read_head
from eventstore.postgres.queries import fetch_value

BATCH = 1_000
_REDECODE = "SELECT eventstore.redecode(%s::jsonb)"
_KEPT = ("event_id", "app", "contract", "payload")


class CannotRedecode(DatabaseError):
    """An event of a distributed log would belong to another request; nothing of its page was changed.

    Attributes:
        position: the event's.

    """

    def __init__(self, position: int, event_id: str) -> None:
        super().__init__(
            f"the event at position {position:,} ({event_id}) now has another send_request_id, by which Citus"
            " distributes events, so it can't be updated: export the events, and import them into another database,"
            f" which decodes them again. Events before it are done; projections redecode --from {position + 1} goes on"
            " after it, and projections status says what needs a rebuild"
        )
        self.position = position


@dataclass(slots=True)
class Redecoded:
    """What a redecoding did.

    Attributes:
        read: events read.
        changed: events whose columns changed.
        types: their event types, before and after.
        undecodable: the first hundred positions whose payload can no longer be decoded; their columns stay as they are.
        refused: how many such positions there are.
        archived_up_to: the last archived position: such events have no columns, and are decoded when they are read.

    """

    read: int = 0
    changed: int = 0
    types: set[int] = field(default_factory=set)
    undecodable: list[int] = field(default_factory=list)
    refused: int = 0
    archived_up_to: int = 0


async def redecode(
    conn: AsyncConnection[Any],
    *,
    after: int = 0,
    on_progress: Callable[[int, int], None],
    decoder: Callable[[bytes, str, Contract], Event] = decode,
    changed: Callable[[set[int], int], Awaitable[None]] | None = None,
    is_distributed: bool = False,
) -> Redecoded:
    """Decode all events after a position again, and save the columns that changed.

    Args:
        conn: an autocommit connection, of a role that may run ``eventstore.redecode``.
        after: the position before the first to read.
        on_progress: is called with the position and the head, once in a thousand events.
        decoder: the function that decodes an event.
        changed: is awaited in the transaction of each page that changes something, with the event types before and
            after, and the first position.
        is_distributed: whether the log is.

    Raises:
        CannotRedecode: see there; events before its page are saved.
        psycopg.Error: the database or the connection failed, or the role may not redecode.

    """
    result = Redecoded()
    last = await read_head(conn)
    result.archived_up_to = await read_archived_up_to(conn)
    page = _Page(conn, result, changed)
    async for position, _, stored in read(conn, max(after, result.archived_up_to), up_to=last):
        result.read += 1
        try:
            now = decoder(stored.payload, stored.app, Contract(stored.contract))
        except Undecodable:
            _refuse(result, position)
            continue
        if now.event_id != stored.event_id:
            _refuse(result, position)
        elif is_distributed and now.send_request_id != stored.send_request_id:
            raise CannotRedecode(position, stored.event_id)
        elif now != stored:
            page.types |= {stored.event_type, now.event_type}
            page.rows.append({"position": position, **{k: v for k, v in now._asdict().items() if k not in _KEPT}})
        if len(page.rows) == BATCH:
            await page.write()
        if result.read % BATCH == 0:
            on_progress(position, last)
    await page.write()
    return result


def _refuse(result: Redecoded, position: int) -> None:
    result.refused += 1
    if len(result.undecodable) < 100:
        result.undecodable.append(position)


class _Page:
    """Events whose columns changed, to be saved in one transaction."""

    def __init__(
        self,
        conn: AsyncConnection[Any],
        result: Redecoded,
        changed: Callable[[set[int], int], Awaitable[None]] | None,
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self.types: set[int] = set()
        self._conn = conn
        self._result = result
        self._changed = changed

    async def write(self) -> None:
        if not self.rows:
            return
        async with self._conn.transaction():
            changed = await fetch_value(self._conn, _REDECODE, [json.dumps(self.rows, default=_plain)])
            if self._changed is not None:
                await self._changed(self.types, self.rows[0]["position"])
        self._result.changed += int(changed)
        self._result.types |= self.types
        self.rows, self.types = [], set()


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)
