"""Runs workers and ingest together, until told to stop or until there is nothing left to do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

import psycopg
import structlog
from psycopg import sql

from eventstore.event_reader import HEAD
from eventstore.ingest.follow_apps import Outcome, follow
from eventstore.ingest.follower import Follower
from eventstore.postgres.connection import connect
from eventstore.postgres.outage import Outage, Report
from eventstore.postgres.queries import fetch_all
from eventstore.waits import Waits
from projections.running.checkpoint import State, ahead_of_log
from projections.running.wakeup import AppendListener
from projections.running.worker import Worker

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.1
LONGEST_LOOK_SECONDS = 15.0
"""What one look at the checkpoints may take, a connection that must be made for it included."""

_PROGRESS = sql.SQL(
    "SELECT name, version, state, last_error, position, {head} FROM projections.checkpoints WHERE name = ANY(%s)"
).format(head=sql.SQL(HEAD))


class _Progress(NamedTuple):
    """A projection's checkpoint, and the log's last position."""

    name: str
    version: int
    state: str
    last_error: str | None
    position: int
    head: int


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended.

    ``ingest`` is None when there was none; ``stopped`` has a sentence for each projection that is paused, waiting or
    failed, when the run was to end at the head; ``gave_up`` says which folds were waited for in vain.
    """

    ingest: Outcome | None
    stopped: dict[str, str] = field(default_factory=dict)
    gave_up: str | None = None


class _Head(NamedTuple):
    """Why some projections stand still at the end, and why it was not waited for others."""

    stopped: dict[str, str]
    gave_up: str | None = None


async def run(
    url: str,
    workers: Sequence[Worker],
    followers: Sequence[Follower],
    *,
    stop: asyncio.Event,
    waits: Waits,
    until_idle: float | None = None,
    give_up_after: float | None = None,
) -> RunOutcome:
    """Run until ``stop`` is set, or until idle.

    Idle means: every upstream brought nothing new for so many seconds, and then every projection is at the head (or
    paused, waiting or failed). Without upstreams: every projection was at the head for so many seconds. With
    ``give_up_after``, a run until idle ends too once an app waited for others, or nothing was folded, for so many
    seconds without a break.
    """
    listener = AppendListener(url, waits)
    folding = [asyncio.create_task(worker.run(listener)) for worker in workers]
    if workers:
        folding.append(asyncio.create_task(listener.run()))
    stopping = asyncio.create_task(stop.wait())
    stop_ingest = asyncio.Event()
    ingesting = asyncio.create_task(
        follow(followers, stop=stop_ingest, waits=waits, until_idle=until_idle, give_up_after=give_up_after)
    )
    finishing: asyncio.Task[_Head] | None = None
    if until_idle is not None:
        after = ingesting if followers else None
        finishing = asyncio.create_task(
            _at_head(url, workers, waits, after, 0.0 if followers else until_idle, give_up_after)
        )
    try:
        waiting: set[asyncio.Task[object]] = {stopping, *folding, ingesting}
        if finishing is not None:
            waiting.add(finishing)
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if done == {ingesting} and (workers or finishing is not None):
            ingesting.result()  # refused, idle or not asked for; an error that is ours ends the run
            done, _ = await asyncio.wait(waiting - {ingesting}, return_when=asyncio.FIRST_COMPLETED)
        for task in done & {*folding}:
            task.result()  # a worker ends only by an error that is ours
        head = finishing.result() if finishing is not None and finishing in done else _Head({})
        stop_ingest.set()
        outcome = await ingesting
        return RunOutcome(outcome if followers else None, *head)
    finally:
        tasks = [task for task in (*folding, stopping, ingesting, finishing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Patience:
    """Counts the seconds in which nothing was folded.

    Args:
        seconds: how many are enough; None for never.

    """

    def __init__(self, seconds: float | None) -> None:
        self._enough = seconds
        self._waited = 0.0
        self._looked_at = monotonic()
        self._seen: object = None

    def gave_up(self, seen: object, what: str) -> str | None:
        """Return why to give up, if it is time; None before.

        Args:
            seen: what was there at this look; something new starts the count over, None never does.
            what: what is waited for.

        """
        now = monotonic()
        # A process that was stopped meanwhile has seen nothing of that time.
        self._waited += min(now - self._looked_at, LONGEST_LOOK_SECONDS)
        self._looked_at = now
        if seen is not None and seen != self._seen:
            self._seen, self._waited = seen, 0.0
        if self._enough is None or self._waited < self._enough:
            return None
        return f"gave up after {self._enough:g} s: {what}"


async def _at_head(
    url: str,
    workers: Sequence[Worker],
    waits: Waits,
    after: asyncio.Task[Outcome] | None,
    seconds: float,
    give_up_after: float | None,
) -> _Head:
    """Wait until the projections were at the head, or stood still, for so long; returns why some stand still.

    What failed in an earlier run stands still only once this run has tried it.
    """
    if after is not None:
        await asyncio.wait({after})
    patience = _Patience(give_up_after)
    outage = Outage(Report(), cap=waits.database_backoff_cap / 5)  # the workers report it
    since: float | None = None
    head_then = -1
    while True:
        try:
            async with await connect(url, name="projections run", waits=waits) as conn:
                while True:
                    left_out = _not_migrated(workers)
                    begun = [worker for worker in workers if worker.projection.name not in left_out]
                    versions = {worker.projection.name: worker.projection.version for worker in begun}
                    found = await fetch_all(conn, _PROGRESS, [list(versions)])
                    outage.ended()
                    rows = [_Progress(*row) for row in found]
                    stopped = {row.name: why for row in rows if (why := _why(row, versions[row.name]))}
                    head = rows[0].head if rows else 0
                    tried = all(worker.last is not None for worker in begun)
                    there = (
                        tried
                        and len(rows) == len(versions)
                        and all(row.position >= head for row in rows if row.name not in stopped)
                    )
                    if not there:
                        since = None
                    elif since is None or head != head_then:
                        since, head_then = monotonic(), head
                    if since is not None and monotonic() - since >= seconds:
                        return _Head(stopped | left_out)
                    behind = [row for row in rows if row.position < head and row.name not in stopped]
                    seen = object() if there else tuple(row.position for row in rows)
                    if (why := patience.gave_up(seen, _waits_for(behind))) is not None:
                        return _Head(stopped | left_out, why)
                    await asyncio.sleep(min(TICK_SECONDS, seconds / 4 or TICK_SECONDS))
        except (psycopg.OperationalError, OSError) as error:
            since = None
            if (why := patience.gave_up(None, "the database is unavailable")) is not None:
                return _Head({}, why)
            await asyncio.sleep(outage.failed(error))


def _waits_for(behind: Sequence[_Progress]) -> str:
    """Return what is waited for: these projections to get to the head, or if there are none, the first look of all."""
    if not behind:
        return "a projection has not begun to fold"
    return "; ".join(f"{row.name} stays at position {row.position:,} of {row.head:,}" for row in behind)


def _not_migrated(workers: Sequence[Worker]) -> dict[str, str]:
    """Return which projections can't begin, and why."""
    return {worker.projection.name: f"left out: {why}" for worker in workers if (why := worker.not_migrated)}


def _why(row: _Progress, code_version: int) -> str | None:
    """Return why a projection stands still; None when it doesn't."""
    if row.version > code_version:
        return f"of version {row.version}, and this code of version {code_version}: update this process"
    if row.version < code_version:
        return f"waiting: the code has version {code_version}: run projections rebuild {row.name}"
    if row.position > row.head:
        return f"waiting: {ahead_of_log(row.name, row.position, row.head)}"
    # One of this code's version waits only in the eyes of newer code: this process folds it.
    if row.state in (State.RUNNING, State.WAITING):
        return None
    return f"{row.state}: {row.last_error}" if row.last_error else row.state
