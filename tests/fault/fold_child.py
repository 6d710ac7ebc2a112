"""A process that forks one worker for each line it reads, so that a test can kill many workers quickly.

Its arguments are a projection's name and a URL. A child folds to the head. The process writes the child's pid at once,
and 0 or minus the signal when the child ends. Run as ``python -m tests.fault.fold_child``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import structlog

from projections.migrating.metadata import READ_MODELS
from projections.running.window_step import Step
from projections.running.worker import Worker
from tests import folding

WINDOW = 3
"""Positions in a window: a child sends one message for each window but the first."""


async def fold(worker: Worker) -> None:
    """Fold to the head, on one connection."""
    async with folding.worker_connection(worker) as conn:
        assert await folding.fold(worker, conn) is Step.AT_HEAD


def main() -> None:
    """Fork a child for each line; this process runs no thread and no event loop, so a fork is safe."""
    # Only pids and exit codes may go to stdout.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    name, url = sys.argv[1:]
    (projection,) = (each for each in READ_MODELS if each.name == name)
    worker = folding.worker(url, projection(), batch_size=WINDOW)
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            asyncio.run(fold(worker))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
