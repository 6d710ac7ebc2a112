"""Runs workers and ingest together, until it is stopped or until nothing is left to do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from eventstore.ingest.follow_apps import Outcome, follow
from eventstore.ingest.follower import Follower
from projections.running.run_context import RunContext
from projections.running.run_parts import RunParts
from projections.running.until_idle import IdleOutcome, IdleWatch
from projections.running.wakeup import AppendListener
from projections.running.worker import Worker


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended.

    ``ingest`` is None if no app was followed. After a run until idle, ``stopped`` has a sentence for each projection
    that is paused, waiting, failed or not migrated, and ``gave_up`` says what it waited for until it gave up.
    """

    ingest: Outcome | None
    stopped: dict[str, str] = field(default_factory=dict)
    gave_up: str | None = None


async def run_projections(
    context: RunContext,
    workers: Sequence[Worker],
    followers: Sequence[Follower],
    *,
    stop: asyncio.Event,
    until_idle: float | None = None,
    give_up_after: float | None = None,
    parts: RunParts | None = None,
) -> RunOutcome:
    """Run until ``stop`` is set, or until idle.

    Idle means: no upstream sent anything new for so many seconds, and then every projection is at the head (or paused,
    waiting or failed). Without upstreams: every projection was at the head for so many seconds. With
    ``give_up_after``, a run until idle also ends when an app waited for others, or nothing was folded, for so many
    seconds without a break. Those who watch the run find its listener and its tasks in ``parts``.
    """
    listener = AppendListener(context)
    folding = [asyncio.create_task(worker.run(listener), name=f"fold {worker.projection.name}") for worker in workers]
    if workers:
        folding.append(asyncio.create_task(listener.run(), name="listen"))
    stopping = asyncio.create_task(stop.wait())
    stop_ingest = asyncio.Event()
    ingesting = asyncio.create_task(
        follow(followers, stop=stop_ingest, waits=context.waits, until_idle=until_idle, give_up_after=give_up_after),
        name="ingest",
    )
    if parts is not None:
        parts.listener = listener if workers else None
        parts.tasks.update({task.get_name(): task for task in folding})
        if followers:
            parts.tasks[ingesting.get_name()] = ingesting
    finishing: asyncio.Task[IdleOutcome] | None = None
    if until_idle is not None:
        seconds = 0.0 if followers else until_idle
        watch = IdleWatch(context, workers, seconds=seconds, give_up_after=give_up_after)
        finishing = asyncio.create_task(_watch_after(watch, ingesting if followers else None))
    try:
        waiting: set[asyncio.Task[object]] = {stopping, *folding, ingesting}
        if finishing is not None:
            waiting.add(finishing)
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if done == {ingesting} and (workers or finishing is not None):
            ingesting.result()  # refused, idle, or no apps; a programming error ends the run
            done, _ = await asyncio.wait(waiting - {ingesting}, return_when=asyncio.FIRST_COMPLETED)
        for task in done & {*folding}:
            task.result()  # a worker ends only by a programming error
        idle = finishing.result() if finishing is not None and finishing in done else IdleOutcome({})
        stop_ingest.set()
        outcome = await ingesting
        return RunOutcome(outcome if followers else None, *idle)
    finally:
        tasks = [task for task in (*folding, stopping, ingesting, finishing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch_after(watch: IdleWatch, ingesting: asyncio.Task[Outcome] | None) -> IdleOutcome:
    """Wait until ingest ended, if there is one, and then until the projections are idle."""
    if ingesting is not None:
        await asyncio.wait({ingesting})
    return await watch.run()
