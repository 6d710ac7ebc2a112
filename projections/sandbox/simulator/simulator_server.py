"""The simulator's server: it serves both contracts on one port."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import grpc.aio

from eventstore.contracts import Contract
from projections.sandbox.simulator.call_record import Call
from projections.sandbox.simulator.contract_log import ContractLog, SimulatedEvent
from projections.sandbox.simulator.faults import Fault
from projections.sandbox.simulator.grpc_methods import bind, routes
from projections.sandbox.simulator.server_state import ServerState
from projections.sandbox.simulator.serving_settings import SimulatorSettings

_TICK = 0.01  # seconds between appends at a rate


class Simulator:
    """A gRPC server that streams a log of events from any cursor, and injects faults on demand.

    Call its methods on the event loop on which it was started. Use it as an async context manager, or call ``start``
    and ``stop``.

    Args:
        log: its events; with ``settings.rate`` they are appended one after another from the start on.
        settings: how it serves.
        seed: for the bytes that faults make up.

    Attributes:
        settings: how it serves.

    """

    def __init__(
        self, log: Iterable[SimulatedEvent] = (), settings: SimulatorSettings | None = None, *, seed: int = 1
    ) -> None:
        self.settings = settings or SimulatorSettings()
        logs = {contract: ContractLog(contract) for contract in Contract if contract in self.settings.contracts}
        source = random.Random(seed)  # noqa: S311 - must be repeatable, not secret
        self._state = ServerState(self.settings, logs, source, self.settings.token)
        self._later_events: list[SimulatedEvent] = []
        self._appending: asyncio.Task[None] | None = None
        self._server: grpc.aio.Server | None = None
        self._port = 0
        if self.settings.rate is None:
            self._append(log)
        else:
            self._later_events.extend(log)
            self._state.is_log_complete = not self._later_events

    @property
    def calls(self) -> list[Call]:
        """The streaming calls so far, oldest first."""
        return self._state.calls

    @property
    def token(self) -> str | None:
        """The bearer token of calls, None for none; when another one is assigned, new calls with the old one fail."""
        return self._state.token

    @token.setter
    def token(self, token: str | None) -> None:
        self._state.token = token

    @property
    def port(self) -> int:
        """The port; 0 before the start."""
        return self._port

    @property
    def address(self) -> str:
        """The URL of the simulator."""
        scheme = "http" if self.settings.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._port}{self.settings.prefix}"

    async def start(self) -> None:
        """Start serving.

        Raises:
            UsageError: the port is in use, or certificate and key do not match.

        """
        # With SO_REUSEPORT two simulators on one port would share its calls at random; without it, that is an error.
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((routes(self._state),))
        self._port = bind(server, self.settings)
        await server.start()
        self._server = server
        if self.settings.rate is not None:
            self._appending = asyncio.create_task(self._append_at_rate(self.settings.rate))

    async def stop(self, grace: float | None = None) -> None:
        """Stop serving; streams still open after ``grace`` seconds are cancelled."""
        if self._appending is not None:
            self._appending.cancel()
            await asyncio.wait([self._appending])
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
        """Append events to the log; open streams send them at once."""
        self._append(entries)

    def inject(self, *faults: Fault) -> None:
        """Make faults happen: on an open stream as soon as they are due there, otherwise on a later one."""
        for fault in faults:
            self._state.plan.add(fault)
        self._state.work_available.notify()

    def entries(self, contract: Contract) -> list[SimulatedEvent]:
        """Return the events of a contract in the order of the log."""
        return list(self._state.logs[contract].entries)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on ``calls`` is true; it is checked after every change of a call."""
        while not condition():
            await self._state.call_changed.wait()

    async def wait_for_calls(self, count: int) -> Call:
        """Wait until this many streaming calls were made; return the last of them."""
        await self.wait_for(lambda: len(self.calls) >= count)
        return self.calls[count - 1]

    def _append(self, entries: Iterable[SimulatedEvent]) -> None:
        for entry in entries:
            for log in self._state.logs.values():
                log.append(entry)
        self._state.work_available.notify()

    async def _append_at_rate(self, rate: float) -> None:
        loop = asyncio.get_running_loop()
        started, done = loop.time(), 0
        while done < len(self._later_events):
            due = min(int((loop.time() - started) * rate), len(self._later_events))
            if due > done:
                self._append(self._later_events[done:due])
                done = due
            await asyncio.sleep(max(started + (done + 1) / rate - loop.time(), _TICK))
        self._state.is_log_complete = True
        self._state.work_available.notify()
