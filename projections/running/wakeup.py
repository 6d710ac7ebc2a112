"""Wakes the workers of a process when something was appended: one session listens for all of them.

Invariants. NOTIFY is a hint only: whoever isn't woken looks by itself at the next poll. What was appended while the
session was away is rung for as soon as it is back.
"""

from __future__ import annotations

import asyncio
from typing import Never

import psycopg
from psycopg import sql

from eventstore.appending.append import CHANNEL
from eventstore.postgres.connection import connect
from eventstore.postgres.outage import Outage, Report
from eventstore.waits import Waits


class AppendListener:
    """Rings for everyone who hears it.

    Each worker's own session would be woken by every append, and would wake this process: for one, it is enough.
    """

    def __init__(self, url: str, waits: Waits) -> None:
        self._url = url
        self._waits = waits
        self._subscribers: list[asyncio.Event] = []

    def subscribe(self) -> asyncio.Event:
        """Return an event that is set at each ring, for one listener to clear."""
        event = asyncio.Event()
        self._subscribers.append(event)
        return event

    async def run(self) -> Never:
        """Listen until cancelled; wait while the database is unavailable."""
        outage = Outage(Report(), cap=self._waits.database_backoff_cap)  # the workers report it
        while True:
            try:
                async with await connect(self._url, name="projections run listen", waits=self._waits) as conn:
                    await conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    outage.ended()
                    self._wake_all()
                    async for _ in conn.notifies():
                        self._wake_all()
            except (psycopg.Error, OSError) as error:
                await asyncio.sleep(outage.failed(error))

    def _wake_all(self) -> None:
        for event in self._subscribers:
            event.set()
