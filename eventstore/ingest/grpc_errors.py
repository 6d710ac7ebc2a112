"""Turns a gRPC status into an error that says what a follower does: retry, get a new token, or give up.

A status is the platform's own if it was sent as ``grpc-status``. If a response has none, gRPC's client makes one up:
from an HTTP status (401 becomes UNAUTHENTICATED, 403 PERMISSION_DENIED, 404 UNIMPLEMENTED), which proxies send, or from
an HTTP/2 error code (INADEQUATE_SECURITY becomes PERMISSION_DENIED). gRPC's Python API does not show whether there was
a ``grpc-status``; only the text of the details does. A test compares that text with what the client really writes, so
that a version with another text is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import grpc

from eventstore.contracts import Contract
from eventstore.errors import NoSuchService, TokenRefused, UpstreamError, UpstreamRefused, UpstreamUnavailable
from eventstore.ingest.address import Address
from eventstore.redaction.redact import quoted

ERROR_BY_STATUS: dict[grpc.StatusCode, type[UpstreamError]] = {
    grpc.StatusCode.OK: UpstreamUnavailable,  # never raised by a stream; listed so that the table is complete
    grpc.StatusCode.UNAUTHENTICATED: TokenRefused,
    grpc.StatusCode.PERMISSION_DENIED: UpstreamRefused,
    grpc.StatusCode.NOT_FOUND: UpstreamRefused,
    grpc.StatusCode.INVALID_ARGUMENT: UpstreamRefused,
    grpc.StatusCode.UNIMPLEMENTED: NoSuchService,
    grpc.StatusCode.CANCELLED: UpstreamUnavailable,
    grpc.StatusCode.UNKNOWN: UpstreamUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: UpstreamUnavailable,
    grpc.StatusCode.ALREADY_EXISTS: UpstreamUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: UpstreamUnavailable,
    grpc.StatusCode.FAILED_PRECONDITION: UpstreamUnavailable,
    grpc.StatusCode.ABORTED: UpstreamUnavailable,
    grpc.StatusCode.OUT_OF_RANGE: UpstreamUnavailable,
    grpc.StatusCode.INTERNAL: UpstreamUnavailable,
    grpc.StatusCode.UNAVAILABLE: UpstreamUnavailable,
    grpc.StatusCode.DATA_LOSS: UpstreamUnavailable,
}

_MAX_DETAILS = 300
_MAX_READ = 10_000
_HTTP_STATUS = re.compile(r"Received http2 header with status: (\d{3})")
_CONNECTION_ERROR = re.compile(r"Stream removed \(")


def upstream_error(
    status: grpc.StatusCode,
    details: str | None,
    trailing: Iterable[tuple[str, str | bytes]],
    *,
    address: Address,
    contract: Contract,
    call: str = "the stream",
) -> UpstreamError:
    """Return the error for the end of a call, with the server's text redacted and cut to one line.

    Args:
        status: the status.
        details: the server's text.
        trailing: the trailing metadata.
        address: the upstream.
        contract: the contract of the call.
        call: what the call is, in the message.

    """
    text = (details or "")[:_MAX_READ]
    words = quoted(details or "", _MAX_DETAILS)
    status_text = f"{status.name}: {words}" if words else status.name
    kind = ERROR_BY_STATUS[status]
    http = _HTTP_STATUS.fullmatch(text)
    if _CONNECTION_ERROR.match(text):
        kind = UpstreamUnavailable
    if http:
        check = ", check the path" if kind is NoSuchService else ""
        message = f"{address.url} answered HTTP {http[1]} without a gRPC status, as proxies do{check} ({contract})"
    elif kind is NoSuchService:
        message = f"no such service under {address.url}, check the path ({contract}: {status_text})"
    elif kind is TokenRefused:
        message = f"{address.url} refuses the token: {status_text}"
    elif kind is UpstreamRefused:
        message = f"{address.url} refuses {call}: {status_text}"
    else:
        message = f"{address.url} can't serve {call} now: {status_text}"
    return kind(message, status=status.name, retry_after=retry_after(trailing), by_platform=http is None)


def retry_after(trailing: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Return the seconds to wait that trailing metadata asks for; None without a valid number."""
    metadata = {key.lower(): value for key, value in trailing}
    for key, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = metadata.get(key)
        if value is None:
            continue
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
        try:
            seconds = float(text) / scale
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None
