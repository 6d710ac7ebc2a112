"""Decides whether this process is ready: the database answers, its projections move, its upstreams were heard from.

Invariants. Nothing is measured against itself: a projection is at the head of the log that is stored, or it moved not
long ago by its checkpoint and the database's clock; an upstream was heard from if a message was received (keep-alives
included), not if somebody tries to connect. A process that stands by for another one is ready, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic

from eventstore.contracts import Contract
from eventstore.ingest.follower import Follower, FollowerState
from eventstore.waits import Waits
from projections.http.status_source import Reading
from projections.inspecting.live_status import LiveStatus
from projections.inspecting.status import NEW, ProjectionStatus
from projections.running.checkpoint import ProjectionState
from projections.running.run_parts import RunParts
from projections.running.state_changes import describe_ahead_of_log
from projections.running.window_step import Step
from projections.running.worker import Worker


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a process is ready.

    Attributes:
        problems: why it isn't; empty if it is.
        notes: what else is good to know.
        is_standby: whether another process follows all apps that this one would follow.

    """

    problems: list[str]
    notes: list[str] = field(default_factory=list)
    is_standby: bool = False

    @property
    def word(self) -> str:
        """The result in a word or two."""
        if self.problems:
            return "not ready"
        return "ready (standby)" if self.is_standby else "ready"


def judge_readiness(
    reading: Reading, parts: RunParts, waits: Waits, *, stalled_after: float, now: float | None = None
) -> Readiness:
    """Decide whether a process is ready.

    Args:
        reading: the last look at the database.
        parts: what the process runs.
        waits: ``silence`` counts.
        stalled_after: for how many seconds something may not move.
        now: the time, as ``time.monotonic`` has it.

    """
    now = monotonic() if now is None else now
    problems, notes = [*_find_process_problems(parts, stalled_after, now)], []
    if reading.error is not None:
        problems.append(f"database unavailable for {reading.unavailable_for or 0:.0f} s: {reading.error}")
    if parts.are_starting:
        return Readiness(problems)
    for worker in parts.workers:
        if reading.status is not None:
            problem, note = _judge_worker(worker, reading.status, stalled_after)
            problems += [problem] if problem else []
            notes += [note] if note else []
    standby = 0
    for follower in parts.followers:
        if follower.state is FollowerState.STANDING_BY:
            holder = _find_holder(follower, reading.status)
            if holder is None:
                problems.append(f"app {follower.app!r} is followed by nobody yet")
            else:
                standby += 1
                notes.append(f"standing by for app {follower.app!r}, which is followed by {holder}")
        else:
            problems += _find_follower_problems(follower, waits, stalled_after, now)
    return Readiness(problems, notes, is_standby=0 < standby == len(parts.followers))


def _find_process_problems(parts: RunParts, stalled_after: float, now: float) -> Iterator[str]:
    if parts.stop.is_set():
        yield "stopping"
    elif parts.are_starting:
        yield "starting"
    for name, why in parts.ended_tasks().items():
        yield f"task {name!r} ended: {why}"
    deaf_since = parts.listener.deaf_since if parts.listener is not None else None
    if deaf_since is not None and now - deaf_since > stalled_after:
        yield (
            f"the session that wakes the workers is gone for {now - deaf_since:.0f} s: new events are found only by"
            " polling"
        )


def _judge_worker(worker: Worker, status: LiveStatus, stalled_after: float) -> tuple[str | None, str | None]:
    """Return what is wrong with a projection, and what else is good to know; None for nothing."""
    name = worker.projection.name
    one = next((each for each in status.projections if each.name == name), None)
    if worker.not_migrated is not None:
        return f"{name} is left out: {worker.not_migrated}", None
    if one is None or one.state == NEW:
        return f"{name} has not started", None
    if one.state in (ProjectionState.FAILED, ProjectionState.WAITING):
        remedy = f"; after a repair run projections resume {name}" if one.state == ProjectionState.FAILED else ""
        return f"{name} is {one.state}: {one.last_error or 'no error was recorded'}{remedy}", None
    if one.position > status.head:
        # What it folded is lost, so its rows can't be believed, although nothing is left to fold.
        return f"{name}: {one.problem or describe_ahead_of_log(name, one.position, status.head)}", None
    if one.has_older_rows:
        # Its state doesn't say so while it is paused.
        return f"{name}: {one.problem or one.last_error}", None
    problem, note = _judge_progress(worker, one, status, stalled_after)
    return problem, f"{name}: {one.problem}" if one.problem else note


def _judge_progress(
    worker: Worker, one: ProjectionStatus, status: LiveStatus, stalled_after: float
) -> tuple[str | None, str | None]:
    """Return that a projection has not moved for too long, or that it is moving; None and None for one at the head."""
    if one.events_behind == 0:
        return None, None
    idle = _seconds_without_progress(one, status)
    events = "event" if one.events_behind == 1 else "events"
    where = f"{one.events_behind:,} {events} behind at position {one.position:,}"
    if idle <= stalled_after:
        return None, f"{one.name} is {where} and moving"
    if one.state == ProjectionState.PAUSED:
        return f"{one.name} is paused and {where} for {idle:.0f} s: run projections resume {one.name}", None
    why = "; another session holds its checkpoint" if worker.last is Step.BUSY else ""
    return f"{one.name} has not moved for {idle:.0f} s, {where}{why}", None


def _seconds_without_progress(one: ProjectionStatus, status: LiveStatus) -> float:
    """Return since when a projection could have moved and didn't: both times are the database's."""
    if one.folded_at is None:
        return one.seconds_behind
    return min(one.seconds_behind, max((status.now - one.folded_at).total_seconds(), 0.0))


def _find_holder(follower: Follower, status: LiveStatus | None) -> str | None:
    """Return the session that follows an app; None if nobody does. Without a status, another process is assumed."""
    if status is None:
        return "another process"
    return next((app.followed_by for app in status.apps if app.app == follower.app), None)


def _find_follower_problems(follower: Follower, waits: Waits, stalled_after: float, now: float) -> Iterator[str]:
    app, silent_since = f"app {follower.app!r}", follower.counts.silent_since
    if follower.state is FollowerState.REFUSED:
        yield f"{app} is refused: {(follower.refusal or 'no reason is known').removeprefix(f'{app}: ')}"
        return
    waiting_since = follower.uncommitted_since
    if not follower.can_commit:
        yield f"{app}: the database takes no events"
    elif waiting_since is not None and now - waiting_since > stalled_after:
        yield f"{app}: received events are not stored for {now - waiting_since:.0f} s"
    if follower.state is not FollowerState.FOLLOWING:
        return
    silent_for = 0.0 if silent_since is None else now - silent_since
    if not follower.is_connected:
        since = "" if silent_since is None else f"; nothing was received for {silent_for:.0f} s"
        yield f"{app}: no stream; waits for {follower.waits_for or 'a connection'}{since}"
    elif follower.contract is not Contract.CHAT_EXTERNAL and follower.has_room and silent_for > waits.silence:
        # chat.external has no keep-alives: a quiet app sends nothing, and pings show that the connection lives.
        yield (
            f"{app}: the upstream has sent nothing for {silent_for:.0f} s, although keep-alives are due at least every"
            f" {waits.silence:g} s"
        )
