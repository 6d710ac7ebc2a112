"""What SIGINT and SIGTERM do to a command from its first moment: one sentence on stderr, and exit code 130 or 143.

Invariants. Until the command's own work begins (:func:`unwind_from_now`) there is nothing to tidy up, so the process
ends where it stands. From then on :class:`Interrupted` is raised, so that transactions are rolled back and files are
closed on the way out. A second signal ends the process at once. Event loops that handle these signals themselves take
over for as long as they run; whoever ran one calls :func:`renew` after it.

This module is loaded before all others, so it loads nothing that takes long.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SENTENCE = "projections: interrupted"


class Interrupted(SystemExit):
    """A signal asked the process to end. Not an Exception: nobody may take it for a failure of theirs."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class _State:
    installed = False
    unwinds = False


def install() -> None:
    """Handle the signals from now on; one that is ignored, as behind nohup, stays ignored."""
    _State.installed = True
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def renew() -> None:
    """Handle the signals again, after an event loop did; nothing happens in a process that never installed this."""
    if _State.installed:
        install()


def unwind_from_now() -> None:
    """Raise :class:`Interrupted` from now on, rather than end on the spot."""
    _State.unwinds = True


def _handle(number: int, _frame: FrameType | None) -> NoReturn:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    if _State.unwinds:
        raise Interrupted(number)
    os.write(2, _line().encode())
    os._exit(128 + number)


def _line() -> str:
    arguments = sys.argv[1:]
    style = os.environ.get("PROJECTIONS_LOG_FORMAT")
    for number, argument in enumerate(arguments):
        if argument.startswith("--log-format="):
            style = argument.removeprefix("--log-format=")
        elif argument == "--log-format":
            style = "".join(arguments[number + 1 : number + 2])
    return f'{{"event": "{SENTENCE}", "level": "error"}}\n' if style == "json" else f"{SENTENCE}\n"
