"""Finds duplicates: an event_id is an identity, and the first event stored under it stays.

An event with an id that is stored already is a duplicate if it is the same event. If its bytes differ (or its values,
when it was received under the other contract), it is quarantined. The event of an erased person is a duplicate by its
id alone: its bytes were encoded anew, and those that are received again name the person. So is one that was archived.

This module only finds duplicates. :mod:`eventstore.appending.append` drops them: those that are stored already, and
those that repeat an event of their own batch (after a look at what is stored, :mod:`eventstore.appending.copying` drops
these). :mod:`eventstore.appending.retrying` and :mod:`eventstore.appending.restore` leave out what is stored already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.appending.quarantine import Rejected
from eventstore.archived_rows import read_archived_up_to
from eventstore.contracts import Event
from eventstore.erasure.erasure_rows import find_tokens_of_events
from eventstore.erasure.erasure_token import is_token
from eventstore.errors import ForeignEventId, OtherLog
from eventstore.event_reader import StoredEvent
from eventstore.partitions import BY_ID_IN_MODE
from eventstore.postgres.queries import fetch_all

EXPORTED_ELSEWHERE = "the file was exported from a different log"
OTHER_BYTES = "different bytes under an event_id that is already stored"
OTHER_VALUES = "different values under an event_id that is already stored from the other contract"

_STORED = sql.SQL("SELECT {id}, e.app, e.contract, e.payload FROM {by_id} WHERE {id} = ANY(%b)")
_READ_STORED = {mode: _STORED.format(**parts).as_bytes() for mode, parts in BY_ID_IN_MODE.items()}
_READ_POSITIONS = (
    "SELECT position, event_id, app, contract, payload, received_at FROM eventstore.events WHERE position = ANY(%b)"
)
_READ_ARCHIVED = "SELECT event_id, position FROM eventstore.event_positions WHERE event_id = ANY(%s)"
# Events that an earlier version stored may have no times of the recipient and the summary until they are redecoded.
_NOT_COMPARED = {
    *("app", "contract", "payload"),
    *("recipient_created_at", "summary_created_at", "summary_completed_at"),
}
_DECODED = tuple(name for name in Event._fields if name not in _NOT_COMPARED)
_STORED_VALUES = sql.SQL("SELECT {columns} FROM {by_id} WHERE {id} = ANY(%b) AND e.event_id IS NOT NULL")
_DECODED_COLUMNS = sql.SQL(", ").join(sql.Identifier("e", name) for name in _DECODED)
_READ_DECODED = {
    mode: _STORED_VALUES.format(columns=_DECODED_COLUMNS, **parts).as_bytes() for mode, parts in BY_ID_IN_MODE.items()
}


def split_repeats(events: Sequence[Event]) -> tuple[Sequence[Event], list[Event]]:
    """Split a batch into the first event of each event_id, and those that repeat an id.

    Raises:
        ForeignEventId: one id was received for two apps.

    """
    if len({event.event_id for event in events}) == len(events):
        return events, []
    first: dict[str, Event] = {}
    again: list[Event] = []
    for event in events:
        known = first.get(event.event_id)
        if known is None:
            first[event.event_id] = event
        elif known.app != event.app:
            raise ForeignEventId(event.app, known.app, event.event_id)
        else:
            again.append(event)
    return list(first.values()), again


def compare_repeats(first: Sequence[Event], again: Sequence[Event]) -> tuple[int, list[Rejected]]:
    """Compare the events that repeat an id of their batch with the first event of that id, which must be in ``first``.

    Returns:
        How many are duplicates, and the others as rejected.

    """
    if not again:
        return 0, []
    stored = {event.event_id: event for event in first}
    conflicting: list[Rejected] = []
    for event in again:
        known = stored[event.event_id]
        verdict = _compare(event, known.contract, known.payload, _decoded(known))
        if verdict is not None:
            conflicting.append(verdict)
    return len(again) - len(conflicting), conflicting


async def find_stored_ids(
    conn: AsyncConnection, events: Sequence[Event], *, is_distributed: bool = False
) -> tuple[set[str], list[Rejected]]:
    """Find which of these events are stored, under the append lock of the caller.

    Returns:
        The ids that are stored, and the events that differ from what is stored under their id, as rejected.

    Raises:
        ForeignEventId: one is stored under another app.

    """
    if not events:
        return set(), []
    rows = await fetch_all(conn, _READ_STORED[is_distributed], [[event.event_id for event in events]], binary=True)
    stored = {event_id: rest for event_id, *rest in rows}
    if not stored:
        return set(), []
    suspects: list[Event] = []
    for event in events:
        if (rest := stored.get(event.event_id)) is None:
            continue
        app, contract, payload = rest
        if app is None:  # archived: its id is all that is known of it here
            continue
        if app != event.app:
            raise ForeignEventId(event.app, app, event.event_id)
        if payload != event.payload or contract != event.contract:
            suspects.append(event)
    return set(stored), (
        await _find_conflicting(conn, suspects, stored, is_distributed=is_distributed) if suspects else []
    )


async def _find_conflicting(
    conn: AsyncConnection, suspects: Sequence[Event], stored: Mapping[str, Sequence[Any]], *, is_distributed: bool
) -> list[Rejected]:
    """Return those of the suspects that are not duplicates: their bytes differ from those stored under their ids."""
    ids = [event.event_id for event in suspects]
    rows = await fetch_all(conn, _READ_DECODED[is_distributed], [ids], binary=True)
    decoded = {row[0]: _without_empty_request(row) for row in rows}
    erased = await find_tokens_of_events(conn, ids)
    conflicting: list[Rejected] = []
    for event in suspects:
        _, contract, payload = stored[event.event_id]
        verdict = _compare(event, contract, payload, decoded[event.event_id])
        if verdict is not None and event.event_id not in erased:
            conflicting.append(verdict)
    return conflicting


def _decoded(event: Event) -> tuple[object, ...]:
    return tuple(getattr(event, name) for name in _DECODED)


def _without_empty_request(row: Sequence[Any]) -> tuple[object, ...]:
    """Return stored values as they were decoded: a distributed log has '' for no request."""
    request = _DECODED.index("send_request_id")
    return (*row[:request], row[request] or None, *row[request + 1 :])


async def find_missing(conn: AsyncConnection, stored: Sequence[StoredEvent]) -> list[StoredEvent]:
    """Find which of these events are missing at their positions, under the append lock of the caller.

    Archived events aren't missing; only their ids are compared.

    Raises:
        OtherLog: a different event is stored at one of the positions, or a person whom the file has erased is not
            erased here.

    """
    archived_up_to = await read_archived_up_to(conn)
    await _compare_archived(conn, [one for one in stored if one.position <= archived_up_to])
    stored = [one for one in stored if one.position > archived_up_to]
    rows = await fetch_all(conn, _READ_POSITIONS, [[one.position for one in stored]], binary=True)
    there = {position: tuple(rest) for position, *rest in rows}
    missing = []
    differing: list[StoredEvent] = []
    for one in stored:
        found = there.get(one.position)
        if found is None:
            missing.append(one)
        elif found != (one.event.event_id, one.event.app, one.event.contract, one.event.payload, one.received_at):
            differing.append(one)
    if differing:
        await _refuse_other_events(conn, differing, there)
    return missing


async def _compare_archived(conn: AsyncConnection, archived: Sequence[StoredEvent]) -> None:
    """Raise an error unless the archived events have these ids at these positions."""
    if not archived:
        return
    rows = await fetch_all(conn, _READ_ARCHIVED, [[one.event.event_id for one in archived]])
    known: dict[str, int] = dict(rows)
    for one in archived:
        if known.get(one.event.event_id) != one.position:
            raise OtherLog(f"position {one.position:,} has a different event in the file: {EXPORTED_ELSEWHERE}")


async def _refuse_other_events(
    conn: AsyncConnection, differing: Sequence[StoredEvent], there: Mapping[int, Sequence[Any]]
) -> None:
    """Raise an error unless each of these events is stored without its person, who was erased since the export."""
    erased = await find_tokens_of_events(conn, [one.event.event_id for one in differing])
    for one in differing:
        event_id, app, contract, _, received_at = there[one.position]
        is_same = (event_id, app, contract, received_at) == (
            one.event.event_id,
            one.event.app,
            one.event.contract,
            one.received_at,
        )
        if is_same and event_id in erased:
            continue
        if is_same and one.event.ppnum is not None and is_token(one.event.ppnum):
            raise OtherLog("the file has erased persons who are not erased here; run projections erase --again with it")
        raise OtherLog(f"position {one.position:,} has a different event in the file: {EXPORTED_ELSEWHERE}")


def _compare(event: Event, contract: str, payload: bytes, decoded: tuple[object, ...]) -> Rejected | None:
    """Return None for a duplicate of the first event, else the new event as rejected.

    The two contracts encode the same event in different bytes, so between contracts the decoded columns are compared.
    """
    if event.contract == contract:
        same, reason = event.payload == payload, OTHER_BYTES
    else:
        same, reason = _decoded(event) == decoded, OTHER_VALUES
    return None if same else Rejected(event.app, event.contract, event.payload, reason, event.event_id)
