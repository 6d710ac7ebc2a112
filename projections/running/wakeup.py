"""Wakes the workers of a process when events were appended: one session listens for all of them.

Invariants. NOTIFY is only a hint: a worker that isn't woken finds new events at its next poll. When the session was
lost and is back, all workers are woken, because events may have been appended meanwhile.

The channel, and where NOTIFY is sent, are in :mod:`eventstore.appending.notify_channel`.
"""

from __future__ import annotations

import asyncio
from typing import Never

import psycopg

from eventstore.appending.notify_channel import LISTEN
from eventstore.postgres.connection import connect
from eventstore.postgres.outage import Outage, Report
from eventstore.waits import Waits


class AppendListener:
    """Wakes its subscribers whenever events were appended.

    One session is enough: if each worker listened by itself, every append would wake this process once a worker.
    """

    def __init__(self, url: str, waits: Waits) -> None:
        self._url = url
        self._waits = waits
        self._subscribers: list[asyncio.Event] = []

    def subscribe(self) -> asyncio.Event:
        """Return an event that is set at each append; the one subscriber clears it."""
        event = asyncio.Event()
        self._subscribers.append(event)
        return event

    async def run(self) -> Never:
        """Listen until cancelled; wait while the database is unavailable."""
        outage = Outage(Report(), cap=self._waits.database_backoff_cap)  # the workers report it
        while True:
            try:
                async with await connect(self._url, name="projections run listen", waits=self._waits) as conn:
                    await conn.execute(LISTEN)
                    outage.ended()
                    self._wake_all()
                    async for _ in conn.notifies():
                        self._wake_all()
            except (psycopg.Error, OSError) as error:
                await asyncio.sleep(outage.failed(error))

    def _wake_all(self) -> None:
        for event in self._subscribers:
            event.set()
