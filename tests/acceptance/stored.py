"""What a test finds in Postgres after the command has run."""

from __future__ import annotations

from typing import NamedTuple

from tests.store import connection, value, wait_until


class Stored(NamedTuple):
    """An app's payloads in the order of their positions (which have no gaps), its last event_id, and its cursor."""

    payloads: list[bytes]
    last: str | None
    cursor: str | None


async def stored(url: str, app: str = "default") -> Stored:
    async with connection(url) as conn:
        every = await conn.execute("SELECT position, app, event_id, payload FROM eventstore.events ORDER BY position")
        rows = await every.fetchall()
        cursor = await value(conn, "SELECT max(last_event_id) FROM eventstore.cursors WHERE app = %s", app)
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    ours = [(event_id, payload) for _, of, event_id, payload in rows if of == app]
    assert cursor is None or isinstance(cursor, str)
    return Stored([payload for _, payload in ours], ours[-1][0] if ours else None, cursor)


async def at_least(url: str, count: int) -> int:
    """Wait until so many events are stored; returns how many are."""
    async with connection(url) as conn:

        async def enough() -> int | None:
            found = await value(conn, "SELECT coalesce(max(position), 0) FROM eventstore.events")
            return int(str(found)) if int(str(found)) >= count else None

        return await wait_until(enough, f"{count} events stored") or 0
