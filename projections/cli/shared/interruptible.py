"""Commands that do one thing and end: SIGINT and SIGTERM let them tidy up, and they say what holds."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer

from projections import signals
from projections.cli.shared.output import LogLevel, say

T = TypeVar("T")

NOTHING_CHANGED = "nothing was changed"
WHOLE_OR_NOT = "nothing was changed by what was not finished"


def run_once(work: Coroutine[Any, Any, T], *, holds: str) -> T:
    """Run a command's work as ``asyncio.run`` does; SIGINT or SIGTERM cancels it, so that it leaves nothing behind.

    A second signal ends the process at once.

    Args:
        work: what there is to do.
        holds: what people may rely on when it was interrupted.

    Raises:
        typer.Exit: it was interrupted, which is said; with exit code 130 (SIGINT) or 143 (SIGTERM).
        Exception: whatever the work raises.

    """
    received: list[signal.Signals] = []
    try:
        return asyncio.run(_interruptible(work, received))
    finally:
        # Whatever it came to: of several projections, none is begun after a signal.
        signals.renew()
        if received:
            say(f"{signals.SENTENCE}; {holds}", level=LogLevel.ERROR)
            raise typer.Exit(128 + received[0])


async def _interruptible(work: Coroutine[Any, Any, T], received: list[signal.Signals]) -> T:
    working = asyncio.ensure_future(work)

    def interrupt(number: signal.Signals) -> None:
        received.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        working.cancel()

    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():  # no other is told of signals
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt, number)
    return await working
