"""A real gRPC server of both contracts, for demos and tests: it simulates an app's sends, and misbehaves on demand."""

from eventstore.simulator.calls import Call
from eventstore.simulator.encode import entries
from eventstore.simulator.faults import Fault, FaultKind
from eventstore.simulator.log import Entry
from eventstore.simulator.server import Simulator
from eventstore.simulator.settings import ALL_CONTRACTS, Settings, Tls
from eventstore.simulator.things import Happening
from eventstore.simulator.world import World

__all__ = [
    "ALL_CONTRACTS",
    "Call",
    "Entry",
    "Fault",
    "FaultKind",
    "Happening",
    "Settings",
    "Simulator",
    "Tls",
    "World",
    "entries",
]
