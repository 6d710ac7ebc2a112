"""Runs a command's work so that SIGINT and SIGTERM let it clean up, and the user learns what was changed."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer

from projections import signals
from projections.cli.shared.output import LogLevel, print_message

T = TypeVar("T")

NOTHING_CHANGED = "nothing was changed"
UNFINISHED_ROLLED_BACK = "the unfinished part was rolled back"


def run_interruptible(work: Coroutine[Any, Any, T], *, if_interrupted: str) -> T:
    """Run a command's work as ``asyncio.run`` does; SIGINT or SIGTERM cancels it, so that it leaves nothing behind.

    A second signal ends the process at once.

    Args:
        work: what to do.
        if_interrupted: what the user may rely on after an interrupt.

    Raises:
        typer.Exit: it was interrupted; exit code 130 (SIGINT) or 143 (SIGTERM), and a message is printed.
        Exception: whatever the work raises.

    """
    received: list[signal.Signals] = []
    try:
        return asyncio.run(_interruptible(work, received))
    finally:
        # Even if the work succeeded or failed: after a signal the next projection must not begin.
        signals.renew()
        if received:
            print_message(f"{signals.SENTENCE}; {if_interrupted}", level=LogLevel.ERROR)
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
    if threading.current_thread() is threading.main_thread():  # only the main thread receives signals
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt, number)
    return await working
