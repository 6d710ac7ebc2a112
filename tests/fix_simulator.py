"""Fixtures: simulators that are stopped at the end of the test, a log for them, and a client that reads raw bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import grpc
import grpc.aio
import pytest

from eventstore import ulid
from eventstore.contracts import Contract, FrameKind, encode_request, read_frame
from projections.sandbox.simulator import SimulatedEvent, Simulator, SimulatorSettings, World, build_log

SimulatorFactory = Callable[..., Awaitable[Simulator]]
Call: TypeAlias = "grpc.aio.UnaryStreamCall[bytes, bytes]"
Method: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]"

TOKEN = "simulator"
LOG = build_log(World(recipients=200).events(), ends=datetime.now(UTC))
BEGINNING = ulid.first_ulid_at(datetime.now(UTC) - timedelta(days=6, hours=12))
"""A cursor before all of ``LOG`` and within the replay window."""


@pytest.fixture
async def simulator_factory() -> AsyncIterator[SimulatorFactory]:
    """Start a simulator: ``await simulator_factory(log, settings)``; it is stopped at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(log: Iterable[SimulatedEvent] = (), settings: SimulatorSettings | None = None) -> Simulator:
            return await stack.enter_async_context(Simulator(log, settings))

        yield start


def count_faults_left(simulator: Simulator) -> int:
    """How many injected faults have not happened yet."""
    return sum(times for _, times in simulator._state.plan._left)


def entries_of(contract: Contract) -> list[SimulatedEvent]:
    return [entry for entry in LOG if contract in entry.payloads]


def payloads(log: list[SimulatedEvent], contract: Contract) -> list[bytes]:
    return [entry.payloads[contract] for entry in log]


@asynccontextmanager
async def open_stream(
    simulator: Simulator,
    contract: Contract,
    after: str | None = None,
    request: str | None = None,
    *,
    token: str | None = TOKEN,
    raw: bytes | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> AsyncIterator[Call]:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    address = f"127.0.0.1:{simulator.port}"
    async with (
        grpc.aio.insecure_channel(address) if credentials is None else grpc.aio.secure_channel(address, credentials)
    ) as channel:
        method: Method = channel.unary_stream(simulator.settings.prefix + contract.method)
        call = method(raw if raw is not None else encode_request(after, request), metadata=metadata)
        yield call
        call.cancel()


async def read_message(call: Call) -> bytes:
    """Return the next message; fails the test if the stream ends."""
    message = await call.read()
    assert isinstance(message, bytes), f"the stream ended: {await call.code()}"
    return message


async def read_events(call: Call, contract: Contract, count: int) -> list[bytes]:
    """Return the payloads of the next ``count`` events; other frames are skipped."""
    found: list[bytes] = []
    while len(found) < count:
        frame = read_frame(contract, await read_message(call))
        if frame.kind is FrameKind.EVENT:
            found.append(frame.data)
    return found


async def final_status(call: Call) -> grpc.StatusCode:
    """Read to the end of the stream; return its status."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return await call.code()
