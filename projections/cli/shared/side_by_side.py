"""Replays several projections, one after another, or side by side if the command has several jobs.

Invariants. The error of one projection does not stop the others. Side by side, results are printed in the order of the
projections, when all have ended. If the work is interrupted, or the connection is lost, what was done until then is
printed too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from projections.cli.shared.each_projection import continue_after_error
from projections.cli.shared.interruptible import run_interruptible
from projections.cli.shared.open_database import ReplayTargets
from projections.cli.shared.progress import shown_progress, shown_together
from projections.projection import Projection
from projections.rebuilding.job_slots import first_error
from projections.rebuilding.replay_context import ReplayContext

T = TypeVar("T")


def replay_all(
    targets: ReplayTargets,
    replay: Callable[[ReplayContext, Projection], Coroutine[Any, Any, T]],
    show: Callable[[T], None],
    failed: list[str],
    if_interrupted: str,
) -> None:
    """Replay all projections.

    Args:
        targets: the projections, and what their replay needs.
        replay: replays one.
        show: prints the result of one.
        failed: gets the names of those that fail.
        if_interrupted: what the user may rely on after an interrupt.

    Raises:
        psycopg.Error: the database connection was lost.
        typer.Exit: the work was interrupted.

    """
    if targets.settings.job_count > 1 and len(targets.projections) > 1:
        run_interruptible(_side_by_side(targets, replay, show, failed), if_interrupted=if_interrupted)
        return
    for name, projection in targets.projections.items():
        with continue_after_error(name, failed):
            with shown_progress(name) as progress:
                work = replay(targets.context(progress), projection)
                done = run_interruptible(work, if_interrupted=if_interrupted)
            show(done)


async def _side_by_side(
    targets: ReplayTargets,
    replay: Callable[[ReplayContext, Projection], Coroutine[Any, Any, T]],
    show: Callable[[T], None],
    failed: list[str],
) -> None:
    done: dict[str, T] = {}
    slots = targets.slots()
    try:
        with shown_together() as shown:

            async def one(name: str, projection: Projection) -> None:
                with continue_after_error(name, failed), shown(name) as progress:
                    done[name] = await replay(targets.context(progress, slots), projection)

            try:
                async with asyncio.TaskGroup() as group:
                    for name, projection in targets.projections.items():
                        group.create_task(one(name, projection))
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None
    finally:
        for name in targets.projections:
            if name in done:
                show(done[name])
