"""The state that all calls of a simulator share."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from eventstore.contracts import Contract
from projections.sandbox.simulator.call_record import Call
from projections.sandbox.simulator.change_signal import ChangeSignal
from projections.sandbox.simulator.contract_log import ContractLog
from projections.sandbox.simulator.faults import FaultPlan
from projections.sandbox.simulator.serving_settings import SimulatorSettings


@dataclass(slots=True)
class ServerState:
    """The state that all calls of a simulator share.

    Attributes:
        settings: how the simulator serves.
        logs: the log of each contract that is served.
        random: the source of made-up bytes.
        token: the bearer token that calls must bring; None for none.
        calls: all streaming calls, oldest first.
        plan: the faults that have not happened yet.
        work_available: notified when there is something new to send, or a new fault.
        call_changed: notified when a call changed, for tests that wait.
        is_log_complete: whether the log will get no more events by itself.

    """

    settings: SimulatorSettings
    logs: dict[Contract, ContractLog]
    random: random.Random
    token: str | None = field(repr=False)
    calls: list[Call] = field(default_factory=list)
    plan: FaultPlan = field(default_factory=FaultPlan)
    work_available: ChangeSignal = field(default_factory=ChangeSignal)
    call_changed: ChangeSignal = field(default_factory=ChangeSignal)
    is_log_complete: bool = True
