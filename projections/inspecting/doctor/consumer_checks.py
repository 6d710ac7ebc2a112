"""Checks of the named consumers: whether each gets ahead, and whether a process has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from eventstore.consuming.consumers import ConsumerStatus, read_consumers
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding

STUCK_ATTEMPTS = 3
"""How often the same events are handed out before that counts as stuck."""


async def check_consumers(exam: Examination) -> AsyncIterator[Finding]:
    """Find consumers that stand still although events wait for them."""
    for one in await read_consumers(exam.conn):
        for finding in _find_consumer_problems(one, exam.options.limits.consumer_behind):
            yield finding


def _find_consumer_problems(one: ConsumerStatus, limit: float) -> Iterator[Finding]:
    waits = f"{one.events_behind:,} events wait, the first for {one.seconds_behind:,.0f} s"
    where = f"after position {one.position:,}"
    if not one.is_in_log:
        sentence = f"consumer {one.name} is handed nothing: its checkpoint ({one.position:,}) is not in the log"
        command = f"projections consumers reset {one.name} --to POSITION"
        yield Finding("consumer_lost", sentence, command, "decide where it goes on")
    elif one.attempts >= STUCK_ATTEMPTS:
        sentence = f"consumer {one.name} was handed the events {where} {one.attempts:,} times and acknowledged none"
        advice = "see the log of its program; to pass over an event that it can't handle"
        yield Finding("consumer_stuck", sentence, f"projections consumers reset {one.name} --to EVENT_ID", advice)
    elif one.seconds_behind <= limit:
        return
    elif one.held_by is None:
        sentence = f"no process has consumer {one.name}: {waits}"
        advice = f"start its program; if nothing needs it, projections consumers drop {one.name} removes it"
        yield Finding("consumer_not_running", sentence, advice=advice)
    elif one.seconds_still > limit:
        sentence = f"consumer {one.name} has stood still {where} for {one.seconds_still:,.0f} s: {waits}"
        yield Finding("consumer_stuck", sentence, advice=f"see the log of its program ({one.held_by}), and restart it")
    else:
        yield Finding("consumer_behind", f"consumer {one.name} is behind: {waits}", "projections consumers list")
