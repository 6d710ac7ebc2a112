"""Wakes the workers of a process when events were appended: one session listens for all of them.

Invariants. NOTIFY is only a hint: a worker that isn't woken finds new events at its next poll. When the session was
lost and is back, all workers are woken, because events may have been appended meanwhile.

The channel, and where NOTIFY is sent, are in :mod:`eventstore.appending.notify_channel`.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Never

import psycopg

from eventstore.appending.notify_channel import LISTEN
from eventstore.postgres.connection import connect
from eventstore.postgres.outage import Outage, Report, retry_while_unavailable
from eventstore.postgres.session_lock import session_name
from projections.running.run_context import RunContext


class AppendListener:
    """Wakes its subscribers whenever events were appended.

    One session is enough: if each worker listened by itself, every append would wake this process once a worker.

    Attributes:
        deaf_since: since when it doesn't (``time.monotonic``); None while it listens.

    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._subscribers: list[asyncio.Event] = []
        self.deaf_since: float | None = monotonic()

    @property
    def is_listening(self) -> bool:
        """Whether its session listens, as far as is known."""
        return self.deaf_since is None

    def subscribe(self) -> asyncio.Event:
        """Return an event that is set at each append; the one subscriber clears it."""
        event = asyncio.Event()
        self._subscribers.append(event)
        return event

    async def run(self) -> Never:
        """Listen until cancelled; wait while the database is unavailable."""
        outage = Outage(Report(), cap=self._context.waits.database_backoff_cap)  # the workers report it
        await retry_while_unavailable(outage, lambda: self._listen(outage), (psycopg.Error, OSError))

    async def _listen(self, outage: Outage) -> Never:
        context = self._context
        async with await connect(context.url, name=session_name("listen"), waits=context.waits) as conn:
            await conn.execute(LISTEN)
            outage.ended()
            self.deaf_since = None
            self._wake_all()
            try:
                while True:
                    async for _ in conn.notifies():
                        self._wake_all()
            finally:
                self.deaf_since = monotonic()

    def _wake_all(self) -> None:
        for event in self._subscribers:
            event.set()
