"""Keeps the garbage collector from searching what a long-running process has loaded at its start.

Modules, classes and statements stay until the process ends. Left to itself, the collector of Python searches all of
them again now and then, which stops the process for about 50 ms: events that arrive meanwhile are folded late.
"""

from __future__ import annotations

import gc


def exempt_from_collection() -> None:
    """Exempt everything that exists now from garbage collection; call it once, when the start is complete."""
    gc.collect()
    gc.freeze()
