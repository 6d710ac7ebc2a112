"""Reads the stored events of an app, and waits for events to be stored."""

from __future__ import annotations

from typing import NamedTuple

from tests.store import connection, value, wait_until


class AppEvents(NamedTuple):
    """An app's payloads in order of position, its last event_id, and its cursor."""

    payloads: list[bytes]
    last: str | None
    cursor: str | None


async def read_stored(url: str, app: str = "default") -> AppEvents:
    """Read an app's stored events; fails unless all positions together are 1, 2, 3 and so on."""
    async with connection(url) as conn:
        every = await conn.execute("SELECT position, app, event_id, payload FROM eventstore.events ORDER BY position")
        rows = await every.fetchall()
        cursor = await value(conn, "SELECT max(last_event_id) FROM eventstore.cursors WHERE app = %s", app)
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    own = [(event_id, payload) for _, owner, event_id, payload in rows if owner == app]
    assert cursor is None or isinstance(cursor, str)
    return AppEvents([payload for _, payload in own], own[-1][0] if own else None, cursor)


async def wait_for_events(url: str, count: int) -> int:
    """Wait until at least so many events are stored; returns how many are stored."""
    async with connection(url) as conn:

        async def enough() -> int | None:
            found = await value(conn, "SELECT coalesce(max(position), 0) FROM eventstore.events")
            return int(str(found)) if int(str(found)) >= count else None

        return await wait_until(enough, f"{count} events stored") or 0
