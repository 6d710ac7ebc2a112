"""What ``run`` and ``ingest`` share: how they stop, wait for the database, and print what was ingested."""

from __future__ import annotations

import asyncio
import os
import signal

from eventstore.ingest.follow_apps import Outcome
from eventstore.waits import Waits
from projections.cli.shared.open_database import wait_until_available
from projections.cli.shared.output import FAILED, LogLevel, counted, print_message
from projections.database import resolve_database_url

EXTRA_SECONDS = 0.7
"""How much longer than the shutdown timeout a process waits before it exits by force."""


def stop_on_signals(waits: Waits) -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set; a process that doesn't end in time after that exits by force."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, loop, stop, waits.shutdown)
    return stop


async def configured_database() -> str:
    """Return the URL of the configured database, available or not; the embedded one is started.

    Raises:
        UsageError: no database is configured.

    """
    return await asyncio.to_thread(resolve_database_url, start=True)


async def wait_for_database_or_stop(url: str, stop: asyncio.Event, waits: Waits, *, writes: bool = True) -> bool:
    """Wait until the database is available and return True; return False when a stop was requested first.

    Raises:
        UsageError: waiting can't help.
        DatabaseUnavailable: it did not become available in time.

    """
    waiting = asyncio.ensure_future(wait_until_available(url, waits, writes=writes))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if waiting not in done:
            return False
        waiting.result()
        return True
    finally:
        for task in (waiting, stopping):
            task.cancel()
        await asyncio.gather(waiting, stopping, return_exceptions=True)


def print_ingest_outcome(outcome: Outcome) -> bool:
    """Print what was ingested; returns whether everything succeeded."""
    print_message(
        f"{counted(outcome.stored, 'new event')}, {counted(outcome.duplicates, 'duplicate')}, "
        f"{outcome.quarantined:,} quarantined"
    )
    for app, reason in outcome.refused.items():
        sentence = f"app {app!r} is refused: {reason.removeprefix(f'app {app!r}: ')}"
        print_message(f"projections: {sentence}", level=LogLevel.ERROR)
    for app in outcome.uncommitted:
        sentence = "some received events were not stored; they are received again at the next start"
        print_message(f"projections: app {app!r}: {sentence}", level=LogLevel.ERROR)
    if outcome.gave_up is not None:
        print_message(f"projections: {outcome.gave_up}", level=LogLevel.ERROR)
    return not outcome.refused and not outcome.uncommitted and outcome.gave_up is None


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, seconds: float) -> None:
    if stop.is_set():
        return
    stop.set()
    # A database that neither answers nor closes the connection could delay the end forever. Leaving loses nothing:
    # events that are not committed are received again.
    loop.call_later(seconds + EXTRA_SECONDS, _exit_by_force)


def _exit_by_force() -> None:
    sentence = "the database does not answer; events that were not stored are received again at the next start"
    print_message(f"projections: {sentence}", level=LogLevel.ERROR)
    os._exit(FAILED)
