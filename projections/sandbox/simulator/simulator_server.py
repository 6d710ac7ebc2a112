"""The server: both contracts on one port, bytes in and bytes out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import grpc.aio

from eventstore.contracts import Contract
from projections.sandbox.simulator.call_context import Shared
from projections.sandbox.simulator.calls import Call
from projections.sandbox.simulator.event_log import Feed, SimulatedEvent
from projections.sandbox.simulator.faults import Fault
from projections.sandbox.simulator.grpc_methods import bind, routes
from projections.sandbox.simulator.serving_settings import SimulatorSettings

_TICK = 0.01  # seconds between appends at a rate


class Simulator:
    """A gRPC server that streams a log of events, from any cursor, and misbehaves when asked to.

    Everything is to be called on the event loop on which it was started. Use it as an async context manager, or call
    ``start`` and ``stop``.

    Args:
        log: the events that it has from the start on (with ``settings.rate``: that it gets one after the other).
        settings: how it serves.
        seed: for the bytes that faults make up.

    Attributes:
        settings: how it serves.

    """

    def __init__(
        self, log: Iterable[SimulatedEvent] = (), settings: SimulatorSettings | None = None, *, seed: int = 1
    ) -> None:
        self.settings = settings or SimulatorSettings()
        feeds = {contract: Feed(contract) for contract in Contract if contract in self.settings.contracts}
        numbers = random.Random(seed)  # noqa: S311 - wants to be repeatable, not secret
        self._shared = Shared(self.settings, feeds, numbers, self.settings.token)
        self._coming: list[SimulatedEvent] = []
        self._feeder: asyncio.Task[None] | None = None
        self._server: grpc.aio.Server | None = None
        self._port = 0
        if self.settings.rate is None:
            self._take_in(log)
        else:
            self._coming.extend(log)
            self._shared.complete = not self._coming

    @property
    def calls(self) -> list[Call]:
        """The streaming calls so far, oldest first."""
        return self._shared.calls

    @property
    def token(self) -> str | None:
        """The bearer token wanted now; assign another one to make new calls with the old one fail. None: no token."""
        return self._shared.token

    @token.setter
    def token(self, token: str | None) -> None:
        self._shared.token = token

    @property
    def port(self) -> int:
        """The port that is served; 0 before the start."""
        return self._port

    @property
    def address(self) -> str:
        """The URL to dial."""
        scheme = "http" if self.settings.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._port}{self.settings.prefix}"

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            UsageError: the port is taken, or certificate and key are no pair.

        """
        # Without SO_REUSEPORT two simulators on one port are an error, not a coin toss for each call.
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((routes(self._shared),))
        self._port = bind(server, self.settings)
        await server.start()
        self._server = server
        if self.settings.rate is not None:
            self._feeder = asyncio.create_task(self._grow(self.settings.rate))

    async def stop(self, grace: float | None = None) -> None:
        """Stop serving; streams that are open after ``grace`` seconds are cancelled."""
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.wait([self._feeder])
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def append(self, *entries: SimulatedEvent) -> None:
        """Put events at the end of the log; open streams send them at once."""
        self._take_in(entries)

    def inject(self, *faults: Fault) -> None:
        """Ask for something to go wrong: on an open stream as soon as it is due there, else on a later one."""
        for fault in faults:
            self._shared.plan.add(fault)
        self._shared.wake.ring()

    def clear_faults(self) -> None:
        """Forget the faults that did not happen yet."""
        self._shared.plan.clear()

    @property
    def faults_left(self) -> int:
        """How many times something is still to go wrong."""
        return len(self._shared.plan)

    def entries(self, contract: Contract) -> list[SimulatedEvent]:
        """Return what the log has under a contract, in its order."""
        return list(self._shared.feeds[contract].entries)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on ``calls`` holds; it is looked at after every change of a call."""
        while not condition():
            await self._shared.seen.wait()

    async def wait_for_calls(self, count: int) -> Call:
        """Wait until so many streaming calls were made in all; return the last of those."""
        await self.wait_for(lambda: len(self.calls) >= count)
        return self.calls[count - 1]

    def _take_in(self, entries: Iterable[SimulatedEvent]) -> None:
        for entry in entries:
            for feed in self._shared.feeds.values():
                feed.append(entry)
        self._shared.wake.ring()

    async def _grow(self, rate: float) -> None:
        loop = asyncio.get_running_loop()
        began, done = loop.time(), 0
        while done < len(self._coming):
            due = min(int((loop.time() - began) * rate), len(self._coming))
            if due > done:
                self._take_in(self._coming[done:due])
                done = due
            await asyncio.sleep(max(began + (done + 1) / rate - loop.time(), _TICK))
        self._shared.complete = True
        self._shared.wake.ring()
