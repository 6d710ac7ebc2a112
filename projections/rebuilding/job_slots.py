"""How many sessions of one command work at the same time.

Invariants. A replay has one slot from its start to its end, and more only while it folds slices. A slot that a replay
waits for in vain is no condition of its progress: with the one that it has, it gets everything done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class JobSlots:
    """Slots for sessions that work at the same time.

    Args:
        jobs: how many there are.

    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._free = asyncio.Semaphore(jobs)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot, in the order of the requests, and keep it while the block runs."""
        async with self._free:
            yield


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of tasks that worked side by side: the one for which the others were cancelled."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error
