"""Follows all configured apps in one process, until it is stopped or no new events arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import structlog

from eventstore.ingest.follower import Follower, FollowerState
from eventstore.ingest.idle_clock import IdleClock
from eventstore.ingest.waiting_clock import WaitingClock, reason_to_give_up
from eventstore.waits import Waits

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an ingest ended.

    Attributes:
        stored: how many new events were stored.
        duplicates: how many events were received that were stored already.
        quarantined: how many messages were quarantined.
        refused: a sentence for each app that is refused.
        uncommitted: the apps whose last messages could not be committed; they are received again.
        gave_up: what was waited for when the ingest gave up; None if it did not give up.

    """

    stored: int
    duplicates: int
    quarantined: int
    refused: dict[str, str] = field(default_factory=dict)
    uncommitted: tuple[str, ...] = ()
    gave_up: str | None = None


async def follow(
    followers: Sequence[Follower],
    *,
    stop: asyncio.Event,
    waits: Waits,
    until_idle: float | None = None,
    give_up_after: float | None = None,
) -> Outcome:
    """Run the followers until all of them have ended.

    Args:
        followers: one for each app.
        stop: set it to end; received messages are committed first.
        waits: ``shutdown`` counts.
        until_idle: end once every app's stream has brought no new event for this many seconds, apart from refused apps.
            None: never end, and retry refused apps.
        give_up_after: with ``until_idle``, also end once an app has waited this many seconds without a break for its
            upstream, the database or another process. None: never.

    """
    # With until_idle, retrying a refused app would only delay the end.
    retry = until_idle is None
    running = {asyncio.create_task(follower.run(retry_refused=retry)): follower for follower in followers}
    ending: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
    idling: asyncio.Task[str | None] | None = None
    if until_idle is not None:
        idling = asyncio.create_task(_until_idle(followers, until_idle, give_up_after))
        ending.append(idling)
    try:
        pending: set[asyncio.Task[object]] = {*running}
        while pending & running.keys():
            done, pending = await asyncio.wait({*pending, *ending}, return_when=asyncio.FIRST_COMPLETED)
            for task in done & running.keys():
                task.result()
            if done & {*ending}:
                break
            pending -= {*ending}
        uncommitted = await _finish(running, waits)
    finally:
        for task in (*ending, *running):
            task.cancel()
        await asyncio.gather(*ending, *running, return_exceptions=True)
    return Outcome(
        sum(follower.stored for follower in followers),
        sum(follower.duplicates for follower in followers),
        sum(follower.quarantined for follower in followers),
        {follower.app: follower.refusal for follower in followers if follower.refusal is not None},
        uncommitted,
        idling.result() if idling is not None and idling.done() and not idling.cancelled() else None,
    )


async def _finish(running: dict[asyncio.Task[None], Follower], waits: Waits) -> tuple[str, ...]:
    """Stop the followers; return the apps whose last messages could not be committed."""
    for task, follower in running.items():
        follower.stop()
        if follower.state is not FollowerState.FOLLOWING:
            task.cancel()
    unfinished = {task for task in running if not task.done()}
    if unfinished:
        await asyncio.wait(unfinished, timeout=waits.shutdown)
    return tuple(
        follower.app
        for follower in running.values()
        if follower.refusal is None and (follower.has_uncommitted or not follower.can_commit)
    )


async def _until_idle(followers: Sequence[Follower], seconds: float, give_up_after: float | None) -> str | None:
    """Wait until all are idle and return None, or return why it gave up."""
    idle_clocks = {follower: IdleClock(follower) for follower in followers}
    waiting_clocks = {follower: WaitingClock(follower) for follower in followers}
    tick = min(TICK_SECONDS, seconds / 10) if seconds > 0 else TICK_SECONDS
    before = monotonic()
    while True:
        await asyncio.sleep(tick)
        now = monotonic()
        # If this process was frozen, it has seen nothing of that time.
        elapsed = min(now - before, 2 * tick)
        before = now
        for follower in followers:
            idle_clocks[follower].tick(elapsed)
            waiting_clocks[follower].tick(elapsed)
        active = [follower for follower in followers if follower.refusal is None]
        idle = [idle_clocks[follower].seconds for follower in active]
        if idle and all(idle_for >= seconds and idle_for > 0 for idle_for in idle):
            log.debug("idle", seconds=seconds)
            return None
        if give_up_after is not None:
            reason = reason_to_give_up([waiting_clocks[follower] for follower in active], give_up_after)
            if reason is not None:
                return reason
