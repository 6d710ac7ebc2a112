"""Wakes all tasks that wait for something to change."""

from __future__ import annotations

import asyncio


class ChangeSignal:
    """Wakes all tasks that wait for a change; each then checks its own condition again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._waiting = 0

    def notify(self) -> None:
        """Wake all tasks that wait now."""
        if self._waiting:  # called for every message sent, so it must cost almost nothing when no task waits
            self._event.set()
            self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next notification."""
        self._waiting += 1
        try:
            await self._event.wait()
        finally:
            self._waiting -= 1
