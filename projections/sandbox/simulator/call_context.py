"""What all calls of a simulator have in common."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from eventstore.contracts import Contract
from projections.sandbox.simulator.calls import Bell, Call
from projections.sandbox.simulator.event_log import Feed
from projections.sandbox.simulator.faults import Plan
from projections.sandbox.simulator.serving_settings import SimulatorSettings


@dataclass(slots=True)
class Shared:
    """What all calls of a simulator have in common.

    Attributes:
        settings: how it serves.
        feeds: the log per contract served.
        numbers: where made-up bytes come from.
        token: the bearer token wanted now; None: none.
        calls: the streaming calls so far.
        plan: what is still to go wrong.
        wake: rung when there is something new to send, or to go wrong.
        seen: rung, for those who watch, when a call changed.
        complete: whether the log has got all that it will get by itself.

    """

    settings: SimulatorSettings
    feeds: dict[Contract, Feed]
    numbers: random.Random
    token: str | None = field(repr=False)
    calls: list[Call] = field(default_factory=list)
    plan: Plan = field(default_factory=Plan)
    wake: Bell = field(default_factory=Bell)
    seen: Bell = field(default_factory=Bell)
    complete: bool = True
