"""What every replay is given (rebuild, verify, as-of, explain, redecode), and the connection that it works on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection

from eventstore.postgres.connection import connect
from eventstore.postgres.session_lock import session_name
from eventstore.postgres.session_settings import FOLDING, milliseconds
from eventstore.waits import Waits
from projections.folding.text_dates import load_odd_dates_as_text
from projections.rebuilding.job_slots import JobSlots
from projections.rebuilding.replay_progress import NoProgress, Progress
from projections.settings import ReplaySettings


@dataclass(frozen=True, slots=True)
class ReplayContext:
    """What every replay is given.

    Attributes:
        url: the database.
        waits: timeouts of the event store.
        settings: windows, memory and locks of a replay.
        progress: receives the progress.
        slots: for sessions that work at the same time; replays that share them work side by side.

    """

    url: str
    waits: Waits
    settings: ReplaySettings
    progress: Progress = field(default_factory=NoProgress)
    slots: JobSlots = field(default_factory=lambda: JobSlots(1))

    @asynccontextmanager
    async def connection(self, work: str, *, values_in_text: bool = False) -> AsyncIterator[AsyncConnection[Any]]:
        """Open a connection for a replay, in autocommit.

        Args:
            work: becomes part of its application_name.
            values_in_text: as for :func:`~eventstore.postgres.connection.connect`.

        Raises:
            psycopg.Error: the database is unavailable.

        """
        lock_timeout = milliseconds(self.settings.lock_timeout)
        session = {**FOLDING, "work_mem": self.settings.work_mem, "lock_timeout": lock_timeout}
        name = session_name(work)
        conn = await connect(self.url, name=name, waits=self.waits, settings=session, values_in_text=values_in_text)
        try:
            load_odd_dates_as_text(conn)
            yield conn
        finally:
            await conn.close()
