"""A real gRPC server of both contracts for demos and tests: it generates the events of an app, and faults on demand."""

from projections.sandbox.simulator.call_record import Call
from projections.sandbox.simulator.contract_log import SimulatedEvent
from projections.sandbox.simulator.faults import Fault, FaultKind
from projections.sandbox.simulator.log_builder import build_log
from projections.sandbox.simulator.serving_settings import ALL_CONTRACTS, ServerTls, SimulatorSettings
from projections.sandbox.simulator.simulator_server import Simulator
from projections.sandbox.simulator.world_settings import World
from projections.sandbox.simulator.world_types import WorldEvent

__all__ = [
    "ALL_CONTRACTS",
    "Call",
    "Fault",
    "FaultKind",
    "ServerTls",
    "SimulatedEvent",
    "Simulator",
    "SimulatorSettings",
    "World",
    "WorldEvent",
    "build_log",
]
