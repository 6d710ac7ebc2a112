"""A gRPC server that answers each call with a script, and records the calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeAlias

import grpc
import grpc.aio

from eventstore.contracts import Contract

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Script = Callable[[Context], Awaitable[None]]


class Call(NamedTuple):
    """A received call: its contract, the bytes of its request, and its bearer token."""

    contract: Contract
    request: bytes
    token: str


def ends_with(
    code: grpc.StatusCode, *messages: bytes, trailing: Sequence[tuple[str, str]] = (), details: str = "no"
) -> Script:
    """Return a script that sends these messages, then ends the stream with a status."""

    async def script(context: Context) -> None:
        for message in messages:
            await context.write(message)
        if code is not grpc.StatusCode.OK:
            await context.abort(code, details, tuple(trailing))

    return script


def stays_open(*messages: bytes) -> Script:
    """Return a script that sends these messages, then keeps the stream open and sends nothing more."""

    async def script(context: Context) -> None:
        await context.send_initial_metadata(())
        for message in messages:
            await context.write(message)
        await asyncio.Event().wait()

    return script


class ScriptedServer:
    """Plays one script for each call, under any contract; after the last one it plays that again."""

    def __init__(self, scripts: Sequence[Script]) -> None:
        self._scripts = list(scripts)
        self.calls: list[Call] = []
        self.port = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def play(self, contract: Contract, request: bytes, context: Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        self.calls.append(Call(contract, request, str(metadata.get("authorization", "")).removeprefix("Bearer ")))
        await self._scripts[min(len(self.calls), len(self._scripts)) - 1](context)


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, server: ScriptedServer, contracts: frozenset[Contract]) -> None:
        self._server = server
        self._contracts = {contract.method: contract for contract in contracts}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        contract = self._contracts.get(handler_call_details.method)
        if contract is None:
            return None

        async def stream(request: bytes, context: Context) -> None:
            await self._server.play(contract, request, context)

        return grpc.unary_stream_rpc_method_handler(stream)


@asynccontextmanager
async def scripted_server(
    *scripts: Script, contracts: frozenset[Contract] = frozenset(Contract)
) -> AsyncIterator[ScriptedServer]:
    """Run a scripted server; streams that are open at the end are cancelled."""
    scripted = ScriptedServer(scripts)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Methods(scripted, contracts),))
    scripted.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield scripted
    finally:
        await server.stop(None)
