"""The gRPC methods of both contracts, with an optional path prefix; requests and messages are bytes."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from eventstore import ulid
from eventstore.contracts import Contract
from eventstore.contracts._generated.pcs.external.v1 import message_service_pb2 as pcs
from eventstore.errors import UsageError
from projections.sandbox.simulator import request_status_answer
from projections.sandbox.simulator.call_record import Call, CallError
from projections.sandbox.simulator.contract_log import ContractLog
from projections.sandbox.simulator.server_state import ServerState
from projections.sandbox.simulator.serving_settings import SimulatorSettings
from projections.sandbox.simulator.streaming_call import StreamingCall

STATUS_METHOD = "/pcs.external.v1.MessageService/GetSendRequestStatus"

_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_Request = TypeVar("_Request", bound=Message)
_Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


def bind(server: grpc.aio.Server, settings: SimulatorSettings) -> int:
    """Bind the server to its port, and return the number.

    Raises:
        UsageError: the port is in use, or certificate and key do not match.

    """
    address, tls = f"127.0.0.1:{settings.port}", settings.tls
    try:
        _check_port(settings.port)
        if tls is None:
            return server.add_insecure_port(address)
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)], tls.client_ca, require_client_auth=tls.client_ca is not None
        )
        return server.add_secure_port(address, credentials)
    except OSError as error:
        raise UsageError(f"can't serve on port {settings.port}: {error.strerror}") from error
    except RuntimeError as error:
        reason = "gRPC can't bind it" if tls is None else "gRPC can't bind it, or certificate and key do not match"
        raise UsageError(f"can't serve on port {settings.port}: {reason}") from error


def _check_port(port: int) -> None:
    # When gRPC can't bind, it prints lines of its own to stderr; checking first leaves only our sentence.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def routes(state: ServerState) -> grpc.GenericRpcHandler:
    """Return the handler of all served methods; gRPC itself answers UNIMPLEMENTED for others."""
    prefix = state.settings.prefix
    handlers: dict[str, _Handler] = {
        prefix + contract.method: grpc.unary_stream_rpc_method_handler(_streaming(state, log))
        for contract, log in state.logs.items()
    }
    if Contract.PCS_EXTERNAL_V1 in state.logs:
        handlers[prefix + STATUS_METHOD] = grpc.unary_unary_rpc_method_handler(_status(state))
    return _Routes(handlers)


class _Routes(grpc.GenericRpcHandler):
    """Finds a method's handler by its whole path; gRPC's own helper does not support a prefix."""

    def __init__(self, handlers: dict[str, _Handler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        return self._handlers.get(handler_call_details.method)


def _streaming(state: ServerState, log: ContractLog) -> Callable[[bytes, _Context], Awaitable[None]]:
    async def stream(request: bytes, context: _Context) -> None:
        call = Call(log.contract, _authorization(context))
        state.calls.append(call)
        try:
            _check_token(state, call.authorization)
            _read_request(request, call)
            state.call_changed.notify()
            await StreamingCall(state, log, call, context.write).run()
            call.ended = grpc.StatusCode.OK
        except CallError as refused:
            call.ended = refused.code
            await context.abort(refused.code, refused.detail, refused.trailing_metadata)
        finally:
            call.ended = call.ended or grpc.StatusCode.CANCELLED
            state.call_changed.notify()

    return stream


def _status(state: ServerState) -> Callable[[bytes, _Context], Awaitable[bytes]]:
    async def get(request: bytes, context: _Context) -> bytes:
        try:
            _check_token(state, _authorization(context))
            send_request_id = _parse(pcs.GetSendRequestStatusRequest, request).id
            _check_ulid("id", send_request_id)
        except CallError as refused:
            await context.abort(refused.code, refused.detail, refused.trailing_metadata)
        answer = request_status_answer.answer(state.logs[Contract.PCS_EXTERNAL_V1].entries, send_request_id)
        if answer is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such send request")
        return answer

    return get


def _authorization(context: _Context) -> str | None:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


def _check_token(state: ServerState, authorization: str | None) -> None:
    if state.token is not None and authorization != f"Bearer {state.token}":
        raise CallError(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is missing or wrong")


def _read_request(request: bytes, call: Call) -> None:
    # Both contracts have the same fields under the same numbers.
    wanted = _parse(pcs.StreamSendRequestEventsRequest, request)
    if wanted.HasField("after_event_id"):
        call.after_event_id = wanted.after_event_id
        _check_ulid("after_event_id", wanted.after_event_id)
    if wanted.HasField("send_request_id"):
        call.send_request_id = wanted.send_request_id
        _check_ulid("send_request_id", wanted.send_request_id)


def _parse(kind: type[_Request], data: bytes) -> _Request:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise CallError(grpc.StatusCode.INVALID_ARGUMENT, "the request can't be decoded") from None


def _check_ulid(name: str, text: str) -> None:
    if not ulid.is_ulid(text):
        raise CallError(grpc.StatusCode.INVALID_ARGUMENT, f"{name} is not a ULID")
