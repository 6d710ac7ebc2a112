"""Generates the events of the benchmarks with the simulator, as bytes and decoded."""

from __future__ import annotations

from datetime import UTC, datetime

from eventstore.contracts import Contract, Event, decode
from projections.sandbox.simulator import SimulatedEvent, World, build_log

EVENTS = 200_000
RECIPIENTS = 155_000
"""Enough recipients for that many events of chat.external."""

ENDS = datetime(2026, 10, 1, tzinfo=UTC)
CONTRACT = Contract.CHAT_EXTERNAL

SEED = 1
MIX = f"the first of the simulator's, seed {SEED}, {CONTRACT.value}"


def simulated(count: int = EVENTS) -> list[SimulatedEvent]:
    """Return the first ``count`` events of the simulator's world."""
    world = World(seed=SEED, recipients=RECIPIENTS * max(1, -(-count // EVENTS)))
    log = build_log(world.events(), ends=ENDS, contracts=[CONTRACT])
    if len(log) < count:
        raise RuntimeError(f"the simulator generated only {len(log):,} events")
    return log[:count]


def decoded(log: list[SimulatedEvent], app: str = "default") -> list[Event]:
    """Return the events, decoded as ingest does it."""
    return [decode(entry.payloads[CONTRACT], app, CONTRACT) for entry in log]
