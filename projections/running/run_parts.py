"""The parts of a run, for those who watch it: health checks, metrics, the page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from eventstore.errors import describe
from eventstore.ingest.follower import Follower
from projections.running.wakeup import AppendListener
from projections.running.worker import Worker


@dataclass(slots=True)
class RunParts:
    """What one process runs; the supervisor fills in ``listener`` and ``tasks`` when it starts them.

    Attributes:
        workers: fold the projections.
        followers: follow the apps.
        listener: wakes the workers; None before the start, and without workers.
        tasks: every task of the run, by what it does; empty before the start.
        stop: set when the run was asked to stop.

    """

    workers: Sequence[Worker] = ()
    followers: Sequence[Follower] = ()
    listener: AppendListener | None = None
    tasks: dict[str, asyncio.Task[object]] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def are_starting(self) -> bool:
        """Whether there are parts, and none of them was started yet."""
        return bool(self.workers or self.followers) and not self.tasks

    def ended_tasks(self) -> dict[str, str]:
        """Return the tasks that ended although the run goes on, each with the reason."""
        return {name: _why_ended(task) for name, task in self.tasks.items() if task.done()}


def _why_ended(task: asyncio.Task[object]) -> str:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return "ended" if error is None else describe(error)
