"""Finds the events of persons, of a few by index and of many with one pass over the log, and erases them.

Invariants. Numbers are copied into a temporary table, never written into a statement, so that no log of the server has
one. The pass reads ranges of positions, each in a transaction of its own. It remembers positions, not events: what it
finds doesn't grow the memory of this process. Nobody else changes stored events meanwhile
(:data:`eventstore.locks.ERASE_LOCK`), so payloads can be encoded anew before any lock is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from psycopg import AsyncConnection, OperationalError

from eventstore.contracts import Contract, decode
from eventstore.distributed_log import begin_distributed_search
from eventstore.erasure.erased_payload import erase_event
from eventstore.errors import DatabaseError, Undecodable
from eventstore.event_search import read_indexed_columns
from eventstore.postgres.queries import fetch_all, fetch_column, fetch_value
from eventstore.postgres.session_settings import SEARCHING

RANGE = 100_000
"""How many positions one statement of the pass reads."""
FOUND_BY_INDEX = 50
"""Up to so many persons are found one by one; more than about a hundred would take longer than the pass."""
CHUNK_BYTES = 16 * 2**20
"""How many bytes of payloads one statement sends, unless a single payload is longer."""

_CREATE = (
    "DROP TABLE IF EXISTS pg_temp.erasing_persons, pg_temp.erasing_events, pg_temp.erasing_archived",
    # Archived events of the persons, as they are in their files.
    "CREATE TEMPORARY TABLE erasing_archived (LIKE eventstore.events)",
    "CREATE TEMPORARY TABLE erasing_persons (person integer PRIMARY KEY, ppnum text NOT NULL, token text NOT NULL)",
    "CREATE TEMPORARY TABLE erasing_events (position bigint PRIMARY KEY, person integer NOT NULL, bytes bigint)",
)
_COPY = "COPY pg_temp.erasing_persons (person, ppnum, token) FROM STDIN"
# Without samples of the numbers: statistics are in a table that is kept, backed up and replicated.
_PREPARED = (
    "ALTER TABLE pg_temp.erasing_persons ALTER COLUMN ppnum SET STATISTICS 0",
    "CREATE INDEX ON pg_temp.erasing_persons (ppnum)",
    "ANALYZE pg_temp.erasing_persons",
)
_FOUND = (
    "CREATE INDEX IF NOT EXISTS erasing_events_person ON pg_temp.erasing_events (person)",
    "ANALYZE pg_temp.erasing_events",
)
_DROP = "DROP TABLE IF EXISTS pg_temp.erasing_persons, pg_temp.erasing_events, pg_temp.erasing_archived"
_FIND = """
INSERT INTO pg_temp.erasing_events (position, person, bytes)
SELECT e.position, p.person, octet_length(e.payload)
FROM eventstore.events AS e JOIN pg_temp.erasing_persons AS p ON p.ppnum = e.ppnum
WHERE e.position > %(after)s AND e.position <= %(up_to)s AND (%(app)s::text IS NULL OR e.app = %(app)s)
  AND (%(persons)s::integer[] IS NULL OR p.person = ANY(%(persons)s))
ON CONFLICT (position) DO NOTHING
"""
_FIND_PERSON = """
INSERT INTO pg_temp.erasing_events (position, person, bytes)
SELECT e.position, %(person)s, octet_length(e.payload)
FROM (SELECT * FROM eventstore.events
      WHERE ppnum = ANY(ARRAY(SELECT ppnum FROM pg_temp.erasing_persons WHERE person = %(person)s)) OFFSET 0) AS e
WHERE e.position <= %(up_to)s AND (%(app)s::text IS NULL OR e.app = %(app)s)
ON CONFLICT (position) DO NOTHING
"""
_COUNT = "SELECT person, count(*), sum(bytes)::bigint FROM pg_temp.erasing_events GROUP BY person ORDER BY person"
_HAVE_MORE = """
SELECT DISTINCT p.person FROM pg_temp.erasing_persons AS p JOIN eventstore.events AS e ON e.ppnum = p.ppnum
WHERE e.position > %(after)s AND e.position <= %(up_to)s AND (%(app)s::text IS NULL OR e.app = %(app)s)
ORDER BY p.person
"""
_RENUMBER = """
UPDATE pg_temp.erasing_persons AS p SET person = n.person, token = n.token
FROM unnest(%s::integer[], %s::integer[], %s::text[]) AS n (earlier, person, token) WHERE p.person = n.earlier
"""
_FORGET_EVENTS = "TRUNCATE pg_temp.erasing_events"
_PERSONS = "SELECT person FROM pg_temp.erasing_persons ORDER BY person"
_SET_LOCAL = "SELECT set_config(%s, %s, true)"
_READ = """
SELECT f.position, f.person, e.app, e.contract, e.event_type, e.ppnum, p.token, e.payload
FROM pg_temp.erasing_events AS f
JOIN pg_temp.erasing_persons AS p ON p.person = f.person
JOIN eventstore.events AS e ON e.position = f.position
WHERE f.person = ANY(%s) AND f.position > %s ORDER BY f.position
"""
_ERASE = "SELECT eventstore.erase_events(%b::bigint[], %b::text[], %b::bytea[])"


class CannotErase(DatabaseError):
    """An event can't be encoded anew without changing something else; its person was not erased.

    Attributes:
        position: the event's.

    """

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"the event at position {position:,} can't be erased: {reason}; its person was not changed")
        self.position = position


@dataclass(frozen=True, slots=True)
class Person:
    """A person to be erased: the number, which is never shown, the token, and the keyed digest of the number."""

    ppnum: str = field(repr=False)
    token: str
    mac: bytes | None = field(default=None, repr=False)


class PersonFound(NamedTuple):
    """How many events a person has, and the bytes of their payloads; ``person`` is the index of the person."""

    person: int
    events: int
    size: int


class NewPayload(NamedTuple):
    """An event of a person, encoded anew."""

    position: int
    person: int
    event_type: int
    token: str
    payload: bytes


async def prepare_persons(conn: AsyncConnection[Any], persons: Sequence[Person]) -> None:
    """Put persons into a temporary table of the session; each is known by its index from here on."""
    for statement in _CREATE:
        await conn.execute(statement)
    try:
        async with conn.cursor() as cursor, cursor.copy(_COPY) as copy:
            for number, person in enumerate(persons):
                await copy.write_row([number, person.ppnum, person.token])
    except ValueError as error:
        # psycopg expects one result of a COPY; libpq gives two when the connection is lost in the middle of it.
        if conn.broken:
            raise OperationalError("the connection was lost in the middle of a COPY") from error
        raise
    for statement in _PREPARED:
        await conn.execute(statement)


async def forget_persons(conn: AsyncConnection[Any]) -> None:
    """Drop the temporary tables."""
    await conn.execute(_DROP)


async def find_events_of_persons(
    conn: AsyncConnection[Any],
    *,
    app: str | None,
    up_to: int,
    on_progress: Callable[[int, int], None],
    is_distributed: bool = False,
) -> list[PersonFound]:
    """Find all events of the prepared persons, in an autocommit session.

    Args:
        conn: the session.
        app: only events of this app; None for all.
        up_to: the last position to read.
        on_progress: is called with the position and the last one after each range, or after each person.
        is_distributed: whether the log is.

    Returns:
        The persons that have events.

    """
    persons = await fetch_column(conn, _PERSONS)
    if len(persons) <= FOUND_BY_INDEX and "ppnum" in await read_indexed_columns(conn):
        for number, person in enumerate(persons, 1):
            await _find_by_index(conn, person, app=app, up_to=up_to, is_distributed=is_distributed)
            on_progress(up_to * number // len(persons), up_to)
        return await count_events_of_persons(conn)
    for after in range(0, up_to, RANGE):
        hi = min(after + RANGE, up_to)
        await find_more_events(conn, app=app, after=after, up_to=hi)
        on_progress(hi, up_to)
    return await count_events_of_persons(conn)


async def _find_by_index(
    conn: AsyncConnection[Any], person: int, *, app: str | None, up_to: int, is_distributed: bool
) -> None:
    async with conn.transaction():
        if is_distributed:
            await begin_distributed_search(conn)
        for name, value in SEARCHING.items():
            await conn.execute(_SET_LOCAL, [name, value])
        await conn.execute(_FIND_PERSON, {"person": person, "app": app, "up_to": up_to})


async def count_events_of_persons(conn: AsyncConnection[Any]) -> list[PersonFound]:
    """Return how many events were found of each person that has any, once all of them were looked for."""
    for statement in _FOUND:
        await conn.execute(statement)
    return [PersonFound(*row) for row in await fetch_all(conn, _COUNT)]


async def find_persons_with_more_events(
    conn: AsyncConnection[Any], *, app: str | None, after: int, up_to: int
) -> list[int]:
    """Return the prepared persons whose numbers have events in a range of positions."""
    return await fetch_column(conn, _HAVE_MORE, {"after": after, "up_to": up_to, "app": app})


async def renumber_persons(conn: AsyncConnection[Any], persons: Mapping[int, tuple[int, str]]) -> None:
    """Forget the events that were found, and give prepared persons other indexes and tokens."""
    await conn.execute(_FORGET_EVENTS)
    later = list(persons.values())
    await conn.execute(_RENUMBER, [list(persons), [person for person, _ in later], [token for _, token in later]])


async def find_more_events(
    conn: AsyncConnection[Any], *, app: str | None, after: int, up_to: int, persons: Sequence[int] | None = None
) -> int:
    """Find the events of prepared persons in a range of positions; returns how many were found."""
    values = {"after": after, "up_to": up_to, "app": app, "persons": None if persons is None else list(persons)}
    return (await conn.execute(_FIND, values)).rowcount


async def encode_events(conn: AsyncConnection[Any], persons: Sequence[int], *, after: int = 0) -> list[NewPayload]:
    """Encode the events anew that were found of these persons behind a position.

    Raises:
        CannotErase: one of them can't be.

    """
    found = []
    rows = await fetch_all(conn, _READ, [list(persons), after], binary=True)
    for position, person, app, contract, event_type, ppnum, token, payload in rows:
        try:
            event = decode(payload, app, Contract(contract))
            erased = erase_event(event, token)
        except Undecodable as error:
            raise CannotErase(position, error.reason) from error
        if event.ppnum != ppnum:
            raise CannotErase(position, "its payload names another recipient; run projections redecode")
        found.append(NewPayload(position, person, event_type, token, erased.payload))
    return found


async def erase_events(conn: AsyncConnection[Any], events: Iterable[NewPayload]) -> int:
    """Replace events by their new forms, inside the caller's transaction; returns how many were replaced."""
    replaced = 0
    for chunk in _chunks(events):
        arrays = [[one.position for one in chunk], [one.token for one in chunk], [one.payload for one in chunk]]
        replaced += int(await fetch_value(conn, _ERASE, arrays))
    return replaced


def _chunks(events: Iterable[NewPayload]) -> Iterable[list[NewPayload]]:
    chunk: list[NewPayload] = []
    size = 0
    for one in events:
        chunk.append(one)
        size += len(one.payload)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
