"""Erases events of erased persons before they are stored, however late they are received.

Two records tell which events these are. ``erased_events`` has the ids of all events that were erased; after a restore
some of them are missing in the log, and may be received again. And with the erasure key, ``erasures`` has a digest of
each erased number: an event that happened before the erasure belongs to it, also if it is new.

Invariants. The caller holds the append lock and gives the id of the newest erasure that it read under it, so no erasure
is missed. Without erasures nothing is read, and without a digest or missing events only once for each new erasure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from psycopg import AsyncConnection

from eventstore import ulid
from eventstore.contracts import Event
from eventstore.erasure.erased_payload import erase_event
from eventstore.erasure.erasure_key import ErasureKey
from eventstore.erasure.erasure_rows import find_tokens_of_events
from eventstore.erasure.erasure_token import is_token
from eventstore.erasure.number_finder import possible_numbers
from eventstore.partitions import joining_by_id
from eventstore.postgres.queries import fetch_all, fetch_row

log = structlog.get_logger(__name__)

MAX_CANDIDATES_OF_BATCH = 20_000
"""So many texts of a batch that can't be decoded may be numbers: they are looked up while appends wait."""

_KINDS = """
SELECT EXISTS (SELECT FROM eventstore.erasures WHERE mac IS NOT NULL),
       EXISTS (SELECT FROM eventstore.erasures WHERE awaited),
       EXISTS (SELECT FROM eventstore.erasures WHERE mac IS NOT NULL AND key_check IS DISTINCT FROM %b)
"""
_BY_MAC = "SELECT mac, app, erased_at, token FROM eventstore.erasures WHERE mac = ANY(%b) ORDER BY erased_at, id"
# Only those that were stored: under the id of one that wasn't there may be an event of somebody else.
_RECORD = joining_by_id(
    """
INSERT INTO eventstore.erased_events (event_id, token)
SELECT d.event_id, d.token FROM unnest(%s::text[], %s::text[]) AS d (event_id, token)
{events} AND e.ppnum = d.token
ON CONFLICT (event_id) DO NOTHING
""",
    "d",
)


class LateMessage(NamedTuple):
    """A message that can't be an event; ``event_id`` is None if it couldn't be read."""

    app: str
    payload: bytes
    event_id: str | None


class LateEvents:
    """Erases the events of one connection's batches.

    Args:
        key: the erasure key; without it events are recognised by their ids only.

    """

    def __init__(self, key: ErasureKey | None = None) -> None:
        self._key = key
        self._last: int | None = None
        self._has_macs = False
        self._has_awaited = False

    async def erase(
        self,
        conn: AsyncConnection[Any],
        events: Sequence[Event],
        last_erasure: int | None,
        *,
        may_be_old: bool = False,
    ) -> Sequence[Event]:
        """Return events, those of erased persons with their tokens; the same object if none is theirs.

        Args:
            conn: the connection that holds the append lock.
            events: events that may be stored next.
            last_erasure: the id of the newest erasure, read under the lock; None if there is none.
            may_be_old: whether the events are from a file or a quarantine, so that any erased event may be among them.

        """
        if last_erasure is None:
            return events
        await self._look_again(conn, last_erasure)
        tokens: dict[str, str] = {}
        if self._has_macs and self._key is not None:
            tokens |= await self._find_by_number(conn, self._key, events)
        if self._has_awaited or may_be_old:
            tokens |= await find_tokens_of_events(conn, [event.event_id for event in events])
        if not tokens:
            return events
        return [_with_token(event, tokens) for event in events]

    async def find_messages(
        self, conn: AsyncConnection[Any], messages: Sequence[LateMessage], last_erasure: int | None
    ) -> Mapping[int, bytes]:
        """Find the messages that have the number of an erased person, and may be from before the erasure.

        Args:
            conn: the connection with the caller's transaction.
            messages: messages that may be quarantined next.
            last_erasure: the id of the newest erasure, read in this transaction; None if there is none.

        Returns:
            What stands for the digest of the message, by its place.

        """
        if last_erasure is None or self._key is None:
            return {}
        await self._look_again(conn, last_erasure)
        if not self._has_macs:
            return {}
        places: dict[bytes, set[int]] = {}
        for place, message in enumerate(messages):
            if len(places) >= MAX_CANDIDATES_OF_BATCH:
                log.warning("messages of a batch were not searched for erased persons", messages=len(messages) - place)
                break
            for number in possible_numbers(message.payload):
                places.setdefault(self._key.mac(number), set()).add(place)
        found = set[int]()
        for mac, app, erased_at, _ in await fetch_all(conn, _BY_MAC, [list(places)], binary=True):
            found |= {place for place in places[mac] if _may_be_before(messages[place], app, erased_at)}
        return {place: self._key.message_digest(messages[place].payload) for place in sorted(found)}

    async def record(self, conn: AsyncConnection[Any], events: Sequence[Event], *, is_distributed: bool) -> None:
        """Remember which of these stored events were erased, inside the caller's transaction."""
        if self._last is None:
            return
        erased = [event for event in events if event.ppnum is not None and is_token(event.ppnum)]
        if erased:
            await conn.execute(
                _RECORD[is_distributed], [[one.event_id for one in erased], [one.ppnum for one in erased]]
            )

    async def _look_again(self, conn: AsyncConnection[Any], last_erasure: int) -> None:
        if last_erasure == self._last:
            return
        self._last = last_erasure
        check = None if self._key is None else self._key.check
        row = await fetch_row(conn, _KINDS, [check])
        has_others = False
        if row is not None:
            self._has_macs, self._has_awaited, has_others = row
        if has_others:
            log.warning(
                "late events of erased persons would be stored with their numbers: set PROJECTIONS_ERASURE_KEY_FILE",
                reason="no key" if self._key is None else "some were erased with another key",
            )

    async def _find_by_number(
        self, conn: AsyncConnection[Any], key: ErasureKey, events: Sequence[Event]
    ) -> dict[str, str]:
        numbers = {event.ppnum for event in events if event.ppnum}
        macs = {number: key.mac(number) for number in numbers if not is_token(number)}
        erasures: dict[bytes, list[tuple[str | None, datetime, str]]] = {}
        for mac, app, erased_at, token in await fetch_all(conn, _BY_MAC, [list(macs.values())], binary=True):
            erasures.setdefault(mac, []).append((app, erased_at, token))
        found: dict[str, str] = {}
        for event in events if erasures else ():
            if event.ppnum in macs:
                token = _first_after(event, erasures.get(macs[event.ppnum], ()))
                if token is not None:
                    found[event.event_id] = token
        return found


def _first_after(event: Event, erasures: Sequence[tuple[str | None, datetime, str]]) -> str | None:
    """Return the token of the first erasure after an event; None if there is none, or in another app only."""
    for app, erased_at, token in erasures:
        if app in (None, event.app) and event.occurred_at <= erased_at:
            return token
    return None


def _may_be_before(message: LateMessage, app: str | None, erased_at: datetime) -> bool:
    """Return whether a message may be from before an erasure; its event_id tells when it was created."""
    created = None if message.event_id is None else ulid.time_of(message.event_id)
    return app in (None, message.app) and (created is None or created <= erased_at)


def _with_token(event: Event, tokens: Mapping[str, str]) -> Event:
    token = tokens.get(event.event_id)
    if token is None or not event.ppnum or is_token(event.ppnum):
        return event
    return erase_event(event, token)
