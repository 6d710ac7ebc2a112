"""What SIGINT and SIGTERM do to a command from its first moment: one sentence on stderr, and exit code 130 or 143.

Invariants. Until the command's own work begins (:func:`unwind_from_now`) there is nothing to clean up, so the process
exits immediately. From then on :class:`Interrupted` is raised, so that transactions are rolled back and files are
closed. A second signal ends the process immediately. An event loop that handles these signals itself replaces our
handlers; whoever ran one calls :func:`renew` after it.

This module is loaded before all others, so it imports only modules that load fast.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from projections.stderr_style import writes_json_to_stderr

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SENTENCE = "projections: interrupted"


class Interrupted(SystemExit):
    """A signal asked the process to end. It is no Exception, so that no handler of errors catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class _State:
    installed = False
    unwinds = False


def install() -> None:
    """Handle the signals from now on; one that the process ignores, as under nohup, stays ignored."""
    _State.installed = True
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def renew() -> None:
    """Install the handlers again after an event loop replaced them; does nothing if they were never installed."""
    if _State.installed:
        install()


def unwind_from_now() -> None:
    """From now on, raise :class:`Interrupted` instead of exiting immediately."""
    _State.unwinds = True


def _handle(number: int, _frame: FrameType | None) -> NoReturn:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    if _State.unwinds:
        raise Interrupted(number)
    os.write(2, _line().encode())
    os._exit(128 + number)


def _line() -> str:
    if not writes_json_to_stderr(sys.argv[1:], os.environ, is_terminal=os.isatty(2)):
        return f"{SENTENCE}\n"
    now = time.time()
    timestamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1e6):06}Z"
    return f'{{"event": "{SENTENCE}", "level": "error", "timestamp": "{timestamp}"}}\n'
