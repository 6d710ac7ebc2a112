"""A process that forks one worker for each line it reads, so that a test can kill many workers quickly.

Its arguments are a projection's name and a URL. A child folds to the head, whatever the line is. Run as
``python -m tests.fault.fold_child``.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import structlog

from projections.migrating.metadata import READ_MODELS
from projections.running.window_step import Step
from projections.running.worker import Worker
from tests import folding
from tests.fault.forking_process import fork_for_each_line

WINDOW = 3
"""Positions in a window: a child sends one message for each window but the first."""


async def fold(worker: Worker) -> None:
    """Fold to the head, on one connection."""
    async with folding.worker_connection(worker) as conn:
        assert await folding.fold(worker, conn) is Step.AT_HEAD


def main() -> None:
    """Fold while the log is still empty, then fork a child for each line."""
    # Only pids and exit codes may go to stdout.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    name, url = sys.argv[1:]
    (projection,) = (each for each in READ_MODELS if each.name == name)
    worker = folding.worker(url, projection(), batch_size=WINDOW)
    asyncio.run(fold(worker))
    fork_for_each_line(lambda _: fold(worker))


if __name__ == "__main__":
    main()
