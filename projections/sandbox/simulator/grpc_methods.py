"""The methods of both contracts as gRPC sees them: bytes in and bytes out, behind an optional path prefix."""

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
from projections.sandbox.simulator.call_context import Shared
from projections.sandbox.simulator.calls import Call, CallError
from projections.sandbox.simulator.event_log import Feed
from projections.sandbox.simulator.event_stream import Stream
from projections.sandbox.simulator.serving_settings import SimulatorSettings

STATUS_METHOD = "/pcs.external.v1.MessageService/GetSendRequestStatus"

_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_Request = TypeVar("_Request", bound=Message)
_Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


def bind(server: grpc.aio.Server, settings: SimulatorSettings) -> int:
    """Give the server its port, and return the number.

    Raises:
        UsageError: the port is taken, or certificate and key are no pair.

    """
    address, tls = f"127.0.0.1:{settings.port}", settings.tls
    try:
        _probe(settings.port)
        if tls is None:
            return server.add_insecure_port(address)
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)], tls.client_ca, require_client_auth=tls.client_ca is not None
        )
        return server.add_secure_port(address, credentials)
    except OSError as error:
        raise UsageError(f"can't serve on port {settings.port}: {error.strerror}") from error
    except RuntimeError as error:
        reason = "gRPC can't bind it" if tls is None else "gRPC can't bind it, or certificate and key are no pair"
        raise UsageError(f"can't serve on port {settings.port}: {reason}") from error


def _probe(port: int) -> None:
    # gRPC writes lines of its own to stderr when it can't bind; asking first leaves it at our one sentence.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def routes(shared: Shared) -> grpc.GenericRpcHandler:
    """Return the handler of all methods served; gRPC itself answers UNIMPLEMENTED for others."""
    prefix = shared.settings.prefix
    handlers: dict[str, _Handler] = {
        prefix + contract.method: grpc.unary_stream_rpc_method_handler(_streaming(shared, feed))
        for contract, feed in shared.feeds.items()
    }
    if Contract.PCS_EXTERNAL_V1 in shared.feeds:
        handlers[prefix + STATUS_METHOD] = grpc.unary_unary_rpc_method_handler(_status(shared))
    return _Routes(handlers)


class _Routes(grpc.GenericRpcHandler):
    """Finds a method's handler by its whole path, which gRPC's own helper can't do behind a prefix."""

    def __init__(self, handlers: dict[str, _Handler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        return self._handlers.get(handler_call_details.method)


def _streaming(shared: Shared, feed: Feed) -> Callable[[bytes, _Context], Awaitable[None]]:
    async def stream(request: bytes, context: _Context) -> None:
        call = Call(feed.contract, _authorization(context))
        shared.calls.append(call)
        try:
            _admit(shared, call.authorization)
            _read_request(request, call)
            shared.seen.ring()
            await Stream(shared, feed, call, context.write).run()
            call.ended = grpc.StatusCode.OK
        except CallError as refused:
            call.ended = refused.code
            await context.abort(refused.code, refused.detail, refused.trailing_metadata)
        finally:
            call.ended = call.ended or grpc.StatusCode.CANCELLED
            shared.seen.ring()

    return stream


def _status(shared: Shared) -> Callable[[bytes, _Context], Awaitable[bytes]]:
    async def get(request: bytes, context: _Context) -> bytes:
        try:
            _admit(shared, _authorization(context))
            send_request_id = _parse(pcs.GetSendRequestStatusRequest, request).id
            _want_ulid("id", send_request_id)
        except CallError as refused:
            await context.abort(refused.code, refused.detail, refused.trailing_metadata)
        answer = request_status_answer.answer(shared.feeds[Contract.PCS_EXTERNAL_V1].entries, send_request_id)
        if answer is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such send request")
        return answer

    return get


def _authorization(context: _Context) -> str | None:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


def _admit(shared: Shared, authorization: str | None) -> None:
    if shared.token is not None and authorization != f"Bearer {shared.token}":
        raise CallError(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is missing or wrong")


def _read_request(request: bytes, call: Call) -> None:
    # Both contracts have the same fields under the same numbers.
    wanted = _parse(pcs.StreamSendRequestEventsRequest, request)
    if wanted.HasField("after_event_id"):
        call.after_event_id = wanted.after_event_id
        _want_ulid("after_event_id", wanted.after_event_id)
    if wanted.HasField("send_request_id"):
        call.send_request_id = wanted.send_request_id
        _want_ulid("send_request_id", wanted.send_request_id)


def _parse(kind: type[_Request], data: bytes) -> _Request:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise CallError(grpc.StatusCode.INVALID_ARGUMENT, "the request can't be read") from None


def _want_ulid(name: str, text: str) -> None:
    if not ulid.is_ulid(text):
        raise CallError(grpc.StatusCode.INVALID_ARGUMENT, f"{name} is not a ULID")
