"""Follows all configured apps in one process, until told to stop or until nothing new comes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import structlog

from eventstore.ingest.follower import Follower, State
from eventstore.ingest.stall import StallClock, gave_up
from eventstore.waits import Waits

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.05
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an ingest ended.

    ``stored``, ``duplicates`` and ``quarantined`` count messages; ``refused`` has a sentence for each app that is
    refused; ``uncommitted`` names the apps whose last messages could not be committed (the upstream brings
    them again); ``gave_up`` says what was waited for in vain, None when nothing was.
    """

    stored: int
    duplicates: int
    quarantined: int
    refused: dict[str, str] = field(default_factory=dict)
    uncommitted: tuple[str, ...] = ()
    gave_up: str | None = None


class IdleClock:
    """Counts the seconds in which an app's stream was there and nothing new was stored.

    Time without a connection or with work under way is left out; a new event starts the count over.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._stored = follower.stored
        self.seconds = 0.0

    def tick(self, elapsed: float) -> None:
        """Count what went by since the last tick, in seconds."""
        if self._follower.stored != self._stored:
            self._stored = self._follower.stored
            self.seconds = 0.0
        elif self._follower.is_quiet:
            self.seconds += elapsed


async def follow(
    followers: Sequence[Follower],
    *,
    stop: asyncio.Event,
    waits: Waits,
    until_idle: float | None = None,
    give_up_after: float | None = None,
) -> Outcome:
    """Run the followers while any of them lives.

    Args:
        followers: one for each app.
        stop: set it to end: what was received is committed first.
        waits: ``shutdown`` counts.
        until_idle: end once every app's stream brought nothing new for so many seconds, those left out that were
            refused; None: never, and refused apps are tried again.
        give_up_after: until idle, end too once an app waited for so many seconds, without a break, for its upstream,
            the database or another process; None: never.

    """
    # To wait for a refused app would put off the end; without one, a refusal may pass.
    retry = until_idle is None
    running = {asyncio.create_task(follower.run(retry_refused=retry)): follower for follower in followers}
    ending: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait()), asyncio.create_task(_progress(followers))]
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
    """Stop the followers; returns the apps whose last messages could not be committed."""
    for task, follower in running.items():
        follower.stop()
        if follower.state is not State.FOLLOWING:
            task.cancel()
    left = {task for task in running if not task.done()}
    if left:
        await asyncio.wait(left, timeout=waits.shutdown)
    return tuple(
        follower.app
        for follower in running.values()
        if follower.refusal is None and (follower.has_uncommitted or not follower.can_commit)
    )


async def _until_idle(followers: Sequence[Follower], seconds: float, give_up_after: float | None) -> str | None:
    """Wait until all are idle; returns None then, or why it gave up."""
    clocks = {follower: IdleClock(follower) for follower in followers}
    stalls = {follower: StallClock(follower) for follower in followers}
    tick = min(TICK_SECONDS, seconds / 10) if seconds > 0 else TICK_SECONDS
    before = monotonic()
    while True:
        await asyncio.sleep(tick)
        now = monotonic()
        # A process that was stopped meanwhile has seen nothing of that time.
        elapsed = min(now - before, 2 * tick)
        for follower in followers:
            clocks[follower].tick(elapsed)
            stalls[follower].tick(elapsed)
        before = now
        living = [clock for follower, clock in clocks.items() if follower.refusal is None]
        if living and all(clock.seconds >= seconds and clock.seconds > 0 for clock in living):
            log.debug("idle", seconds=seconds)
            return None
        if give_up_after is not None:
            waiting = [clock for follower, clock in stalls.items() if follower.refusal is None]
            if (why := gave_up(waiting, give_up_after)) is not None:
                return why


async def _progress(followers: Sequence[Follower]) -> None:
    told = 0
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            stored = sum(follower.stored for follower in followers)
            if stored != told:
                log.info("progress", stored=stored, since_last=stored - told)
                told = stored
