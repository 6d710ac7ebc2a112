"""A real gRPC server of both contracts, for demos and tests: it simulates an app's sends, and misbehaves on demand."""

from projections.sandbox.simulator.calls import Call
from projections.sandbox.simulator.encode import entries
from projections.sandbox.simulator.event_log import SimulatedEvent
from projections.sandbox.simulator.faults import Fault, FaultKind
from projections.sandbox.simulator.serving_settings import ALL_CONTRACTS, SimulatorSettings, Tls
from projections.sandbox.simulator.simulator_server import Simulator
from projections.sandbox.simulator.world import World
from projections.sandbox.simulator.world_model import Happening

__all__ = [
    "ALL_CONTRACTS",
    "Call",
    "Fault",
    "FaultKind",
    "Happening",
    "SimulatedEvent",
    "Simulator",
    "SimulatorSettings",
    "Tls",
    "World",
    "entries",
]
