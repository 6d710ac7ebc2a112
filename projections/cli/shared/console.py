"""The console that draws tables and live views."""

from __future__ import annotations

import os
import sys

from rich.console import Console

PIPE_WIDTH = 160
"""Columns of a table that goes into a file or a pipe, where nothing limits them."""


def new_console(*, stderr: bool = False) -> Console:
    """Return a console that shows text as it is; callers pass it through ``visible`` first."""
    has_no_width = not (sys.stderr if stderr else sys.stdout).isatty() and "COLUMNS" not in os.environ
    width = PIPE_WIDTH if has_no_width else None
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)
